"""Denoisers of the discrete schedule of Ho et al. 2020 (arXiv:2006.11239): those that answer ε, and those that answer v."""

from functools import cached_property

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor

from .denoiser import Denoiser
from .wiring import Conditions


class Scheduled(Denoiser):
    """z_t = √ᾱ_t x + √(1 − ᾱ_t) ε at times 0, 1, … T − 1."""

    @cached_property
    def schedule(self) -> DDPMScheduler:
        """The training schedule behind whatever sampler the pipeline carries."""
        return DDPMScheduler.from_config(self.pipeline.scheduler.config)

    def times(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randint(self.schedule.config.num_train_timesteps, (n,), generator=generator)

    def spread(self, n: int) -> Tensor:
        return ((torch.arange(n) + 0.5) / n * self.schedule.config.num_train_timesteps).long()

    def noisy(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        latents, noise, t = (x.to(self.pipeline._execution_device) for x in (latents, noise, t))
        return self.schedule.add_noise(latents, noise, t)


class Epsilon(Scheduled):
    """The model answers the noise."""

    def loss(self, latents: Tensor, noise: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """‖ε_θ(z_t, t, c) − ε‖², averaged (Fuchi & Takagi 2024, arXiv:2405.07288, eq. 2)."""
        answer = self.predict(self.noisy(latents, noise, t), t, conditions)
        return F.mse_loss(answer, noise.to(answer.device))


class Velocity(Scheduled):
    """The model answers v = √ᾱ_t ε − √(1 − ᾱ_t) x (Salimans & Ho 2022, arXiv:2202.00512)."""

    def loss(self, latents: Tensor, noise: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """‖v_θ(z_t, t, c) − v‖², averaged."""
        answer = self.predict(self.noisy(latents, noise, t), t, conditions)
        return F.mse_loss(answer, self.schedule.get_velocity(*(x.to(answer.device) for x in (latents, noise, t))))
