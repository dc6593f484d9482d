"""A report as one page: drawn with Plotly from its wheel, which is inlined, so that it asks nobody for anything.

Every text is escaped, and the page forbids itself to load: what somebody called an agent stays the agent's name.
Under each chart stand its figures as a table.
"""

from __future__ import annotations

import html
import importlib.resources
import importlib.util
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from palyra.engine.budget_questions import BudgetAnswer, budgets_answer
from palyra.engine.codec import to_known
from palyra.engine.reports.calendar import Calendar
from palyra.engine.reports.figures import Sums, Totals, merged
from palyra.engine.reports.fold import Grouping, Key, Progress, fold
from palyra.engine.reports.scope import BUCKETS_MAX_COUNT, Scope, where_of
from palyra.engine.reports.tables import OTHERS, Asked, ranked, series_of
from palyra.engine.reports.writing import Head
from palyra.errors import PalyraError
from palyra.events.base import Recorded
from palyra.events.routing import Exclusion, RoutingDecided
from palyra.events.runs import RunRefused
from palyra.journal.port import Reader
from palyra.projections.state import State
from palyra.units import BP_PER_UNIT, NANOUSD_PER_USD

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Limits by how a window stands.
_PASSED = {"soft_limit": "soft limit passed", "hard_limit": "stopped"}
#: Bars and lines that are told one by one.
_TOP = 7
_LABELS = {"15m": "%d %b %H:%M", "hour": "%d %b %H:%M", "day": "%d %b", "week": "%d %b", "month": "%b %Y"}
#: Classes that add up to all tokens.
_TOKENS: tuple[tuple[str, Callable[[Sums], int]], ...] = (
    ("input", lambda one: one.input_tokens - one.cached_input_tokens - _written(one)),
    ("cached input", lambda one: one.cached_input_tokens),
    ("written to cache", lambda one: _written(one)),
    ("output", lambda one: one.output_tokens - one.reasoning_tokens),
    ("reasoning", lambda one: one.reasoning_tokens),
)


def _written(one: Sums) -> int:
    return one.cache_write_5m_tokens + one.cache_write_1h_tokens


class Refusals:
    """Counts refusals by code, in the pass in which everything else is counted; then by the rule that said no."""

    reads = ("run.refused",)

    def __init__(self, scope: Scope) -> None:
        #: By code and rule, "" for those that no rule made.
        self.counts: dict[tuple[str, str], int] = {}
        self._scope = scope
        #: By run: the code, of those that a rule may have refused.
        self._by_rules: dict[str, str] = {}

    def add(self, recorded: Recorded) -> None:
        body = recorded.body
        if isinstance(body, RunRefused) and self._scope.from_us <= recorded.recorded_at_us < self._scope.to_us:
            where = where_of(body, "", "")
            if all(where[place] == value for place, value in self._scope.filters.wanted()):
                if body.code.startswith("budget_"):
                    self._by_rules[recorded.stream] = body.code
                else:
                    self._count(body.code, "")

    def close(self) -> None:
        """A refusal is never open."""

    def name_rules(self, rows: Reader) -> None:
        """Look up the rules: they stand in the decisions, which are large, and few of which are about refusals."""
        for batch in rows.rows(names=["routing.decided"]) if self._by_rules else ():
            for row in batch:
                if row.stream in self._by_rules:
                    body = to_known(row).body
                    rules = map(_rule_of, body.excluded) if isinstance(body, RoutingDecided) else ()
                    self._count(self._by_rules.pop(row.stream), next(filter(None, rules), ""))
        for code in self._by_rules.values():
            self._count(code, "")

    def _count(self, code: str, rule: str) -> None:
        self.counts[code, rule] = self.counts.get((code, rule), 0) + 1


def _rule_of(one: Exclusion) -> str:
    name, _, rule = one.excluded_by.partition(":")
    return rule if name in ("budget_excluded", "approval") else ""


class Story(NamedTuple):
    """All that the page tells."""

    scope: Scope
    calendar: Calendar
    #: By bucket and model; by provider and model; by session; by agent.
    course: Grouping
    models: Grouping
    sessions: Grouping
    agents: Grouping
    refusals: dict[tuple[str, str], int]
    budgets: list[BudgetAnswer]


def story_of(
    rows: Reader, asked: Asked, state: Callable[[], State], now_us: int, progress: Progress | None = None
) -> Story:
    """Read a journal for the page."""
    scope = asked.scope
    calendar = scope.calendar(asked.bucket)
    course = Grouping(scope, [calendar.bucket, "model"], calendar=calendar)
    models, sessions, agents = (Grouping(scope, names) for names in (["provider", "model"], ["session"], ["agent"]))
    refusals = Refusals(scope)
    fold(rows, course, models, sessions, agents, refusals, since_us=scope.from_us, progress=progress)
    refusals.name_rules(rows)
    budgets = budgets_answer(state(), now_us).items
    return Story(scope, calendar, course, models, sessions, agents, refusals.counts, budgets)


def html_of(story: Story, head: Head) -> str:
    """Return the page; raises `PalyraError` (`extra_missing`) without plotly."""
    plotly = _plotly()
    charts: list[dict[str, Any]] = []
    body = "".join([_header(story), _tiles(story), '<div class="cards">', *_cards(story, charts), "</div>"])
    body += f"<footer>Position {head.position:,} of journal {_text(head.journal_id)}. Nothing on this page is "
    body += "loaded from elsewhere; costs that are not known are never counted as nothing.</footer>"
    template = importlib.resources.files("palyra.engine.reports").joinpath("page.html").read_text("utf-8")
    # In this order: what was recorded cannot hold a mark that is replaced after it.
    page = template.replace("/*PLOTLY*/", plotly.replace("</script", "<\\/script"), 1)
    before, mark, after = page.rpartition("<!--CHARTS-->")
    assert mark
    data = json.dumps(charts).replace("<", "\\u003c").replace("&", "\\u0026")
    top, mark, rest = before.partition("<!--BODY-->")
    assert mark
    return f"{top}{body}{rest}{data}{after}"


def _plotly() -> str:
    found = importlib.util.find_spec("plotly")
    places = [] if found is None else found.submodule_search_locations or []
    for place in places:
        script = Path(place) / "package_data" / "plotly.min.js"
        if script.exists():
            return script.read_text("utf-8")
    message = "Charts are drawn with plotly, which is not installed."
    raise PalyraError(message, hint="pip install 'palyra[reports]'", code="extra_missing")


def _text(value: str) -> str:
    return html.escape(value, quote=True)


def usd_text(nanousd: int, *, is_complete: bool = True) -> str:
    """Return an amount for the page: to the cent, or as far as a small one needs."""
    digits = 2 if abs(nanousd) >= NANOUSD_PER_USD or not nanousd else 4 if abs(nanousd) >= 1_000_000 else 6
    known = f"${nanousd / NANOUSD_PER_USD:,.{digits}f}"
    if is_complete:
        return known
    return f"≥ {known}" if nanousd else "unknown"


def _when(us: int, story: Story, pattern: str) -> str:
    return (_EPOCH + timedelta(microseconds=us)).astimezone(story.scope.zone).strftime(pattern)


def _header(story: Story) -> str:
    start, end = (_when(us, story, "%Y-%m-%d %H:%M") for us in (story.scope.from_us, story.scope.to_us))
    wanted = [
        f"{name.removesuffix('_id')} {value}" for name, value in story.scope.filters._asdict().items() if value
    ]
    zone = str(story.scope.zone)
    if zone == "local":
        zone = f"local time ({_when(story.scope.to_us - 1, story, '%Z')})"
    about = " · ".join([f"{start} to {end}", zone, *wanted])
    return f'<header><h1>Palyra usage</h1><p class="about">{_text(about)}</p></header>'


def _tiles(story: Story) -> str:
    whole = merged(story.models.groups.values())
    totals = whole.totals
    cached = "tokens"
    if totals.cached_input_tokens:
        cached += f", {_part(totals.cached_input_tokens, totals.input_tokens)} of input cached"
    absorbed = totals.absorbed_nanousd
    tiles = [
        (usd_text(totals.cost_nanousd, is_complete=totals.cost_complete), "cost", not totals.cost_complete),
        (f"{totals.runs:,}", _requests_word(totals), False),
        (_short(totals.total_tokens), cached, False),
        (f"{totals.sessions:,}", "sessions", False),
        (usd_text(absorbed), "for attempts that came to nothing", absorbed > 0),
    ]
    if totals.latency_ms.p50 is not None:
        p50, p95 = totals.latency_ms.p50, totals.latency_ms.p95 or 0
        tiles.append((_ms(p50), f"to the median answer, 95 % within {_ms(p95)}", False))
    if totals.unpriced.attempts:
        text = f"attempts without a price, {_short(totals.unpriced.tokens)} tokens"
        tiles.append((f"{totals.unpriced.attempts:,}", text, True))
    shown = (
        f'<div class="tile{" warn" if is_warning else ""}"><b>{_text(figure)}</b><span>{_text(what)}</span></div>'
        for figure, what, is_warning in tiles
    )
    return f'<div class="tiles">{"".join(shown)}</div>'


def _requests_word(totals: Totals) -> str:
    ends = ((totals.runs_failed, "failed"), (totals.runs_cancelled, "cancelled"), (totals.runs_refused, "refused"))
    told = ", ".join(f"{number:,} {word}" for number, word in ends if number)
    return f"requests ({told})" if told else "requests"


def _short(number: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:,}"


def _part(part: int, whole: int) -> str:
    return f"{100 * part // whole} %" if whole else "none"


def _ms(ms: int) -> str:
    return f"{ms:,} ms" if ms < 1_000 else f"{ms / 1_000:.1f} s"


def _cards(story: Story, charts: list[dict[str, Any]]) -> Iterable[str]:
    if not merged(story.models.groups.values()).runs:
        yield '<section class="card wide"><h2>Nobody asked for anything in this window.</h2></section>'
    else:
        yield _spend(story, charts)
        yield _tokens(story, charts)
        yield _mix(story, charts)
        yield _top(story, charts, "Agents that cost most", "agents", story.agents)
        yield _top(story, charts, "Sessions that cost most", "sessions", story.sessions)
    if any(one.status for one in story.budgets):
        yield _budgets(story)
    if story.refusals:
        counts = sorted(story.refusals.items(), key=lambda one: (-one[1], one[0]))
        yield _flat(
            charts,
            "refusals",
            "Refusals by reason and rule",
            "",
            [
                (f"{rule} · {_word(code)}" if rule else _word(code), number)
                for (code, rule), number in counts[:_TOP]
            ],
            _table(["Reason", "Rule", "Requests"], [[*key, f"{number:,}"] for key, number in counts], texts=2),
        )
    yield from _accuracy(story)
    yield from _absorbed(story)
    yield from _unpriced(story)


def _word(code: str) -> str:
    return code.removeprefix("budget_").replace("_", " ")


def _card(title: str, note: str, inside: str, *, is_wide: bool = False) -> str:
    about = f'<p class="note">{_text(note)}</p>' if note else ""
    wide = " wide" if is_wide else ""
    return f'<section class="card{wide}"><h2>{_text(title)}</h2>{about}{inside}</section>'


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1, is_open: bool = False) -> str:
    """Return figures under a chart; the first `texts` columns are words."""
    kinds = ["" if place < texts else ' class="n"' for place in range(len(titles))]
    top = "".join(f"<th{kind}>{_text(title)}</th>" for kind, title in zip(kinds, titles, strict=True))
    lines = "".join(
        "<tr>" + "".join(f"<td{kind}>{_text(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    table = f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'
    return table if is_open else f"<details><summary>Figures</summary>{table}</details>"


def _chart(charts: list[dict[str, Any]], name: str, chart: dict[str, Any], *, is_low: bool = False) -> str:
    charts.append({"id": f"chart-{name}", **chart})
    return f'<div class="chart{" low" if is_low else ""}" id="chart-{name}"></div>'


def _flat(
    charts: list[dict[str, Any]], name: str, title: str, prefix: str, bars: Sequence[tuple[str, Any]], table: str
) -> str:
    labels, values = [_label(label) for label, _ in bars], [value for _, value in bars]
    digits = ",.4~f" if prefix else ",d"
    chart: dict[str, Any] = {"kind": "flat", "labels": labels, "prefix": prefix, "digits": digits}
    chart["series"] = [{"name": title, "values": values}]
    return _card(title, "", _chart(charts, name, chart, is_low=True) + table)


def _label(name: str) -> str:
    """Return a name for an axis, which reads some marks: all of them are written out."""
    short = name if len(name) <= 28 else f"{name[:27]}…"
    return html.escape(short or "(none)", quote=False)


def _starts(story: Story) -> list[int]:
    scope = story.scope
    return [one.start_us for one in story.calendar.between(scope.from_us, scope.to_us, BUCKETS_MAX_COUNT)]


def _spend(story: Story, charts: list[dict[str, Any]]) -> str:
    starts, bucket = _starts(story), story.calendar.bucket
    labels = [_when(us, story, _LABELS[bucket]) for us in starts]
    series = series_of(story.course.groups, _TOP)
    chart = {
        "kind": "course",
        "labels": labels,
        "prefix": "$",
        "digits": ",.4~f",
        "series": [
            {
                "name": _label(key[0]),
                "values": [points[us].cost_nanousd / NANOUSD_PER_USD if us in points else 0 for us in starts],
            }
            for key, points in series
            if any(one.cost_nanousd for one in points.values())
        ],
    }
    rows = []
    for us in starts:
        here = [(key[0], points[us]) for key, points in series if us in points]
        when = _when(us, story, "%Y-%m-%d %H:%M" if bucket in ("15m", "hour") else "%Y-%m-%d")
        rows += [
            [when, name or "(none)", f"{one.runs:,}", f"{one.total_tokens:,}", _cost(one)] for name, one in here
        ]
    table = _table([bucket.capitalize(), "Model", "Requests", "Tokens", "Cost"], rows, texts=2)
    return _card(f"Spend per {bucket}, by model", "", _chart(charts, "spend", chart) + table, is_wide=True)


def _cost(one: Sums) -> str:
    return usd_text(one.cost_nanousd, is_complete=one.unpriced_attempts == 0)


def _tokens(story: Story, charts: list[dict[str, Any]]) -> str:
    starts, bucket = _starts(story), story.calendar.bucket
    by_bucket: dict[int, Sums] = {}
    for key, sums in story.course.groups.items():
        by_bucket.setdefault(key[0], Sums()).merge(sums)
    nothing = Sums()
    courses = [(name, [count(by_bucket.get(us, nothing)) for us in starts]) for name, count in _TOKENS]
    courses = [(name, values) for name, values in courses if any(values)]
    chart = {
        "kind": "course",
        "labels": [_when(us, story, _LABELS[bucket]) for us in starts],
        "prefix": "",
        "digits": ",d",
        "series": [{"name": name, "values": values} for name, values in courses],
    }
    rows = [
        [_when(us, story, "%Y-%m-%d %H:%M"), *(f"{values[place]:,}" for _, values in courses)]
        for place, us in enumerate(starts)
        if us in by_bucket
    ]
    table = _table([bucket.capitalize(), *(name.capitalize() for name, _ in courses)], rows)
    return _card("Tokens by class", "", _chart(charts, "tokens", chart) + table)


def _first(groups: dict[Key, Sums], count: int) -> list[tuple[Key, Sums]]:
    order = ranked(groups)
    if len(order) <= count:
        return order
    rest = merged(sums for _, sums in order[count:])
    return [*order[:count], (tuple(OTHERS for _ in order[0][0]), rest)]


def _mix(story: Story, charts: list[dict[str, Any]]) -> str:
    groups = {key: sums for key, sums in story.models.groups.items() if key[1]}
    whole = merged(groups.values())
    shown = _first(groups, _TOP)
    titles = ["Model", "Provider", "Requests", "Tokens", "Share", "Cost"]
    rows = [
        [
            key[1],
            key[0],
            f"{one.runs:,}",
            f"{one.total_tokens:,}",
            _part(one.total_tokens, whole.total_tokens),
            _cost(one),
        ]
        for key, one in ranked(groups)
    ]
    bars = [(f"{key[1]} · {key[0]}" if key[1] != OTHERS else OTHERS, one.total_tokens) for key, one in shown]
    bars.sort(key=lambda bar: (bar[0] == OTHERS, -bar[1]))
    return _flat(charts, "mix", "Tokens by model", "", bars, _table(titles, rows, texts=2))


def _top(story: Story, charts: list[dict[str, Any]], title: str, name: str, grouping: Grouping) -> str:
    rows = [
        [key[0] or "(none)", f"{one.runs:,}", f"{one.total_tokens:,}", _cost(one)]
        for key, one in _first(grouping.groups, 50)
    ]
    bars = [(key[0], one.cost_nanousd / NANOUSD_PER_USD) for key, one in ranked(grouping.groups)[:_TOP]]
    return _flat(
        charts, name, title, "$", bars, _table([name[:-1].capitalize(), "Requests", "Tokens", "Cost"], rows)
    )


def _budgets(story: Story) -> str:
    gauges, rows = [], []
    for one in story.budgets:
        limit = one.policy.hard_limit if one.policy.hard_limit is not None else one.policy.soft_limit
        is_money = one.policy.metric_kind == "usd_cost"
        for place, status in enumerate(one.status):
            used, held, most = (
                usd_text(amount) if is_money else f"{amount:,}"
                for amount in (status.consumed, status.reserved, limit or 0)
            )
            rows.append([one.policy.policy_id, status.subject, one.policy.interval_kind, used, held, most])
            if place and (place >= _TOP or not status.consumed + status.reserved):
                continue  # a line in the figures is enough for those that use least
            parts = [100 * amount / max(1, limit or 1) for amount in (status.consumed, status.reserved)]
            widths = [min(100.0, parts[0]), min(100.0 - min(100.0, parts[0]), parts[1])]
            state = status.status if status.status in _PASSED else "ok"
            name = _text(f"{one.policy.policy_id} · {status.subject or 'everybody'}")
            told = f"{used} of {most}" + (f" · {_PASSED[state]}" if state in _PASSED else "")
            gauges.append(
                f'<div class="gauge"><div class="head"><span>{name}</span><span>{told}</span></div>'
                f'<div class="bar"><i class="{state}" style="width:{widths[0]:.2f}%"></i>'
                f'<i class="held" style="width:{widths[1]:.2f}%"></i></div></div>'
            )
    table = _table(["Policy", "Subject", "Every", "Used", "Held", "Limit"], rows, texts=3)
    note = "In the windows that are open now; what is held for open requests is lighter."
    return _card("Budgets", note, "".join(gauges) + table)


def _accuracy(story: Story) -> Iterable[str]:
    known = [(model, one) for model, one in sorted(story.models.accuracy.items()) if one.samples]
    if known:
        rows = [
            [
                model,
                provider,
                f"{one.samples:,}",
                f"{one.real_tokens / max(1, one.estimated_tokens):.2f}",
                *(f"{(one.errors_bp.quantile(share) or 0) * 100 // BP_PER_UNIT} %" for share in (5_000, 9_500)),
            ]
            for (provider, model), one in known
        ]
        titles = ["Model", "Provider", "Samples", "Ratio", "Error p50", "p95"]
        note = "Input as it was estimated before the request, against what the provider counted."
        yield _card("Estimate against truth", note, _table(titles, rows, texts=2, is_open=True))


def _absorbed(story: Story) -> Iterable[str]:
    found = [(key, one) for key, one in ranked(story.models.groups) if one.absorbed_nanousd]
    if found:
        rows = [[key[1], key[0], usd_text(one.absorbed_nanousd), _cost(one)] for key, one in found]
        titles = ["Model", "Provider", "Absorbed", "Of"]
        note = "Cost of attempts that came to nothing."
        yield _card("Absorbed cost", note, _table(titles, rows, texts=2, is_open=True))


def _unpriced(story: Story) -> Iterable[str]:
    found = [(key, one) for key, one in ranked(story.models.groups) if one.unpriced_attempts]
    if found:
        rows = [[key[1], key[0], f"{one.unpriced_attempts:,}", f"{one.unpriced_tokens:,}"] for key, one in found]
        titles = ["Model", "Provider", "Attempts", "Tokens"]
        note = "Their cost is unknown and in no sum; a price goes into [[pricing.overrides]]."
        yield _card("Without a price", note, _table(titles, rows, texts=2, is_open=True))
