"""The log: lines that programs read, without secrets, and never in the way of what is logged about."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import stat
import sys
import threading
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from acceptance_kit import CHAT, chat, loaded, machine

from palyra.app import Daemon
from palyra.daemon.logs import _BUFFERED_COUNT, BufferedSink, Log
from palyra.service import serve

SECRET = "sk-abcdefghijklmnopqrstuvwx"


def lines(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a JSON log; each is one document."""
    return [json.loads(line) for line in file.read_text().splitlines()]


# -- through the daemon


def _session(daemon: Daemon) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        daemon.url, headers={"authorization": f"Bearer {daemon.paths.client_key.read_text().strip()}"}
    )


async def _ask(daemon: Daemon) -> None:
    """One chat, one stream, a list of models, a request without a key, and one for nowhere."""
    body = {"messages": [{"role": "user", "content": "the prompt"}]}
    async with _session(daemon) as session:
        for asked in (body, {**body, "stream": True}):
            async with session.post(CHAT, json=asked) as answer:
                assert answer.status == 200
                await answer.read()
        async with session.get("/v1/models") as answer:
            await answer.read()
        async with session.get("/v1/models", headers={"authorization": "Bearer nonsense"}) as answer:
            assert answer.status == 401
        async with session.get(f"/{SECRET}?q={SECRET}") as answer:
            assert answer.status == 404


@pytest.mark.parametrize(
    ("which", "statuses"), [("all", [200, 200, 200, 401, 404]), ("errors", [401, 404]), ("off", [])]
)
async def test_a_request_is_one_line_at_most(which: str, statuses: list[int], tmp_path: Path) -> None:
    """A line says method, route, status, time, bytes and run; `log_requests` chooses whose are written."""
    log = Log(log_format="json", file=tmp_path / "log")
    async with Daemon(loaded(tmp_path, f'observability.log_requests="{which}"'), log=log) as daemon:
        boot_id = daemon.boot_id
        await _ask(daemon)
    log.close()
    found = lines(tmp_path / "log")
    assert [line["status"] for line in found] == statuses
    fixed = {"ts", "level", "event", "boot_id", "method", "route", "status", "duration_ms", "sent_bytes", "run_id"}
    for line in found:
        assert set(line) == fixed
        assert (line["event"], line["level"], line["boot_id"]) == ("request", "info", boot_id)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["ts"])
    if which == "all":
        assert [line["route"] for line in found] == [CHAT, CHAT, "/v1/models", "/v1/models", "other"]
    text = (tmp_path / "log").read_text()
    assert SECRET not in text
    assert "the prompt" not in text
    assert "palyra_client_" not in text


async def test_an_error_keeps_its_secrets(tmp_path: Path) -> None:
    """A bug is told with type, place and redacted message, never with what its variables held."""
    log = Log(log_format="json", file=tmp_path / "log")
    async with Daemon(loaded(tmp_path), log=log) as daemon:

        def burst(*arguments: object, **named: object) -> None:
            held = "a local value"
            raise RuntimeError(f"upstream refused Bearer {SECRET}, {len(held)}\n\x1b[31m")

        daemon.runs.start = burst  # type: ignore[assignment, method-assign]
        async with _session(daemon) as session, session.post(CHAT, json=chat()) as answer:
            assert answer.status == 500
            run_id = answer.headers["x-palyra-run-id"]
    log.close()
    (line,) = (line for line in lines(tmp_path / "log") if line["event"] == "internal_error")
    assert (line["level"], line["run_id"], line["error_type"]) == ("error", run_id, "RuntimeError")
    assert line["error_text"] == "upstream refused Bearer <redacted>, 13\n\\x1b[31m"
    assert line["error_trace"].startswith(f"{Path(__file__).name}:")
    assert " burst < spending.py:" in line["error_trace"]
    assert "a local value" not in (tmp_path / "log").read_text()


def test_the_settings_have_effect(tmp_path: Path) -> None:
    """`serve` logs where, from which level and in which form its configuration says."""
    file = tmp_path / "log"
    observability = [f'observability.log_file="{file}"', 'observability.log_format="console"']
    told: list[str] = []

    def announce(daemon: Daemon) -> None:
        for level in ("info", "warning"):
            getattr(structlog.get_logger("palyra.supervisor.keeper"), level)("said_by_a_loop", key_file=SECRET)
        told.append(daemon.url)
        os.kill(os.getpid(), 15)

    assert serve(lambda: loaded(tmp_path, *observability, 'observability.log_level="warning"'), announce) == 0
    (line,) = file.read_text().splitlines()
    assert re.search(r"\[warning *\] said_by_a_loop +key_file=<redacted>$", line)
    assert "\x1b" not in line
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert told
    assert not structlog.is_configured()


# -- the chain


def _logged(file: Path, **fields: Any) -> dict[str, Any]:
    log = Log(log_format="json", file=file)
    log.info("told", **fields)
    log.close()
    (line,) = lines(file)
    assert list(line)[:3] == ["ts", "level", "event"]
    return line


def test_everything_is_redacted(tmp_path: Path) -> None:
    """Text, nested data, paths and exceptions go through the redactor, and so do fields with a telling name."""
    line = _logged(
        tmp_path / "log",
        text=f"key={SECRET}",
        nested={"authorization": "plain", "deep": [SECRET, {"n": 1}]},
        path=Path(f"/x/{SECRET}"),
        api_key="plain",
        count=3,
        nothing=None,
        raw=b"plain",
    )
    assert line["text"] == "key=<redacted>"
    assert json.loads(line["nested"]) == {"authorization": "<redacted>", "deep": ["<redacted>", {"n": 1}]}
    assert line["path"] == "/x/<redacted>"
    assert line["api_key"] == "<redacted>"
    assert (line["count"], line["nothing"]) == (3, None)
    assert "plain" not in json.dumps(line)


def test_a_group_is_told_by_its_first_error(tmp_path: Path) -> None:
    """Of an exception group the innermost first error is named, with its place."""
    try:
        raise ExceptionGroup("many", [ExceptionGroup("more", [ZeroDivisionError("by zero")]), ValueError()])
    except ExceptionGroup as error:
        line = _logged(tmp_path / "log", exc_info=error)
    assert (line["error_type"], line["error_text"]) == ("ZeroDivisionError", "by zero")


@pytest.mark.parametrize(
    "text", ["x" * 60_000, "é" * 60_000, "\x1b" * 60_000, '"' * 60_000, "\n" * 60_000, "y" * 70_000]
)
def test_a_long_line_is_cut_and_stays_json(text: str, tmp_path: Path) -> None:
    """No line is longer than 8 KiB, control characters are escaped, and what is cut is the longest field."""
    _logged(tmp_path / "log", text=text, other="kept", more=text[:3_000])
    (raw,) = (tmp_path / "log").read_bytes().splitlines(keepends=True)
    assert len(raw) <= 8_192
    assert json.loads(raw)["other"] == "kept"
    assert b"\x1b" not in raw


# -- the sink


class _Gated(io.FileIO):
    """A file that takes nothing before its gate opens."""

    def __init__(self, path: Path) -> None:
        super().__init__(os.open(path, os.O_WRONLY | os.O_CREAT), "w")
        self.gate = threading.Event()

    def write(self, data: Any) -> int:
        self.gate.wait()
        return super().write(bytes(data)[:1_000])


def test_a_full_buffer_drops_and_counts(tmp_path: Path) -> None:
    """While the sink hangs, 10,000 lines wait and the others are dropped; logging never waits."""
    file = _Gated(tmp_path / "log")
    sink = BufferedSink(file)
    sent_count = 2 * _BUFFERED_COUNT + 500
    for number in range(sent_count):
        sink.write(f'{{"number":{number}}}')
    dropped_count = sink.dropped_count
    assert dropped_count >= 500
    file.gate.set()
    sink.close(30)
    assert len(lines(tmp_path / "log")) == sent_count - dropped_count


def test_a_closed_pipe_costs_lines_and_nothing_else() -> None:
    """When nobody reads any more every line is dropped and counted."""
    read, write = os.pipe()
    os.close(read)
    sink = BufferedSink(io.FileIO(write, "w"))
    for _ in range(3):
        sink.write("line")
    sink.close()
    assert sink.dropped_count == 3


def test_a_pipe_that_must_not_block_is_waited_for() -> None:
    """A pipe that somebody made non-blocking takes every line whole, at its reader's pace."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    sink = BufferedSink(io.FileIO(write, "w"))
    for number in range(5_000):
        sink.write(f"{number:0100}")
    closing = threading.Thread(target=sink.close, args=[30])
    closing.start()
    with open(read, encoding="ascii") as file:
        got = [int(line) for line in file]
    closing.join()
    assert got == list(range(5_000))
    assert sink.dropped_count == 0


def test_drops_are_told_at_the_end(tmp_path: Path) -> None:
    """A log that lost lines says how many."""
    log = Log(log_format="json", file=tmp_path / "log")
    log.sink.dropped_count = 7
    log.close()
    (line,) = lines(tmp_path / "log")
    assert (line["event"], line["level"], line["count"]) == ("log_lines_dropped", "warning", 7)


@pytest.mark.parametrize("how", ["nobody reads", "closed", "hangs"])
async def test_a_dead_standard_error_stops_no_daemon(how: str, tmp_path: Path) -> None:
    """With a log that goes nowhere, requests are answered and the end is clean all the same."""
    read, write = os.pipe()
    if how == "nobody reads":
        os.close(read)
    process = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        f'exec "$0" "$@" {"2>&-" if how == "closed" else ""}',
        sys.executable,
        "-c",
        _FLOODS,
        str(tmp_path / "state"),
        stdout=asyncio.subprocess.PIPE,
        stderr=write,
        env=machine(tmp_path),
    )
    os.close(write)
    assert process.stdout is not None
    assert await process.stdout.read() == b"200\n"
    assert await process.wait() == 0
    if how != "nobody reads":
        os.close(read)


#: A daemon in which a pipe's worth of lines is logged before a request is served, then SIGTERM.
_FLOODS = """
import os, sys
os.environ["PALYRA_STATE_DIR"] = sys.argv[1]
import structlog, threading, urllib.request
from palyra.config.load import load_config
from palyra.service import serve

def announce(daemon):
    for _ in range(12_000):
        structlog.get_logger().info("flood", text="x" * 100)
    def ask():
        print(urllib.request.urlopen(daemon.url + "/healthz").status, flush=True)
        os.kill(os.getpid(), 15)
    threading.Thread(target=ask).start()

sys.exit(serve(lambda: load_config(os.environ, sets=["daemon.port=0"]), announce))
"""
