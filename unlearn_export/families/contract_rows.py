"""Which diffusers pipeline reads which text encoder, which of its states, and how: data, as read in diffusers 0.42."""

from .contract import ReaderContract

T5_XXL = ("google/t5-v1_1-xxl",)
UMT5_XXL = ("google/umt5-xxl",)
CLIP_L = ("openai/clip-vit-large-patch14",)
CLIP_H = ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K",)
CLIP_BIGG = ("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",)
QWEN = ("Qwen/Qwen2.5-VL-7B-Instruct",)
GEMMA_2 = ("google/gemma-2-2b-it",)
LLAMA = ("xtuner/llava-llama-3-8b-v1_1-transformers",)

_T5 = ("T5EncoderModel",)
_CLIP = ("CLIPTextModel",)
_CLIP_PROJECTED = ("CLIPTextModelWithProjection",)
_QWEN_VL = ("Qwen2_5_VLForConditionalGeneration",)

_HUNYUAN_VIDEO = (
    "<|start_header_id|>system<|end_header_id|>\n\nDescribe the video by detailing the following aspects: "
    "1. The main content and theme of the video."
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects."
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects."
    "4. background environment, light, style and atmosphere."
    "5. camera angles, movements, and transitions used in the video:<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
)
_HUNYUAN_VIDEO_15 = (
    "<|im_start|>system\nYou are a helpful assistant. Describe the video by detailing the following aspects:         "
    "1. The main content and theme of the video.         "
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects.         "
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects.         "
    "4. background environment, light, style and atmosphere.         "
    "5. camera angles, movements, and transitions used in the video.<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
_QWEN_IMAGE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>"
)
_KANDINSKY_VIDEO = (
    "<|im_start|>system\nYou are a prompt engineer. Describe the video in detail.\n"
    "Describe how the camera moves or shakes, describe the zoom and view angle, whether it follows the objects.\n"
    "Describe the location of the video, main characters or objects and their action.\n"
    "Describe the dynamism of the video and presented actions.\n"
    "Name the visual style of the video: whether it is a professional footage, user generated content, "
    "some kind of animation, video game or scren content.\n"
    "Describe the visual effects, postprocessing and transitions if they are presented in the video.\n"
    "Pay attention to the order of key actions shown in the scene.<|im_end|>\n<|im_start|>user\n{}<|im_end|>"
)
_KANDINSKY_IMAGE = (
    "<|im_start|>system\nYou are a prompt engineer. Describe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>"
)
_COSMOS_25 = (
    "<|im_start|>system\nYou are a helpful assistant who will provide prompts to an image generator.<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n"
)
_SANA_VIDEO = (
    "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for video "
    "generation. Evaluate the level of detail in the user prompt:\n"
    "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, motion, and temporal "
    "relationships to create vivid and dynamic scenes.\n"
    "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.\n"
    "Here are examples of how to transform or refine prompts:\n"
    "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat slowly settling into a curled position, "
    "peacefully falling asleep on a warm sunny windowsill, with gentle sunlight filtering through surrounding pots of "
    "blooming red flowers.\n"
    "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street "
    "lamps gradually lighting up, a diverse crowd of people in colorful clothing walking past, and a double-decker "
    "bus smoothly passing by towering glass skyscrapers.\n"
    "Please generate only the enhanced description for the prompt below and avoid including any additional commentary "
    "or evaluations:\nUser Prompt: {}"
)
_SANA_IMAGE = (
    "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for image "
    "generation. Evaluate the level of detail in the user prompt:\n"
    "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial "
    "relationships to create vivid and concrete scenes.\n"
    "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.\n"
    "Here are examples of how to transform or refine prompts:\n"
    "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping "
    "peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.\n"
    "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street "
    "lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass "
    "skyscrapers.\n"
    "Please generate only the enhanced description for the prompt below and avoid including any additional commentary "
    "or evaluations:\nUser Prompt: {}"
)

_FLUX = (
    "FluxPipeline",
    "FluxImg2ImgPipeline",
    "FluxInpaintPipeline",
    "FluxControlPipeline",
    "FluxControlNetPipeline",
    "FluxFillPipeline",
    "FluxKontextPipeline",
)
_SD3 = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline")
_SDXL = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline")
_SDXL_VIDEO = ("AnimateDiffSDXLPipeline", "TextToVideoZeroSDXLPipeline")
_HUNYUAN = ("HunyuanVideoPipeline", "HunyuanVideoFramepackPipeline", "HunyuanSkyreelsImageToVideoPipeline")
_KANDINSKY = ("Kandinsky5T2VPipeline", "Kandinsky5I2VPipeline")
_GLYPHS = "text_encoder_2 (ByT5) reads the words in quotation marks"
_POOLED_CLIP = "text_encoder_2 (CLIP-L): its pooled vector of the whole prompt"
_POOLED_FIRST = "text_encoder (CLIP-L): its pooled vector of the whole prompt"


CONTRACTS: tuple[ReaderContract, ...] = (
    # UMT5
    ReaderContract(
        pipelines=(
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
        ),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=("UMT5EncoderModel",),
        weights=UMT5_XXL,
        length=512,
        clean="spaces",
    ),
    # T5
    ReaderContract(
        pipelines=(
            "CogVideoXPipeline",
            "CogVideoXImageToVideoPipeline",
            "CogVideoXVideoToVideoPipeline",
            "CogVideoXFunControlPipeline",
        ),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_T5,
        weights=T5_XXL,
        length=226,
        mask=False,
        reads="all",
    ),
    ReaderContract(
        pipelines=("LTXPipeline", "LTXImageToVideoPipeline", "LTXI2VLongMultiPromptPipeline"),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_T5,
        weights=T5_XXL,
        length=128,
        mask=False,
    ),
    ReaderContract(  # unlike its sisters it gives the mask to the encoder
        pipelines=("LTXConditionPipeline",),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_T5,
        weights=T5_XXL,
        length=256,
    ),
    ReaderContract(
        pipelines=("MochiPipeline",),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_T5,
        weights=T5_XXL,
        length=256,
    ),
    ReaderContract(
        pipelines=("AllegroPipeline",),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_T5,
        weights=T5_XXL,
        length=512,
        clean="caption",
    ),
    ReaderContract(  # a single prompt is cut to its length, several are padded with zeros
        pipelines=("LattePipeline",),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_T5,
        weights=T5_XXL,
        length=120,
        clean="caption",
    ),
    ReaderContract(
        pipelines=("CosmosTextToWorldPipeline", "CosmosVideoToWorldPipeline", "Cosmos2VideoToWorldPipeline"),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_T5,
        weights=("google-t5/t5-11b",),
        length=512,
    ),
    ReaderContract(
        pipelines=("Cosmos2TextToImagePipeline",),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_T5,
        weights=("google-t5/t5-11b",),
        length=512,
        video=False,
    ),
    ReaderContract(
        pipelines=_FLUX,
        seat="text_encoder_2",
        tokenizer="tokenizer_2",
        architectures=_T5,
        weights=T5_XXL,
        length=512,
        mask=False,
        reads="all",
        video=False,
        unedited=(_POOLED_FIRST,),
    ),
    ReaderContract(
        pipelines=_SD3,
        seat="text_encoder_3",
        tokenizer="tokenizer_3",
        architectures=_T5,
        weights=T5_XXL,
        length=256,
        mask=False,
        reads="all",
        video=False,
        unedited=("text_encoder and text_encoder_2 (CLIP-L, bigG): their states and pooled vectors",),
    ),
    ReaderContract(  # its mask of ones and zeros is added to the denoiser's attention scores: padding is read, if less
        pipelines=("ChromaPipeline", "ChromaImg2ImgPipeline"),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_T5,
        weights=T5_XXL,
        length=512,
        reads="all",
        video=False,
    ),
    ReaderContract(
        pipelines=("ChromaInpaintPipeline",),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_T5,
        weights=T5_XXL,
        length=256,
        reads="all",
        video=False,
    ),
    ReaderContract(
        pipelines=("PixArtAlphaPipeline",),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_T5,
        weights=T5_XXL,
        length=120,
        clean="caption",
        video=False,
    ),
    ReaderContract(
        pipelines=("PixArtSigmaPipeline",),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_T5,
        weights=T5_XXL,
        length=300,
        clean="caption",
        video=False,
    ),
    # Qwen2.5-VL
    ReaderContract(
        pipelines=("HunyuanVideo15Pipeline", "HunyuanVideo15ImageToVideoPipeline"),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=("Qwen2_5_VLTextModel",),
        weights=QWEN,
        length=1000,
        template=_HUNYUAN_VIDEO_15,
        crop=108,
        empty=" ",
        specials=False,
        layers=(-3,),
        unedited=(_GLYPHS,),
    ),
    ReaderContract(
        pipelines=("HunyuanImagePipeline",),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_QWEN_VL,
        weights=QWEN,
        length=1000,
        template=_QWEN_IMAGE,
        crop=34,
        layers=(-3,),
        video=False,
        unedited=(_GLYPHS,),
    ),
    ReaderContract(
        pipelines=(
            "QwenImagePipeline",
            "QwenImageImg2ImgPipeline",
            "QwenImageInpaintPipeline",
            "QwenImageControlNetPipeline",
            "QwenImageControlNetInpaintPipeline",
        ),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_QWEN_VL,
        weights=QWEN,
        length=1024,
        template=_QWEN_IMAGE + "\n<|im_start|>assistant\n",
        crop=34,
        window=512,
        fill="longest",
        video=False,
    ),
    ReaderContract(
        pipelines=_KANDINSKY,
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_QWEN_VL,
        weights=QWEN,
        length=512,
        template=_KANDINSKY_VIDEO,
        crop=128,
        clean="spaces",
        cut="text",
        fill="longest",
        mask=False,
        reads="all",
        unedited=(_POOLED_CLIP,),
    ),
    ReaderContract(
        pipelines=("Kandinsky5T2IPipeline",),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_QWEN_VL,
        weights=QWEN,
        length=512,
        template=_KANDINSKY_IMAGE,
        crop=40,
        clean="spaces",
        cut="text",
        fill="longest",
        mask=False,
        reads="all",
        video=False,
        unedited=(_POOLED_CLIP,),
    ),
    ReaderContract(
        pipelines=("Cosmos2_5_PredictBasePipeline", "Cosmos2_5_TransferPipeline"),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_QWEN_VL,
        weights=("nvidia/Cosmos-Reason1-7B",),
        length=512,
        template=_COSMOS_25,
        specials=False,
        mask=False,
        reads="all",
        layers="all",
        standardised=True,
    ),
    # Llama
    ReaderContract(
        pipelines=_HUNYUAN,
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=("LlamaModel",),
        weights=LLAMA,
        length=256,
        template=_HUNYUAN_VIDEO,
        crop=95,
        layers=(-3,),
        unedited=(_POOLED_CLIP,),
    ),
    # Gemma
    ReaderContract(
        pipelines=(
            "LTX2Pipeline",
            "LTX2ImageToVideoPipeline",
            "LTX2ConditionPipeline",
            "LTX2DFRPipeline",
            "LTX2DFRTemporalRefinePipeline",
            "LTX2HDRPipeline",
            "LTX2InContextPipeline",
        ),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=("Gemma3ForConditionalGeneration", "Gemma4UnifiedForConditionalGeneration"),
        weights=("google/gemma-3-12b-it", "LTX-2.5's own fine-tune of Gemma 4"),
        length=1024,
        clean="strip",
        padding="left",
        layers="all",
        join="interleaved",
        embedding=True,
        unedited=(
            "prompt_enhancer, or the encoder's own language head, rewrites the prompt where that is switched on",
        ),
    ),
    ReaderContract(
        pipelines=("SanaVideoPipeline", "SanaImageToVideoPipeline"),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=("Gemma2Model",),
        weights=GEMMA_2,
        length=300,
        template=_SANA_VIDEO,
        crop=None,
        clean="lower",
    ),
    ReaderContract(
        pipelines=("SanaPipeline", "SanaSprintPipeline", "SanaSprintImg2ImgPipeline", "SanaControlNetPipeline"),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=("Gemma2Model",),
        weights=GEMMA_2,
        length=300,
        template=_SANA_IMAGE,
        crop=None,
        clean="lower",
        video=False,
    ),
    # CLIP
    ReaderContract(
        pipelines=(
            "AnimateDiffPipeline",
            "AnimateDiffControlNetPipeline",
            "AnimateDiffSparseControlNetPipeline",
            "AnimateDiffVideoToVideoPipeline",
            "AnimateDiffVideoToVideoControlNetPipeline",
            "AnimateDiffPAGPipeline",
            "PIAPipeline",
            "TextToVideoZeroPipeline",
        ),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_CLIP,
        weights=CLIP_L,
        length=77,
        mask=False,
        reads="all",
    ),
    ReaderContract(
        pipelines=("TextToVideoSDPipeline", "VideoToVideoSDPipeline"),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_CLIP,
        weights=CLIP_H,
        length=77,
        mask=False,
        reads="all",
    ),
    ReaderContract(
        pipelines=(
            "StableDiffusionPipeline",
            "StableDiffusionImg2ImgPipeline",
            "StableDiffusionInpaintPipeline",
            "StableDiffusionControlNetPipeline",
            "LatentConsistencyModelPipeline",
            "LatentConsistencyModelImg2ImgPipeline",
        ),
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_CLIP,
        weights=CLIP_L + CLIP_H,  # Stable Diffusion 1 and 2
        length=77,
        mask=False,
        reads="all",
        video=False,
    ),
    *(
        contract
        for pipelines, video in ((_SDXL_VIDEO, True), (_SDXL, False))
        for contract in (
            ReaderContract(
                pipelines=pipelines,
                seat="text_encoder",
                tokenizer="tokenizer",
                architectures=_CLIP,
                weights=CLIP_L,
                length=77,
                mask=False,
                reads="all",
                layers=(-2,),
                video=video,
                unedited=("text_encoder_2 (bigG): its states and its pooled vector",),
            ),
            ReaderContract(
                pipelines=pipelines,
                seat="text_encoder_2",
                tokenizer="tokenizer_2",
                architectures=_CLIP_PROJECTED,
                weights=CLIP_BIGG,
                length=77,
                mask=False,
                reads="all",
                layers=(-2,),
                pooled=True,
                video=video,
                unedited=("text_encoder (CLIP-L): its states",),
            ),
        )
    ),
    *(
        ReaderContract(
            pipelines=_SD3,
            seat=seat,
            tokenizer=tokenizer,
            architectures=_CLIP_PROJECTED,
            weights=weights,
            length=77,
            mask=False,
            reads="all",
            layers=(-2,),
            pooled=True,
            video=False,
            unedited=(f"{other}: its states and its pooled vector", "text_encoder_3 (T5): its states"),
        )
        for seat, tokenizer, weights, other in (
            ("text_encoder", "tokenizer", CLIP_L, "text_encoder_2 (bigG)"),
            ("text_encoder_2", "tokenizer_2", CLIP_BIGG, "text_encoder (CLIP-L)"),
        )
    ),
    ReaderContract(
        pipelines=_FLUX,
        seat="text_encoder",
        tokenizer="tokenizer",
        architectures=_CLIP,
        weights=CLIP_L,
        length=77,
        mask=False,
        reads="all",
        layers=(),
        pooled=True,
        video=False,
        unedited=("text_encoder_2 (T5): its states",),
    ),
    ReaderContract(
        pipelines=_HUNYUAN,
        seat="text_encoder_2",
        tokenizer="tokenizer_2",
        architectures=_CLIP,
        weights=CLIP_L,
        length=77,
        mask=False,
        reads="all",
        layers=(),
        pooled=True,
        unedited=("text_encoder (Llama): its states",),
    ),
    *(
        ReaderContract(
            pipelines=pipelines,
            seat="text_encoder_2",
            tokenizer="tokenizer_2",
            architectures=_CLIP,
            weights=CLIP_L,
            length=77,
            clean="spaces",
            layers=(),
            pooled=True,
            video=video,
            unedited=("text_encoder (Qwen2.5-VL): its states",),
        )
        for pipelines, video in ((_KANDINSKY, True), (("Kandinsky5T2IPipeline",), False))
    ),
)
