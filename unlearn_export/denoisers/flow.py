"""Denoisers of a straight way from picture to noise: rectified flow (Liu et al. 2023, arXiv:2209.03003), which is flow
matching (Lipman et al. 2023, arXiv:2210.02747) on straight paths."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .denoiser import Denoiser
from .wiring import Conditions

PATCH = 2  # latents along the side of a token, in every pipeline whose shift depends on the picture's size


class Flow(Denoiser):
    """z_σ = (1 − σ) x + σ ε, and the model answers the way's direction ε − x. Times are σ T, T = 1000.

    Times are drawn as the sampler of the pipeline walks: evenly, then shifted towards the noise (Esser et al. 2024,
    arXiv:2403.03206, eq. 23), by as much as the pipeline's scheduler says.
    """

    @property
    def horizon(self) -> int:
        """T."""
        return int(self.pipeline.scheduler.config.num_train_timesteps)

    @property
    def shift(self) -> float:
        """How many times likelier noise is made, as a factor on σ / (1 − σ)."""
        config = self.pipeline.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return float(config.get("shift") or config.get("flow_shift") or 1.0)
        *_, height, width = self.latent_shape
        fewest, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        mu = low + (high - low) * ((height // PATCH) * (width // PATCH) - fewest) / (most - fewest)
        return mu if config.get("time_shift_type") == "linear" else math.exp(mu)

    def times(self, n: int, generator: torch.Generator) -> Tensor:
        return self._shifted(torch.rand(n, generator=generator))

    def spread(self, n: int) -> Tensor:
        return self._shifted((torch.arange(n) + 0.5) / n)

    def noisy(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        latents, noise, t = (x.to(self.pipeline._execution_device) for x in (latents, noise, t))
        sigma = (t / self.horizon).view(-1, *[1] * (latents.ndim - 1)).to(latents.dtype)
        return (1 - sigma) * latents + sigma * noise

    def loss(self, latents: Tensor, noise: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """‖v_θ(z_σ, σ T, c) − (ε − x)‖², averaged (Liu et al. 2023, eq. 1, without a weight of times)."""
        answer = self.predict(self.noisy(latents, noise, t), t, conditions)
        return F.mse_loss(answer, (noise - latents).to(answer.device))

    def _shifted(self, u: Tensor) -> Tensor:
        """u: [n], in (0, 1) → times."""
        return self.horizon * self.shift * u / (1 + (self.shift - 1) * u)
