"""What stands before the application: the size of a request, and, where there are no keys, who may call at all."""

import asyncio
import math
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .schema import Refused, refusal

LOOPBACK = ("127.0.0.1", "localhost", "::1")
FORWARDING = ("forwarded", "via", "x-real-ip", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto")


class Guard:
    """body: the most bytes of a request. loopback: answer only what is addressed to this machine by its loopback name,
    and nothing that a page of another site sends: a browser on this machine would do both for any site. Nor what a proxy
    passes on: it may do so for anybody. silence: seconds in which the whole body must have come."""

    def __init__(self, app: ASGIApp, body: int, loopback: bool, silence: float) -> None:
        self.app, self.body, self.loopback, self.silence = app, body, loopback, silence
        self.too_large = f"the request is larger than {body} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refuse(headers)
        if refused is not None:
            await refused(scope, receive, send)
            return
        read, end = 0, asyncio.get_running_loop().time() + self.silence

        async def limited() -> Message:
            nonlocal read, end
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError as error:
                raise Refused(408, "timeout", f"the request had not come within {self.silence:g} s") from error
            if not message.get("more_body"):
                end = math.inf  # what comes now is the end of the connection
            read += len(message.get("body", b""))
            if read > self.body:
                raise Refused(413, "too_large", self.too_large)
            return message

        await self.app(scope, limited, send)

    def _refuse(self, headers: dict[str, str]) -> JSONResponse | None:
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.body:
            return refusal(413, "too_large", self.too_large)
        if not self.loopback:
            return None
        host = headers.get("host", "")
        if _name(host) not in LOOPBACK:
            return refusal(403, "forbidden", "without keys this server answers on loopback only: see --keys")
        if passed := [name for name in FORWARDING if name in headers]:
            return refusal(403, "forbidden", f"{passed[0]}: without keys nothing is taken through a proxy: see --keys")
        origin = headers.get("origin")
        if origin and origin.partition("://")[2] != host:
            return refusal(403, "forbidden", f"requests from {origin} are not taken")
        return None


def _name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
