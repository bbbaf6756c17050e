"""unlearning/golden.json: what the edited encoders made of a few prompts when the artifact was sealed.

Hashes say that files are unaltered; this says that whoever runs them computes what was measured: another backend,
provider or version of a library that goes astray is seen. It is no measure of forgetting.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from . import phrasing
from .artifact import GOLDEN, Artifact, read_json
from .concept import Concept
from .errors import ArtifactError
from .families.contract import ReaderContract
from .families.contracts import contracts_of
from .families.tokens import tokenise, views
from .loading import load_torch
from .recipe import SeatRecord
from .records import values_of
from .seat import Seat
from .streaming import streamed
from .weights import Weights

FORMAT = 1
SHADOWS = 4  # numbers that are kept of each position's state
TOLERANCE = 1e-3  # relative; backends in float32 were seen 1e-5 apart, an edit moves a concept's states by 1e-1
PLAIN = (phrasing.picture_of("dog"), "")


@dataclass(frozen=True)
class Golden:
    """One encoder's. reader: the pipeline whose way of reading this is. prompts: what was asked.

    shadows: "states" and "pooled", where they are read → [prompts, positions, SHADOWS], see ``shadow``.
    """

    reader: str
    prompts: tuple[str, ...]
    shadows: Mapping[str, Any]


@dataclass(frozen=True)
class Deviation:
    """How far one encoder on one backend is from what was recorded, at the prompt where that is most; relative."""

    seat: str
    backend: Literal["torch", "onnx"]
    prompt: str
    apart: float


def shadow(states: Tensor) -> Tensor:
    """[n, length, d] → [n, length, SHADOWS] in float64: products with fixed waves, which see a change of any number."""
    width = states.shape[-1]
    waves = torch.sin(torch.arange(1, width + 1).double()[:, None] * torch.arange(1, SHADOWS + 1) * 12.9898)
    return states.double().cpu() @ waves / width**0.5


def record(
    seats: Mapping[str, Seat],
    encoders: Mapping[str, PreTrainedModel],
    concepts: Sequence[Concept],
    device: str = "cpu",
) -> dict[str, Any]:
    """What the encoders, by seat, make of prompts with the concepts and of two others, as JSON. device: theirs."""
    prompts = (*(phrasing.example(c.kind, c.name) for c in concepts[:3]), *PLAIN)
    told = {}
    for name, encoder in encoders.items():
        contract = seats[name].contract
        found = {what: s.float().tolist() for what, s in _ask(seats[name], contract, encoder, prompts, device).items()}
        told[name] = {"reader": contract.pipelines[0], "prompts": list(prompts), "shadows": found}
    return {"format": FORMAT, "seats": told}


def check(artifact: Artifact, tolerance: float = TOLERANCE) -> list[Deviation]:
    """Ask every encoder of an artifact again, on torch and, where there is a graph, on ONNX Runtime.

    Raises ArtifactError where nothing was recorded, or the states are further from it than ``tolerance``.
    """
    artifact.need_weights()
    if not (artifact.path / GOLDEN).is_file():
        raise ArtifactError(f"{artifact.path} has no {GOLDEN}: erase anew to have its states recorded")
    data = read_json(artifact.path / GOLDEN)
    if data.get("format") != FORMAT or not isinstance(data.get("seats"), dict):
        raise ArtifactError(f"{GOLDEN} has format {data.get('format')!r}, this version reads {FORMAT}")
    records, found = artifact.recipe.seats, []
    for name in artifact.seats:
        if name not in data["seats"] or name not in records:
            raise ArtifactError(f"{GOLDEN} in {artifact.path} tells nothing of {name}: erase anew")
        golden = Golden(**values_of(Golden, data["seats"][name], f"{name} in {GOLDEN}"))
        seat = seat_of(artifact, name, records[name], golden.reader)
        for backend, encoder in _backends(seat):
            worst = _worst(name, backend, golden, _ask(seat, seat.contract, encoder, golden.prompts))
            if not worst.apart <= tolerance:  # so that NaN fails too
                raise ArtifactError(
                    f"the {name} in {artifact.path} on {backend} answers {worst.prompt!r} otherwise than when it was "
                    f"sealed: {worst.apart:.1e} apart, the tolerance is {tolerance:g}"
                )
            found.append(worst)
    return found


def seat_of(artifact: Artifact, name: str, record: SeatRecord, reader: str) -> Seat:
    """An artifact's own encoder as a seat, read as ``reader`` reads it. Raises ArtifactError for an unknown reader."""
    rows = [c for c in contracts_of(reader) if c.seat == name and record.architecture in c.architectures]
    rows = rows or [c for c in contracts_of(reader) if record.architecture in c.architectures]
    if not rows:
        raise ArtifactError(f"nothing is known here of how {reader} reads a {record.architecture}")
    folder, words = artifact.path / name, artifact.path / record.tokenizer
    return Seat(
        name, folder, record.tokenizer, words, record.architecture, (rows[0],), Weights.open(folder), "AutoTokenizer"
    )


def _backends(seat: Seat) -> Iterator[tuple[Literal["torch", "onnx"], PreTrainedModel]]:
    yield "torch", streamed(seat) if seat.large else load_torch(seat.folder, seat.architecture, torch.float32)
    if (seat.folder / "model.onnx").is_file():
        from .pipelines.encoders import load_folder

        yield "onnx", load_folder(seat.folder, "onnx", architecture=seat.architecture)


@torch.no_grad()
def _ask(
    seat: Seat, contract: ReaderContract, encoder: PreTrainedModel, prompts: Sequence[str], device: str = "cpu"
) -> dict[str, Tensor]:
    """→ by what is read, [prompts, positions, SHADOWS]; prompts are padded to the longest, whatever the reader does."""
    short = replace(contract, fill="longest")
    tokens = tokenise(seat.tokenizer, prompts, short, trim=True).to(device)
    output = seat.family.call(encoder, tokens, contract.mask)
    return {what: shadow(states) for what, states in views(output, tokens, short).items()}


def _worst(seat: str, backend: Literal["torch", "onnx"], golden: Golden, now: Mapping[str, Tensor]) -> Deviation:
    worst = Deviation(seat, backend, "", 0.0)
    for what, states in now.items():
        try:
            was = torch.tensor(golden.shadows[what], dtype=torch.float64).reshape(states.shape)
            gaps = (states - was).flatten(1).norm(dim=1) / was.flatten(1).norm(dim=1)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise ArtifactError(f"{GOLDEN} does not fit the {seat}: erase anew") from error
        for prompt, gap in zip(golden.prompts, gaps.tolist(), strict=True):
            worst = worst if gap <= worst.apart else Deviation(seat, backend, prompt, gap)
    return worst
