"""Writes the golden streams anew, after a change that clients shall see: `python tests/wire/golden_streams.py`."""

from __future__ import annotations

from pathlib import Path

from dialect_cases import CASES, DIALECTS, reply

from palyra.wire.answer_writer import written
from palyra.wire.dialects import DIALECT_ROWS
from palyra.wire.neutral import Dialect
from palyra.wire.neutral_answer import events_of

FOLDER = Path(__file__).parent / "golden"


def path_of(dialect: Dialect, name: str) -> Path:
    return FOLDER / dialect / f"{name}.sse"


def stream_of(dialect: Dialect, name: str) -> bytes:
    return written(DIALECT_ROWS[dialect].writer(reply()), events_of(CASES[name]))


if __name__ == "__main__":
    for dialect in DIALECTS:
        for name in CASES:
            path_of(dialect, name).parent.mkdir(parents=True, exist_ok=True)
            path_of(dialect, name).write_bytes(stream_of(dialect, name))
