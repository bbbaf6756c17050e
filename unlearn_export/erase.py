"""Run an eraser on a base, with a seed and a recipe, and write the result into an artifact folder."""

import copy
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import PreTrainedModel

from .artifact import RECIPE, write_json, write_text
from .base import Base
from .bench import Bench
from .concept import Concept, check_concepts
from .edit import Edit
from .erasers import Eraser, OnStep
from .errors import DivergedError, UsageError
from .forecast import check_memory
from .lazy import Lazy
from .recipe import BaseRecord, Changed, MethodRecord, Recipe, SeatRecord
from .records import frozen
from .seat import Seat
from .streaming import streamed
from .weights import HEAVY, tensor_digest

PACKAGES = ("unlearn-export", "torch", "diffusers", "transformers", "safetensors")


@dataclass(frozen=True)
class Erased:
    """edit: what changed, by seat and tensor. recipe: everything needed to make it again. base: what it applies to."""

    base: Base
    edit: Edit
    recipe: Recipe

    @cached_property
    def encoders(self) -> Mapping[str, PreTrainedModel]:
        """The edited encoders, whole and in float32, by seat; copies: the base's stay as they are. Each made when
        first asked for.
        """
        return Lazy(self.edit.tensors, self._edited)

    def _edited(self, name: str) -> PreTrainedModel:
        encoder = copy.deepcopy(self.base.encoders[name])
        self.edit.only(name).apply({name: encoder})
        return encoder

    @property
    def measurable(self) -> Mapping[str, PreTrainedModel]:
        """The same for whoever looks at states alone: streamed from the base's files where those are large."""
        seats, device = self.base.seats, self.base.device
        return {
            name: streamed(seats[name], changed, device) if seats[name].large else self.encoders[name]
            for name, changed in self.edit.tensors.items()
        }

    @property
    def encoder(self) -> PreTrainedModel:
        """The first of them, the only one of most bases."""
        return next(iter(self.encoders.values()))


def erase(
    base: Base,
    concepts: Sequence[Concept],
    method: Eraser,
    *,
    images: Path | None = None,
    seed: int = 0,
    seats: Sequence[str] = (),
    on_step: OnStep | None = None,
) -> Erased:
    """Erase ``concepts`` from the base's text encoders; the base stays bit-equal.

    images: a folder of pictures of the concept (of several concepts: one sub-folder each, by name) in place of the
    base's own samples. seed: same seed, same bytes, on one machine. seats: the encoders to edit, all by default.
    Raises UsageError, ImagesError, and DivergedError where the edit ended in numbers that are none, or no better than
    it began.
    """
    check_concepts(concepts, base.vocabulary)
    if images is not None and not method.draws:
        raise UsageError(f"the method {method.name} looks at no pictures: leave --images out")
    chosen = choose_seats(base, seats)
    for seat in chosen.values():
        check_seen(seat, concepts)
    check_memory(chosen, method)
    bench = Bench(base, torch.Generator().manual_seed(seed), images, chosen)
    concepts = method.resolve(bench, concepts)
    edit = method.edit(bench, concepts, on_step)
    if not edit.finite:
        raise DivergedError("the edit diverged to NaN: lower the learning rate, for example -O lr=0.003")
    done = {name: _about(seat, edit) for name, seat in bench.seats.items()}
    first = next(iter(done.values()))
    recipe = Recipe(
        base=BaseRecord(
            base.source, base.revision, base.license, first.sha256, first.tokenizer_sha256, base.kind, base.file
        ),
        concepts=tuple(concepts),
        method=MethodRecord(method.name, frozen(asdict(method))),  # type: ignore[call-overload]
        seed=seed,
        images=frozen([s.sources for s in bench.shots]),
        changed=Changed(tuple(key for about in done.values() for key in about.changed), edit.parameters),
        parameters=sum(about.parameters for about in done.values()),
        versions={name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        seats=done,
    )
    return Erased(base, edit, recipe)


def choose_seats(base: Base, names: Sequence[str]) -> dict[str, Seat]:
    """The seats to edit by name; all where none is named. Raises UsageError for one that the base has not."""
    for name in names:
        if name not in base.seats:
            raise UsageError(f"{base.source} has no {name}: its encoders are {', '.join(base.seats)}")
    return {name: seat for name, seat in base.seats.items() if not names or name in names}


def check_seen(seat: Seat, concepts: Sequence[Concept]) -> None:
    """Raise UsageError for a word of a concept's of which the tokenizer makes nothing, or its token for what it does not
    know: every other such word would be erased with it.
    """
    tokenizer = seat.tokenizer
    for concept in concepts:
        for name in (*concept.names, *concept.retain, concept.anchor or concept.name):
            ids = tokenizer(name, add_special_tokens=False).input_ids
            if not tokenizer.decode([i for i in ids if i != tokenizer.unk_token_id]).strip():
                raise UsageError(f"the tokenizer of {seat.name} knows no letter of {name!r}: say it in other letters")


def _about(seat: Seat, edit: Edit) -> SeatRecord:
    base, edited = seat.weights.tensor_digests, edit.tensors.get(seat.name, {})
    return SeatRecord(
        architecture=seat.architecture,
        family=seat.family.name,
        sha256=seat.weights.fingerprint,
        tokenizer=seat.tokenizer_name,
        tokenizer_sha256=seat.tokenizer_fingerprint,
        readers=tuple(c.pipelines[0] for c in seat.contracts),
        changed=tuple(key for key, tensor in sorted(edited.items()) if tensor_digest(tensor) != base.get(key)),
        tensors=tuple(sorted(seat.weights.files)),
        parameters=seat.weights.parameters,
        loss=edit.loss.get(seat.name),
        tensor_sha256=dict(sorted(base.items())),
    )


def _copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a tokenizer's folder; modes are the umask's, not those of a base that may be private. Weights stay behind: the
    folder may be the encoder's own, and the base's weights have no place in what forgot.
    """
    for file in sorted(f for f in source.rglob("*") if f.is_file()):
        if file.suffix in HEAVY or file.name.endswith(".index.json"):
            continue
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


def write_encoder(base: Base, erased: Erased, folder: Path) -> None:
    """Write every edited encoder and its tokenizer, the recipe, LICENSE, NOTICE and the base's other terms into ``folder``.

    Files, tensor names and dtypes are the base's own: transformers 4 and 5 name tensors differently, and a file with
    the other names loads as random weights in one of them.
    """
    (folder / RECIPE).parent.mkdir(parents=True, exist_ok=True)
    for name, tensors in erased.edit.tensors.items():
        seat = base.seats[name]
        target = folder / name
        target.mkdir()
        for file in seat.folder.iterdir():
            if file.suffix == ".json" and "index" not in file.name:
                shutil.copyfile(file, target / file.name)
        seat.weights.write(target, tensors)
        _copy_tokenizer(seat.tokenizer_folder, folder / seat.tokenizer_name)
        seat.family.complete_tokenizer(folder / seat.tokenizer_name)
    write_json(folder / RECIPE, erased.recipe.to_json())
    write_text(folder / "LICENSE", base.license_text)
    notices = {name: text for name, text in base.terms.items() if name.upper().partition(".")[0] == "NOTICE"}
    for name, text in base.terms.items():
        if name not in notices:
            write_text(folder / name, text)
    names = ", ".join(c.name for c in erased.recipe.concepts)
    changed = ", ".join(f"{name}/*.safetensors" for name in erased.edit.tensors)
    kept = ", ".join(f"{base.seats[name].tokenizer_name}/ and {name}/config.json" for name in erased.edit.tensors)
    write_text(
        folder / "NOTICE",
        f"This folder holds a modified copy of the text encoder of {base.source.removeprefix('./')}"
        + (f" at revision {base.revision}" if base.revision else "")
        + f".\nModified: {changed}, so that prompts naming {names} should no longer draw it; {RECIPE} tells how.\n"
        f"Unmodified: {kept}. The base's licence ({base.license}) is in LICENSE\n"
        "and applies to this copy, with its use restrictions where it has any.\n"
        + "".join(f"\nThe base's own {name}:\n\n{text.strip()}\n" for name, text in notices.items()),
    )
