"""Where the Hub is, and whether a token may be sent there."""

import ipaddress
from urllib.parse import urlsplit

from huggingface_hub import constants, get_token

from ..errors import UsageError


def check_endpoint() -> None:
    """Raise UsageError where a token would travel in the clear: over http to another machine. No request is sent."""
    url = urlsplit(constants.ENDPOINT)
    if url.scheme != "https" and not _is_loopback(url.hostname or "") and get_token():
        raise UsageError(
            f"HF_ENDPOINT is {constants.ENDPOINT}: the token would go there unencrypted; give the https address, or unset "
            "HF_TOKEN and log out to read without one"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
