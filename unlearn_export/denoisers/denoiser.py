"""A frozen denoiser as an eraser or an attack uses it: texts in, a loss out, differentiable in the text encoders."""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from .wiring import Conditions, Wiring, default, factor


@dataclass(frozen=True)
class Denoiser(ABC):
    """The model of a pipeline; what it answers is said by the subclass. The pipeline is never altered.

    side: of its square pictures, in pixels. guidance: the scale that they are drawn with, and that a model into which
    guidance was distilled (LCM, FLUX.1-dev) is told; None is the pipeline's own.
    """

    pipeline: Any
    wiring: Wiring
    side: int
    guidance: float | None = None

    @property
    def seats(self) -> tuple[str, ...]:
        """The names of the pipeline's text encoders."""
        parts = self.pipeline.components
        return tuple(n for n in parts if n.startswith("text_encoder") and parts[n] is not None)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of one picture's latents, or (channels, 1, height, width): a clip of one frame."""
        config, side = self.pipeline.vae.config, self.side // factor(self.pipeline)
        channels = config.get("latent_channels") or config.z_dim
        return (channels, 1, side, side) if self.wiring.clip else (channels, side, side)

    def encode(self, prompts: Sequence[str], seated: Mapping[str, Any] | None = None) -> Conditions:
        """What the denoiser is given for these texts, by the pipeline's own template, length, mask, crop and pooling.

        seated: components in place of the pipeline's own by their names in it, such as an edited ``text_encoder_2``;
        the result is differentiable in their weights. Raises UsageError where the pipeline has no such component.
        """
        twin = copy.copy(self.pipeline)
        for name, part in (seated or {}).items():
            if self.pipeline.components.get(name) is None:
                raise UsageError(f"a {type(twin).__name__} has no {name}: its encoders are {', '.join(self.seats)}")
            setattr(twin, name, part)
        takes = inspect.signature(twin.encode_prompt).parameters
        told = {"prompt": list(prompts), "device": twin._execution_device, "do_classifier_free_guidance": False}
        # some defaults of encode_prompt are not what the pipeline passes: Wan's length, Sana's instruction
        drawn = {n: p.default for n, p in inspect.signature(twin.__call__).parameters.items()}
        given = {n: v for n, v in (drawn | told).items() if n in takes and v is not inspect.Parameter.empty}
        states = twin.encode_prompt(**given)
        return {name: state for name, state in zip(self.wiring.returns, states, strict=False) if name}

    @torch.no_grad()
    def latents(self, pixels: Tensor) -> Tensor:
        """pixels [n, 3, side, side] in [-1, 1] → latents [n, *latent_shape], scaled as the denoiser reads them."""
        vae = self.pipeline.vae
        pixels = pixels.to(vae.device, vae.dtype)
        coded = vae.encode(pixels[:, :, None] if self.wiring.clip else pixels)
        z = coded.latent if hasattr(coded, "latent") else coded.latent_dist.mode()
        shift, deviation = vae.config.get("shift_factor") or 0.0, 1.0
        if vae.config.get("latents_mean") is not None and vae.config.get("latents_std") is not None:
            shape = (-1, *[1] * (z.ndim - 2))
            shift, deviation = (z.new_tensor(vae.config[n]).view(shape) for n in ("latents_mean", "latents_std"))
        return ((z - shift) / deviation * vae.config.get("scaling_factor", 1.0)).float()

    def sample(self, prompts: Sequence[str], *, steps: int, generator: torch.Generator) -> Tensor:
        """Latents [n, *latent_shape] of pictures that the pipeline draws; they never become pixels."""
        wanted = {
            "prompt": list(prompts),
            "height": self.side,
            "width": self.side,
            "num_frames": 1,
            "num_inference_steps": steps,
            "generator": generator,
            "output_type": "latent",
            "use_resolution_binning": False,
        }
        if self.guidance is not None:
            wanted["guidance_scale"] = self.guidance
        takes = inspect.signature(self.pipeline.__call__).parameters
        drawn = self.pipeline(**{n: v for n, v in wanted.items() if n in takes}, return_dict=False)[0]
        return self.wiring.unpack(self.pipeline, drawn, self.side)

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """The model's answer [b, *latent_shape] in float32.

        z: noisy latents [b, *latent_shape]; t: [b], as the pipeline's scheduler counts times; conditions: of b texts,
        or of one for all. Each is moved to the model's device and dtype.
        """
        model = getattr(self.pipeline, self.wiring.model)
        device = self.pipeline._execution_device
        of_rows = {
            name: state.expand(len(z), *state.shape[1:]).to(device, model.dtype if state.is_floating_point() else None)
            for name, state in conditions.items()
        }
        guidance = default(self.pipeline.__call__, "guidance_scale") if self.guidance is None else self.guidance
        return self.wiring.predict(self.pipeline, z.to(device, model.dtype), t.to(device), of_rows, guidance).float()

    @abstractmethod
    def times(self, n: int, generator: torch.Generator) -> Tensor:
        """n random times [n], as the pipeline's scheduler counts them."""

    @abstractmethod
    def spread(self, n: int) -> Tensor:
        """n times [n] at even steps along the whole way, for a loss that is compared with itself."""

    @abstractmethod
    def noisy(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """z_t [b, *latent_shape]: the latents with noise as of these times, on the model's device."""

    @abstractmethod
    def loss(self, latents: Tensor, noise: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """‖model(z_t, t, conditions) − what it was trained to answer‖², averaged.

        latents, noise: [b, *latent_shape]; t: [b]; conditions: as ``encode`` gave them, of b texts or of one.
        """
