"""The errors a user can meet. Each message is one line: the fact, the value, the next step.

``exit_code`` is the command line's: 1 failed, 2 usage, 3 a gate was not met, and of the Hub 4 authentication, 5 not found
or gated, 6 conflict, 7 rate limit, 8 network, 9 invalid card.
"""


class UnlearnExportError(Exception):
    """Base of every error that is the input's or the environment's, not a bug."""

    exit_code = 1


class UsageError(UnlearnExportError):
    """The request itself is wrong: an unknown option, name or value."""

    exit_code = 2


class BaseError(UnlearnExportError):
    """The text-to-image base cannot be found, read or used."""


class ImagesError(UnlearnExportError):
    """The few-shot pictures are absent or unreadable."""


class ArtifactError(UnlearnExportError):
    """An artifact folder is incomplete, altered, in the way, or cannot be written."""


class EncoderError(UnlearnExportError):
    """An encoder is damaged or does not belong to the pipeline it is meant for."""


class HubError(UnlearnExportError):
    """The Hub refused, or did something else than it was asked for."""


class AuthenticationError(HubError):
    """There is no token, or the Hub does not accept it, or it may not do this."""

    exit_code = 4


class NotFoundError(HubError):
    """A repository or a revision does not exist, or it is gated, or this token may not see it."""

    exit_code = 5


class ConflictError(HubError):
    """What is there is somebody else's, or was changed at the same time: it was not overwritten."""

    exit_code = 6


class RateLimitError(HubError):
    """The Hub allows no more requests for now."""

    exit_code = 7


class NetworkError(HubError):
    """The Hub cannot be reached, or is out of order."""

    exit_code = 8


class CardError(HubError):
    """The Hub rejects the model card."""

    exit_code = 9


class DependencyError(UnlearnExportError):
    """An optional package is missing; the message has the pip command."""


class ParityError(UnlearnExportError):
    """The exported graph does not compute what the torch encoder computes."""

    exit_code = 3


class GateError(UnlearnExportError):
    """A required figure was not reached."""

    exit_code = 3


class DivergedError(UnlearnExportError):
    """An edit ended no better than it began."""

    exit_code = 3


class UncoveredWarning(UserWarning):
    """Some text path of a pipeline is not reached by the edit that was put into it."""
