"""One run as its own stream tells it: what `runs show`, `explain` and capsules are made of.

Folded on demand from the events of one stream; nothing of it is kept in the state.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from palyra.events import attempts, budgets, cache, runs, usage
from palyra.events.base import Recorded
from palyra.events.routing import RoutingDecided, RoutingFailedOver
from palyra.projections.runs import run_id_of
from palyra.usage import TokenUsage


class AttemptView(msgspec.Struct, kw_only=True):
    """An attempt as it was recorded."""

    started: attempts.AttemptStarted
    started_us: int
    reserved: budgets.BudgetReserved | None = None
    succeeded: attempts.AttemptSucceeded | None = None
    failed: attempts.AttemptFailed | None = None
    abandoned: bool = False
    usage: usage.UsageRecorded | None = None


class RunView(msgspec.Struct, kw_only=True):
    """A run as its own stream tells it: what `runs show` and `explain` print."""

    run_id: str
    state: str = "open"
    first_position: int = 0
    last_position: int = 0
    admitted_us: int = 0
    ended_us: int | None = None
    admitted: runs.RunAdmitted | None = None
    routing: RoutingDecided | None = None
    hit: cache.CacheHit | None = None
    failovers: list[RoutingFailedOver] = []
    attempts: list[AttemptView] = []
    refused: runs.RunRefused | None = None
    completed: runs.RunCompleted | None = None
    failed: runs.RunFailed | None = None
    cancelled: runs.RunCancelled | None = None

    @property
    def first_byte_us(self) -> int | None:
        """How long the attempt took that gave the answer, until its first byte."""
        answered = [attempt.succeeded for attempt in self.attempts if attempt.succeeded is not None]
        return answered[-1].first_byte_us if answered and self.completed is not None else None

    @property
    def usage(self) -> TokenUsage:
        """Return what all attempts consumed together (totals only)."""
        rows = [attempt.usage.usage for attempt in self.attempts if attempt.usage is not None]
        return TokenUsage(
            input_tokens=sum(row.input_tokens for row in rows),
            output_tokens=sum(row.output_tokens for row in rows),
        )


def view_of_run(history: Iterable[Recorded]) -> RunView | None:
    """Fold the events of one run's stream, in order, into a view; None when there are none."""
    view: RunView | None = None
    reserved: dict[int, budgets.BudgetReserved] = {}
    for recorded in history:
        if view is None:
            view = RunView(run_id=run_id_of(recorded.stream), first_position=recorded.position)
            view.admitted_us = recorded.recorded_at_us
        view.last_position = recorded.position
        add_to_view(view, recorded, reserved)
    return view


def add_to_view(view: RunView, recorded: Recorded, reserved: dict[int, budgets.BudgetReserved]) -> None:
    """Fold one more event of a run into its view; holds wait in `reserved` for the start of their attempt."""
    match recorded.body:
        case runs.RunAdmitted() as body:
            view.admitted = body
        case RoutingDecided() as body:
            view.routing = body
        case cache.CacheHit() as body:
            view.hit = body
        case RoutingFailedOver() as body:
            view.failovers = [*view.failovers, body]
        case budgets.BudgetReserved() as body:
            reserved[body.attempt] = body
        case attempts.AttemptStarted() as body:
            row = AttemptView(started=body, started_us=recorded.recorded_at_us)
            row.reserved = reserved.get(body.attempt)
            view.attempts = [*view.attempts, row]
        case runs.RunRefused() as body:
            view.refused, view.state, view.ended_us = body, "refused", recorded.recorded_at_us
        case runs.RunCompleted() as body:
            view.completed, view.state, view.ended_us = body, "completed", recorded.recorded_at_us
        case runs.RunFailed() as body:
            view.failed, view.state, view.ended_us = body, "failed", recorded.recorded_at_us
        case runs.RunCancelled() as body:
            view.cancelled, view.state, view.ended_us = body, "cancelled", recorded.recorded_at_us
        case body:
            _add_to_attempt(view, body)


def _add_to_attempt(view: RunView, body: Any) -> None:
    row = next((row for row in view.attempts if row.started.attempt == getattr(body, "attempt", 0)), None)
    if row is None:
        return
    match body:
        case attempts.AttemptSucceeded():
            row.succeeded = body
        case attempts.AttemptFailed():
            row.failed = body
        case attempts.AttemptAbandoned():
            row.abandoned = True
        case usage.UsageRecorded():
            row.usage = body
