"""A torch text encoder as one ONNX graph, kept only if ONNX Runtime computes the same states from it."""

import contextlib
import copy
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import DependencyError, EncoderError, ParityError

if TYPE_CHECKING:
    import onnx_ir

OPSET = 20
GRAPH = "model.onnx"
EXTERNAL = "model.onnx_data"
EXTERNAL_BYTES = 1_500_000_000  # weights above this go beside the graph: a protobuf file ends at 2 GB
TRACED = (2, 8)  # batch, tokens
POOLED = {"CLIPTextModel": "pooler_output", "CLIPTextModelWithProjection": "text_embeds"}
MASKED = ("T5EncoderModel", "UMT5EncoderModel")  # CLIP's pipelines pass no mask, T5's do


@dataclass(frozen=True)
class OnnxExport:
    """An exported graph that met the parity gate.

    ``max_abs_diff`` is the largest difference from torch's last hidden state, ``hidden_states`` their
    number (layers + 1), ``size`` the bytes on disk with external data.
    """

    path: Path
    max_abs_diff: float
    opset: int
    hidden_states: int
    size: int


def export_onnx(encoder: PreTrainedModel, folder: Path, *, tolerance: float = 1e-4) -> OnnxExport:
    """Write ``folder/model.onnx`` in float32 and return how close it is to torch.

    encoder: CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel or UMT5EncoderModel; not altered.
    Inputs: ``input_ids`` [b, n] int64, and ``attention_mask`` [b, n] int64 for T5 and UMT5; b and n are free.
    Outputs: ``last_hidden_state`` [b, n, d], CLIP's ``pooler_output`` or ``text_embeds``, ``hidden_states.{i}``.

    Raises ParityError, leaving the folder as it was, where ONNX Runtime's last hidden or pooled state is
    further than ``tolerance`` from torch's (an intermediate state: relative to its largest value), on shapes
    and masks other than the traced ones. Raises EncoderError for another class, DependencyError without ONNX.
    """
    name = type(encoder).__name__
    if name not in POOLED and name not in MASKED:
        raise EncoderError(f"{name} cannot be exported: expected {', '.join((*POOLED, *MASKED))}")
    _require_onnx()
    encoder = _float32_copy(encoder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=folder) as temp:
        with _quiet():
            _save(_trace(encoder), Path(temp))
        diff = _parity(encoder, Path(temp) / GRAPH, tolerance)
        files = sorted(Path(temp).iterdir(), reverse=True)  # the data before the graph that names it
        size = sum(file.stat().st_size for file in files)
        for file in files:
            os.replace(file, folder / file.name)
    if len(files) == 1:
        (folder / EXTERNAL).unlink(missing_ok=True)
    return OnnxExport(folder / GRAPH, diff, OPSET, encoder.config.num_hidden_layers + 1, size)


class Flat(nn.Module):
    """The encoder with its outputs as one flat dict, which is what a graph can return."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.flat = encoder
        self.pooled = POOLED.get(type(encoder).__name__)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        out = self.flat(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        named = {"last_hidden_state": out.last_hidden_state}
        if self.pooled:
            named[self.pooled] = out[self.pooled]
        return named | {f"hidden_states.{i}": state for i, state in enumerate(out.hidden_states)}


def _float32_copy(encoder: PreTrainedModel) -> PreTrainedModel:
    """A copy on the CPU with eager attention; float32 CPU weights are shared, not duplicated."""

    def weight(p: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(p.detach().to("cpu", torch.float32), requires_grad=False)

    shared = {id(p): weight(p) for p in encoder.parameters()}
    twin: Any = copy.deepcopy(encoder, shared)
    twin.set_attn_implementation("eager")  # sdpa's masking does not export
    return twin.to("cpu").eval()


def _inputs(encoder: PreTrainedModel, batch: int, length: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Random token ids [b, n], one end-of-text in each row, and for T5 a mask with one full row."""
    config = encoder.config
    ids = torch.randint(config.vocab_size, (batch, length), generator=generator)
    ends = torch.randint(length, (batch,), generator=generator)
    ids[torch.arange(batch), ends] = config.eos_token_id
    if type(encoder).__name__ not in MASKED:
        return {"input_ids": ids}
    mask = (torch.arange(length) <= ends[:, None]).long()
    mask[-1] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _trace(encoder: PreTrainedModel) -> "onnx_ir.Model":
    example = _inputs(encoder, *TRACED, torch.Generator().manual_seed(0))
    longest = getattr(encoder.config, "max_position_embeddings", None)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=longest)}
    flat = Flat(encoder).eval()
    with torch.no_grad():
        names = list(flat(**example))
    program: Any = torch.onnx.export(
        flat,
        kwargs=example,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(example),
        output_names=names,
        dynamic_shapes=dict.fromkeys(example, axes),
        verbose=False,
    )
    return program.model


def _save(model: "onnx_ir.Model", folder: Path) -> None:
    """Write the graph without what the exporter notes of the machine: stack traces hold absolute paths."""
    import onnx_ir

    graph = model.graph
    weights = list(graph.initializers.values())
    values = [*graph.inputs, *weights, *(value for node in graph.all_nodes() for value in node.outputs)]
    parts: list[Any] = [model, graph, *graph.all_nodes(), *values]
    for part in parts:
        part.metadata_props.clear()
        part.doc_string = None
    for weight in weights:
        weight.name = str(weight.name).removeprefix("flat.")
    large = sum(w.const_value.nbytes for w in weights if w.const_value) > EXTERNAL_BYTES
    onnx_ir.save(model, folder / GRAPH, external_data=EXTERNAL if large else None)


def _parity(encoder: PreTrainedModel, path: Path, tolerance: float) -> float:
    """The largest difference of the last hidden state. Raises ParityError above the tolerance."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    longest = getattr(encoder.config, "max_position_embeddings", 160)
    flat, generator, worst = Flat(encoder), torch.Generator().manual_seed(1), 0.0
    for batch, length in ((1, longest), (3, longest), (1, 2), (3, longest // 3), (5, longest // 2)):
        inputs = _inputs(encoder, batch, length, generator)
        with torch.no_grad():
            expected = flat(**inputs)
        got = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
        for name, state in zip(names, map(torch.from_numpy, got), strict=True):
            diff = float((state - expected[name]).abs().max()) if state.shape == expected[name].shape else float("inf")
            scale = max(1.0, float(expected[name].abs().max())) if name.startswith("hidden_states.") else 1.0
            if not diff / scale <= tolerance:  # so that NaN fails too
                raise ParityError(
                    f"{name} of the ONNX graph is {diff:.1e} from torch's at batch {batch}, length {length}; "
                    f"the tolerance is {tolerance:.0e}: nothing was written"
                )
            if name == "last_hidden_state":
                worst = max(worst, diff)
    return worst


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise DependencyError(f"the ONNX export needs {error.name}: pip install onnx onnxscript onnxruntime") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter: it prints, warns and logs about things that nobody here can change."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
