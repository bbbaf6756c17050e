"""Requests to the Hub: tried again where that may help, and told in one line where they fail.

huggingface_hub itself tries again to list trees, to prepare a commit and to upload; the other requests it sends once.
"""

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import (
    AuthenticationError,
    CardError,
    ConflictError,
    HubError,
    NetworkError,
    NotFoundError,
    RateLimitError,
)

# What the client raises for trouble outside this machine: its transport's errors, refused requests (OSError too),
# a card that the Hub rejects (ValueError), and an upload that failed in a thread (RuntimeError).
HUB_ERRORS = (HTTPError, OSError, ValueError, RuntimeError)
WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds before each further try, where the Hub asks for none
LONGEST = 60.0  # seconds that a Hub may ask for: a longer wait is the user's to decide on
BUSY = (429, 500, 502, 503, 504)
# What transports call a connection that ended before the answer did; one that was never made is not among them.
DROPPED = ("RemoteProtocolError", "ReadError", "WriteError", "ReadTimeout", "WriteTimeout", "ChunkedEncodingError")
ONCE = re.compile(
    r"/(commit|validate-yaml)(/|$)"
)  # of what making a commit sends, the requests that the client sends once
T = TypeVar("T")
Sleep = Callable[[float], None]


def ask(repo_id: str, request: Callable[[], T], *, sleep: Sleep = time.sleep) -> T:
    """The answer to a request that the client sends once, tried up to five times while the Hub is busy or hangs up.

    The request must do no harm twice. Raises HubError in place of the client's own errors.
    """
    for wait in (*WAITS, None):
        try:
            return request()
        except HUB_ERRORS as error:
            seconds = pause(error, wait)
            if seconds is None:
                raise explained(error, repo_id) from error
        sleep(seconds)
    raise AssertionError("the last try returns or raises")


def pause(error: BaseException, wait: float | None) -> float | None:
    """Seconds until a failed request may be tried again: as long as the Hub asks for, else ``wait``; None for never."""
    if wait is None:
        return None
    if is_dropped(error):
        return wait
    if status_of(error) not in BUSY and not isinstance(error, json.JSONDecodeError):
        return None  # a gateway's page in place of an answer is no JSON
    asked = _retry_after(error)
    if asked is None:
        return wait
    return asked if asked <= LONGEST else None


def is_dropped(error: BaseException) -> bool:
    """Whether the Hub hung up on a request that had reached it."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return not names.isdisjoint(DROPPED) or "Connection aborted" in str(error)


def sent_once(error: BaseException) -> bool:
    """Whether making a commit failed at a request that the client does not try again."""
    if isinstance(error, json.JSONDecodeError):
        return True
    request = getattr(getattr(error, "response", None), "request", None)
    return request is not None and ONCE.search(str(request.url)) is not None


def is_lost(error: BaseException) -> bool:
    """Whether the request may have been carried out all the same: no answer came, or a gateway's."""
    if isinstance(error, (OfflineModeIsEnabled, ValueError, RuntimeError)):
        return isinstance(error, json.JSONDecodeError)
    return status_of(error) is None or status_of(error) in (500, 502, 503, 504)


def explained(error: BaseException, repo_id: str) -> HubError:
    """The error for the user, in one line: the fact, the value, the next step."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__  # "Error while uploading …" hides the reason
    hub, status = constants.ENDPOINT, status_of(error)
    if isinstance(error, OfflineModeIsEnabled):
        return NetworkError("offline mode is on: unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE, then push again")
    if isinstance(error, GatedRepoError):
        return NotFoundError(f"{repo_id} is gated and this token is not admitted: ask for access at {hub}/{repo_id}")
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        renew = "renew HF_TOKEN or run `hf auth login`, then push again"
        return AuthenticationError(f"{hub} does not accept this token (401): {renew}")
    if isinstance(error, RepositoryNotFoundError):
        check = "check the name and the token's permissions"
        return NotFoundError(f"{repo_id} does not exist or this token may not see it: {check}")
    if isinstance(error, RevisionNotFoundError):
        return NotFoundError(f"{repo_id} has no such revision: {one_line(error)}")
    if status == 403:
        other = "use one with write access, or push under your own name"
        return AuthenticationError(f"this token may not write to {repo_id} (403): {other}")
    if status in (409, 412):
        return ConflictError(
            f"{repo_id} was changed at the same time ({status}): look at what is there, then push again"
        )
    if status == 429:
        asked = _retry_after(error)
        wait = "some minutes" if asked is None else f"{asked:.0f} s"
        return RateLimitError(f"{hub} allows no more requests for now (429): wait {wait}, then push again")
    if status is not None and status >= 500:
        return NetworkError(f"{hub} has a fault of its own ({status}): push again later")
    if (status is None or status == 400) and isinstance(error, (ValueError, HfHubHTTPError)) and _is_of_card(error):
        return CardError(f"{hub} rejects the model card: {one_line(error)} Correct README.md, then push again")
    if status is not None:
        return HubError(f"{hub} refused the push of {repo_id} ({status}): {one_line(error)}")
    if isinstance(error, (HTTPError, OSError, json.JSONDecodeError)):
        return NetworkError(
            f"cannot reach {hub} ({one_line(error)}): check the network and HF_ENDPOINT, then push again"
        )
    return HubError(f"the push to {repo_id} failed: {one_line(error)}")


def code_of(error: BaseException) -> int:
    """The exit code of a failed download: as a push's, by what the Hub answered, or by why it did not."""
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # "cannot find the requested files on the disk" hides the reason
    return explained(error, "").exit_code


def status_of(error: BaseException) -> int | None:
    """The HTTP status of the Hub's answer; None where there was none."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None


def _is_of_card(error: BaseException) -> bool:
    return any(word in str(error) for word in ("README.md", "metadata", "base_model", "license"))


def _retry_after(error: BaseException) -> float | None:
    """Seconds that the answer asks to wait: Retry-After in either of its forms (RFC 9110, 10.2.3)."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    asked = str(headers.get("Retry-After", "")).strip()
    if asked.isdigit():
        return float(asked)
    try:
        when = parsedate_to_datetime(asked)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
