"""Logs: one structlog chain, JSON or console, redacted last, buffered, and never in the way of a request.

No fact lives only in a log. Lines are handed to a thread of their own through a bounded buffer; a dead or slow sink
costs lines, which are counted, and nothing else.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Literal, TextIO

import msgspec
import structlog

from palyra.redaction import redact_text

_BUFFERED_COUNT = 10_000
_LINE_MAX_CHARS = 8_192
#: Lines are collected for this long before they are written together.
_LINGER_S = 0.05
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F)}


class BufferedSink:
    """Writes lines from a thread of its own; `write` never waits."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: deque[str] = deque()
        self._wake = threading.Event()
        self._is_closed = False
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
        self._is_closed = True
        self._wake.set()
        self._thread.join(timeout_s)

    def _write_until_closed(self) -> None:
        while True:
            self._wake.wait()
            if not self._is_closed:
                time.sleep(_LINGER_S)
            self._wake.clear()
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            try:
                self._stream.write("".join(f"{line}\n" for line in lines))
                self._stream.flush()
            except (OSError, ValueError):
                self.dropped_count += len(lines)
            if self._is_closed and not self._lines:
                return


class Log:
    """The daemon's log: `log.info("run_served", run_id=...)`. Made once, closed at the end."""

    def __init__(
        self,
        *,
        level: str = "info",
        log_format: Literal["auto", "console", "json"] = "auto",
        file: Path | None = None,
        boot_id: str = "",
    ) -> None:
        stream = sys.stderr if file is None else _open_private(file)
        is_console = log_format == "console" or (log_format == "auto" and stream.isatty())
        self.sink = BufferedSink(stream)
        processors: list[Any] = [
            structlog.processors.add_log_level,
            _place_of_exception,
            _redacted,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        ]
        if is_console:
            processors.append(
                structlog.dev.ConsoleRenderer(colors="NO_COLOR" not in os.environ, timestamp_key="ts")
            )
        else:
            processors.append(_json)
        self._logger = structlog.wrap_logger(
            _Lines(self.sink),
            processors=processors,
            wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
            cache_logger_on_first_use=True,
        ).bind(**({"boot_id": boot_id} if boot_id and not is_console else {}))

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
        if self.sink.dropped_count:
            self.warning("log_lines_dropped", count=self.sink.dropped_count)
        self.sink.close()


class _Lines:
    """What structlog hands rendered lines to."""

    def __init__(self, sink: BufferedSink) -> None:
        self._write = sink.write

    def msg(self, line: str) -> None:
        self._write(line)

    debug = info = warning = error = critical = msg


def _open_private(path: Path) -> TextIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8")


def _place_of_exception(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace an exception by its type, its message and where it came from; values of variables are never shown."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
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


def _redacted(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str):
            text = redact_text(value)
            event[key] = text if text.isprintable() else text.translate(_CONTROL)[:_LINE_MAX_CHARS]
    return event


def _json(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()[:_LINE_MAX_CHARS]
