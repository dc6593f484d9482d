"""Logs: one structlog chain, JSON or console, redacted last, buffered, and never in the way of a request.

No fact lives only in a log. Lines are handed to a thread of their own through a bounded buffer; a dead or slow sink
costs lines, which are counted, and nothing else.
"""

from __future__ import annotations

import functools
import io
import os
import select
import sys
import threading
from collections import deque
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import structlog

from palyra.daemon.request_lines import RequestLine, RequestLines
from palyra.redaction import REDACTED, KnownSecrets, is_sensitive_key, redact, redact_text

_BUFFERED_COUNT = 10_000
#: Of a JSON line, without its end.
_LINE_MAX_BYTES = 8_191
#: Lines are collected for this long before they are written together.
_LINGER_S = 0.05
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
#: Control characters and those that turn the direction of text; a newline is escaped where a line is made.
_HIDDEN_CODES = (
    *range(0x0A),
    *range(0x0B, 0x20),
    *range(0x7F, 0xA0),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
)
_CONTROL = {code: f"\\x{code:02x}" for code in _HIDDEN_CODES}


class BufferedSink:
    """Writes lines from a thread of its own; `write` never waits.

    The file is unbuffered: a buffer of Python's would be locked by a write that hangs, and the end of the process
    would wait for that lock and abort.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.is_terminal = file.isatty()
        self._lines: deque[str] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self.dropped_count = 0
        self._thread = threading.Thread(target=self._write_until_closed, name="log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Take a line, without its end; drop it when the sink does not keep up."""
        if len(self._lines) >= _BUFFERED_COUNT:
            self.dropped_count += 1
            return
        self._lines.append(line)
        if not self._wake.is_set():
            self._wake.set()

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is left, as far as the sink takes it in time."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)

    def _write_until_closed(self) -> None:
        while True:
            self._wake.wait()
            self._closing.wait(_LINGER_S)
            self._wake.clear()
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            try:
                self._write_whole("".join(f"{line}\n" for line in lines).encode(errors="replace"))
            except OSError:
                self.dropped_count += len(lines)
            if self._closing.is_set() and not self._lines:
                self._file.close()
                return

    def _write_whole(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            written_count = self._file.write(left)
            if written_count is None:  # somebody made the terminal or pipe that we share non-blocking
                select.select([], [self._file], [])
            else:
                left = left[written_count:]


class Log:
    """The daemon's log: `log.info("run_served", run_id=...)`. Made once, closed at the end."""

    def __init__(
        self,
        *,
        level: str = "info",
        log_format: Literal["auto", "console", "json"] = "auto",
        file: Path | None = None,
    ) -> None:
        self._is_default = False
        self._boot_id = ""
        #: The secrets that are in use, which no line may hold in any form.
        self.known = KnownSecrets()
        self._file = file
        self.sink = BufferedSink(_opened(file))
        #: Where lines went before.
        self._left: list[BufferedSink] = []
        self._compose(level, log_format)

    def change(self, level: str, log_format: Literal["auto", "console", "json"], file: Path | None) -> None:
        """Write the lines from now on otherwise, or elsewhere. Raises `OSError` for a file that cannot be had."""
        if file != self._file:
            sink = BufferedSink(_opened(file))
            left, self.sink, self._file = self.sink, sink, file
            left.close(0)  # its thread writes what is left
            self._left.append(left)
        self._compose(level, log_format)
        if self._is_default:
            self.become_default()

    def _compose(self, level: str, log_format: Literal["auto", "console", "json"]) -> None:
        is_terminal = self.sink.is_terminal
        self._is_console = log_format == "console" or (log_format == "auto" and is_terminal)
        colors = is_terminal and "NO_COLOR" not in os.environ
        self._processors: list[Any] = [
            structlog.processors.add_log_level,
            _place_of_exception,
            self._redacted,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.dev.ConsoleRenderer(colors=colors, timestamp_key="ts") if self._is_console else _json,
        ]
        #: Where lines of requests go; a person reads them as all the others.
        told = _LEVELS[level] <= _LEVELS["info"]
        self._requests = RequestLines(self.sink.write) if told and not self._is_console else None
        self._wrapper = structlog.make_filtering_bound_logger(_LEVELS[level])
        self._logger = structlog.wrap_logger(
            _Lines(self.sink), processors=self._processors, wrapper_class=self._wrapper
        ).bind()
        self.name_boot(self._boot_id)

    def name_boot(self, boot_id: str) -> None:
        """Have every JSON line from now on say which process it is of."""
        self._boot_id = boot_id
        if boot_id and not self._is_console:
            self._logger = self._logger.bind(boot_id=boot_id)
        if self._requests is not None:
            self._requests.name_boot(boot_id)

    def become_default(self) -> None:
        """Take the lines of modules that log by themselves. Only for a process that is all ours."""
        self._is_default = True
        structlog.configure(
            processors=self._processors,
            wrapper_class=self._wrapper,
            logger_factory=lambda *names: _Lines(self.sink),
            cache_logger_on_first_use=False,
        )

    def _redacted(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        known = self.known.forms
        for key, value in event.items():
            if value is None or isinstance(value, (bool, int, float)):
                continue
            text = REDACTED if _is_sensitive(key) else _text(value, known)
            event[key] = text if text.isprintable() else text.translate(_CONTROL)
        return event

    def request(self, line: RequestLine) -> None:
        """Write the line of one request."""
        if self._requests is not None and line.is_ours:
            self._requests.add(line)
        else:
            self._logger.info("request", **msgspec.structs.asdict(line))

    def debug(self, event: str, **fields: Any) -> None:
        self._logger.debug(event, **fields)

    def info(self, event: str, **fields: Any) -> None:
        self._logger.info(event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._logger.warning(event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        self._logger.error(event, **fields)

    def close(self) -> None:
        """Write what is left."""
        if self._is_default:
            structlog.reset_defaults()
        if self.sink.dropped_count:
            self.warning("log_lines_dropped", count=self.sink.dropped_count)
        for sink in (*self._left, self.sink):
            sink.close()


class _Lines:
    """What structlog hands rendered lines to."""

    def __init__(self, sink: BufferedSink) -> None:
        self._write = sink.write

    def msg(self, line: str) -> None:
        self._write(line)

    debug = info = warning = error = critical = msg


def _opened(file: Path | None) -> io.FileIO:
    return _standard_error() if file is None else _open_private(file)


def _standard_error() -> io.FileIO:
    # Without one, descriptor 2 may be any file that was opened since.
    return io.FileIO(os.devnull, "w") if sys.__stderr__ is None else io.FileIO(2, "w", closefd=False)


def _open_private(path: Path) -> io.FileIO:
    return io.FileIO(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w")


def _place_of_exception(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace an exception by its type, its message and where it came from; values of variables are never shown."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, BaseException):
        places = []
        trace = error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            places.append(f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
            trace = trace.tb_next
        event["error_type"] = type(error).__name__
        event["error_text"] = str(error)
        event["error_trace"] = " < ".join(reversed(places[-12:]))
    return event


#: Names of fields are few and ours.
_is_sensitive = functools.lru_cache(maxsize=256)(is_sensitive_key)


def _text(value: Any, known: Sequence[str]) -> str:
    """Return a value without secrets: text as it is, anything else as the text or the JSON that it makes."""
    if isinstance(value, str):
        return redact_text(value, known)
    plain = msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=str, str_keys=True)
    if isinstance(plain, str):
        return redact_text(plain, known)
    return msgspec.json.encode(redact(plain, known)).decode()


def _json(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    ordered = {"ts": event.pop("ts"), "level": event.pop("level"), "event": event.pop("event"), **event}
    line = msgspec.json.encode(ordered)
    while len(line) > _LINE_MAX_BYTES:
        longest = max(ordered, key=lambda key: len(str(ordered[key])))
        text = str(ordered[longest])
        if not text:
            break
        ordered[longest] = text[: max(0, len(text) - (len(line) - _LINE_MAX_BYTES))]
        line = msgspec.json.encode(ordered)
    return line.decode()
