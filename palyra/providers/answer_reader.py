"""Reads one HTTP/1.1 answer from bytes, however they are cut, without touching a socket (RFC 9112).

It holds what has arrived until somebody takes it, and knows how the answer ended. It bounds everything that is
not body: a head, any number of interim heads, chunk extensions and trailers. How much body waits here is bounded
by whoever feeds it. Must never show what the parser says: that can quote the answer.
"""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from palyra.limits import UPSTREAM_HEADERS_MAX_BYTES

#: Fields of a head. Providers send some thirty.
HEADERS_MAX_COUNT = 128


class _Refused(Exception):
    """Stops the parser; the failure is noted already."""


class AnswerReader:
    """One answer. The methods `on_...` are for the parser alone."""

    def __init__(self) -> None:
        #: 0 until the head of the final answer has arrived.
        self.status = 0
        #: Names in lower case; a repeated header's values are joined by a comma.
        self.headers: dict[str, str] = {}
        #: Whether the answer has come to its clean end.
        self.is_complete = False
        #: Whether nothing more will arrive, well or badly.
        self.is_over = False
        #: What `TransportFailed` is made of: class, phase, message.
        self.failure: tuple[str, str, str] | None = None
        #: Whether another answer may follow on the same connection; means something after a clean end.
        self.can_be_followed = False
        #: Body that waits to be taken.
        self.waiting_bytes = 0
        self._parts: list[bytes] = []
        self._fields_count = 0
        self._head_bytes = 0
        #: Bytes since the last one of a body.
        self._overhead_bytes = 0
        self._parser: HttpResponseParser | None = HttpResponseParser(self)

    @property
    def phase(self) -> str:
        """Where it is, in the words of `TransportFailed`."""
        return "body" if self.status else "headers"

    def feed(self, data: bytes) -> None:
        """Take bytes as they came; must not be called when it is over."""
        assert self._parser is not None
        self._overhead_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            if self.is_complete:
                self.can_be_followed = False  # it is the connection that talks on
            elif self.failure is None:
                what = "its body is broken" if self.status else "it is not HTTP"
                self.fail("malformed_response", f"the answer cannot be read: {what}")
        if self._overhead_bytes > UPSTREAM_HEADERS_MAX_BYTES and not self.is_over:
            self._fail_too_large()
        if self.is_complete:
            self._parser = None  # parser and reader hold each other

    def end(self, *, is_clean: bool) -> None:
        """Note that the connection has ended; `is_clean` says that the other side has closed it in good order."""
        is_delimited = "content-length" in self.headers or "transfer-encoding" in self.headers
        if self.status and is_clean and not is_delimited:
            self.is_complete = self.is_over = True
            self._parser = None
        elif self.status or self._overhead_bytes:
            self.fail("stream_truncated", "the connection ended before the answer did")
        else:
            self.fail("network_unavailable", "the connection was closed without an answer")

    def fail(self, failure_class: str, message: str) -> None:
        """Give the answer up; what has arrived of it can still be taken."""
        self.failure = (failure_class, self.phase, message)
        self.is_over = True
        self._parser = None

    def take(self) -> bytes:
        """Return the body that waits here, b"" if none does."""
        parts = self._parts
        self._parts = []
        self.waiting_bytes = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def on_message_begin(self) -> None:
        if self.is_complete:
            raise _Refused  # nobody has asked for another one

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status:
            return  # a trailer
        self._fields_count += 1
        if self._fields_count > HEADERS_MAX_COUNT:
            self.fail("malformed_response", f"the answer has more than {HEADERS_MAX_COUNT} headers")
            raise _Refused
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > UPSTREAM_HEADERS_MAX_BYTES:
            self._fail_too_large()
            raise _Refused
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1").strip(" \t")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status == 101 or self.headers.get("transfer-encoding", "chunked").lower() != "chunked":
            self.fail("malformed_response", "the answer comes in a way it was not asked for")
            raise _Refused
        if status < 200:
            self.headers.clear()  # an interim answer; the bounds count on
            return
        self.status = status
        self.can_be_followed = self._parser.should_keep_alive()
        self._overhead_bytes = 0

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)
        self.waiting_bytes += len(data)
        self._overhead_bytes = 0

    def on_message_complete(self) -> None:
        self.is_complete = self.status != 0
        self.is_over |= self.is_complete

    def _fail_too_large(self) -> None:
        what = "what lies between the parts of the body" if self.status else "the headers"
        self.fail("response_too_large", f"{what} is more than {UPSTREAM_HEADERS_MAX_BYTES} bytes")
