"""`usage`: what was used and what it cost, over a window, by whatever it is asked by.

Answers are made of rows in one pass, as the offline report makes them, so their figures are the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Annotated

import msgspec

from palyra.decisions.windows import Window
from palyra.engine.budget_questions import BudgetStatus, budgets_answer
from palyra.engine.console.frame import PAGE_MAX_COUNT, Items, Params, Sight
from palyra.engine.console.pages import page_of, read_cursor, write_cursor
from palyra.engine.questions import Answer
from palyra.engine.reports.calendar import Bucket, Calendar
from palyra.engine.reports.figures import Sums, Totals, merged
from palyra.engine.reports.fold import Grouping, Key, fold
from palyra.engine.reports.runs import UsageEnrichedRun, enriched_runs
from palyra.engine.reports.scope import (
    BUCKETS_MAX_COUNT,
    Filters,
    Scope,
    groups_of,
    scope_of,
)
from palyra.engine.reports.tables import ranked, series_of
from palyra.errors import Refusal, Refused

_EMPTY = Sums()


class WindowParams(Params, frozen=True, kw_only=True):
    """Which requests: a window (half open, by their admission) and exact values that must hold."""

    #: RFC 3339 or a local date; "" for the last 30 days.
    from_: str = msgspec.field(default="", name="from")
    to: str = ""
    #: IANA name; "" for the asker's.
    timezone: str = ""
    principal_id: str = ""
    key_id: str = ""
    session_id: str = ""
    agent_id: str = ""
    provider_id: str = ""
    model_id: str = ""
    endpoint: str = ""
    origin: str = ""


class SummaryParams(WindowParams, frozen=True, kw_only=True):
    """Which requests, and how finely time is cut."""

    #: auto, 15m, hour, day, week or month.
    bucket: str = "auto"


class TimelineParams(SummaryParams, frozen=True, kw_only=True):
    """Which requests, how finely time is cut, and what makes a series."""

    group_by: list[str] = []
    #: Series that are told one by one.
    top: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20


class PageParams(WindowParams, frozen=True, kw_only=True):
    """Which requests, and which page of the list."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=PAGE_MAX_COUNT)] = 100
    cursor: str = ""


class GroupsParams(PageParams, frozen=True, kw_only=True):
    """Which requests; a page of groups."""


class SessionParams(WindowParams, frozen=True, kw_only=True):
    """Which session."""

    id: str
    run_limit: Annotated[int, msgspec.Meta(ge=0, le=200)] = 12


class EnrichedParams(PageParams, frozen=True, kw_only=True):
    """Which requests; a page of them."""


class WindowAnswer(Answer, frozen=True, kw_only=True):
    """What was counted: half open, and the zone of its calendar."""

    from_us: int
    to_us: int
    timezone: str


class TotalsPoint(Totals, frozen=True, kw_only=True):
    """Totals of one bucket."""

    start_us: int
    end_us: int


class PolicyStatus(BudgetStatus, frozen=True, kw_only=True):
    """How far a subject is in the window of a rule that is open now."""

    policy_id: str
    scope_kind: str
    metric_kind: str
    interval_kind: str
    soft_limit: int | None
    hard_limit: int | None


class SummaryAnswer(Answer, frozen=True, kw_only=True):
    """A window, the one before it, and its course."""

    window: WindowAnswer
    bucket: Bucket
    totals: Totals
    previous: Totals
    timeline: list[TotalsPoint]
    budgets: list[PolicyStatus]


class SeriesPoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a series used in one bucket."""

    start_us: int
    runs: int
    tokens: int
    cost_nanousd: int
    cost_complete: bool


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One course: of all, or of one value of what it is grouped by."""

    key: dict[str, str]
    points: list[SeriesPoint]


class TimelineAnswer(Answer, frozen=True, kw_only=True):
    """Courses, those that cost most first."""

    window: WindowAnswer
    bucket: Bucket
    series: list[Series]


class GroupTotals(Totals, frozen=True, kw_only=True):
    """Totals of one session, agent, principal, key, model or provider."""

    #: "" for requests that have none.
    id: str
    first_us: int
    last_us: int


class SessionAnswer(Answer, frozen=True, kw_only=True):
    """One session: all of it, and its newest requests."""

    session_id: str
    window: WindowAnswer
    totals: Totals
    timeline: list[TotalsPoint]
    runs: list[UsageEnrichedRun]


def scope_in(sight: Sight, params: WindowParams, **fixed: str) -> Scope:
    """Return what is asked for; `fixed` values come from elsewhere than the query. Raises `Refused`."""
    given = {name: getattr(params, name) for name in Filters._fields} | fixed
    return scope_of(
        from_=params.from_,
        to=params.to,
        timezone=params.timezone,
        zone=sight.zone,
        now_us=sight.now_us,
        filters=Filters(**given),
    )


def summary(sight: Sight, params: SummaryParams) -> SummaryAnswer:
    """Return a window with its course, and the window before it."""
    scope = scope_in(sight, params)
    calendar = scope.calendar(params.bucket)
    before = scope._replace(from_us=2 * scope.from_us - scope.to_us, to_us=scope.from_us)
    now, then = Grouping(scope, [calendar.bucket], calendar=calendar), Grouping(before)
    fold(sight.rows, now, then, since_us=before.from_us, progress=sight.reading)
    return SummaryAnswer(
        window=window_answer(scope),
        bucket=calendar.bucket,
        totals=merged(now.groups.values()).totals,
        previous=merged(then.groups.values()).totals,
        timeline=_course(scope, calendar, now.groups),
        budgets=budgets_in(sight, params),
    )


def timeline(sight: Sight, params: TimelineParams) -> TimelineAnswer:
    """Return courses by what they are grouped by."""
    scope, names = scope_in(sight, params), groups_of(params.group_by)
    calendar = scope.calendar(params.bucket)
    if any(name in ("hour", "day", "week", "month") for name in names):
        message = "A timeline is cut by 'bucket' already; group it by something else than time."
        raise Refused(Refusal(code="invalid_query", message=message, param="group_by"))
    grouping = Grouping(scope, [calendar.bucket, *names], calendar=calendar)
    fold(sight.rows, grouping, since_us=scope.from_us, progress=sight.reading)
    windows = _windows(scope, calendar)
    series = series_of(grouping.groups, params.top) or ([] if names else [((), {})])
    return TimelineAnswer(
        window=window_answer(scope),
        bucket=calendar.bucket,
        series=[
            Series(
                key=dict(zip(names, key, strict=True)),
                points=[_point(one.start_us, points.get(one.start_us, _EMPTY)) for one in windows],
            )
            for key, points in series
        ],
    )


def _point(start_us: int, sums: Sums) -> SeriesPoint:
    return SeriesPoint(
        start_us=start_us,
        runs=sums.runs,
        tokens=sums.total_tokens,
        cost_nanousd=sums.cost_nanousd,
        cost_complete=sums.unpriced_attempts == 0,
    )


def groups_by(name: str) -> Callable[[Sight, GroupsParams], Items[GroupTotals]]:
    """Return the answer about one dimension: its values, those that cost most first."""

    def answer(sight: Sight, params: GroupsParams) -> Items[GroupTotals]:
        scope = scope_in(sight, params)
        grouping = Grouping(scope, [name])
        fold(sight.rows, grouping, since_us=scope.from_us, progress=sight.reading)
        groups = [_group(key[0], sums) for key, sums in ranked(grouping.groups)]
        return page_of(groups, params, lambda one: (-one.cost_nanousd, -one.total_tokens, one.id))

    return answer


def _group(name: str, sums: Sums) -> GroupTotals:
    return GroupTotals(
        **msgspec.structs.asdict(sums.totals), id=name, first_us=sums.first_us or 0, last_us=sums.last_us or 0
    )


def session(sight: Sight, params: SessionParams) -> SessionAnswer:
    """Return one session; one that nobody has used has no figures."""
    scope = scope_in(sight, params, session_id=params.id)
    calendar = scope.calendar("auto")
    grouping = Grouping(scope, [calendar.bucket], calendar=calendar)
    fold(sight.rows, grouping, since_us=scope.from_us, progress=sight.reading)
    newest = _Newest(params.run_limit)
    newest.take(enriched_runs(sight.rows, scope, sight.reading))
    return SessionAnswer(
        session_id=params.id,
        window=window_answer(scope),
        totals=merged(grouping.groups.values()).totals,
        timeline=_course(scope, calendar, grouping.groups),
        runs=newest.runs,
    )


def runs(sight: Sight, params: EnrichedParams) -> Items[UsageEnrichedRun]:
    """Return requests with all that they used, those that were let in last first."""
    scope = scope_in(sight, params)
    before = read_cursor(params.cursor, int) if params.cursor else None
    newest = _Newest(params.limit + 1, before)
    newest.take(enriched_runs(sight.rows, scope, sight.reading))
    page = newest.runs[: params.limit]
    has_more = len(newest.runs) > params.limit
    return Items(items=page, next_cursor=write_cursor(page[-1].position) if has_more else None)


class _Newest:
    """Keeps so many requests with the highest positions, of those before a position."""

    def __init__(self, count: int, before: int | None = None) -> None:
        self._count = count
        self._before = before
        self._kept: deque[UsageEnrichedRun] = deque()

    def take(self, found: Iterable[UsageEnrichedRun]) -> None:
        for run in found:
            if self._before is None or run.position < self._before:
                self._kept.append(run)
            if len(self._kept) > 2 * self._count + 500:
                self._cut()
        self._cut()

    def _cut(self) -> None:
        self._kept = deque(sorted(self._kept, key=lambda run: -run.position)[: self._count])

    @property
    def runs(self) -> list[UsageEnrichedRun]:
        return list(self._kept)


def window_answer(scope: Scope) -> WindowAnswer:
    """Return a window as it is told."""
    return WindowAnswer(from_us=scope.from_us, to_us=scope.to_us, timezone=str(scope.zone))


def _windows(scope: Scope, calendar: Calendar) -> list[Window]:
    return calendar.between(scope.from_us, scope.to_us, BUCKETS_MAX_COUNT)


def _course(scope: Scope, calendar: Calendar, groups: dict[Key, Sums]) -> list[TotalsPoint]:
    return [
        TotalsPoint(
            **msgspec.structs.asdict(groups.get((one.start_us,), _EMPTY).totals),
            start_us=one.start_us,
            end_us=one.end_us,
        )
        for one in _windows(scope, calendar)
    ]


def budgets_in(sight: Sight, params: WindowParams) -> list[PolicyStatus]:
    """Return where rules stand now; of one principal, only its own."""
    found = budgets_answer(sight.state, sight.now_us)
    return [
        PolicyStatus(
            **msgspec.structs.asdict(status),
            policy_id=one.policy.policy_id,
            scope_kind=one.policy.scope_kind,
            metric_kind=one.policy.metric_kind,
            interval_kind=one.policy.interval_kind,
            soft_limit=one.policy.soft_limit,
            hard_limit=one.policy.hard_limit,
        )
        for one in found.items
        for status in one.status
        if not params.principal_id or status.subject == params.principal_id
    ]
