"""Writes the golden streams anew, after a change that clients shall see: `python tests/wire/golden_streams.py`."""

from __future__ import annotations

from pathlib import Path

from dialect_cases import CASES, DIALECTS, reply

from palyra.errors import Refusal
from palyra.wire.answer_writer import written
from palyra.wire.dialects import DIALECT_ROWS
from palyra.wire.messages_errors import messages_error_envelope
from palyra.wire.neutral import Dialect
from palyra.wire.neutral_answer import events_of
from palyra.wire.openai_errors import error_envelope

#: Streams that end badly, by the events that go before: in a text, in a call, or before anything.
ENDS = {"broken": 3, "broken_in_a_call": 6, "broken_at_once": 0, "outgrown": 3, "outgrown_in_a_call": 6}
FOLDER = Path(__file__).parent / "golden"


def path_of(dialect: Dialect, name: str) -> Path:
    return FOLDER / dialect / f"{name}.sse"


def stream_of(dialect: Dialect, name: str) -> bytes:
    if name not in ENDS:
        return written(DIALECT_ROWS[dialect].writer(reply()), events_of(CASES[name]))
    writer, events = DIALECT_ROWS[dialect].writer(reply()), [*events_of(CASES["text_and_tool"])]
    begun = b"".join([writer.write(event) for event in events[: ENDS[name]]])
    if name.startswith("outgrown"):
        return begun + writer.cut()
    refusal = Refusal(code="stream_truncated", message="It broke off.")
    envelope = messages_error_envelope if dialect == "messages" else error_envelope
    return begun + writer.fail(envelope(refusal, run_id="01R", failure_class="stream_truncated", attempts=[]))


if __name__ == "__main__":
    for dialect in DIALECTS:
        for name in (*CASES, *ENDS):
            path_of(dialect, name).parent.mkdir(parents=True, exist_ok=True)
            path_of(dialect, name).write_bytes(stream_of(dialect, name))
