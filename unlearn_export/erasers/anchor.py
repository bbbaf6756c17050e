"""Anchor alignment: the concept's prompts come to mean another thing's, everything else stays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ..base import Base
from ..bench import Bench
from ..concept import Concept
from ..edit import Edit
from ..errors import UsageError
from ..forecast import GIB, Cost
from ..neighbours import anchors, unknown
from ..seat import Seat
from .fit import Fit, FitOptions, positions, solvable


@dataclass(frozen=True)
class Anchor(FitOptions):
    """Fit the encoder so that "… pizza …" gives the states that "… hamburger …" gave, at every position.

    min_τ ‖τ(p[concept]) − τ₀(p[anchor])‖² + keep · ‖τ(q) − τ₀(q)‖² over prompts p about the concept and q about
    anything else, τ₀ the original, τ its residual stream after ``depth`` layers: where those agree, so does every
    layer above, whichever of them a pipeline reads, and a fit through few layers costs as little as they do. No
    denoiser and no picture take part. All positions count that a pipeline reads or that attend: end-of-text and
    padding carry the concept as readily as its own token. The idea of mapping a concept to an anchor
    is Concept Ablation's (Kumari et al. 2023, arXiv:2303.13516), here on the text states alone. q are the base's
    other concepts, synonyms and styles in every context, the user's ``retain``, and random strings of vocabulary
    tokens. The empty prompt, with all of a reader's template, cannot move (see ``Pin``).

    The last down-projection is solved for at once (see ``Ridge``), where its answer reaches the residual stream as it
    is; where a norm comes between (Gemma), the layers are fitted by steps.
    """

    name: ClassVar[str] = "anchor"
    draws: ClassVar[bool] = False  # needs no denoiser

    def resolve(self, bench: Bench, concepts: Sequence[Concept]) -> list[Concept]:
        """Known synonyms become aliases, and a concept without an anchor takes a known neighbour (see ``anchors``).

        Raises UsageError for a ``holdout`` that the base does not know, since it would hold out nothing, and for an
        unknown concept without an anchor, which may be a typing error.
        """
        base = bench.base
        for name in self.holdout:
            if name not in base.vocabulary.concepts:
                known = ", ".join(base.vocabulary.concepts)
                raise UsageError(f"cannot hold out {name!r}: this base's concepts are {known}")
        taken = {base.vocabulary.like(c.name) or c.name for c in concepts}
        return [self._complete(base, concept, taken) for concept in concepts]

    def _complete(self, base: Base, concept: Concept, taken: set[str]) -> Concept:
        known = base.vocabulary.like(concept.name)
        words = (*concept.names, known, *base.vocabulary.aliases.get(known, ()))
        named = replace(concept, aliases=tuple(word for word in words if word))
        concept = replace(concept, aliases=named.names[1:])
        if not concept.anchor and not base.vocabulary.knows(concept.name, concept.kind):
            raise UsageError(unknown(base, concept))
        if not concept.anchor:
            concept = replace(concept, anchor=anchors(base, concept, avoid=taken | set(self.holdout))[0])
        return concept

    def cost(self, seat: Seat) -> Cost:
        """What the fit of one encoder takes: weights in float32 (with gradients and Adam's two moments where steps
        follow), two copies as stored, the pool's states, and the solve's two matrices."""
        skeleton = seat.family.skeleton(seat.config, min(self.depth, seat.depth))
        layers = seat.family.linears(skeleton, self.parts)
        learning = sum(p.numel() for layer in layers.values() for p in layer.parameters())
        solved = solvable(seat.family, layers)
        steps, batch, pool = self.sizes(learning, bool(solved))
        length = sum(positions(c) for c in seat.contracts)  # of one prompt, read in every way
        read = pool * sum(self.share(c, learning) * positions(c) for c in seat.contracts)  # positions of one sort
        flops = learning * (2 * 4 * read + 6 * steps * 3 * batch * length / len(seat.contracts))
        inputs = layers[solved].in_features if solved else 0
        rows = min(inputs, 3 * read)
        flops += 2 * 3 * read * rows * inputs
        stored = seat.get(seat.family.embedding).element_size()
        held = learning * ((16 if steps else 4) + 2 * stored) + 16 * read * seat.width + 16 * rows * inputs
        return Cost(learning, int(held + 0.8 * GIB), flops)

    def edit(
        self,
        bench: Bench,
        concepts: Sequence[Concept],
        on_step: Callable[[int, int, float], None] | None = None,
    ) -> Edit:
        """Every seat fitted, all concepts together; ``resolve`` has given each its anchor.

        Raises DivergedError where a fit ends no better than it began, UsageError where a name finds no room.
        """
        parent, tensors, loss = {}, {}, {}
        for number, (name, seat) in enumerate(bench.seats.items()):

            def tell(step: int, steps: int, value: float, number: int = number) -> None:
                if on_step:
                    on_step(number * steps + step, len(bench.seats) * steps, value)

            tensors[name], loss[name] = self.fit(bench, seat, concepts, tell).run()
            parent[name] = seat.weights.fingerprint
        return Edit(parent, tensors, loss)

    def fit(
        self, bench: Bench, seat: Seat, concepts: Sequence[Concept], tell: Callable[[int, int, float], None]
    ) -> Fit:
        """One encoder's fit, to be run."""
        return Fit(self, bench, seat, concepts, tell)
