"""`content.db`: what was asked and answered, where somebody has turned that on. Never needed to serve a request.

One row a run. A row past its day is invisible at once and deleted soon; what is deleted is overwritten.
The journal never holds any of this.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

FORMAT = 1
_SCHEMA = """
CREATE TABLE content (
    run_id TEXT PRIMARY KEY, at_us INTEGER NOT NULL, expires_us INTEGER NOT NULL, principal_id TEXT NOT NULL,
    session_id TEXT NOT NULL, agent_id TEXT NOT NULL, kept BLOB NOT NULL
) STRICT;
CREATE INDEX content_by_time ON content (at_us);
CREATE INDEX content_by_expiry ON content (expires_us);
CREATE INDEX content_by_principal ON content (principal_id);
CREATE INDEX content_by_session ON content (session_id);
CREATE INDEX content_by_agent ON content (agent_id);
"""
#: Rows of one transaction that deletes.
PURGE_ROWS_COUNT = 2_000
_BUSY_S = 5.0
#: By what rows are erased, and their columns.
SUBJECTS = {"run": "run_id", "principal": "principal_id", "session": "session_id", "agent": "agent_id"}


class Content(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was kept of a run: the request as it came, and what its last attempt was answered."""

    run_id: str
    at_us: int
    principal_id: str
    session_id: str = ""
    agent_id: str = ""
    #: The surface that it came in by.
    surface: str
    content_type: str = ""
    #: See `palyra.wire.fixtures.request_key`.
    key: str
    #: As received, b"" where it is longer than what is kept of one.
    request: bytes = b""
    request_bytes: int = 0
    model_id: str = ""
    upstream_model: str = ""
    #: Of the answer's bytes: dialect, whether they are a stream, status and headers.
    api: str = ""
    stream: bool = False
    status: int = 0
    headers: dict[str, str] = {}
    #: Pieces as they arrived, each with its microseconds since the request left.
    chunks: list[tuple[int, bytes]] = []
    #: It is longer than what is kept of one, and ends early here.
    answer_cut: bool = False
    #: `completed`, or the code of the refusal.
    outcome: str
    #: Fields of `TokenUsage` that are not 0.
    usage: dict[str, int] = {}


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Content)


class ContentUnreadable(Exception):
    """The file is no store of a format that this release knows; its text says why."""


class ContentStore:
    """An open file, or a store in memory. Used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path | None, *, read_only: bool = False) -> ContentStore:
        """Open a store, made where there is none; None for one in memory. Raises `ContentUnreadable`."""
        if path is not None and not read_only:
            # Readable for nobody else from its first byte on.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        target = ":memory:" if path is None else f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
        try:
            connection = sqlite3.connect(
                target, uri=True, isolation_level=None, check_same_thread=False, timeout=_BUSY_S
            )
        except sqlite3.Error as exc:
            raise ContentUnreadable(f"it cannot be opened ({exc})") from exc
        try:
            number = connection.execute("PRAGMA user_version").fetchone()[0]
            if number > FORMAT:
                raise ContentUnreadable(f"a newer release wrote it (format {number})")
            if not read_only:
                connection.execute("PRAGMA secure_delete = ON")
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            if not number and not read_only:
                connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
        except sqlite3.Error as exc:
            connection.close()
            raise ContentUnreadable(f"it cannot be read ({exc})") from exc
        except ContentUnreadable:
            connection.close()
            raise
        return cls(connection)

    def put(self, content: Content, expires_us: int) -> None:
        """Keep what a run held; what is past its day goes."""
        row = (content.run_id, content.at_us, expires_us, content.principal_id, content.session_id)
        self._connection.execute(
            "INSERT OR REPLACE INTO content VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*row, content.agent_id, _ENCODER.encode(content)),
        )

    def purge(self, now_us: int, older_us: int = 0) -> int:
        """Delete what is past its day or was asked before `older_us`, a bounded number of rows; return how many."""
        past = "SELECT run_id FROM content WHERE expires_us <= ? UNION SELECT run_id FROM content WHERE at_us < ?"
        gone = self._connection.execute(
            f"DELETE FROM content WHERE run_id IN ({past} LIMIT ?)", (now_us, older_us, PURGE_ROWS_COUNT)
        ).rowcount
        self._connection.execute("PRAGMA incremental_vacuum")
        return gone

    def erase(self, kind: str, subject: str) -> int:
        """Delete all that is kept of a subject (a key of `SUBJECTS`); return how many runs that were."""
        gone = self._connection.execute(f"DELETE FROM content WHERE {SUBJECTS[kind]} = ?", (subject,)).rowcount
        self._connection.execute("PRAGMA incremental_vacuum")
        return gone

    def of_runs(self, run_ids: Sequence[str], now_us: int) -> Iterator[Content]:
        """Yield what is kept of runs, in the order in which they are named; of some there may be nothing."""
        for run_id in run_ids:
            rows = self._connection.execute(
                "SELECT kept FROM content WHERE run_id = ? AND expires_us > ?", (run_id, now_us)
            )
            yield from (_DECODER.decode(kept) for (kept,) in rows)

    def between(self, from_us: int, to_us: int, now_us: int) -> Iterator[Content]:
        """Yield what is kept of the runs that began within a time, oldest first."""
        rows = self._connection.execute(
            "SELECT kept FROM content WHERE at_us >= ? AND at_us < ? AND expires_us > ? ORDER BY at_us, run_id",
            (from_us, to_us, now_us),
        )
        yield from (_DECODER.decode(kept) for (kept,) in rows)

    @property
    def count(self) -> int:
        """Rows, those past their day included."""
        return int(self._connection.execute("SELECT count(*) FROM content").fetchone()[0])

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()
