"""A state directory with a journal that tells a day: runs of every kind, failures, a circuit, an incident.

The facts are those that the real decisions give (`story`); they are written by the real journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from freezegun import freeze_time
from registries import model, provider, registry
from story import (
    T0_US,
    World,
    admit,
    boot,
    break_down,
    complete,
    fail,
    given,
    go_on,
    record,
    recover,
    serve,
    start,
    succeed,
    wait,
)

from palyra.auth.keyfiles import witness_key, write_key_file
from palyra.cli.main import main
from palyra.engine.codec import state_digest, to_row
from palyra.events.base import Recorded
from palyra.events.daemon import DaemonReady
from palyra.events.heartbeats import HeartbeatRecorded
from palyra.events.incidents import IncidentOpened
from palyra.journal.sqlite import SqliteJournal
from palyra.journal.witness import make_witness, write_witness
from palyra.projections.state import State, encode_state, evolve
from palyra.redaction import Secret
from palyra.units import US_PER_S

CLIENT_KEY = "palyra_client_0123456789AB_" + "x" * 43
JOURNAL_ID = "01STORY"

#: A model's name that would set a terminal's title, turn the text around and end the line.
HOSTILE = "evil\x1b]0;owned\x07\u202e\x9b31m\nline"

#: Runs of the story, in the order of their admission.
SERVED, FAILED_OVER, EXHAUSTED, CANCELLED, REFUSED, ABANDONED, OPEN = (
    f"01K{letter}{number:022}" for number, letter in enumerate("ABCDEFG", 1)
)

#: `gpt` at two providers, a fallback, a model that hostile text was put into, embeddings.
REGISTRY = registry(
    provider("openai", circuit_breaker_failure_threshold=2, max_retries=1),
    provider("groq"),
    provider("local", kind="deterministic", base_url="", credential_ref=""),
    model("gpt", "openai", aliases=["fast"], priority=1, max_output_tokens=16_384),
    model("gpt", "groq", priority=2),
    model("tiny", "local", max_context_tokens=64),
    model("embed", "local", role="embeddings", dimensions=64),
    default_embeddings_model_id="embed",
)


def at(event: str, **changes: Any) -> dict[str, Any]:
    """Return fields of an admission that all runs of the story share."""
    return {"principal_id": "key:0123456789AB", "agent_id": event, **changes}


def story() -> World:
    """Return the day."""
    return given(
        REGISTRY,
        record("daemon", DaemonReady(boot_id="boot-1", took_ms=42)),
        wait(ms=1_000),
        serve(SERVED, model_name="fast", stream=True, session_id="01KSESSION"),
        wait(ms=60_000),
        admit(FAILED_OVER, **at("coder")),
        start(FAILED_OVER),
        fail(FAILED_OVER, "overloaded", status=503, message="Overloaded, try later."),
        wait(ms=150),
        start(FAILED_OVER, retry=1),
        fail(FAILED_OVER, "overloaded", status=503, may_retry=False),
        go_on(FAILED_OVER),
        start(FAILED_OVER, candidate=1),
        wait(ms=900),
        succeed(FAILED_OVER),
        complete(FAILED_OVER, candidate=1),
        wait(ms=1_000),
        admit(EXHAUSTED, "gpt"),
        start(EXHAUSTED),
        fail(EXHAUSTED, "timeout_first_byte", phase="headers", may_retry=False),
        go_on(EXHAUSTED, "timeout_first_byte"),
        wait(ms=500),
        break_down(CANCELLED, "client_disconnected"),
        admit(REFUSED, HOSTILE),
        admit(ABANDONED),
        start(ABANDONED),
        wait(ms=5_000),
        boot(),
        recover(),
        record("daemon", DaemonReady(boot_id="boot-2", recovered={"runs": 1}, took_ms=90)),
        record(
            "incident-01KINCIDENT",
            IncidentOpened(kind="provider.down", severity="danger", subject_kind="provider", subject_id="openai"),
        ),
        wait(ms=2_000),
        admit(OPEN, needs=["tools"]),
        start(OPEN),
        record(
            f"beat-run-{OPEN}",
            HeartbeatRecorded(work_kind="run", work_id=OPEN, beat_no=1, stalls_after_ms=120_000),
        ),
    )


async def _write(directory: Path, history: Sequence[Recorded]) -> None:
    key = witness_key(directory / "vault.key", create=True)
    path = directory / "journal.db"
    journal = await SqliteJournal.open(path, new_journal_id=JOURNAL_ID, now_us=T0_US)
    state = State()
    for number, recorded in enumerate(history, 1):
        await journal.append([to_row(recorded)])
        evolve(state, recorded)
        if number == len(history) // 2:
            await journal.save_snapshot(state.position, state_digest(), encode_state(state))
    write_witness(
        directory / "journal.head", make_witness(JOURNAL_ID, journal.head, history[-1].recorded_at_us, key)
    )
    await journal.close()


def build(directory: Path, world: World | None = None) -> World:
    """Fill a state directory with a world's history (the day's by default), its witness and its keys."""
    directory.mkdir(mode=0o700, parents=True)
    written = world or story()
    asyncio.run(_write(directory, written.history))
    write_key_file(directory / "client.key", Secret(CLIENT_KEY))
    return written


class Ran(NamedTuple):
    """What a command line gave."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on standard output."""
        document: dict[str, Any] = json.loads(self.out)
        return document

    @property
    def data(self) -> Any:
        return self.document["data"]


class _Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


class Cli:
    """Runs command lines in this process at a fixed instant, ten seconds after the day ended."""

    def __init__(self, state_dir: Path, now_us: int, head: int = 0) -> None:
        self.state_dir = state_dir
        self.now_us = now_us
        #: Position of the last event.
        self.head = head

    def __call__(
        self,
        *arguments: str,
        columns: int | None = None,
        encoding: str = "utf-8",
        environ: dict[str, str] | None = None,
        is_placed: bool = True,
    ) -> Ran:
        """Run one; `columns` makes standard output and error a terminal that wide."""
        kind = io.TextIOWrapper if columns is None else _Terminal
        out, err = kind(io.BytesIO(), encoding=encoding), kind(io.BytesIO(), encoding=encoding)
        own = {"PALYRA_STATE_DIR": str(self.state_dir)} if is_placed else {}
        own |= {"COLUMNS": str(columns or 80), "HOME": str(self.state_dir.parent), "PALYRA_CLI_TIMEZONE": "UTC"}
        with (
            _environ({**own, **(environ or {})}),
            freeze_time(datetime.fromtimestamp(self.now_us // US_PER_S, UTC)),
        ):
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main(list(arguments))
        for stream in (out, err):
            stream.flush()
        texts = [stream.buffer.getvalue().decode(encoding) for stream in (out, err)]  # type: ignore[attr-defined]
        return Ran(status, *texts)


@contextlib.contextmanager
def _environ(values: dict[str, str]) -> Iterator[None]:
    """Let the process see these variables, and none of ours or of a terminal's besides."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("PALYRA_", "_PALYRA", "XDG_"))]:
        del os.environ[name]
    for name in ("NO_COLOR", "CLICOLOR_FORCE"):
        os.environ.pop(name, None)
    os.environ.update({"TERM": "xterm", **values})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
