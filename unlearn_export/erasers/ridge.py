"""One linear layer solved for what it should answer: ridge regression with weighted rows and pinned directions."""

import torch
from torch import Tensor, nn


class Ridge:
    """Collects a layer's inputs with the errors of its answers, and solves for the change that mends them.

    min_Δ Σ wᵢ ‖Δ xᵢ − eᵢ‖² + λ ‖Δ‖² subject to Δ V = 0, V [d, r] the directions that must not answer otherwise
    (``Pin.span``; a bias is a weight on 1). No learning rate and no steps: the closed form of UCE (Gandikota et al.
    2024, arXiv:2308.14761) and DiffQuickFix (Basu et al. 2024, arXiv:2310.13730), with the null space of AlphaEdit
    (arXiv:2410.02355). Few rows are solved among themselves (XXᵀ), many are summed up as they
    come (XᵀX): both give the same, and no more than [in, in] is held.
    """

    def __init__(self, layer: nn.Linear, pinned: Tensor) -> None:
        self.layer, self.pinned = layer, pinned
        self.inputs: list[Tensor] = []
        self.errors: list[Tensor] = []
        self.sums: tuple[Tensor, Tensor] | None = None  # XᵀX and XᵀE so far, [in, in] and [in, out] in float64

    @torch.no_grad()
    def add(self, inputs: Tensor, errors: Tensor, weights: Tensor) -> None:
        """Rows [n, in] that should answer by ``errors`` [n, out] more than they do; weights: [n]."""
        if self.layer.bias is not None:
            inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)
        root = weights.sqrt()[:, None].to(inputs.device)
        self.inputs.append((inputs - (inputs @ self.pinned) @ self.pinned.T) * root)
        self.errors.append(errors * root)
        if sum(map(len, self.inputs)) > inputs.shape[1]:
            self._sum_up()

    @torch.no_grad()
    def solve(self, penalty: float) -> Tensor:
        """→ Δ [out, in], a last column for the bias where there is one. penalty: λ in units of the mean of XᵀX's diagonal."""
        if self.sums is None:
            x = torch.cat(self.inputs)
            products = (x @ x.T).double()
            factor = _factor(products, penalty * float(products.diagonal().sum()) / x.shape[1])
            change = torch.cholesky_solve(torch.cat(self.errors).double(), factor).float().T @ x
        else:
            self._sum_up()
            products, answers = self.sums
            factor = _factor(products.clone(), penalty * float(products.diagonal().mean()))
            change = torch.cholesky_solve(answers, factor).float().T
        return change - (change @ self.pinned) @ self.pinned.T

    def _sum_up(self) -> None:
        if self.inputs:
            x, e = torch.cat(self.inputs), torch.cat(self.errors)
            found = (x.T @ x).double(), (x.T @ e).double()
            self.sums = found if self.sums is None else (self.sums[0] + found[0], self.sums[1] + found[1])
            self.inputs, self.errors = [], []

    @torch.no_grad()
    def apply(self, penalty: float) -> None:
        """Change the layer's weight and bias so, in place."""
        change = self.solve(penalty)
        if self.layer.bias is not None:
            self.layer.bias.add_(change[:, -1])
            change = change[:, :-1]
        self.layer.weight.add_(change)


def _factor(products: Tensor, penalty: float) -> Tensor:
    products.diagonal().add_(penalty)
    return torch.linalg.cholesky(products)
