"""Datasets: flat tables with typed columns, row by row, for every form in which a report is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from palyra.engine.reports.alerts import alert_cells, alerts_in
from palyra.engine.reports.calendar import BUCKETS
from palyra.engine.reports.figures import Sums, flat_totals, merged
from palyra.engine.reports.fold import Grouping, Key, Progress, fold, recorded_since
from palyra.engine.reports.runs import UsageEnrichedRun, enriched_runs
from palyra.engine.reports.scope import BUCKETS_MAX_COUNT, Filters, Scope, where_of
from palyra.errors import Refusal, Refused
from palyra.events.usage import UsageCorrected, UsageRecorded
from palyra.journal.port import Reader
from palyra.projections.state import State
from palyra.usage import TokenUsage

Dataset = Literal["summary", "timeline", "runs", "attempts", "usage", "refusals", "budgets", "alerts"]
DATASETS: tuple[Dataset, ...] = get_args(Dataset)

#: Those that figures are grouped in.
GROUPED: tuple[Dataset, ...] = ("summary", "timeline")

#: What stands for all groups behind the first ones.
OTHERS = "(others)"


class Column(NamedTuple):
    """A column: instants are microseconds since 1970, UTC."""

    name: str
    kind: Literal["int", "text", "bool", "instant"]


class Table(NamedTuple):
    """A dataset; its rows are made as they are read."""

    columns: list[Column]
    rows: Iterable[tuple[Any, ...]]


class Asked(NamedTuple):
    """Which dataset, of what."""

    dataset: Dataset
    scope: Scope
    group_by: list[str]
    bucket: str = "auto"
    #: Groups that are told one by one; the rest of them is told together.
    top: int | None = None


def table_of(
    rows: Reader, asked: Asked, state: Callable[[], State], now_us: int, progress: Progress | None = None
) -> Table:
    """Return a dataset of a journal. `state` folds it, for those that no row tells by itself."""
    scope = asked.scope
    match asked.dataset:
        case "summary":
            return _summary(rows, asked, progress)
        case "timeline":
            return _timeline(rows, asked, progress)
        case "runs":
            return Table(_RUN_COLUMNS, map(_run_row, enriched_runs(rows, scope, progress)))
        case "attempts":
            filters = scope.filters._replace(provider_id="", model_id="")
            found = enriched_runs(rows, scope._replace(filters=filters), progress)
            return Table(_ATTEMPT_COLUMNS, _attempt_rows(found, scope.filters))
        case "usage":
            return Table(_USAGE_COLUMNS, _usage_rows(rows, scope, progress))
        case "refusals":
            refused = (run for run in enriched_runs(rows, scope, progress) if run.state == "refused")
            return Table(_REFUSAL_COLUMNS, map(_refusal_row, refused))
        case "budgets":
            return Table(_BUDGET_COLUMNS, _budget_rows(state(), scope, now_us))
        case "alerts":
            cells = alert_cells(alerts_in(rows, scope, now_us, progress))
            return Table(_ALERT_COLUMNS, (tuple(one[column.name] for column in _ALERT_COLUMNS) for one in cells))


def ranked(groups: dict[Key, Sums]) -> list[tuple[Key, Sums]]:
    """Return groups, those that cost most first, then those with most tokens, then by name."""
    return sorted(
        groups.items(), key=lambda one: (-one[1].cost_nanousd, -one[1].total_tokens, tuple(map(str, one[0])))
    )


def _summary(rows: Reader, asked: Asked, progress: Progress | None) -> Table:
    grouping = Grouping(asked.scope, asked.group_by)
    fold(rows, grouping, since_us=asked.scope.from_us, progress=progress)
    if not asked.group_by:
        return _totals_table([], [((), merged(grouping.groups.values()))])
    time = next((place for place, name in enumerate(asked.group_by) if name in BUCKETS), None)
    groups = ranked(grouping.groups)
    if asked.top is not None and len(groups) > asked.top:
        rest = merged(sums for _, sums in groups[asked.top :])
        key = tuple(None if place == time else OTHERS for place in range(len(asked.group_by)))
        groups = [*groups[: asked.top], (key, rest)]
    elif time is not None:
        groups.sort(key=lambda one: one[0][time])
    return _totals_table(asked.group_by, groups)


def _timeline(rows: Reader, asked: Asked, progress: Progress | None) -> Table:
    if any(name in BUCKETS for name in asked.group_by):
        message = "A timeline has its bucket already; group it by something else than time."
        raise Refused(Refusal(code="invalid_query", message=message, param="group_by"))
    calendar = asked.scope.calendar(asked.bucket)
    names = [calendar.bucket, *asked.group_by]
    grouping = Grouping(asked.scope, names, calendar=calendar)
    fold(rows, grouping, since_us=asked.scope.from_us, progress=progress)
    starts = [one.start_us for one in calendar.between(asked.scope.from_us, asked.scope.to_us, BUCKETS_MAX_COUNT)]
    series = series_of(grouping.groups, asked.top)
    if not asked.group_by:
        series = series or [((), {})]
    points = ((start_us, *key) for key, _ in series for start_us in starts)
    known = dict(series)
    return _totals_table(names, ((point, known[point[1:]].get(point[0], _NOTHING)) for point in points))


_NOTHING = Sums()


def series_of(groups: dict[Key, Sums], top: int | None) -> list[tuple[Key, dict[int, Sums]]]:
    """Return points by series, of groups whose keys begin with a bucket; those that cost most first."""
    series: dict[Key, dict[int, Sums]] = {}
    for (start_us, *rest), sums in groups.items():
        series.setdefault(tuple(rest), {})[start_us] = sums
    order = [key for key, _ in ranked({key: merged(points.values()) for key, points in series.items()})]
    if top is None or len(order) <= top:
        return [(key, series[key]) for key in order]
    others: dict[int, Sums] = {}
    for key in order[top:]:
        for start_us, sums in series[key].items():
            others.setdefault(start_us, Sums()).merge(sums)
    return [*((key, series[key]) for key in order[:top]), (tuple(OTHERS for _ in order[0]), others)]


def _totals_table(names: Sequence[str], groups: Iterable[tuple[Key, Sums]]) -> Table:
    columns = [
        Column(f"{name}_start_us", "instant") if name in BUCKETS or name == "15m" else Column(_id_of(name), "text")
        for name in names
    ]
    return Table(
        [*columns, *_TOTALS_COLUMNS],
        ((*key, *flat_totals(sums.totals).values()) for key, sums in groups),
    )


def _id_of(name: str) -> str:
    return name if name in ("endpoint", "origin", "task_class") else f"{name}_id"


_TOTALS_COLUMNS = [
    Column(name, "bool" if isinstance(value, bool) else "int") for name, value in flat_totals(Sums().totals).items()
]
_TOKEN_COLUMNS = [Column(name, "int") for name in TokenUsage.__struct_fields__]


def _texts(names: str) -> list[Column]:
    return [Column(name, "text") for name in names.split()]


_RUN_COLUMNS = [
    Column("position", "int"),
    Column("started_us", "instant"),
    Column("completed_us", "instant"),
    *_texts("run_id principal_id key_id session_id agent_id endpoint origin task_class state code"),
    *_texts("model_requested model_recommended model_served provider_id routing_mode routing_action"),
    Column("complexity_bp", "int"),
    *_texts("budget_outcome"),
    Column("latency_ms", "int"),
    Column("ttft_ms", "int"),
    Column("attempts", "int"),
    *_TOKEN_COLUMNS,
    Column("cost_nanousd", "int"),
    *_texts("cost_state"),
    Column("corrected", "bool"),
    Column("from_cache", "bool"),
]


def _run_row(run: UsageEnrichedRun) -> tuple[Any, ...]:
    cells = {**msgspec.structs.asdict(run), **msgspec.structs.asdict(run.usage), "attempts": len(run.attempts)}
    return tuple(cells[column.name] for column in _RUN_COLUMNS)


_ATTEMPT_COLUMNS = [
    Column("started_us", "instant"),
    *_texts("run_id"),
    Column("attempt", "int"),
    *_texts("provider_id model_id outcome failure_kind upstream_request_id billed source"),
    *_TOKEN_COLUMNS,
    *_texts("price_id cost_state"),
    Column("cost_nanousd", "int"),
    Column("known_nanousd", "int"),
    Column("corrected", "bool"),
    *_texts("principal_id key_id session_id agent_id endpoint origin"),
]


def _attempt_rows(found: Iterable[UsageEnrichedRun], filters: Filters) -> Iterator[tuple[Any, ...]]:
    """Yield calls; a provider or model that is asked for is the call's own, not where its request ended."""
    for run in found:
        for one in run.attempts:
            if filters.provider_id not in ("", one.provider_id) or filters.model_id not in ("", one.model_id):
                continue
            tokens = dict.fromkeys(TokenUsage.__struct_fields__)
            if one.usage is not None:
                tokens = msgspec.structs.asdict(one.usage)
            cells = {**msgspec.structs.asdict(run), **msgspec.structs.asdict(one), **tokens}
            yield tuple(cells[column.name] for column in _ATTEMPT_COLUMNS)


_USAGE_COLUMNS = [
    Column("position", "int"),
    Column("recorded_us", "instant"),
    Column("effective_at_us", "instant"),
    #: recorded, or how a correction came about.
    *_texts("kind run_id"),
    Column("attempt", "int"),
    Column("corrects_position", "int"),
    *_texts("provider_id model_id principal_id key_id session_id agent_id endpoint origin"),
    *_TOKEN_COLUMNS,
    *_texts("source billed price_id variant cost_state"),
    #: Of a correction: what sums change by.
    Column("cost_nanousd", "int"),
    Column("known_nanousd", "int"),
    Column("provider_cost_nanousd", "int"),
    *_texts("anomalies"),
]


def _usage_rows(rows: Reader, scope: Scope, progress: Progress | None) -> Iterator[tuple[Any, ...]]:
    wanted = scope.filters.wanted()
    for recorded in recorded_since(rows, scope.from_us, ("usage.recorded", "usage.corrected"), progress):
        body = recorded.body
        if not isinstance(body, (UsageRecorded, UsageCorrected)):
            continue
        where = where_of(body, body.provider_id, body.model_id)
        if not scope.from_us <= body.effective_at_us < scope.to_us:
            continue
        if any(where[place] != value for place, value in wanted):
            continue
        cells: dict[str, Any] = {
            **msgspec.structs.asdict(body),
            "position": recorded.position,
            "recorded_us": recorded.recorded_at_us,
        }
        if isinstance(body, UsageRecorded):
            cells |= {"kind": "recorded", "run_id": recorded.stream[4:], **msgspec.structs.asdict(body.usage)}
            cells["anomalies"] = " ".join(body.anomalies)
        else:
            cells |= {"kind": body.reason, **msgspec.structs.asdict(body.deltas)}
            cells["cost_nanousd"] = body.change_nanousd
        yield tuple(cells.get(column.name) for column in _USAGE_COLUMNS)


_REFUSAL_COLUMNS = [
    Column("position", "int"),
    Column("started_us", "instant"),
    *_texts("run_id code principal_id key_id session_id agent_id endpoint model_requested"),
]


def _refusal_row(run: UsageEnrichedRun) -> tuple[Any, ...]:
    return tuple(getattr(run, column.name) for column in _REFUSAL_COLUMNS)


_BUDGET_COLUMNS = [
    *_texts("policy_id scope_kind metric_kind interval_kind subject"),
    Column("window_start_us", "instant"),
    Column("window_end_us", "instant"),
    *(Column(name, "int") for name in ("soft_limit", "hard_limit", "consumed", "reserved", "headroom", "used_bp")),
    Column("unpriced_runs", "int"),
    Column("holds_count", "int"),
    *_texts("status"),
]


def _budget_rows(state: State, scope: Scope, now_us: int) -> Iterator[tuple[Any, ...]]:
    """Yield rules with whom they count, as they stand now; a filter must name whom one counts."""
    from palyra.engine.budget_questions import budgets_answer

    wanted = [value for _, value in scope.filters.wanted()]
    for one in budgets_answer(state, now_us).items:
        for status in one.status:
            if any(value != status.subject for value in wanted):
                continue
            cells = {**msgspec.structs.asdict(one.policy), **msgspec.structs.asdict(status)}
            yield tuple(cells[column.name] for column in _BUDGET_COLUMNS)


_ALERT_COLUMNS = [
    *_texts("alert_id"),
    Column("raised_us", "instant"),
    #: Of a rule: whom it counts.
    *_texts("kind severity state subject_kind subject_id counted_subject"),
    Column("recurrence", "int"),
    Column("dry_run", "bool"),
    Column("acknowledged_us", "instant"),
    *_texts("acknowledged_by"),
    Column("valid_until_us", "instant"),
    Column("ended_us", "instant"),
    *_texts("recommended_action facts because_positions"),
]
