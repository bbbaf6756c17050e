"""Frozen denoisers with a loss, one wrapper a parametrisation, for every pipeline that few-shot erasure works with."""

from typing import Any

from ..errors import UsageError
from .ddpm import Epsilon, Velocity
from .denoiser import Denoiser
from .flow import Flow
from .wiring import WIRINGS, Conditions

__all__ = ["WIRINGS", "Conditions", "Denoiser", "Epsilon", "Flow", "Velocity", "denoiser_of"]

_ANSWERS: dict[str, type[Denoiser]] = {"epsilon": Epsilon, "v_prediction": Velocity, "flow_prediction": Flow}


def denoiser_of(pipeline: Any, *, side: int | None = None, guidance: float | None = None) -> Denoiser:
    """The denoiser of a text-to-image pipeline, or of Wan as one: ``WIRINGS`` has the classes.

    side: of its square pictures in pixels, None for the pipeline's own. guidance: see ``Denoiser``.
    Raises UsageError for another class, and for a scheduler whose training loss is not known here.
    """
    names = [kind.__name__ for kind in type(pipeline).__mro__ if kind.__name__ in WIRINGS]
    if not names:
        raise UsageError(
            f"no denoising loss for a {type(pipeline).__name__}: few-shot needs one of {', '.join(WIRINGS)}; "
            "or use --method anchor, which needs no denoiser"
        )
    wiring, config = WIRINGS[names[0]], pipeline.scheduler.config
    answer = config.get("prediction_type")
    if type(pipeline.scheduler).__name__.startswith("FlowMatch"):
        answer = "flow_prediction"
    elif "beta_schedule" not in config or config.get("timestep_type") == "continuous":
        raise UsageError(
            f"no denoising loss behind a {type(pipeline.scheduler).__name__}: few-shot needs a DDPM or flow schedule, or "
            "use --method anchor"
        )
    if answer not in _ANSWERS:
        raise UsageError(f"this base predicts {answer!r}: few-shot needs {', '.join(_ANSWERS)}; or use --method anchor")
    return _ANSWERS[answer](pipeline, wiring, side or wiring.native(pipeline), guidance)
