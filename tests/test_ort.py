import copy
import shutil

import onnxruntime
import pytest
import tiny
import torch
from accelerate.utils import send_to_device
from diffusers import (
    Cosmos2_5_PredictBasePipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideoPipeline,
    Kandinsky5T2VPipeline,
    LTX2Pipeline,
    QwenImagePipeline,
    SanaVideoPipeline,
    WanPipeline,
)
from diffusers.modular_pipelines.minimax_h3.encoders import get_qwen3vl_prompt_embeds
from test_encoders import refused
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from unlearn_export.errors import EncoderError, UsageError
from unlearn_export.onnx.export import export_onnx
from unlearn_export.pipelines.encoders import load_encoder

PROMPTS = ["a clown", "a photo of pizza, the car"]
IDS = torch.randint(3, tiny.VOCAB - 2, (2, 12), generator=torch.Generator().manual_seed(3))
MASK = torch.tensor([[1] * 5 + [0] * 7, [1] * 8 + [0] * 4])
VISION_LANGUAGE = [family for family in tiny.DECODERS if "Conditional" in family]


def loaded(family):
    """The cached encoder of a family, on torch and on ONNX Runtime."""
    model, export = tiny.exported(family)
    if not (export.path.parent / "config.json").exists():
        model.save_pretrained(export.path.parent)
    return model, load_encoder(export.path.parent, backend="onnx")


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    """Four layers on torch, and a graph that ends at the third last hidden state."""
    model, folder = tiny.encoder("LlamaModel", num_hidden_layers=4), tmp_path_factory.mktemp("partial")
    model.save_pretrained(folder)
    export_onnx(model, folder, layers=[-3])
    return model, load_encoder(folder, backend="onnx")


class Letters(PreTrainedTokenizerFast):
    """A token a letter, with the arguments of a processor and a chat template."""

    def __init__(self):
        vocab = {"<pad>": 0, "<unk>": 1} | {chr(c): c for c in range(32, 127)}
        letters = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
        letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        super().__init__(tokenizer_object=letters, pad_token="<pad>", unk_token="<unk>")
        self.chat_template = (
            "{% for m in messages %}{{ m.content if m.content is string else m.content[0].text }}{% endfor %}"
        )

    def __call__(self, text, images=None, videos=None, **kwargs):
        return super().__call__(text, **kwargs)


def reads(kind, encoder, method, *args, **attributes):
    """What a pipeline's own code reads from an encoder, without the rest of the pipeline."""
    pipe = object.__new__(kind)
    for name, value in {"text_encoder": encoder, "tokenizer": Letters(), **attributes}.items():
        object.__setattr__(pipe, name, value)
    made = getattr(pipe, method)(PROMPTS, *args)
    return (made if isinstance(made, torch.Tensor) else made[0]).float()


def hunyuan_video(encoder):
    method, template = "_get_llama_prompt_embeds", {"template": "describe: {}", "crop_start": 10}
    return reads(HunyuanVideoPipeline, encoder, method, template, 1, "cpu", torch.float32, 30)


def hunyuan_video_15(encoder):
    embeds, mask = HunyuanVideo15Pipeline._get_mllm_prompt_embeds(
        encoder, Letters(), PROMPTS, "cpu", 40, system_message="describe: ", crop_start=10
    )
    return embeds * mask[..., None]


def kandinsky(encoder):
    template = {"prompt_template": "describe: {}", "prompt_template_encode_start_idx": 10}
    return reads(Kandinsky5T2VPipeline, encoder, "_encode_prompt_qwen", "cpu", 30, torch.float32, **template)


def qwen_image(encoder):
    template = {"prompt_template_encode": "describe: {}", "prompt_template_encode_start_idx": 10}
    options = template | {"tokenizer_max_length": 30}
    return reads(QwenImagePipeline, encoder, "_get_qwen_prompt_embeds", "cpu", torch.float32, **options)


def cosmos(encoder):
    return reads(Cosmos2_5_PredictBasePipeline, encoder, "_get_prompt_embeds", 30, "cpu", torch.float32)


def sana_video(encoder):
    return reads(SanaVideoPipeline, encoder, "_get_gemma_prompt_embeds", "cpu", torch.float32, False, 30)


def ltx_2(encoder):
    embeds = reads(LTX2Pipeline, encoder, "_get_gemma_prompt_embeds", 1, 30, 8, "cpu", torch.float32)
    return embeds * Letters()(PROMPTS, padding="max_length", max_length=30, padding_side="left", return_tensors="pt")[
        "attention_mask"
    ].unsqueeze(-1)


def wan(encoder):
    return reads(WanPipeline, encoder, "_get_t5_prompt_embeds", 1, 30, "cpu", torch.float32)


def minimax(encoder):
    processor = Letters()
    processor.create_mm_token_type_ids = lambda batch: [[0] * len(ids) for ids in batch]
    ids = processor(PROMPTS[0])["input_ids"]
    return get_qwen3vl_prompt_embeds(encoder, processor, ids, text_encoder_layer=1, device="cpu", dtype=torch.float32)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "read"),
    [
        ("LlamaModel", hunyuan_video),
        ("Qwen2_5_VLTextModel", hunyuan_video_15),
        ("Qwen2_5_VLForConditionalGeneration", kandinsky),
        ("Qwen2_5_VLForConditionalGeneration", qwen_image),
        ("Qwen2_5_VLForConditionalGeneration", cosmos),
        ("Qwen3VLForConditionalGeneration", minimax),
        ("Gemma2Model", sana_video),
        ("Gemma3ForConditionalGeneration", ltx_2),
        ("UMT5EncoderModel", wan),
    ],
)
def test_the_pipelines_own_code_reads_the_same_from_both(family, read):
    encoder, ort = loaded(family)
    expected = read(encoder)
    torch.testing.assert_close(read(ort), expected, atol=5e-5, rtol=5e-5)
    assert not torch.allclose(read(tiny.encoder(family, seed=1)), expected, atol=1e-2)  # the control


@torch.no_grad()
@pytest.mark.parametrize("family", VISION_LANGUAGE)
def test_a_vision_language_model_gives_its_text_part(family):
    encoder, ort = loaded(family)
    for call in ("__call__", "language_model"):
        parts = (encoder.model, ort.model)
        theirs, ours = (part if call == "__call__" else part.language_model for part in parts)
        expected = theirs(input_ids=IDS, output_hidden_states=True)
        got = ours(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False, output_hidden_states=True)
        torch.testing.assert_close(got.last_hidden_state, expected.last_hidden_state, atol=5e-5, rtol=5e-5)
        torch.testing.assert_close(got.hidden_states, expected.hidden_states, atol=5e-5, rtol=5e-5)
    ort(IDS, mm_token_type_ids=torch.zeros_like(IDS), pixel_values=None)
    refused(EncoderError, "has no mm_token_type_ids: load it with", ort, IDS, mm_token_type_ids=torch.ones_like(IDS))
    refused(EncoderError, "has no image_grid_thw, pixel_values", ort, IDS, pixel_values=IDS, image_grid_thw=IDS)
    refused(EncoderError, "and no logits: export it with the layers", lambda: ort(IDS)[0][:, 0])
    refused(EncoderError, "the ONNX text encoder has no norm", lambda: ort.model.language_model.norm)


def test_other_classes_have_no_model_inside():
    assert not hasattr(loaded("LlamaModel")[1], "model")


@torch.no_grad()
def test_a_state_left_out_is_refused_only_where_it_is_used(partial):
    encoder, ort = partial
    expected = encoder(IDS, MASK, output_hidden_states=True)
    out = ort(IDS, MASK, output_hidden_states=True)
    assert ort.outputs == ["hidden_states.2"] and len(out.hidden_states) == len(expected.hidden_states) == 5
    torch.testing.assert_close(out.hidden_states[-3], expected.hidden_states[-3], atol=5e-5, rtol=5e-5)
    assert "hidden_states.2" in repr(send_to_device(out, "cpu").hidden_states[-1])  # what an offload hook does
    for use in (
        lambda: out.hidden_states[-1][:, 3:],
        lambda: out.hidden_states[-1].to(torch.float16) * 1,
        lambda: [state.mean() for state in out.hidden_states[1:]],
        lambda: torch.stack(out.hidden_states, dim=-1),
        lambda: torch.cat([out.hidden_states[2], out.hidden_states[4]]),
    ):
        refused(EncoderError, "model.onnx gives hidden_states.2 and no hidden_states.[0-4]: export it with the", use)
    refused(EncoderError, "and no last hidden state", lambda: out.last_hidden_state.shape)
    refused(EncoderError, "and no last hidden state", lambda: ort(IDS)[0] + 1)
    refused(EncoderError, "and no last hidden state", lambda: ort(IDS, return_dict=False)[0] + 1)


class Watched:
    """A session that notes how many tokens it is given."""

    def __init__(self, session):
        self.session, self.lengths = session, []

    def run(self, names, feeds):
        self.lengths.append(feeds["input_ids"].shape[1])
        return self.session.run(names, feeds)

    def __getattr__(self, name):
        return getattr(self.session, name)


@torch.no_grad()
@pytest.mark.parametrize("family", tiny.FAMILIES[2:])
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_trimming_is_exact_where_the_mask_is_one(family, left):
    encoder, ort = loaded(family)
    ort.session = Watched(ort.session)
    mask = MASK.flip(1) if left else MASK
    expected = encoder(input_ids=IDS, attention_mask=mask, output_hidden_states=True).hidden_states
    whole = ort(IDS, mask, output_hidden_states=True).hidden_states
    ort.trim = True
    cut = copy.deepcopy(ort)(IDS, mask, output_hidden_states=True).hidden_states
    for state, full, reference in zip(cut, whole, expected, strict=True):
        torch.testing.assert_close(state, full * mask[..., None], atol=5e-5, rtol=5e-5)
        torch.testing.assert_close(state, reference * mask[..., None], atol=5e-5, rtol=5e-5)
        assert full[mask == 0].abs().max() > 1e-2  # the control: what only a masking reader may lose
    unmasked = ort(IDS, output_hidden_states=True).hidden_states
    padded = ort(IDS, torch.zeros_like(MASK), output_hidden_states=True).hidden_states
    assert ort.session.lengths == [12, 8, 12, 12]
    torch.testing.assert_close(unmasked, encoder(input_ids=IDS, output_hidden_states=True).hidden_states)
    assert all(state.count_nonzero() == 0 for state in padded)


@torch.no_grad()
def test_clip_is_never_trimmed():
    encoder, ort = loaded("CLIPTextModel")
    ort.trim = True
    torch.testing.assert_close(ort(IDS).last_hidden_state, encoder(IDS).last_hidden_state)
    refused(EncoderError, "takes no attention mask", ort, IDS, MASK)


def test_a_mask_or_a_flag_of_another_form_is_refused():
    _, ort = loaded("LlamaModel")
    ort(IDS, MASK.bool()), ort(IDS, MASK.float())
    refused(EncoderError, r"the mask is \(2, 1, 12, 12\), the tokens are \(2, 12\)", ort, IDS, torch.ones(2, 1, 12, 12))
    refused(EncoderError, r"output_hidden_states is \[1\]", ort, IDS, MASK, output_hidden_states=[1])
    refused(EncoderError, "has no position_ids: load", ort, IDS, MASK, position_ids=MASK.cumsum(1) - 1)
    refused(EncoderError, "has no use_cache: load", ort, IDS, MASK, use_cache=True)
    refused(EncoderError, "cannot run .*model.onnx", ort, IDS + tiny.VOCAB)


def test_a_provider_can_be_told_its_device(partial, monkeypatch):
    _, encoder = partial
    folder, asked = encoder.folder, []

    class Session(onnxruntime.InferenceSession):
        """As if it ran on a GPU."""

        def __init__(self, graph, options, *, providers, **more):
            asked.extend(providers)
            super().__init__(graph, options, providers=["CPUExecutionProvider"], **more)

        def get_providers(self):
            return ["CUDAExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    for provider in ("CUDAExecutionProvider", "CUDAExecutionProvider:1"):
        load_encoder(folder, backend="onnx", provider=provider)
    assert asked == ["CUDAExecutionProvider", ("CUDAExecutionProvider", {"device_id": "1"})]
    with pytest.raises(UsageError, match="provider is 'CUDAExecutionProvider:x': give a name or NAME:DEVICE"):
        load_encoder(folder, backend="onnx", provider="CUDAExecutionProvider:x")


def test_a_graph_that_is_not_its_config_s_is_refused(partial, tmp_path):
    _, ort = partial
    shutil.copytree(ort.folder, tmp_path / "copy")
    load_encoder(tmp_path / "copy", backend="onnx")
    tiny.encoder("LlamaModel").save_pretrained(tmp_path / "copy")
    words = "32 wide with 4 layers, its config.json says 32 and 2"
    refused(EncoderError, words, load_encoder, tmp_path / "copy", backend="onnx")
