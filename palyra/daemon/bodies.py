"""Bodies of requests: read within every bound, inflated, decoded off the loop when they are large.

Nothing of a body is read before its sender was let in.
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from palyra.engine.apart import Apart
from palyra.engine.exchange import ClientGone
from palyra.errors import Refusal, Refused
from palyra.limits import APART_BYTES, BODY_READ_MS, OFF_LOOP_BYTES
from palyra.units import ms_to_s
from palyra.wire.apart import read_large_request
from palyra.wire.request import SurfaceRequest

_JSON = "application/json"
#: What a recording comes in.
FORM = "multipart/form-data"
_ENCODINGS = ("", "identity", "gzip", "x-gzip", "deflate")
#: zlib's names for the two formats: a gzip file, a zlib stream.
_GZIP, _ZLIB = 31, 15


class Body:
    """A body that was read. It counts against the bound of all bodies until it is released."""

    def __init__(self, bodies: Bodies, max_bytes: int) -> None:
        self._bodies = bodies
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self.data = b""

    def hold(self, size_bytes: int) -> None:
        self.held_bytes += size_bytes
        self._bodies.held_bytes += size_bytes

    def release(self) -> None:
        """Give its bytes back; may be called more than once."""
        self._bodies.held_bytes -= self.held_bytes
        self.held_bytes = 0


class Bodies:
    """Reads bodies, and knows how many bytes all open requests hold together."""

    def __init__(
        self,
        *,
        max_request_bytes: int,
        max_inflight_bytes: int,
        max_audio_bytes: int = 0,
        read_ms: int = BODY_READ_MS,
    ) -> None:
        self._read_ms = read_ms
        self.held_bytes = 0
        self.bound(
            max_request_bytes=max_request_bytes,
            max_inflight_bytes=max_inflight_bytes,
            max_audio_bytes=max_audio_bytes,
        )

    def bound(self, *, max_request_bytes: int, max_inflight_bytes: int, max_audio_bytes: int = 0) -> None:
        """Let these bounds hold for bodies that come from now on."""
        self._max_bytes = {_JSON: max_request_bytes, FORM: max_audio_bytes}
        self._max_inflight_bytes = max_inflight_bytes

    async def read(self, request: web.BaseRequest, headers: Mapping[str, str], media_type: str = _JSON) -> Body:
        """Return a request's body, of this type, that nobody has looked at; raises `Refused`, or `ClientGone`."""
        body = Body(self, self._max_bytes[media_type])
        encoding = self._check_head(headers, media_type)
        try:
            await self._read(request, headers, body)
            if encoding not in ("", "identity"):
                body.data = await asyncio.to_thread(_inflate, body.data, encoding, body.max_bytes)
                body.hold(len(body.data))
                self._check_size(body, len(body.data))
        except BaseException:
            body.release()
            raise
        return body

    def _check_head(self, headers: Mapping[str, str], media_type: str) -> str:
        """Refuse what need not be read; return the encoding."""
        if headers.get("content-type", "").partition(";")[0].strip().lower() != media_type:
            what = "JSON" if media_type == _JSON else "a form with a file"
            raise _refused("unsupported_media_type", f"Send {what}, and say so: content-type: {media_type}.")
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding not in _ENCODINGS:
            raise _refused("unsupported_media_type", "A body may be encoded with gzip or deflate only.")
        max_bytes = self._max_bytes[media_type]
        if int(headers.get("content-length", "0")) > max_bytes:
            raise _too_large(max_bytes)
        return encoding

    async def _read(self, request: web.BaseRequest, headers: Mapping[str, str], body: Body) -> None:
        content = request.content
        if content.is_eof():
            body.data = content.read_nowait()
            body.hold(len(body.data))
            self._check_size(body, len(body.data))
            return
        if headers.get("expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        parts = []
        try:
            async with asyncio.timeout(ms_to_s(self._read_ms)):
                while part := await content.readany():
                    parts.append(part)
                    body.hold(len(part))
                    self._check_size(body, body.held_bytes)
        except TimeoutError:
            message = f"The body did not arrive within {self._read_ms} ms."
            raise _refused("invalid_request", message) from None
        except ConnectionError:
            raise ClientGone from None
        except web.RequestPayloadError:
            raise _refused("invalid_request", "The body is not framed as its headers say.") from None
        # Of large pieces the copy is made without the interpreter's lock.
        is_large = body.held_bytes > OFF_LOOP_BYTES
        body.data = await asyncio.to_thread(b"".join, parts) if is_large else b"".join(parts)

    def _check_size(self, body: Body, size_bytes: int) -> None:
        if size_bytes > body.max_bytes:
            raise _too_large(body.max_bytes)
        if self.held_bytes > self._max_inflight_bytes:
            message = "The bodies of all open requests together are too large right now."
            raise _refused("gateway_busy", message, retry_after_ms=1_000)


async def decode_body(
    decode: Callable[[bytes], SurfaceRequest], data: bytes, apart: Apart, media_type: str = _JSON
) -> tuple[SurfaceRequest, str]:
    """Return the request in a body and the body's digest; raises `WireError`."""
    if len(data) <= APART_BYTES or media_type == FORM:  # a form is read by its places, in small steps
        return await apart.do(len(data), _decode, decode, data)
    small, digest = await apart.do(len(data), apart.ask, read_large_request, data, decode)
    return msgspec.structs.replace(small, body=data), digest


def _decode(decode: Callable[[bytes], SurfaceRequest], data: bytes) -> tuple[SurfaceRequest, str]:
    return decode(data), hashlib.sha256(data).hexdigest()


def _inflate(data: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return a body as it was before it was encoded, or one byte more than `max_bytes` of it."""
    # What is called deflate should be a zlib stream; some send it without the two bytes of its head.
    is_bare = encoding == "deflate" and data[:1] != b"\x78"
    engine = zlib.decompressobj(-_ZLIB if is_bare else _ZLIB if encoding == "deflate" else _GZIP)
    try:
        text = engine.decompress(data, max_bytes + 1)
    except zlib.error:
        raise _refused("invalid_request", f"The body is not {encoding}, as its headers say.") from None
    if len(text) <= max_bytes and (not engine.eof or engine.unused_data):
        raise _refused("invalid_request", f"The {encoding} body is cut, or goes on behind its end.")
    return text


def _too_large(max_bytes: int) -> Refused:
    return _refused("body_too_large", f"The body is larger than {max_bytes} bytes.")


def _refused(code: str, message: str, **more: Any) -> Refused:
    return Refused(Refusal(code=code, message=message, **more))
