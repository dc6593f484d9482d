"""Reports over random histories, against an oracle that reads every row by itself."""

from __future__ import annotations

import csv
import io
import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reports_kit import RowsReader, Told, day_us, history_of, rows_of

from palyra.engine.reports.calendar import BUCKETS, Calendar
from palyra.engine.reports.figures import Histogram, Sums, flat_totals, merged
from palyra.engine.reports.fold import Grouping, fold
from palyra.engine.reports.scope import EVERYTHING, GROUPS, Filters, Scope, groups_of, scope_of
from palyra.engine.reports.tables import OTHERS, Asked, Dataset, table_of
from palyra.engine.reports.writing import Head, csv_of, json_of, parquet_of
from palyra.errors import Refused
from palyra.projections.state import State

ZONES = ["UTC", "Europe/Prague", "America/New_York", "Asia/Kathmandu", "Africa/Cairo", "Australia/Lord_Howe"]
FROM_US, TO_US = day_us(2026, 3, 1), day_us(2026, 12, 1)

texts = st.sampled_from(["", "a", "b"])


@st.composite
def requests(draw: st.DrawFn) -> Told:
    """Return a request of any kind, at any time of half a year and a little beyond."""
    return Told(
        at_us=draw(st.integers(FROM_US - 5 * 86_400_000_000, TO_US + 5 * 86_400_000_000)),
        principal_id=draw(st.sampled_from(["key:a", "key:b", "system:daemon"])),
        key_id=draw(texts),
        session_id=draw(texts),
        agent_id=draw(texts),
        origin=draw(st.sampled_from(["http", "cron", "memory"])),
        model_ids=draw(st.lists(st.sampled_from(["gpt", "tiny"]), max_size=3)),
        end=draw(st.sampled_from(["completed", "failed", "cancelled", "refused", "open"])),
        tokens=draw(st.tuples(st.integers(0, 5_000), st.integers(0, 5_000))),
        cost_nanousd=draw(st.none() | st.integers(0, 10**9)),
        known_nanousd=draw(st.integers(0, 1_000)),
        source=draw(st.sampled_from(["provider", "partial", "estimated"])),
        corrections=draw(st.lists(st.tuples(st.none() | st.integers(0, 10**9), st.integers(-2, 90)), max_size=2)),
    )


histories = st.lists(requests(), max_size=12)
groupings = st.lists(st.sampled_from([*GROUPS]), max_size=4, unique=True).filter(
    lambda names: sum(name in BUCKETS for name in names) < 2 and "hour" not in names
)


def scope_for(zone: str = "UTC", **filters: str) -> Scope:
    return Scope(FROM_US, TO_US, ZoneInfo(zone), Filters(**filters))


def figures(told: list[Told], scope: Scope, names: list[str]) -> dict[Any, Sums]:
    grouping = Grouping(scope, names)
    fold(RowsReader(history_of(told)), grouping, since_us=scope.from_us)
    return grouping.groups


@settings(max_examples=150)
@given(histories, groupings, st.sampled_from(ZONES))
def test_any_grouping_sums_to_the_totals(told: list[Told], names: list[str], zone: str) -> None:
    """However figures are cut, together they are the same; none is lost and none counted twice."""
    scope = scope_for(zone)
    whole = merged(figures(told, scope, []).values()).totals
    assert merged(figures(told, scope, names).values()).totals == whole


@settings(max_examples=150)
@given(histories, st.sampled_from(["", "key:a"]), st.sampled_from(["", "gpt"]))
def test_totals_equal_a_sum_over_rows_by_hand(told: list[Told], principal_id: str, model_id: str) -> None:
    """Tokens, money and what is not known are what the rows and their corrections say, added up one by one."""
    scope = scope_for(principal_id=principal_id, model_id=model_id)
    totals = merged(figures(told, scope, []).values()).totals
    tokens = cost = unpriced = unpriced_tokens = 0
    for one in told:
        if not FROM_US <= one.at_us < TO_US or principal_id not in ("", one.principal_id):
            continue
        for model in one.model_ids:
            if model_id not in ("", model):
                continue
            used, price = one.tokens[0] + one.tokens[1], one.cost_nanousd
            known = one.known_nanousd if price is None else price
            for after, more in one.corrections:
                used += more
                price, known = after, known if after is None else after
            tokens += used
            cost += known
            unpriced += price is None
            unpriced_tokens += used if price is None else 0
    assert (totals.total_tokens, totals.cost_nanousd) == (tokens, cost)
    assert (totals.unpriced.attempts, totals.unpriced.tokens) == (unpriced, unpriced_tokens)
    assert totals.cost_complete == (unpriced == 0)


@settings(max_examples=100)
@given(histories)
def test_requests_are_counted_once_and_by_their_end(told: list[Told]) -> None:
    """However many calls a request took, it is one request with one end."""
    totals = merged(figures(told, scope_for(), []).values()).totals
    inside = [one for one in told if FROM_US <= one.at_us < TO_US]
    ends = {end: sum(one.end == end for one in inside) for end in ("completed", "failed", "cancelled", "refused")}
    assert totals.runs == len(inside)
    assert [totals.runs_ok, totals.runs_failed, totals.runs_cancelled, totals.runs_refused] == list(ends.values())
    assert totals.runs_open == sum(one.end == "open" for one in inside)
    assert totals.attempts == sum(len(one.model_ids) for one in inside)
    assert totals.sessions == len({one.session_id for one in inside} - {""})


@settings(max_examples=60)
@given(histories)
def test_requests_are_counted_where_they_come_from(told: list[Told]) -> None:
    """Those that were refused too: a job's are not those of a person."""
    groups = figures(told, scope_for(), ["origin"])
    inside = [one.origin for one in told if FROM_US <= one.at_us < TO_US]
    assert {origin: sums.runs for (origin,), sums in groups.items()} == {one: inside.count(one) for one in inside}


@settings(max_examples=60)
@given(histories)
def test_every_dataset_tells_the_same_money(told: list[Told]) -> None:
    """Requests one by one, calls one by one, rows of usage and the summary come to one sum."""
    reader, scope = RowsReader(history_of(told)), scope_for()

    def rows(dataset: Dataset) -> list[dict[str, Any]]:
        table = table_of(reader, Asked(dataset, scope, []), State, TO_US)
        return [dict(zip([one.name for one in table.columns], row, strict=True)) for row in table.rows]

    whole = rows("summary")[0]
    assert sum(row["cost_nanousd"] or 0 for row in rows("runs")) == whole["cost_nanousd"]
    assert (
        sum(
            row["known_nanousd"] if row["cost_nanousd"] is None else row["cost_nanousd"] for row in rows("attempts")
        )
        == whole["cost_nanousd"]
    )
    usage = rows("usage")
    known = (row["known_nanousd"] if row["cost_nanousd"] is None else row["cost_nanousd"] for row in usage)
    assert sum(known) == whole["cost_nanousd"]
    for name in ("input_tokens", "output_tokens", "cached_input_tokens"):
        assert sum(row[name] for row in usage) == whole[name]
        assert sum(row[name] or 0 for row in rows("attempts")) == whole[name]
    assert len(rows("refusals")) == whole["runs_refused"]
    assert sum(row["runs"] for row in rows("timeline")) == whole["runs"]


@settings(max_examples=60)
@given(histories, st.sampled_from(["gpt", "tiny"]))
def test_calls_of_a_model_are_its_own(told: list[Told], model_id: str) -> None:
    """Also those after which the request went on to another model."""
    reader, scope = RowsReader(history_of(told)), scope_for(model_id=model_id)
    table = table_of(reader, Asked("attempts", scope, []), State, TO_US)
    place = [column.name for column in table.columns].index("model_id")
    found = [row[place] for row in table.rows]
    inside = (one for one in told if FROM_US <= one.at_us < TO_US)
    assert found == [model_id] * sum(one.model_ids.count(model_id) for one in inside)


@settings(max_examples=40)
@given(histories, st.integers(1, 3))
def test_the_top_and_the_others_are_all(told: list[Told], top: int) -> None:
    """What is left out by name is told together, so the column still sums up."""
    reader = RowsReader(history_of(told))
    asked = Asked("summary", scope_for(), ["principal", "agent"], top=top)
    table = table_of(reader, asked, State, TO_US)
    rows = list(table.rows)
    assert len(rows) <= top + 1
    place = [column.name for column in table.columns].index("cost_nanousd")
    whole = merged(figures(told, scope_for(), []).values())
    assert sum(row[place] for row in rows) == whole.cost_nanousd
    assert all(OTHERS in row for row in rows[top:])


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("bucket", BUCKETS)
def test_buckets_leave_no_gap_over_a_year(zone: str, bucket: Any) -> None:
    """Each begins where the one before ends, over both edges of summer time, and begins at its own clock's mark."""
    calendar = Calendar(bucket, ZoneInfo(zone))
    first, last = day_us(2026, 1, 1), day_us(2026, 1, 20 if bucket in ("15m", "hour") else 1) + 366 * 86_400_000_000
    if bucket in ("15m", "hour"):
        first, last = day_us(2026, 3, 1), day_us(2026, 4, 30)
    windows = calendar.between(first, last, 10**6)
    assert all(one.end_us == other.start_us for one, other in itertools.pairwise(windows))
    again = Calendar(bucket, ZoneInfo(zone))
    for one in windows:
        assert again.window(one.end_us - 1) == one
    if bucket in ("day", "week", "month"):
        starts = [
            (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=one.start_us)).astimezone(ZoneInfo(zone))
            for one in windows
        ]
        assert all(start.hour in (0, 1) and start.minute == 0 for start in starts)


def test_a_day_that_lost_an_hour_and_one_that_has_one_more() -> None:
    """In Prague the last Sundays of March and October have 23 and 25 hours, each in its own bucket of a day."""
    calendar = Calendar("day", ZoneInfo("Europe/Prague"))
    short, long = calendar.window(day_us(2026, 3, 29, 12)), calendar.window(day_us(2026, 10, 25, 12))
    assert [(one.end_us - one.start_us) // 3_600_000_000 for one in (short, long)] == [23, 25]
    hours = Calendar("hour", ZoneInfo("Europe/Prague"))
    assert len(hours.between(long.start_us, long.end_us, 100)) == 25


def test_a_quantile_is_at_most_an_eighth_too_high() -> None:
    """Small values are exact; the largest is exact; between them the edge of a bucket is told."""
    found = Histogram()
    assert found.quantile(5_000) is None
    for value in range(1, 1_001):
        found.add(value)
    p50, p95 = found.quantile(5_000), found.quantile(9_500)
    assert p50 is not None
    assert p95 is not None
    assert 500 <= p50 <= 500 * 9 // 8
    assert 950 <= p95 <= 1_000
    assert found.quantile(10_000) == 1_000


@pytest.mark.parametrize(
    ("given_", "param"),
    [
        ({"from_": "yesterday"}, "from"),
        ({"to": "2026-13-01"}, "to"),
        ({"from_": "2026-05-02", "to": "2026-05-01"}, "from"),
        ({"from_": "2024-01-01", "to": "2026-01-01"}, "from"),
        ({"timezone": "Middle/Earth"}, "timezone"),
    ],
)
def test_a_window_that_is_none_is_refused_by_name(given_: dict[str, str], param: str) -> None:
    """Whatever is wrong with it, the parameter is named."""
    window = {"from_": "", "to": "", "timezone": "", **given_}
    with pytest.raises(Refused) as refused:
        scope_of(**window, zone=UTC, now_us=TO_US)
    assert refused.value.refusal.param == param


@pytest.mark.parametrize("names", [["colour"], ["model", "model"], ["day", "week"], [*GROUPS[4:9]]])
def test_groups_that_are_none_are_refused(names: list[str]) -> None:
    """Unknown, twice, two buckets of time, more than four."""
    with pytest.raises(Refused):
        groups_of(names)


def test_too_many_buckets_are_refused() -> None:
    """Half a year of quarters of an hour is nothing that anybody looks at."""
    with pytest.raises(Refused, match="2,000 buckets"):
        scope_for().calendar("15m")


HOSTILE = ["=1+1", "+1", "-1", "@sum", "\tx", "\rx", 'say "hi", twice', "two\r\nlines", "plain"]


def hostile_table() -> Any:
    told = [Told(at_us=FROM_US + number, agent_id=name) for number, name in enumerate(HOSTILE)]
    asked = Asked("summary", scope_for(), ["agent"])
    return table_of(RowsReader(history_of(told)), asked, State, TO_US)


def test_csv_commands_no_spreadsheet() -> None:
    """Text that a spreadsheet would take for a formula gets a mark before it; numbers never; RFC 4180 holds."""
    data = b"".join(csv_of(hostile_table()))
    header, *rows = csv.reader(io.StringIO(data.decode(), newline=""))
    assert data.endswith(b"\r\n")
    assert header[:2] == ["agent_id", "runs"]
    assert {row[0] for row in rows} == {f"'{name}" if name[0] in "=+-@\t\r" else name for name in HOSTILE}
    assert all(not cell.startswith("'") for row in rows for cell in row[1:])


def test_json_is_one_document_with_sorted_keys() -> None:
    """Schema, position, window and rows, every key in its order."""
    table = hostile_table()
    data = b"".join(json_of(table, Head("summary", "01J", 7, FROM_US, TO_US, "UTC")))
    document = json.loads(data)
    assert [document["schema"], document["position"], document["dataset"]] == [1, 7, "summary"]
    assert json.dumps(document, sort_keys=True) == json.dumps(json.loads(data))
    assert len(document["rows"]) == len(HOSTILE)


def test_parquet_has_types() -> None:
    """Integers, texts, truths and instants arrive as what they are."""
    told = [
        Told(at_us=FROM_US + 1, model_ids=["gpt"]),
        Told(at_us=FROM_US + 2, model_ids=["gpt"], cost_nanousd=None),
    ]
    reader = RowsReader(history_of(told))
    frame = polars.read_parquet(io.BytesIO(parquet_of(table_of(reader, Asked("runs", scope_for(), []), State, 0))))
    assert frame.schema["cost_nanousd"] == polars.Int64
    assert frame.schema["started_us"] == polars.Datetime("us", "UTC")
    assert frame.schema["corrected"] == polars.Boolean
    assert frame["cost_nanousd"].to_list() == [1_000, None]
    assert frame["cost_state"].to_list() == ["priced", "unknown"]


def test_a_report_without_anything_has_its_columns() -> None:
    """An empty window is told as one: zero requests, nothing unknown; parquet keeps its types."""
    reader = RowsReader([])
    row = next(iter(table_of(reader, Asked("summary", scope_for(), []), State, 0).rows))
    assert list(row) == list(flat_totals(Sums().totals).values())
    frame = polars.read_parquet(io.BytesIO(parquet_of(table_of(reader, Asked("usage", scope_for(), []), State, 0))))
    assert frame.height == 0
    assert frame.schema["cost_nanousd"] == polars.Int64


def test_after_a_clock_was_set_back_nothing_is_skipped() -> None:
    """Where the log is not in the order of time, it is read from its beginning."""
    told = [Told(at_us=TO_US + 10**12), Told(at_us=FROM_US + 5)]
    quiet = Scope(FROM_US, FROM_US + 10, UTC, EVERYTHING)
    stepped = RowsReader(rows_of(told, step_us=-(10**12)))
    grouping = Grouping(quiet)
    fold(stepped, grouping, since_us=quiet.from_us)
    assert merged(grouping.groups.values()).runs == 1
