"""How far two sets of pictures are apart as distributions."""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..measured import Distance

FEWEST_ROWS = 20  # pictures or clips; fewer say nothing


class _Features(nn.Module):
    """Hands the metric the vectors it is given."""

    num_features = 1

    def forward(self, features: Tensor) -> Tensor:
        return features


def kernel_distance(before: Tensor, after: Tensor, seed: int) -> Distance | None:
    """KID (Bińkowski et al. 2018, arXiv:1801.01401) of features [n, frames, d], row i of both drawn from one seed.

    KID is unbiased for independent sets, which pictures of the same seeds are not; so every second picture after is
    held against the others before (``kid``), beside what the edit has no part in: every second one before against
    the others before (``floor``). Features are scaled to length √d. None for fewer than ``FEWEST_ROWS``.
    """
    n = len(before)
    if n < FEWEST_ROWS:
        return None
    before, after = (F.normalize(x, dim=2) * x.shape[2] ** 0.5 for x in (before, after))
    kid, floor = (_kid(before[1::2].flatten(0, 1), x[0::2].flatten(0, 1), seed) for x in (after, before))
    return Distance(round(kid, 5), round(floor, 5), n)


def _kid(real: Tensor, fake: Tensor, seed: int) -> float:
    from torchmetrics.image.kid import KernelInceptionDistance

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it will save all features in a buffer
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(feature=_Features(), subsets=50, subset_size=max(2, len(real) * 3 // 4))
        metric.update(real, real=True)
        metric.update(fake, real=False)
        return float(metric.compute()[0])
