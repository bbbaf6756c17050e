"""A text encoder that ONNX Runtime computes, called by pipelines like the torch one."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from transformers import PreTrainedModel
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
    ModelOutput,
)
from transformers.models.clip.modeling_clip import CLIPTextModelOutput

from ..errors import DependencyError, EncoderError, UsageError
from ..extras import need

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

HIDDEN_STATES = "hidden_states"  # the graph's metadata: how many the encoder has, of which it may return only some
OUTPUTS: dict[str, type[ModelOutput]] = {
    "CLIPTextModel": BaseModelOutputWithPooling,
    "CLIPTextModelWithProjection": CLIPTextModelOutput,
    "Qwen2_5_VLForConditionalGeneration": CausalLMOutputWithPast,
    "Qwen3VLForConditionalGeneration": CausalLMOutputWithPast,
    "Gemma3ForConditionalGeneration": CausalLMOutputWithPast,
}
MODALITIES = ("token_type_ids", "mm_token_type_ids")  # zeros mean text
SMALL = 64_000_000  # bytes of weights below which a second thread costs more than it brings
TORCH = "load it with backend='torch'"


class OrtTextEncoder(PreTrainedModel):
    """A text encoder that ONNX Runtime computes and a pipeline calls like a torch one.

    Its one parameter holds the device and dtype that the pipeline moves it to: states come back there, wherever the
    session runs. Attention weights, logits, images and position ids are not in the graph. ``hidden_states`` has the
    encoder's own length; a state that the graph was exported without raises EncoderError once it is used.

    trim: cut the columns that are padding in every row off both ends before the run, and return zeros at every padded
    position. Only for a reader that masks, zeroes or cuts padded positions itself; ``load_pipeline`` and the server set
    it by the pipeline's contract. The read states are then the same: no unmasked position attends to padding, T5's and UMT5's biases and rotary angles depend on distances alone
    (cutting on the left changes a decoder's rounding). Without a mask nothing is cut, and CLIP's graph takes none.
    """

    main_input_name = "input_ids"
    trim = False

    def __init__(self, config: Any, session: "InferenceSession", folder: Path) -> None:
        super().__init__(copy.deepcopy(config))
        self.session = session
        self.folder = folder
        self.inputs = {node.name for node in session.get_inputs()}
        self.outputs = [node.name for node in session.get_outputs()]
        self.layers = {int(name.partition(".")[2]) for name in self.outputs if name.startswith("hidden_states.")}
        told = session.get_modelmeta().custom_metadata_map.get(HIDDEN_STATES)
        self.total = int(told) if told else max(self.layers, default=-1) + 1
        self.anchor = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unsupported: Any,
    ) -> ModelOutput | tuple[Tensor, ...]:
        """input_ids, attention_mask: [b, n]. Raises EncoderError for whatever the graph cannot compute."""
        kind = OUTPUTS.get(class_name(self), BaseModelOutput)
        return self._run(kind, input_ids, attention_mask, output_hidden_states, return_dict, **unsupported)

    @property
    def model(self) -> "LanguageModel":
        """What a vision-language model holds under this name; the other classes have none."""
        if OUTPUTS.get(class_name(self)) is not CausalLMOutputWithPast:
            raise AttributeError(f"{class_name(self)} has no model")
        return LanguageModel(self)

    def _run(
        self,
        kind: type[ModelOutput],
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unsupported: Any,
    ) -> ModelOutput | tuple[Tensor, ...]:
        asked = sorted(name for name, value in unsupported.items() if _asks(name, value))
        if asked:
            raise EncoderError(f"the ONNX text encoder has no {', '.join(asked)}: {TORCH}")
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise EncoderError(
                f"the mask is {tuple(attention_mask.shape)}, the tokens are {tuple(input_ids.shape)}: the ONNX text "
                f"encoder takes one value a token; {TORCH}"
            )
        hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        if not isinstance(hidden, bool):
            raise EncoderError(f"output_hidden_states is {hidden}: the ONNX text encoder takes True or False")
        if hidden and not self.total:
            raise EncoderError(f"no hidden states in {self.folder / 'model.onnx'}: {TORCH}")
        fields = kind.__dataclass_fields__
        names = [name for name in self.outputs if (hidden if name.startswith("hidden_states.") else name in fields)]
        states = self._states(names, input_ids, attention_mask)
        if "logits" in fields:
            states["logits"] = self._absent("logits")
        elif "last_hidden_state" not in states:
            states["last_hidden_state"] = self._absent("last hidden state")
        layers = None
        if hidden:
            named = ((i, f"hidden_states.{i}") for i in range(self.total))
            layers = tuple(states.pop(name) if i in self.layers else self._absent(name) for i, name in named)
        output = kind(**states, hidden_states=layers)
        return output.to_tuple() if return_dict is False else output

    def _states(self, names: list[str], ids: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Run the session for these outputs."""
        if not names:
            return {}
        feeds, span = {"input_ids": ids}, slice(None)
        if "attention_mask" in self.inputs:
            feeds["attention_mask"] = torch.ones_like(ids) if mask is None else mask
            if self.trim and mask is not None:
                used = mask.bool().any(0).nonzero().flatten().tolist()
                span = slice(used[0], used[-1] + 1) if used else span
        elif mask is not None and not bool((mask == 1).all()):
            raise EncoderError(f"the ONNX text encoder takes no attention mask: {TORCH}")
        arrays = {name: tensor[:, span].to("cpu", torch.int64).numpy() for name, tensor in feeds.items()}
        try:
            results = self.session.run(names, arrays)
        except Exception as error:  # onnxruntime's own errors have no common base
            raise EncoderError(f"cannot run {self.folder / 'model.onnx'}: {one_line(error)}") from error
        states = {name: torch.from_numpy(array) for name, array in zip(names, results, strict=True)}
        if self.trim and mask is not None and "attention_mask" in self.inputs:
            kept = mask.to("cpu", torch.bool)
            for name, state in states.items():
                full = state.new_zeros(*ids.shape, state.shape[-1])
                full[:, span] = state
                states[name] = full.masked_fill_(~kept[..., None], 0)
        return {name: state.to(self.device, self.dtype) for name, state in states.items()}

    def _absent(self, name: str) -> "AbsentState":
        had = ", ".join(self.outputs)
        return AbsentState.of(
            f"{self.folder / 'model.onnx'} gives {had} and no {name}: export it with the layers that this pipeline "
            f"reads, or {TORCH}"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "OrtTextEncoder":
        """Another holder of the same session, which is never altered."""
        twin: Any = OrtTextEncoder(self.config, self.session, self.folder)
        twin.trim = self.trim
        return twin.to(self.device, self.dtype).eval()

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: another diffusers could not load this class. The standard encoder lies beside the graph."""
        raise EncoderError(f"an ONNX session cannot be saved: copy {self.folder}, or {TORCH}")


class LanguageModel:
    """A vision-language model's ``model`` and ``model.language_model``: the last state in place of logits."""

    def __init__(self, encoder: OrtTextEncoder) -> None:
        self._encoder = encoder

    @property
    def language_model(self) -> "LanguageModel":
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> ModelOutput | tuple[Tensor, ...]:
        return self._encoder._run(BaseModelOutput, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        raise EncoderError(f"the ONNX text encoder has no {name}: {TORCH}")


class AbsentState(Tensor):
    """Holds the place of a state that a graph does not compute: it can be moved, any other use raises EncoderError."""

    reason: str

    @classmethod
    def of(cls, reason: str) -> "AbsentState":
        state = torch.empty(0).as_subclass(cls)
        state.reason = reason
        return state

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        state = next(leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, cls))
        if func is Tensor.to:
            return state
        raise EncoderError(state.reason)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"AbsentState({self.reason!r})"


def open_session(folder: Path, config: Any, provider: str | None = None) -> OrtTextEncoder:
    """The graph in a folder on an execution provider (default CPUExecutionProvider), after one run of it.

    provider: a name, or NAME:DEVICE such as CUDAExecutionProvider:1; without a device it takes the first one.

    Raises EncoderError for a graph that is missing, damaged or not of this config, DependencyError where the provider
    cannot be had, UsageError for a device that is no number.
    """
    need("backend='onnx'", "cpu", "onnxruntime")
    import onnxruntime

    graph = folder / "model.onnx"
    if not graph.is_file():
        raise EncoderError(f"no model.onnx in {folder}: export one, or use backend='torch'")
    given = provider or "CPUExecutionProvider"
    provider, colon, device = given.partition(":")
    if colon and not device.isdecimal():
        raise UsageError(f"provider is {given!r}: give a name or NAME:DEVICE, such as CUDAExecutionProvider:1")
    repair = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    if provider not in onnxruntime.get_available_providers():
        raise DependencyError(f"this onnxruntime has no {provider}: {repair}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if sum(file.stat().st_size for file in folder.glob("model.onnx*")) < SMALL:
        options.intra_op_num_threads = 1
    named = (provider, {"device_id": device}) if colon else provider
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=[named], enable_fallback=False)
    except Exception as error:  # onnxruntime's own errors have no common base
        raise EncoderError(f"cannot load {graph}: {one_line(error)}") from error
    session.disable_fallback()
    if session.get_providers()[0] != provider:
        raise DependencyError(f"asked for {provider}, onnxruntime gave {session.get_providers()[0]}: {repair}")
    encoder = OrtTextEncoder(config, session, folder).eval()
    _probe(encoder)
    return encoder


def _probe(encoder: OrtTextEncoder) -> None:
    """One run of the graph must give finite states of the size that config.json promises."""
    config, graph = text_config(encoder.config), encoder.folder / "model.onnx"
    states = encoder._states(encoder.outputs, torch.tensor([[0, config.vocab_size - 1]]), None)
    widths = [state.shape[-1] for name, state in states.items() if "hidden_state" in name]
    got = (widths[0] if widths else 0, encoder.total - 1)
    if got != (config.hidden_size, config.num_hidden_layers):
        raise EncoderError(
            f"{graph} is {got[0]} wide with {got[1]} layers, its config.json says {config.hidden_size} and "
            f"{config.num_hidden_layers}: export it again"
        )
    if not all(bool(state.isfinite().all()) for state in states.values()):
        raise EncoderError(f"{graph} computes values that are not finite: the file is damaged")


def text_config(config: Any) -> Any:
    """The text part's sizes: a vision-language model's config nests them."""
    return getattr(config, "text_config", None) or config


def class_name(encoder: PreTrainedModel) -> str:
    """The torch class that this encoder is, or stands for."""
    if isinstance(encoder, OrtTextEncoder):
        return str((encoder.config.architectures or [""])[0])
    return type(encoder).__name__


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _asks(name: str, value: Any) -> bool:
    """Whether an argument asks for more than text states."""
    if name in MODALITIES and isinstance(value, Tensor):
        return bool(value.any())
    return value is not None and value is not False
