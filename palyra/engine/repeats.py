"""Answers kept for clients that send their request again, and what a repeat is told.

A repeat is judged in the same step of the loop in which it would be admitted, so that of two that come at once one
is made.
"""

from __future__ import annotations

from collections.abc import Container

import msgspec

from palyra.decisions.repeats import find_repeat, refuse_repeat
from palyra.decisions.runs import AdmitRun
from palyra.engine.client import KeptAnswer
from palyra.engine.shelf import Shelf
from palyra.errors import Refusal
from palyra.limits import COMMAND_KEYS_MAX_COUNT, REPEAT_MAX_BYTES, REPEAT_TTL_US, REPEATS_MAX_BYTES
from palyra.projections.state import State

_OVERHEAD_BYTES = 1_024


class Repeats:
    """Answers by the run that gave them."""

    def __init__(self) -> None:
        self._answers: Shelf[KeptAnswer] = Shelf()

    def judge(
        self, state: State, command: AdmitRun, open_runs: Container[str], now_us: int
    ) -> KeptAnswer | Refusal | None:
        """Return the answer that a request had before, why it gets none, or None for a new request."""
        found = find_repeat(state, command.command_name, command.body_digest, now_us)
        if found is None or isinstance(found, Refusal):
            return found
        if found.run_id in open_runs:
            # Its end may be recorded already while its last bytes are on their way.
            return refuse_repeat(found._replace(is_open=True))
        answer = self._answers.get(found.run_id, now_us)
        if answer is None:
            return refuse_repeat(found)
        return msgspec.structs.replace(answer, headers={**answer.headers, "x-palyra-idempotent-replay": "true"})

    def keep(self, state: State, command: AdmitRun, answer: KeptAnswer | None, now_us: int) -> None:
        """Keep what a client was told, unless its request may be made anew."""
        mark = state.commands.by_key.get(command.command_name)
        is_told = mark is not None and mark.outcome == "done" and mark.stream == f"run-{command.run_id}"
        if not is_told or answer is None or len(answer.body) > REPEAT_MAX_BYTES:
            return
        self._answers.put(command.run_id, answer, len(answer.body) + _OVERHEAD_BYTES, now_us + REPEAT_TTL_US)
        self._answers.trim(max_count=COMMAND_KEYS_MAX_COUNT, max_bytes=REPEATS_MAX_BYTES)
