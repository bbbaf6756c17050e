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
_KANDINSKY = ("prompt_embeds_qwen", "prompt_embeds_clip", "prompt_cu_seqlens")
_HUNYUAN_15 = ("prompt_embeds", "prompt_embeds_mask", "prompt_embeds_2", "prompt_embeds_mask_2")

# pipeline class → what encode_prompt returns, in order; of all but ALONE one row of each tensor is one text
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
            "LattePipeline",
            "TextToVideoZeroPipeline",
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
    **dict.fromkeys(("AnimateDiffSDXLPipeline", "TextToVideoZeroSDXLPipeline"), _POOLED),
    **dict.fromkeys(
        ("HunyuanVideoPipeline", "HunyuanVideoFramepackPipeline", "HunyuanSkyreelsImageToVideoPipeline"), _HUNYUAN
    ),
    **dict.fromkeys(("Kandinsky5T2VPipeline", "Kandinsky5I2VPipeline"), _KANDINSKY),
    **dict.fromkeys(("HunyuanVideo15Pipeline", "HunyuanVideo15ImageToVideoPipeline"), _HUNYUAN_15),
}

# Those that draw one text at a time. Latte and Kandinsky encode it to a length of its own, which batch-mates would
# change; the frames of TextToVideoZero are its batch; the autoencoders of Allegro and HunyuanVideo 1.5 decode one clip.
ALONE = frozenset(
    (
        "LattePipeline",
        "Kandinsky5T2VPipeline",
        "Kandinsky5I2VPipeline",
        "TextToVideoZeroPipeline",
        "TextToVideoZeroSDXLPipeline",
        "AllegroPipeline",
        "HunyuanVideo15Pipeline",
        "HunyuanVideo15ImageToVideoPipeline",
    )
)
JOINT = frozenset(("LattePipeline",))  # the negative prompt is cut to the prompt's length
