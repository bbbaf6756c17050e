"""A torch text encoder as one ONNX graph, kept only if ONNX Runtime computes the same states from it."""

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from ..errors import EncoderError
from ..extras import need_onnx
from ..pipelines.ort import HIDDEN_STATES
from .graph import POOLED, Flat, float32_copy, language_model, needed_bytes, resolve, sample
from .parity import check_parity

if TYPE_CHECKING:
    import onnx_ir

OPSET = 20
GRAPH = "model.onnx"
EXTERNAL = "model.onnx_data"
EXTERNAL_BYTES = 1_500_000_000  # weights above this go beside the graph: a protobuf file ends at 2 GB
TRACED = (2, 8)  # batch, tokens
LIMIT = 12_000_000_000  # bytes of float32 weights: Gemma 2 2B is below it, the XXL and 7B encoders above


@dataclass(frozen=True)
class OnnxExport:
    """An exported graph that met the parity gate.

    ``max_abs_diff`` is the largest difference from torch's last hidden state, or from the highest one where the
    graph ends below it; ``hidden_states`` the encoder's number of them (layers + 1), ``layers`` those in the graph,
    ``size`` the bytes on disk with external data.
    """

    path: Path
    max_abs_diff: float
    opset: int
    hidden_states: int
    layers: tuple[int, ...]
    size: int


def export_onnx(
    encoder: PreTrainedModel,
    folder: Path,
    *,
    layers: Sequence[int] | None = None,
    tolerance: float = 1e-4,
    limit: int = LIMIT,
) -> OnnxExport:
    """Write ``folder/model.onnx`` in float32 and return how close it is to torch.

    encoder: a CLIP, T5 or UMT5 encoder, or a decoder language model (``graph.DECODERS``); not altered. Of a
    vision-language model the text part is exported.
    layers: the ``hidden_states`` that the pipelines read, [-3] as well as absolute; None for all of them. The graph
    ends at the highest one; [] gives the last hidden state alone.
    limit: bytes of weights above which nothing is exported.

    Inputs: ``input_ids`` [b, n] int64, and ``attention_mask`` [b, n] int64 for all but CLIP; b and n are free.
    Outputs: ``last_hidden_state`` [b, n, d] unless ``layers`` ends below it, CLIP's ``pooler_output`` or
    ``text_embeds``, ``hidden_states.{i}`` by absolute index.

    Raises ParityError, leaving the folder as it was, where ONNX Runtime's last hidden or pooled state is further than
    ``tolerance`` from torch's (an intermediate state, or a decoder's: relative to its position's largest value), on
    shapes and masks other than the traced ones. Raises EncoderError for another class, a layer that does not exist or
    weights above the limit, DependencyError without ONNX.
    """
    check_exportable(encoder, layers, limit)
    model = float32_copy(language_model(encoder))
    taken = resolve(layers, model)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=folder) as temp:
        total = model.config.num_hidden_layers + 1
        with _quiet():
            _save(_trace(model, taken), Path(temp), total)
        diff = check_parity(model, taken, Path(temp) / GRAPH, tolerance)
        files = sorted(Path(temp).iterdir(), reverse=True)  # the data before the graph that names it
        size = sum(file.stat().st_size for file in files)
        for file in files:
            os.replace(file, folder / file.name)
    if len(files) == 1:
        (folder / EXTERNAL).unlink(missing_ok=True)
    return OnnxExport(folder / GRAPH, diff, OPSET, total, taken, size)


def check_exportable(encoder: PreTrainedModel, layers: Sequence[int] | None = None, limit: int = LIMIT) -> None:
    """Raise what ``export_onnx`` would raise before its work; an encoder on the meta device will do."""
    model = language_model(encoder)
    needed = needed_bytes(model, resolve(layers, model))
    if needed > limit:
        raise EncoderError(
            f"the float32 graph of this {type(encoder).__name__} takes {needed / 1e9:.1f} GB, the limit is "
            f"{limit / 1e9:.1f} GB: pass limit={needed}, or go without a graph"
        )
    need_onnx()


def _trace(model: PreTrainedModel, layers: tuple[int, ...]) -> "onnx_ir.Model":
    example = sample(model, *TRACED, torch.Generator().manual_seed(0))
    longest = model.config.max_position_embeddings if type(model).__name__ in POOLED else None
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=longest)}
    flat = Flat(model, layers).eval()
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


def _save(model: "onnx_ir.Model", folder: Path, total: int) -> None:
    """Write the graph without what the exporter notes of the machine: stack traces hold absolute paths.

    total: how many hidden states the encoder has; a reader cannot count them where the graph has only some.
    """
    import onnx_ir

    graph = model.graph
    weights = list(graph.initializers.values())
    values = [*graph.inputs, *weights, *(value for node in graph.all_nodes() for value in node.outputs)]
    parts: list[Any] = [model, graph, *graph.all_nodes(), *values]
    for part in parts:
        part.metadata_props.clear()
        part.doc_string = None
    model.metadata_props[HIDDEN_STATES] = str(total)
    for weight in weights:
        weight.name = str(weight.name).removeprefix("flat.")
    large = sum(w.const_value.nbytes for w in weights if w.const_value) > EXTERNAL_BYTES
    onnx_ir.save(model, folder / GRAPH, external_data=EXTERNAL if large else None)


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
