"""The solve behind ``anchor``: what it answers, and what it leaves alone."""

import pytest
import torch
from torch import nn

from unlearn_export.erasers.ridge import Ridge


def _rows(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, e = torch.randn(n, 32, generator=generator), torch.randn(n, 8, generator=generator)
    return x, e, torch.rand(n, generator=generator) + 0.1


def _ridge(pinned: int = 0, bias: bool = True) -> Ridge:
    torch.manual_seed(1)
    layer = nn.Linear(32, 8, bias=bias).requires_grad_(False)
    basis = torch.linalg.qr(torch.randn(32 + bias, max(pinned, 1)))[0][:, :pinned]
    return Ridge(layer, basis)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n", [20, 400])  # fewer rows than inputs, and more
def test_the_solve_is_where_the_gradient_of_its_objective_is_zero(n: int, bias: bool) -> None:
    x, e, w = _rows(n)
    ridge = _ridge(bias=bias)
    for part in torch.arange(n).split(7):  # in what portions the rows come makes no difference
        ridge.add(x[part], e[part], w[part])
    change = ridge.solve(1e-2).double()
    ones = torch.cat([x, torch.ones(n, int(bias))], 1).double()
    penalty = 1e-2 * float((w[:, None] * ones.square()).sum()) / ones.shape[1]
    gradient = ((ones @ change.T - e) * w[:, None]).T @ ones + penalty * change
    assert gradient.abs().max() < 1e-4 * ones.shape[1]
    assert ((e * w[:, None]).T @ x).abs().max() > 1  # without a change it is not zero


@pytest.mark.parametrize("n", [20, 400])
def test_pinned_directions_answer_as_they_did(n: int) -> None:
    x, e, w = _rows(n)
    free, held = _ridge(), _ridge(pinned=3)
    for ridge in (free, held):
        ridge.add(x, e, w)
    assert (held.solve(1e-2) @ held.pinned).abs().max() < 1e-5
    assert (free.solve(1e-2) @ held.pinned).abs().max() > 1e-2  # without, they would not have


def test_rows_that_a_linear_map_explains_are_answered() -> None:
    x, _, w = _rows(400)
    truth = torch.randn(8, 32, generator=torch.Generator().manual_seed(5))
    ridge = _ridge()
    before = ridge.layer(x)
    ridge.add(x, x @ truth.T, w)
    ridge.apply(1e-8)
    assert torch.allclose(ridge.layer(x), before + x @ truth.T, atol=1e-3)
