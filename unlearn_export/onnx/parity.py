"""Whether ONNX Runtime computes the states that torch does."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from ..errors import ParityError
from .graph import DECODERS, Flat, sample

LONGEST = 160  # tokens, where the encoder's positions do not end earlier


def check_parity(encoder: PreTrainedModel, layers: tuple[int, ...], path: Path, tolerance: float) -> float:
    """The largest difference of the last hidden state, or of the highest one in the graph.

    Compared are other lengths, batch sizes and masks than the traced ones, a decoder's with padding on either side.
    A hidden state's difference, and every state's of a decoder, is relative to the largest value of its position.
    Raises ParityError above the tolerance.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    highest = "last_hidden_state" if "last_hidden_state" in names else names[-1]
    longest = min(LONGEST, getattr(encoder.config, "max_position_embeddings", LONGEST))
    decoder = type(encoder).__name__ in DECODERS
    flat, generator, worst = Flat(encoder, layers), torch.Generator().manual_seed(1), 0.0
    shapes = ((1, longest, False), (3, longest, True), (1, 1, False), (3, longest // 3, False), (5, longest // 2, True))
    for batch, length, left in shapes:
        inputs = sample(encoder, batch, length, generator, left=left)
        with torch.no_grad():
            expected = flat(**inputs)
        got = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
        for name, state in zip(names, map(torch.from_numpy, got), strict=True):
            reference, diff, excess = expected[name], float("inf"), float("inf")
            if state.shape == reference.shape:
                gaps = (state - reference).abs().amax(-1)
                relative = decoder or name.startswith("hidden_states.")
                scale = reference.abs().amax(-1).clamp(min=1) if relative else 1.0
                diff, excess = float(gaps.max()), float((gaps / scale).max())
            if not excess <= tolerance:  # so that NaN fails too
                raise ParityError(
                    f"{name} of the ONNX graph is {diff:.1e} from torch's at batch {batch}, length {length}; "
                    f"the tolerance is {tolerance:.0e}: nothing was written"
                )
            if name == highest:
                worst = max(worst, diff)
    return worst
