"""Usage as people read it: figures by group, requests one by one, totals in a few lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import tzinfo
from typing import TYPE_CHECKING, Any

from palyra.cli.page import Column, Page, Piece, Styled, Text
from palyra.cli.render import clock, count, instant, ms_text, share, usd_about
from palyra.engine.reports.tables import Column as Field
from palyra.units import BP_PER_UNIT

if TYPE_CHECKING:
    from palyra.engine.console.usage import PolicyStatus

#: Buckets whose beginning is told as a day.
_DAYS = ("day", "week", "month")
_PLAIN_NAMES = {
    "model_served": "MODEL",
    "subject_id": "ABOUT",
    "counted_subject": "FOR",
    "model_requested": "ASKED FOR",
    "raised_us": "RAISED",
    "ended_us": "ENDED",
    "recorded_us": "RECORDED",
    "effective_at_us": "AT",
    "started_us": "STARTED",
    "completed_us": "ENDED",
    "window_start_us": "FROM",
    "window_end_us": "TO",
}
#: Words that say nothing when they are cut.
_WHOLE = ("run_id", "state", "status", "kind", "severity", "outcome", "code")
#: What a narrow terminal goes without, the last ones first.
_SPARED = (
    "code", "agent_id", "failure_kind", "input_tokens", "output_tokens", "source", "attempt", "model_requested",
    "provider_id", "window_end_us", "subject_kind", "principal_id", "latency_ms", "cached_input_tokens", "endpoint",
)  # fmt: skip
#: Rows of facts that a table has at most, the last ones: nobody reads more, and they are held until it is printed.
_ROWS_COUNT = 1_000
#: Of wide datasets, what a person looks at; the other forms have every column.
_SHOWN = {
    "runs": (
        "started_us run_id principal_id agent_id model_served provider_id state code latency_ms input_tokens"
        " output_tokens cost_nanousd"
    ),
    "attempts": (
        "started_us run_id attempt provider_id model_id outcome failure_kind source input_tokens output_tokens"
        " cost_nanousd"
    ),
    "usage": (
        "effective_at_us kind run_id attempt provider_id model_id source input_tokens cached_input_tokens"
        " output_tokens cost_nanousd"
    ),
    "refusals": "started_us run_id code principal_id agent_id endpoint model_requested",
    "alerts": "raised_us severity kind subject_kind subject_id counted_subject state ended_us",
    "budgets": "policy_id subject window_end_us consumed reserved hard_limit used_bp status",
}


def money(nanousd: int | None, *, is_complete: bool = True) -> Piece:
    """Return an amount; one that is not all is marked as the least that it can be."""
    if nanousd is None or (nanousd == 0 and not is_complete):
        return Styled("unknown", "warn")
    return usd_about(nanousd) if is_complete else Styled(f"≥ {usd_about(nanousd)}", "warn")


def day(us: int, zone: tzinfo | None) -> str:
    """Return a day of a zone."""
    return instant(us, zone)[:10]


def bucket(name: str, us: int, zone: tzinfo | None) -> str:
    """Return the beginning of a bucket of time."""
    return day(us, zone) if name in _DAYS else f"{day(us, zone)} {clock(us, zone)[:5]}"


def show_groups(
    page: Page, keys: Sequence[Field], rows: Iterable[Mapping[str, Any]], zone: tzinfo | None, *, total: str = ""
) -> None:
    """Print figures by group with their sum, which `total` names; `keys` are the columns that name a group."""
    found = list(rows)
    cost = sum(row["cost_nanousd"] for row in found)
    columns = [Column(_title(key), is_cut=key.kind == "text") for key in keys]
    columns += [
        Column("RUNS", align="right"),
        Column("FAILED", align="right", spare=2),
        Column("REFUSED", align="right", spare=3),
        Column("INPUT", align="right"),
        Column("CACHED", align="right", spare=4),
        Column("OUTPUT", align="right"),
        Column("P50", align="right", spare=5),
        Column("COST", align="right"),
        Column("SHARE", align="right", spare=1),
        Column("UNPRICED", align="right"),
    ]
    lines: list[list[Text]] = [
        [*(_key(key, row[key.name], zone) for key in keys), *_figures(row, cost)] for row in found
    ]
    if len(found) > 1:
        whole = _summed(found)
        first = [Styled(total or "total", "bold"), *("" for _ in keys[1:])]
        lines.append([*first, *_figures(whole, cost)])
    page.table(columns, lines)


def _title(key: Field) -> str:
    return key.name.removesuffix("_id").removesuffix("_start_us").replace("_", " ").upper()


def _key(key: Field, value: Any, zone: tzinfo | None) -> Text:
    if key.kind == "instant":
        return "(others)" if value is None else bucket(key.name.removesuffix("_start_us"), value, zone)
    return str(value) if value else Styled("(none)", "dim")


def _figures(row: Mapping[str, Any], cost: int) -> list[Text]:
    p50 = row.get("latency_p50_ms")
    return [
        count(row["runs"]),
        _seldom(row["runs_failed"] + row["runs_cancelled"], "bad"),
        _seldom(row["runs_refused"], "warn"),
        count(row["input_tokens"]),
        _seldom(row["cached_input_tokens"], ""),
        count(row["output_tokens"]),
        "" if p50 is None else ms_text(p50),
        money(row["cost_nanousd"], is_complete=row["cost_complete"]),
        share(row["cost_nanousd"], cost),
        _seldom(row["unpriced_attempts"], "warn"),
    ]


def _seldom(number: int, style: str) -> Text:
    return Styled(count(number), style) if number else ""


def _summed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = "runs runs_failed runs_cancelled runs_refused input_tokens cached_input_tokens output_tokens"
    whole: dict[str, Any] = {
        name: sum(row[name] for row in rows) for name in f"{names} cost_nanousd unpriced_attempts".split()
    }
    whole["cost_complete"] = all(row["cost_complete"] for row in rows)
    return whole


def show_totals(page: Page, row: Mapping[str, Any], since: str = "") -> None:
    """Print the totals of a window."""
    ends = [
        (row["runs_ok"], "complete"),
        (row["runs_failed"], "failed"),
        (row["runs_cancelled"], "cancelled"),
        (row["runs_refused"], "refused"),
        (row["runs_open"], "open"),
    ]
    told = " · ".join(f"{count(number)} {word}" for number, word in ends if number)
    cached = row["cached_input_tokens"]
    of_input = f" ({share(cached, row['input_tokens'])} cached)" if cached else ""
    reasoning = f" ({count(row['reasoning_tokens'])} reasoning)" if row["reasoning_tokens"] else ""
    fields: list[tuple[str, Text]] = [
        ("requests", f"{count(row['runs'])}" + (f" · {told}" if told else "")),
        ("attempts", f"{count(row['attempts'])} · {count(row['sessions'])} sessions"),
        (
            "tokens",
            f"{count(row['input_tokens'])} in{of_input} · {count(row['output_tokens'])} out{reasoning}",
        ),
        ("cost", money(row["cost_nanousd"], is_complete=row["cost_complete"])),
    ]
    if row["unpriced_attempts"]:
        text = f"{count(row['unpriced_attempts'])} attempts, {count(row['unpriced_tokens'])} tokens: cost unknown"
        fields.append(("unpriced", Styled(text, "warn")))
    if row["absorbed_nanousd"]:
        fields.append(("absorbed", f"{usd_about(row['absorbed_nanousd'])} for attempts that came to nothing"))
    if row["estimated_share_bp"]:
        fields.append(("estimated", f"{share(row['estimated_share_bp'], BP_PER_UNIT)} of all tokens"))
    if row["cache_hits"]:
        saved = f"{count(row['cache_hits'])} hits · {count(row['cache_saved_tokens'])} tokens saved"
        if row["cache_saved_nanousd"]:
            saved += f" ({usd_about(row['cache_saved_nanousd'])})"
        fields.append(("cache", saved))
    if row["latency_max_ms"] is not None:
        p50, p95, most = (ms_text(row[f"latency_{name}_ms"]) for name in ("p50", "p95", "max"))
        fields.append(("latency", f"p50 {p50} · p95 {p95} · at most {most}"))
    page.fields([*([("window", since)] if since else []), *fields])


def show_rows(
    page: Page, dataset: str, fields: Sequence[Field], rows: Iterable[Sequence[Any]], zone: tzinfo | None
) -> None:
    """Print a dataset whose rows are facts, the columns that a person looks at."""
    names = [field.name for field in fields]
    shown = _SHOWN[dataset].split()
    kinds = {field.name: field.kind for field in fields}
    columns = [
        Column(
            _PLAIN_NAMES.get(name) or _plain(name),
            align="right" if kinds[name] == "int" else "left",
            is_cut=kinds[name] == "text" and name not in _WHOLE,
            spare=_SPARED.index(name) + 1 if name in _SPARED else 0,
        )
        for name in shown
    ]
    found = deque(rows, maxlen=_ROWS_COUNT + 1)
    has_more = len(found) > _ROWS_COUNT
    if has_more:
        found.popleft()
    lines: list[list[Text]] = []
    for row in found:
        cells = dict(zip(names, row, strict=True))
        lines.append([_cell(name, kinds[name], cells, zone) for name in shown])
    if lines:
        page.table(columns, lines)
        if has_more:
            page.line(Styled(f"the last {count(_ROWS_COUNT)} rows; --format csv or json has them all", "dim"))
    else:
        page.line(Styled("There is nothing in this window.", "dim"))


def _plain(name: str) -> str:
    for unit in ("_nanousd", "_tokens", "_id", "_ms", "_bp"):
        name = name.removesuffix(unit)
    return name.replace("_", " ").upper()


def _cell(name: str, kind: str, cells: Mapping[str, Any], zone: tzinfo | None) -> Text:
    value = cells[name]
    if name == "cost_nanousd":
        return money(value) if value is not None or cells.get("cost_state") == "unknown" else ""
    if value is None:
        return ""
    if kind == "instant":
        # The window stands above it, with its years and its zone.
        return instant(value, zone)[5:19]
    if name in ("hard_limit", "consumed", "reserved") and cells.get("metric_kind") == "usd_cost":
        return money(value)
    if name.endswith("_ms"):
        return ms_text(value)
    if name.endswith("_bp"):
        return share(value, BP_PER_UNIT)
    if name in ("kind", "status"):
        return str(value).replace("_", " ")
    return count(value) if kind == "int" else str(value)


def show_budgets(page: Page, found: Iterable[PolicyStatus]) -> None:
    """Print how far rules are in the windows that are open."""
    styles = {"hard_limit": "bad", "soft_limit": "warn", "ok": "good"}
    rows = []
    for one in found:
        is_money = one.metric_kind == "usd_cost"
        limit = one.hard_limit if one.hard_limit is not None else one.soft_limit
        used, held = (money(amount) if is_money else count(amount) for amount in (one.consumed, one.reserved))
        most = "" if limit is None else money(limit) if is_money else count(limit)
        part = "" if one.used_bp is None else share(one.used_bp, BP_PER_UNIT)
        state = Styled(one.status.replace("_", " "), styles.get(one.status, ""))
        rows.append(
            (one.policy_id, one.subject, one.interval_kind, used, held if one.reserved else "", most, part, state)
        )
    columns = [
        Column("POLICY", is_cut=True),
        Column("SUBJECT", is_cut=True),
        Column("EVERY"),
        Column("USED", align="right"),
        Column("HELD", align="right"),
        Column("LIMIT", align="right"),
        Column("SHARE", align="right"),
        Column("STATE"),
    ]
    page.table(columns, rows)
