"""What the erasers share: which weights learn, steps that fit their size, and the prompts that may not move."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..families.tokens import Tokens
from ..seat import Seat


@contextmanager
def only_trainable(encoder: nn.Module, layers: Mapping[str, nn.Linear]) -> Iterator[list[nn.Parameter]]:
    """Let the weights and biases of ``layers`` take gradients, and nothing else; nothing does afterwards."""
    encoder.requires_grad_(False)
    params = [p for layer in layers.values() for p in layer.parameters()]
    for p in params:
        p.requires_grad_(True)
    try:
        yield params
    finally:
        encoder.requires_grad_(False)


def relative_steps(layers: Mapping[str, nn.Linear], lr: float) -> list[dict[str, object]]:
    """Adam's parameter groups in which a step changes what a matrix answers by a share of about ``lr`` at most.

    Adam moves every weight by the learning rate whatever the gradient, so one rate for all widths and scales is too
    much for some encoder. Steps of one sign on n inputs add up to √n times what random weights of that size do, so
    a weight moves by lr · rms(W) / √n (relative steps as in Adafactor, Shazeer & Stern 2018, arXiv:1804.04235; the
    width as in maximal update parametrisation, Yang et al. 2022, arXiv:2203.03466). A bias steps as its matrix does,
    since many are zero.
    """
    groups: list[dict[str, object]] = []
    for layer in layers.values():
        size = float(layer.weight.detach().square().mean().sqrt())
        groups.append({"params": list(layer.parameters()), "lr": lr * size / layer.in_features**0.5})
    return groups


def alike(lengths: Tensor, n: int, at: float, generator: torch.Generator) -> Tensor:
    """n rows of like lengths, [n] indices: what is computed of a row goes to the end of its longest mate.

    at: in 0 to 1, from the shortest to the longest. Among many of one length, which is left to chance.
    """
    order = (lengths + torch.rand(len(lengths), generator=generator)).argsort()
    first = round(at * max(0, len(order) - n))
    return order[first : first + n]


EXACT, CLOSE = 1e-3, 3e-2  # a pin's tolerances; the second leaves twice as many directions to learn in


class Pin:
    """Keeps what ``layers`` answer to some prompts as it was, by confining every change to their null space.

    A layer's change ΔW leaves an input x alone if ΔW x = 0. With the inputs of the pinned prompts stacked in X,
    ΔW is projected onto the complement of X's span (the null-space constraint of AlphaEdit, Fang et al. 2024,
    arXiv:2410.02355, and SPEED, arXiv:2503.07392): ΔW − (ΔW V) Vᵀ, V the few directions of the span [d, r]. A bias is
    a weight on 1 where the layer has one. If every edited layer obeys, the pinned states cannot move. At most three
    quarters of a layer's inputs are taken, the strongest, so that a small one can learn at all.
    """

    @torch.no_grad()
    def __init__(
        self, layers: Mapping[str, nn.Linear], dtype: torch.dtype = torch.float32, tolerance: float = EXACT
    ) -> None:
        """dtype: that the weights can be kept in without loss. Directions below ``tolerance`` × the strongest stay free."""
        self.layers, self.tolerance = dict(layers), tolerance
        self.before = {n: [p.detach().to(dtype, copy=True) for p in layer.parameters()] for n, layer in layers.items()}
        self.seen: dict[str, list[Tensor]] = {name: [] for name in layers}
        self.span: dict[str, Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Pin what the layers are given in this block; say with ``at`` which positions of each call count."""

        def keep(name: str, x: Tensor) -> None:
            self.seen[name].append(x[self.real.to(x.device)].double())

        hooks = [
            layer.register_forward_hook(lambda _m, args, _out, name=name: keep(name, args[0]))
            for name, layer in self.layers.items()
        ]
        try:
            with torch.no_grad():
                yield
        finally:
            for hook in hooks:
                hook.remove()
        for name, layer in self.layers.items():
            x = torch.cat(self.seen.pop(name))
            if layer.bias is not None:
                x = torch.cat([x, x.new_ones(len(x), 1)], 1)
            _, s, v = torch.linalg.svd(x, full_matrices=False)
            strong = v[s > self.tolerance * s[0]]
            self.span[name] = strong[: 3 * layer.in_features // 4].T.float()

    def at(self, tokens: Tokens, masked: bool) -> None:
        """The next call is of these tokens; padding counts where it is not masked."""
        self.real = tokens.mask.bool() if masked else torch.ones_like(tokens.mask).bool()

    @torch.no_grad()
    def apply(self) -> None:
        """Project the change made so far, in place."""
        for name, layer in self.layers.items():
            weight, *bias = (p.float() for p in self.before[name])
            change = layer.weight - weight
            if bias:
                change = torch.cat([change, (layer.bias - bias[0])[:, None]], 1)
            change -= (change @ self.span[name]) @ self.span[name].T
            if bias:
                layer.bias.copy_(bias[0] + change[:, -1])
                change = change[:, :-1]
            layer.weight.copy_(weight + change)


def stored_like(seat: Seat, changed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """canonical name → tensor, as the seat's files name and round them: what is measured is what is shipped."""
    return {
        seat.stored[name]: tensor.detach().to("cpu", seat.get(name).dtype).contiguous()
        for name, tensor in changed.items()
    }
