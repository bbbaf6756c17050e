"""What each video pipeline makes of its texts: the results of ``encode_prompt`` by name, and which may share a batch.

Read in diffusers 0.42; the tests hold every row against the pipeline's own return statement.
"""

from collections.abc import Mapping

_PAIR = ("prompt_embeds", "negative_prompt_embeds")
_MASKED = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
_POOLED = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
)
_HUNYUAN = ("prompt_embeds", "pooled_prompt_embeds", "prompt_attention_mask")
_HUNYUAN_15 = ("prompt_embeds", "prompt_embeds_mask", "prompt_embeds_2", "prompt_embeds_mask_2")

# pipeline class → what encode_prompt returns, in order: one row of each tensor is one text
RETURNS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "WanPipeline",
            "WanImageToVideoPipeline",
            "WanVideoToVideoPipeline",
            "WanVACEPipeline",
            "WanAnimatePipeline",
            "SkyReelsV2Pipeline",
            "SkyReelsV2ImageToVideoPipeline",
            "SkyReelsV2DiffusionForcingPipeline",
            "SkyReelsV2DiffusionForcingImageToVideoPipeline",
            "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
            "HeliosPipeline",
            "HeliosPyramidPipeline",
            "AnyFlowPipeline",
            "AnyFlowFARPipeline",
            "LucyEditPipeline",
            "CogVideoXPipeline",
            "CogVideoXImageToVideoPipeline",
            "CogVideoXVideoToVideoPipeline",
            "CogVideoXFunControlPipeline",
            "CosmosTextToWorldPipeline",
            "CosmosVideoToWorldPipeline",
            "Cosmos2VideoToWorldPipeline",
            "Cosmos2_5_PredictBasePipeline",
            "Cosmos2_5_TransferPipeline",
            "AnimateDiffPipeline",
            "AnimateDiffControlNetPipeline",
            "AnimateDiffSparseControlNetPipeline",
            "AnimateDiffVideoToVideoPipeline",
            "AnimateDiffVideoToVideoControlNetPipeline",
            "AnimateDiffPAGPipeline",
            "PIAPipeline",
            "TextToVideoSDPipeline",
            "VideoToVideoSDPipeline",
        ),
        _PAIR,
    ),
    **dict.fromkeys(
        (
            "LTXPipeline",
            "LTXImageToVideoPipeline",
            "LTXI2VLongMultiPromptPipeline",
            "LTXConditionPipeline",
            "MochiPipeline",
            "AllegroPipeline",
            "SanaVideoPipeline",
            "SanaImageToVideoPipeline",
            "LTX2Pipeline",
            "LTX2ImageToVideoPipeline",
            "LTX2ConditionPipeline",
            "LTX2InContextPipeline",
            "LTX2HDRPipeline",
        ),
        _MASKED,
    ),
    **dict.fromkeys(("LTX2DFRPipeline", "LTX2DFRTemporalRefinePipeline"), _MASKED[:2]),
    **dict.fromkeys(("AnimateDiffSDXLPipeline",), _POOLED),
    **dict.fromkeys(
        ("HunyuanVideoPipeline", "HunyuanVideoFramepackPipeline", "HunyuanSkyreelsImageToVideoPipeline"), _HUNYUAN
    ),
    **dict.fromkeys(("HunyuanVideo15Pipeline", "HunyuanVideo15ImageToVideoPipeline"), _HUNYUAN_15),
}

# Those that draw one text at a time: it is encoded to a length of its own, which batch-mates would change, or the
# pipeline takes its frames for the batch.
ALONE: Mapping[str, tuple[str, ...]] = {
    "LattePipeline": _PAIR,  # where the negative prompt is cut to the prompt's length
    "TextToVideoZeroPipeline": _PAIR,
    "TextToVideoZeroSDXLPipeline": _POOLED,
    **dict.fromkeys(
        ("Kandinsky5T2VPipeline", "Kandinsky5I2VPipeline"),
        ("prompt_embeds_qwen", "prompt_embeds_clip", "prompt_cu_seqlens"),
    ),
}
