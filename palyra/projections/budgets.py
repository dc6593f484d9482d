"""Budgets: the rules in force, what was counted for them, and what open attempts hold of them.

A counter stands for one rule, one subject and one window. Its bounds come with the first hold; nothing here knows a
calendar. What was used settles with the row of usage, through the hold of its attempt; a row of an attempt that
started before the rule was set is counted by its cell until a hold opens the counter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from palyra.events import budgets, runs, usage
from palyra.events.base import Recorded
from palyra.events.budgets import BudgetShare, CountedSubject, Meter, UsageBudgetPolicyRecord
from palyra.events.routing import RoutingDecided
from palyra.projections.base import Chapter
from palyra.usage import TokenUsage

if TYPE_CHECKING:
    from palyra.projections.state import State

CELL_US = 15 * 60 * 1_000_000
_HOUR_US = 3_600 * 1_000_000
#: A run lasts two hours at most, so that its window is asked for no later than this after its end.
_KEEP_US = 3 * _HOUR_US
#: Longest window (a month) and more: older cells of rows without a counter say nothing.
_LATE_KEEP_US = 40 * 24 * _HOUR_US
#: How many of the oldest counters are looked at when a new one is opened.
_SWEEP_COUNT = 2


#: End of a window that has none: of a rolling one, and of one that lasts as long as its run.
ROLLING_END_US = 1 << 62
PER_RUN_END_US = ROLLING_END_US - 1
#: Name of the rule that a request makes for itself by a header.
MAX_COST = "request.max_cost"


class Policy(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A rule in force."""

    record: UsageBudgetPolicyRecord
    revision: int
    #: Revision from which its counters count; an older hold is none of this counting.
    counted_from: int
    set_position: int
    set_us: int
    #: Rows without a hold, by subject and start of the quarter of an hour.
    late: dict[str, dict[int, int]] = {}


class Counter(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one subject has used and holds in one window of one rule."""

    policy_id: str
    subject: str
    window_start_us: int
    window_end_us: int
    settled: int = 0
    reserved: int = 0
    #: Of a rolling window, whose sum moves on: amounts by start of the quarter of an hour.
    cells: dict[int, int] = {}
    shares_count: int = 0
    #: Rows without a price.
    unpriced_runs: int = 0
    #: Requests that this rule stopped at their admission.
    refused_count: int = 0
    #: The limit was told to be passed, by revision.
    soft_told: int = 0
    hard_told: int = 0
    #: When one of them was told last.
    told_us: int = 0


class Hold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The hold of one open attempt."""

    attempt: int
    reserved_us: int
    expires_us: int
    shares: list[BudgetShare]


class BudgetsState(msgspec.Struct, kw_only=True):
    """Rules by id; counters by rule, subject and window; holds by run, which has one open attempt at most."""

    policies: dict[str, Policy] = {}
    counters: dict[str, Counter] = {}
    holds: dict[str, Hold] = {}
    #: Tokens beyond what their attempts could use at most, since the journal began.
    overshoot_tokens: int = 0
    #: Revisions by rule, also of those that were retired.
    revisions: dict[str, int] = {}
    #: Position at which a counting began last: attempts that started before it may lack a hold.
    counting_position: int = 0
    #: Rules that are switched off: nothing is held of them, and all the same they count.
    off: list[str] = []


class Scoped(Protocol):
    """Whoever can be counted: a row of usage, a run on its way."""

    @property
    def principal_id(self) -> str: ...
    @property
    def key_id(self) -> str: ...
    @property
    def session_id(self) -> str: ...
    @property
    def agent_id(self) -> str: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def origin(self) -> str: ...


class Where(NamedTuple):
    """The model that is asked, or was."""

    provider_id: str
    model_id: str


CHAPTER = Chapter()


def counter_key(policy_id: str, subject: str, window_start_us: int) -> str:
    return f"{policy_id}|{window_start_us}|{subject}"


def subject_of(record: UsageBudgetPolicyRecord, who: Scoped, where: Where) -> str | None:
    """Return the id that a rule counts for somebody at a model; None where the rule does not apply."""
    match record.scope_kind:
        case "global":
            subject = ""
        case "principal":
            subject = who.principal_id
        case "session":
            subject = who.session_id or f"none:{who.principal_id}"
        case "agent":
            subject = who.agent_id or f"none:{who.principal_id}"
        case "provider":
            subject = where.provider_id
        case _:
            # A model's name alone means the model at whatever provider: one counter for all of them.
            is_named = record.scope_id == where.model_id
            subject = where.model_id if is_named else f"{where.provider_id}/{where.model_id}"
    if record.scope_id not in ("", "*", subject):
        return None
    return None if record.match and not _matches(record.match, who, where) else subject


def _matches(wanted: dict[budgets.Matched, str], who: Scoped, where: Where) -> bool:
    for name, value in wanted.items():
        holder = where if name in ("provider_id", "model_id") else who
        if getattr(holder, name) != value:
            return False
    return True


def amount_of(meter: Meter, row: usage.UsageRecorded | usage.UsageCorrected) -> int:
    """Return what a row of usage adds to a counter; a cost that is not known adds the part that is."""
    if isinstance(row, usage.UsageCorrected):
        return row.change_nanousd if meter == "usd_cost" else _tokens_of(meter, row.deltas)
    if meter == "usd_cost":
        return row.known_nanousd if row.cost_nanousd is None else row.cost_nanousd
    return _tokens_of(meter, row.usage)


def _tokens_of(meter: Meter, used: TokenUsage) -> int:
    if meter == "output":
        return used.output_tokens
    return used.total_tokens - (used.cached_input_tokens if meter == "uncached" else 0)


def counter_of(state: State, policy_id: str, subject: str, window_start_us: int) -> Counter | None:
    """Return an open counter, or None."""
    return state.budgets.counters.get(counter_key(policy_id, subject, window_start_us))


def late_amount(policy: Policy, subject: str, start_us: int, end_us: int) -> int:
    """Return what was used in a window by attempts that held nothing of it."""
    cells = policy.late.get(subject, {})
    return sum(amount for at_us, amount in cells.items() if start_us <= at_us < end_us)


def consumed_in(counter: Counter, since_us: int) -> int:
    """Return what a counter has settled, of a rolling window since the quarter in which it begins."""
    if not counter.cells:
        return counter.settled
    return sum(amount for at_us, amount in counter.cells.items() if at_us >= since_us)


def reserved_tokens(state: State) -> int:
    """Return the tokens that open attempts may still use."""
    return sum(run.attempt.max_tokens for run in state.runs.open.values() if run.attempt is not None)


@CHAPTER.on(budgets.BudgetPolicySet)
def _set(state: State, recorded: Recorded, body: budgets.BudgetPolicySet) -> None:
    own, record = state.budgets, body.policy
    before = own.policies.get(record.policy_id)
    counts_on = before is not None and counting_of(before.record) == counting_of(record)
    own.revisions[record.policy_id] = body.revision
    _note_off(own, record.policy_id, is_off=not record.enabled)
    if counts_on and before is not None:
        if before.record.enabled != record.enabled:
            own.counting_position = recorded.position
        before.record, before.revision = record, body.revision
        return
    _forget_counters(state, record.policy_id)
    own.counting_position = recorded.position
    own.policies[record.policy_id] = Policy(
        record=record,
        revision=body.revision,
        counted_from=body.revision,
        set_position=recorded.position,
        set_us=recorded.recorded_at_us,
    )


def _note_off(own: BudgetsState, policy_id: str, *, is_off: bool) -> None:
    own.off = [name for name in own.off if name != policy_id] + [policy_id] * is_off


def counting_of(record: UsageBudgetPolicyRecord) -> tuple[object, ...]:
    """Return what decides what a rule counts; two records that agree in it have the same counters."""
    return (
        record.scope_kind,
        record.scope_id,
        record.match,
        record.meter,
        record.interval_kind,
        record.rolling_hours,
        record.timezone,
        record.week_start,
        record.month_day,
        record.effective_from_us,
    )


def _forget_counters(state: State, policy_id: str) -> None:
    counters = state.budgets.counters
    for key in [key for key, counter in counters.items() if counter.policy_id == policy_id]:
        del counters[key]


@CHAPTER.on(budgets.BudgetPolicyCounted)
def _counted(state: State, recorded: Recorded, body: budgets.BudgetPolicyCounted) -> None:
    policy_id = recorded.stream.removeprefix("budget-")
    for one in body.subjects:
        counter = _open(state, policy_id, one.subject, one.window_start_us, one.window_end_us)
        _take_over(counter, one)


def _take_over(counter: Counter, counted: CountedSubject) -> None:
    counter.settled += counted.amount
    counter.unpriced_runs += counted.unpriced_runs
    for at_us, amount in counted.cells.items():
        counter.cells[at_us] = counter.cells.get(at_us, 0) + amount


@CHAPTER.on(budgets.BudgetPolicyRetired)
def _retired(state: State, recorded: Recorded, body: budgets.BudgetPolicyRetired) -> None:
    policy_id = recorded.stream.removeprefix("budget-")
    state.budgets.revisions[policy_id] = body.revision
    state.budgets.policies.pop(policy_id, None)
    _note_off(state.budgets, policy_id, is_off=False)
    _forget_counters(state, policy_id)


@CHAPTER.on(budgets.BudgetReserved)
def _reserved(state: State, recorded: Recorded, body: budgets.BudgetReserved) -> None:
    state.budgets.holds[recorded.stream[4:]] = Hold(
        attempt=body.attempt,
        reserved_us=recorded.recorded_at_us,
        expires_us=body.expires_us,
        shares=body.shares,
    )
    for share in body.shares:
        counter = _open(state, share.policy_id, share.subject, share.window_start_us, share.window_end_us)
        counter.reserved += share.amount
        counter.shares_count += 1


@CHAPTER.on(budgets.BudgetReleased)
def _released(state: State, recorded: Recorded, body: budgets.BudgetReleased) -> None:
    hold = state.budgets.holds.get(recorded.stream[4:])
    if hold is None or hold.attempt != body.attempt:
        return
    del state.budgets.holds[recorded.stream[4:]]
    for share in hold.shares:
        counter = _counter_of_share(state, share)
        if counter is not None:
            counter.reserved -= share.amount
            counter.shares_count -= 1


@CHAPTER.on(usage.UsageRecorded)
def _used(state: State, recorded: Recorded, body: usage.UsageRecorded) -> None:
    own = state.budgets
    if body.overshoot_tokens:
        own.overshoot_tokens += body.overshoot_tokens
    if not own.holds and not own.policies:
        return
    run_id = recorded.stream[4:]
    hold = own.holds.get(run_id)
    shares = hold.shares if hold is not None and hold.attempt == body.attempt else []
    for share in shares:
        counter = _counter_of_share(state, share)
        if counter is not None:
            _settle(counter, amount_of(share.meter, body), body.effective_at_us, body.cost_nanousd is None)
    run = state.runs.open.get(run_id)
    is_older = run is None or run.started_position <= own.counting_position
    without_holds = own.policies if is_older else own.off
    if without_holds:
        held = [share.policy_id for share in shares if _is_of_this_counting(own, share)]
        _count_late(state, body, without_holds, held)


def _count_late(state: State, body: usage.UsageRecorded, names: Iterable[str], held: list[str]) -> None:
    """Count a row for rules that its attempt holds nothing of: they were set after its start, or were off."""
    where = Where(body.provider_id, body.model_id)
    for policy_id in names:
        policy = state.budgets.policies[policy_id]
        subject = None if policy_id in held else subject_of(policy.record, body, where)
        if subject is not None:
            amount = amount_of(policy.record.meter, body)
            _add_late(state, policy, subject, amount, body.effective_at_us, body.cost_nanousd is None)


@CHAPTER.on(usage.UsageCorrected)
def _corrected(state: State, recorded: Recorded, body: usage.UsageCorrected) -> None:
    where = Where(body.provider_id, body.model_id)
    for policy in state.budgets.policies.values():
        subject = subject_of(policy.record, body, where)
        if subject is not None:
            amount = amount_of(policy.record.meter, body)
            _add_late(state, policy, subject, amount, body.effective_at_us, False)


def _add_late(
    state: State, policy: Policy, subject: str, amount: int, effective_at_us: int, is_unpriced: bool
) -> None:
    record = policy.record
    if record.interval_kind == "per_run" or effective_at_us < record.effective_from_us:
        return
    for counter in _counters_of(state, record.policy_id, subject):
        if counter.window_start_us <= effective_at_us < counter.window_end_us:
            _settle(counter, amount, effective_at_us, is_unpriced)
            return
    cells = policy.late.setdefault(subject, {})
    at_us = effective_at_us - effective_at_us % CELL_US
    cells[at_us] = cells.get(at_us, 0) + amount
    for old_us in [old_us for old_us in cells if old_us < at_us - _LATE_KEEP_US]:
        del cells[old_us]


def _counters_of(state: State, policy_id: str, subject: str) -> Iterator[Counter]:
    for counter in state.budgets.counters.values():
        if counter.policy_id == policy_id and counter.subject == subject:
            yield counter


def _settle(counter: Counter, amount: int, effective_at_us: int, is_unpriced: bool) -> None:
    counter.settled += amount
    counter.unpriced_runs += is_unpriced
    if counter.window_end_us >= ROLLING_END_US:
        at_us = effective_at_us - effective_at_us % CELL_US
        counter.cells[at_us] = counter.cells.get(at_us, 0) + amount
        for old_us in [old_us for old_us in counter.cells if old_us < at_us - _LATE_KEEP_US]:
            counter.settled -= counter.cells.pop(old_us)


def _counter_of_share(state: State, share: BudgetShare) -> Counter | None:
    if not _is_of_this_counting(state.budgets, share):
        return None
    return counter_of(state, share.policy_id, share.subject, share.window_start_us)


def _is_of_this_counting(own: BudgetsState, share: BudgetShare) -> bool:
    policy = own.policies.get(share.policy_id)
    return policy is None or share.revision >= policy.counted_from


def _open(state: State, policy_id: str, subject: str, start_us: int, end_us: int) -> Counter:
    """Return the counter of a window; opening it takes over what was counted without one."""
    counters = state.budgets.counters
    key = counter_key(policy_id, subject, start_us)
    counter = counters.get(key)
    if counter is not None:
        return counter
    _sweep(state)
    counter = counters[key] = Counter(
        policy_id=policy_id, subject=subject, window_start_us=start_us, window_end_us=end_us
    )
    policy = state.budgets.policies.get(policy_id)
    cells = policy.late.get(subject, {}) if policy is not None else {}
    for at_us in [at_us for at_us in cells if start_us <= at_us < end_us]:
        _settle(counter, cells.pop(at_us), at_us, False)
    return counter


def _sweep(state: State) -> None:
    """Let go of windows that are over: the oldest are looked at, and go to the end of the line if they are not."""
    counters = state.budgets.counters
    for _ in range(min(_SWEEP_COUNT, len(counters))):
        key = next(iter(counters))
        counter = counters.pop(key)
        if counter.shares_count > 0 or not _is_over(counter, state.recorded_at_us):
            counters[key] = counter


def _is_over(counter: Counter, now_us: int) -> bool:
    if counter.window_end_us == ROLLING_END_US:
        # What was told of a window that nothing was used in yet is not said again.
        return all(at_us + _LATE_KEEP_US < now_us for at_us in (counter.told_us, *counter.cells))
    return counter.window_end_us + _KEEP_US < now_us


@CHAPTER.on(runs.RunCompleted, runs.RunFailed, runs.RunCancelled, runs.RunRefused)
def _run_ended(state: State, recorded: Recorded, body: object) -> None:
    """What was counted for one run alone goes with it."""
    counters = state.budgets.counters
    if counters:
        run_id = recorded.stream[4:]
        for policy_id in (*state.budgets.policies, MAX_COST):
            counters.pop(counter_key(policy_id, run_id, 0), None)


#: What a rule says to a request that it stops.
_STOPPING = ("blocked", "unpriced", "approval_required")


@CHAPTER.on(RoutingDecided)
def _decided(state: State, recorded: Recorded, body: RoutingDecided) -> None:
    """Count whom a rule has stopped; a request without a plan went no further."""
    if body.plan:
        return
    for one in body.evaluations:
        policy = state.budgets.policies.get(one.policy_id)
        if policy is None or policy.record.interval_kind == "per_run" or one.status not in _STOPPING:
            continue
        start_us, end_us = one.window_start_us, one.window_end_us
        if policy.record.interval_kind == "rolling":
            start_us, end_us = 0, ROLLING_END_US
        _open(state, one.policy_id, one.subject, start_us, end_us).refused_count += 1


@CHAPTER.on(budgets.BudgetSoftLimitCrossed, budgets.BudgetHardLimitReached)
def _told(
    state: State,
    recorded: Recorded,
    body: budgets.BudgetSoftLimitCrossed | budgets.BudgetHardLimitReached,
) -> None:
    policy_id = recorded.stream.removeprefix("budget-")
    counter = _open(state, policy_id, body.subject, body.window_start_us, body.window_end_us)
    counter.told_us = recorded.recorded_at_us
    if isinstance(body, budgets.BudgetSoftLimitCrossed):
        counter.soft_told = body.revision
    else:
        counter.hard_told = body.revision
