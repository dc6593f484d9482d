"""The alert board: what somebody should know, by the one key under which it is open, and what alerts are made of.

Limits that were passed and bounds that did not hold are remembered here as long as an alert may be about them;
whether one is, `decisions/alerts.py` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from palyra.events import alerts, budgets, usage
from palyra.events.base import Fact, Recorded
from palyra.projections.base import Chapter
from palyra.projections.budgets import amount_of

if TYPE_CHECKING:
    from palyra.projections.state import State

#: Alerts that have ended are kept for a while, the newest of them.
_ENDED_COUNT = 200
#: Limits that were passed, the newest of them; and overshoots of one model.
_LIMITS_COUNT, _OVERSHOOTS_COUNT = 1_000, 16


class Alert(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One alert."""

    alert_id: str
    raised: alerts.AlertRaised
    raised_us: int
    acknowledged_by: str = ""
    acknowledged_us: int | None = None
    cleared_us: int | None = None
    because: str = ""


class PassedLimit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A limit of a rule that somebody passed, or would have, the first time in its window."""

    policy_id: str
    told: budgets.BudgetSoftLimitCrossed | budgets.BudgetHardLimitReached
    position: int
    at_us: int


class Beyond(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An attempt that used more than it held."""

    position: int
    at_us: int
    tokens: int = 0
    held_tokens: int = 0
    nanousd: int = 0
    held_nanousd: int = 0


class AlertsState(msgspec.Struct, kw_only=True):
    """Alerts by id, oldest first, and the newest of each key; what they are made of, oldest first."""

    by_id: dict[str, Alert] = {}
    by_key: dict[str, str] = {}
    #: By position of the fact.
    limits: dict[int, PassedLimit] = {}
    #: By `provider/model`.
    overshoots: dict[str, list[Beyond]] = {}


CHAPTER = Chapter()
#: The kind that says of a provider that the credential which its entry names cannot be read.
MISSING_CREDENTIAL = "missing_credential"


def is_open(alert: Alert, now_us: int) -> bool:
    """Return whether an alert still says something at an instant."""
    until_us = alert.raised.valid_until_us
    return alert.cleared_us is None and (until_us is None or now_us < until_us)


def newest_alert(state: State, dedupe_key: str) -> Alert | None:
    """Return the newest alert of a key, open or not, or None."""
    return state.alerts.by_id.get(state.alerts.by_key.get(dedupe_key, ""))


def is_told_missing(state: State, provider_id: str) -> bool:
    """Return whether an alert says that a provider's own credential cannot be read."""
    alert = newest_alert(state, f"{MISSING_CREDENTIAL}:{provider_id}")
    return alert is not None and alert.cleared_us is None


def open_alerts(state: State, now_us: int) -> list[Alert]:
    """Return what is open, oldest first."""
    return [one for one in state.alerts.by_id.values() if is_open(one, now_us)]


@CHAPTER.on(alerts.AlertRaised)
def _raised(state: State, recorded: Recorded, body: alerts.AlertRaised) -> None:
    alert_id = recorded.stream.removeprefix("alert-")
    board = state.alerts
    before = board.by_id.get(alert_id)
    if before is not None:
        # It has become worse, which nobody has seen yet.
        before.raised, before.acknowledged_by, before.acknowledged_us = body, "", None
        return
    board.by_id[alert_id] = Alert(alert_id=alert_id, raised=body, raised_us=recorded.recorded_at_us)
    board.by_key[body.dedupe_key] = alert_id
    _thin(state, recorded.recorded_at_us)


@CHAPTER.on(alerts.AlertAcknowledged)
def _acknowledged(state: State, recorded: Recorded, body: alerts.AlertAcknowledged) -> None:
    alert = _of(state, recorded)
    if alert is not None:
        alert.acknowledged_by, alert.acknowledged_us = recorded.actor, recorded.recorded_at_us


@CHAPTER.on(alerts.AlertCleared)
def _cleared(state: State, recorded: Recorded, body: alerts.AlertCleared) -> None:
    alert = _of(state, recorded)
    if alert is not None:
        alert.cleared_us, alert.because = recorded.recorded_at_us, body.reason_code


def _of(state: State, recorded: Recorded) -> Alert | None:
    return state.alerts.by_id.get(recorded.stream.removeprefix("alert-"))


def _thin(state: State, now_us: int) -> None:
    board = state.alerts
    ended = [one for one in board.by_id.values() if not is_open(one, now_us)]
    for old in ended[:-_ENDED_COUNT]:
        del board.by_id[old.alert_id]
        state.streams.pop(f"alert-{old.alert_id}", None)
        if board.by_key.get(old.raised.dedupe_key) == old.alert_id:
            del board.by_key[old.raised.dedupe_key]


@CHAPTER.on(budgets.BudgetSoftLimitCrossed, budgets.BudgetHardLimitReached)
def _limit_passed(
    state: State,
    recorded: Recorded,
    body: budgets.BudgetSoftLimitCrossed | budgets.BudgetHardLimitReached,
) -> None:
    limits = state.alerts.limits
    limits[recorded.position] = PassedLimit(
        policy_id=recorded.stream.removeprefix("budget-"),
        told=body,
        position=recorded.position,
        at_us=recorded.recorded_at_us,
    )
    if len(limits) > _LIMITS_COUNT:
        del limits[next(iter(limits))]


@CHAPTER.on(budgets.BudgetPolicySet, budgets.BudgetPolicyRetired)
def _rule_changed(state: State, recorded: Recorded, body: Fact) -> None:
    """What was told about another wording of the rule says nothing about this one."""
    policy_id, limits = recorded.stream.removeprefix("budget-"), state.alerts.limits
    for position in [position for position, one in limits.items() if one.policy_id == policy_id]:
        del limits[position]


@CHAPTER.on(usage.UsageRecorded)
def _used(state: State, recorded: Recorded, body: usage.UsageRecorded) -> None:
    """Remember what passed its bounds; what was kept for it is still there."""
    tokens = body.overshoot_tokens
    if not tokens and not state.budgets.holds:
        return
    run_id = recorded.stream[4:]
    hold = state.budgets.holds.get(run_id)
    shares = hold.shares if hold is not None and hold.attempt == body.attempt else []
    priced = next((share for share in shares if share.meter == "usd_cost"), None)
    nanousd = 0 if priced is None else max(0, amount_of("usd_cost", body) - priced.amount)
    if not tokens and not nanousd:
        return
    run = state.runs.open.get(run_id)
    own = state.alerts.overshoots.setdefault(f"{body.provider_id}/{body.model_id}", [])
    own.append(
        Beyond(
            position=recorded.position,
            at_us=recorded.recorded_at_us,
            tokens=tokens,
            held_tokens=0 if run is None else run.started_max_tokens,
            nanousd=nanousd,
            held_nanousd=0 if priced is None else priced.amount,
        )
    )
    del own[:-_OVERSHOOTS_COUNT]
