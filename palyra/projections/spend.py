"""Spend by the hour: who spent, on which models, and how much of it came to nothing.

Coarser than the quarters of `usage` and summed from the side that alerts ask from, so that a week is looked at
without looking at every use in it. An hour is that of the run's admission.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from palyra.events import attempts, routing, usage
from palyra.events.base import Recorded
from palyra.projections.base import Chapter
from palyra.projections.runs import Run

if TYPE_CHECKING:
    from palyra.projections.state import State

HOUR_US = 3_600 * 1_000_000
#: A week, the day after it, and the hour that is not over.
KEEP_HOURS_COUNT = 8 * 24 + 1
#: Failures that say that a call was not allowed or not paid for.
_OF_ACCESS = ("auth_invalid", "permission_denied", "quota_exceeded")


class ModelHour(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """What one model was used for."""

    rows_count: int = 0
    tokens: int = 0


class ProviderHour(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """What was spent at one provider, and how much of it for attempts that failed."""

    spent_nanousd: int = 0
    absorbed_nanousd: int = 0


class Hour(msgspec.Struct, kw_only=True):
    """One hour. Costs are known costs."""

    #: By principal; "" stands for all.
    spent_nanousd: dict[str, int] = {}
    #: By `provider/model`.
    models: dict[str, ModelHour] = {}
    providers: dict[str, ProviderHour] = {}


class Turned(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model that did not let a request in, which somebody else served then."""

    failure_class: str
    count: int
    position: int
    at_us: int


class SpendState(msgspec.Struct, kw_only=True):
    """Hours by their start, first filled first; and models that turn requests away, until they take one."""

    hours: dict[int, Hour] = {}
    #: By `provider/model`.
    turned: dict[str, Turned] = {}


CHAPTER = Chapter()


@CHAPTER.on(usage.UsageRecorded)
def _recorded(state: State, recorded: Recorded, body: usage.UsageRecorded) -> None:
    hour = _hour(state, body.effective_at_us)
    cost = body.known_nanousd if body.cost_nanousd is None else body.cost_nanousd
    if cost:
        _spend(hour, body.principal_id, body.provider_id, cost)
    key = f"{body.provider_id}/{body.model_id}"
    model = hour.models.get(key)
    if model is None:
        model = hour.models[key] = ModelHour()
    model.rows_count += 1
    model.tokens += body.usage.input_tokens + body.usage.output_tokens


@CHAPTER.of_run(usage.UsageRecorded)
def _absorbed(state: State, recorded: Recorded, body: usage.UsageRecorded, run: Run) -> None:
    if run.failed_attempt == body.attempt:
        cost = body.known_nanousd if body.cost_nanousd is None else body.cost_nanousd
        if cost:
            _hour(state, body.effective_at_us).providers[body.provider_id].absorbed_nanousd += cost


@CHAPTER.on(usage.UsageCorrected)
def _corrected(state: State, recorded: Recorded, body: usage.UsageCorrected) -> None:
    hour = state.spend.hours.get(body.effective_at_us - body.effective_at_us % HOUR_US)
    model = None if hour is None else hour.models.get(f"{body.provider_id}/{body.model_id}")
    if hour is not None and model is not None:
        _spend(hour, body.principal_id, body.provider_id, body.change_nanousd)
        model.tokens += body.deltas.total_tokens


def _spend(hour: Hour, principal_id: str, provider_id: str, cost: int) -> None:
    spent = hour.spent_nanousd
    spent[""] = spent.get("", 0) + cost
    spent[principal_id] = spent.get(principal_id, 0) + cost
    provider = hour.providers.get(provider_id)
    if provider is None:
        provider = hour.providers[provider_id] = ProviderHour()
    provider.spent_nanousd += cost


def _hour(state: State, at_us: int) -> Hour:
    hours, start_us = state.spend.hours, at_us - at_us % HOUR_US
    hour = hours.get(start_us)
    if hour is None:
        if len(hours) >= KEEP_HOURS_COUNT:
            del hours[next(iter(hours))]
        hour = hours[start_us] = Hour()
    return hour


@CHAPTER.of_run(routing.RoutingFailedOver)
def _failed_over(state: State, recorded: Recorded, body: routing.RoutingFailedOver, run: Run) -> None:
    if not run.failed or body.trigger not in _OF_ACCESS:
        return
    before = state.spend.turned.pop(run.failed[-1], None)
    state.spend.turned[run.failed[-1]] = Turned(
        failure_class=body.trigger,
        count=1 + (0 if before is None else before.count),
        position=recorded.position,
        at_us=recorded.recorded_at_us,
    )


@CHAPTER.of_run(attempts.AttemptSucceeded)
def _succeeded(state: State, recorded: Recorded, body: attempts.AttemptSucceeded, run: Run) -> None:
    if state.spend.turned and run.attempt is not None:
        state.spend.turned.pop(f"{run.attempt.provider_id}/{run.attempt.model_id}", None)
