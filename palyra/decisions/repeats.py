"""Requests that a client sends again: a key makes them one command, which never spends twice.

What a key has done is read from the journal's own fold, so it holds across a restart; the answer itself is only in
memory, and gone where the process is. Source: gateway specification, 11.11.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from palyra.errors import Refusal
from palyra.limits import COMMAND_KEYS_MAX_COUNT
from palyra.projections.commands import mark_of
from palyra.projections.state import State

_IN_PROGRESS_RETRY_MS = 1_000
_FULL_RETRY_MS = 60_000


class Repeat(NamedTuple):
    """A request that was made before: the run that has its answer, or had it, and what it used."""

    run_id: str
    is_open: bool
    input_tokens: int = 0
    output_tokens: int = 0


def command_name(principal_id: str, route: str, idempotency_key: str) -> str:
    """Return the name by which a caller's key is known, and nobody else's; the key itself is not kept."""
    digest = hashlib.sha256()
    for part in (principal_id, route, idempotency_key):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(4, "big"))
        digest.update(data)
    return digest.hexdigest()


def next_key(state: State, name: str) -> str:
    """Return the command key of a request that is about to be made: each generation is a command of its own."""
    mark = state.commands.by_key.get(name)
    return f"{name}#{0 if mark is None else mark.generation + 1}"


def find_repeat(state: State, name: str, fingerprint: str, now_us: int) -> Repeat | Refusal | None:
    """Return what a request repeats, why it may not be made, or None for one that is new."""
    mark = mark_of(state, name, now_us)
    if mark is None or mark.outcome == "free":
        if len(state.commands.by_key) >= COMMAND_KEYS_MAX_COUNT:
            message = "Too many idempotency keys were used today to remember another; send the request without one."
            return Refusal(code="gateway_busy", message=message, retry_after_ms=_FULL_RETRY_MS)
        return None
    if mark.fingerprint != fingerprint:
        message = "This idempotency key belongs to a request with another body; take a new key for a new request."
        return Refusal(code="idempotency_key_reused", message=message, param="idempotency-key")
    return Repeat(
        run_id=mark.stream.removeprefix("run-"),
        is_open=not mark.outcome,
        input_tokens=mark.input_tokens,
        output_tokens=mark.output_tokens,
    )


def refuse_repeat(repeat: Repeat) -> Refusal:
    """Return why a repeat gets no answer: there is none yet, or none any more."""
    details = {"of_run_id": repeat.run_id}
    if repeat.is_open:
        return Refusal(
            code="idempotency_in_progress",
            message="The request with this idempotency key is being answered; ask again when it is done.",
            param="idempotency-key",
            retry_after_ms=_IN_PROGRESS_RETRY_MS,
            details=details,
        )
    usage = {"input_tokens": repeat.input_tokens, "output_tokens": repeat.output_tokens}
    return Refusal(
        code="idempotency_result_gone",
        message=(
            f"The request with this idempotency key was made by run {repeat.run_id}; its answer is not kept any"
            " more, and it is not made twice. Take a new key to ask again."
        ),
        param="idempotency-key",
        details={**details, "usage": usage},
    )
