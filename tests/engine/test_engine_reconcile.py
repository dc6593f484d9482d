"""Reconciliation: planted differences come out in their class, and the classes add up to the drift."""

from __future__ import annotations

import json
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given as having
from hypothesis import settings
from hypothesis import strategies as st
from registries import model, provider, registry
from reports_kit import Told, day_us, history_of
from story import given

from palyra.decisions.corrections import correct, correction_of, counted_rows
from palyra.decisions.pricing import adopt_prices, with_id
from palyra.engine.reports.exports import read_export
from palyra.engine.reports.exports_cells import Theirs, nanousd_of
from palyra.engine.reports.reconcile import Reconciled, ours_of, reconcile
from palyra.errors import PalyraError
from palyra.events.base import Recorded
from palyra.events.pricing import PriceEntry
from palyra.projections.state import State
from palyra.usage import TokenUsage

DAY = 86_400_000_000
START = day_us(2026, 11, 1)
#: In nano-USD a token: input and output alike.
RATE = 1_000
COST = 120 * RATE


def priced_state() -> State:
    """A configuration with one model, whose token costs 1,000 nano-USD."""
    world = given(registry(provider("openai"), model("gpt", "openai")))
    entry = PriceEntry(
        price_id="",
        provider_id="openai",
        model_id="gpt",
        input_nanousd_per_mtok=RATE * 1_000_000,
        output_nanousd_per_mtok=RATE * 1_000_000,
    )
    world.record(adopt_prices(world.state, [with_id(entry)], catalogue_name="", catalogue_version=""))
    return world.state


STATE = priced_state()


def ours(number: int, day: int, **changes: Any) -> Told:
    fields = {"cost_nanousd": COST, "model_ids": ["gpt"], "request_id": f"req-{number}", **changes}
    return Told(at_us=START + day * DAY + 3_600_000_000 * 12 + number, **fields)


def theirs(number: int, day: int, tokens: tuple[int, int] = (100, 20), cost: int | None = COST) -> Theirs:
    return Theirs(
        start_us=START + day * DAY + 3_600_000_000 * 12 + number,
        end_us=START + day * DAY + 3_600_000_000 * 13,
        model="gpt",
        request_id=f"req-{number}",
        usage=TokenUsage(input_tokens=tokens[0], output_tokens=tokens[1]),
        cost_nanousd=cost,
    )


def bucket(day: int, requests: int | None, tokens: tuple[int, int], cost: int | None = None) -> Theirs:
    return Theirs(
        start_us=START + day * DAY,
        end_us=START + (day + 1) * DAY,
        model="gpt-2026-01-01",
        requests=requests,
        usage=TokenUsage(input_tokens=tokens[0], output_tokens=tokens[1]),
        cost_nanousd=cost,
    )


def found(account: list[Theirs], told: list[Told]) -> Reconciled:
    rows = ours_of(history_of(told), "openai")
    answer = reconcile(STATE, account, rows, provider_id="openai", tolerance_bp=100)
    assert sum(one.amount_nanousd for one in answer.differences) == answer.drift_nanousd
    assert sum(one.amount_nanousd for one in answer.classes) == answer.drift_nanousd
    return answer


def classes(answer: Reconciled) -> dict[str, int]:
    return {one.kind: one.amount_nanousd for one in answer.classes}


EDGES = [bucket(0, 0, (0, 0), 0), bucket(9, 0, (0, 0), 0)]


def test_an_account_that_agrees_has_no_difference() -> None:
    """The same requests at the same cost: no drift, nothing to correct."""
    answer = found([*EDGES, theirs(1, 3), theirs(2, 4)], [ours(1, 3), ours(2, 4)])
    assert (answer.drift_nanousd, answer.is_within, answer.differences, answer.correctable) == (0, True, [], [])


def test_each_planted_difference_has_its_class() -> None:
    """Requests one by one: elsewhere, lost, other tokens, another price, at the edge, unfinished, unpriced."""
    answer = found(
        [
            *EDGES,
            theirs(1, 3, cost=COST),
            theirs(3, 4, (150, 20), 170 * RATE),
            theirs(4, 4, cost=COST + 5),
            msgspec.structs.replace(theirs(5, 0), start_us=START + 1),
            theirs(6, 5, (100, 60), 160 * RATE),
            theirs(7, 6, cost=77),
        ],
        [
            ours(2, 3),
            ours(3, 4),
            ours(4, 4),
            ours(6, 5, source="estimated"),
            ours(7, 6, cost_nanousd=None),
        ],
    )
    assert classes(answer) == {
        "missing_here": COST,
        "missing_there": -COST,
        "token_mismatch": 50 * RATE,
        "price_mismatch": 5,
        "unfinished": 40 * RATE,
        "unpriced": 77,
        "late": COST,
    }
    assert not answer.is_within
    assert {one.position for one in answer.correctable} == {
        one.positions[0] for one in answer.differences if one.request_id in ("req-3", "req-4", "req-6", "req-7")
    }


def test_buckets_are_told_apart_by_what_they_count() -> None:
    """More requests there, fewer there, as many with other tokens, a price alone, rows that were estimated."""
    answer = found(
        [
            *EDGES,
            bucket(2, 2, (200, 40)),
            bucket(3, 1, (100, 20)),
            bucket(4, 1, (130, 20)),
            bucket(5, 1, (100, 20), COST + 9),
            bucket(6, 1, (100, 45)),
        ],
        [
            ours(1, 2),
            ours(2, 3),
            ours(3, 3),
            ours(4, 4),
            ours(5, 5),
            ours(6, 6, source="partial"),
            ours(7, 7, source="estimated"),
        ],
    )
    assert classes(answer) == {
        "missing_here": COST,
        "missing_there": -COST,
        "token_mismatch": 30 * RATE,
        "price_mismatch": 9,
        "unfinished": 25 * RATE - COST,
    }
    assert answer.correctable == []  # a bucket is no request


def test_what_one_side_has_at_an_edge_is_late() -> None:
    """It may be in the account before or after this one."""
    answer = found([bucket(0, 1, (100, 20)), bucket(5, 1, (100, 20))], [ours(1, 5)])
    assert classes(answer) == {"late": COST}


def test_an_account_of_tokens_alone_is_priced_by_the_list() -> None:
    """Where they agree nothing is left; unknown on both sides is said and counts as nothing."""
    assert found([bucket(1, 1, (100, 20))], [ours(1, 1)]).drift_nanousd == 0
    strange = msgspec.structs.replace(bucket(1, 1, (5, 5)), model="unheard-of")
    answer = found([strange], [])
    assert [(one.kind, one.amount_nanousd) for one in answer.differences] == [("unpriced", 0)]


def test_corrections_written_twice_are_written_once() -> None:
    """What was reconciled agrees afterwards."""
    history = history_of([ours(1, 3), ours(2, 3)])
    account = [*EDGES, theirs(1, 3, (150, 20), 170 * RATE), theirs(2, 3)]
    first = reconcile(STATE, account, ours_of(history, "openai"), provider_id="openai", tolerance_bp=0)
    (wish,) = first.correctable
    rows = counted_rows(history)
    made = correction_of(
        rows[wish.position], usage=wish.usage, cost_nanousd=wish.cost_nanousd, price_id="", reason="reconciled"
    )
    assert made is not None
    (draft,) = correct([made])
    history.append(Recorded(len(history) + 1, draft.stream, 1, START, "x", "", 0, "", draft.body))
    again = reconcile(STATE, account, ours_of(history, "openai"), provider_id="openai", tolerance_bp=0)
    assert (again.drift_nanousd, again.differences, again.correctable) == (0, [], [])


lines = st.builds(
    bucket,
    st.integers(0, 6),
    st.none() | st.integers(0, 3),
    st.tuples(st.integers(0, 300), st.integers(0, 300)),
    st.none() | st.integers(0, 10**6),
)
rows = st.builds(
    ours,
    st.integers(0, 5),
    st.integers(0, 6),
    cost_nanousd=st.none() | st.integers(0, 10**6),
    source=st.sampled_from(["provider", "estimated"]),
    request_id=st.sampled_from(["", "req-1", "req-2"]),
)


@settings(max_examples=150)
@having(
    st.lists(lines, max_size=5),
    st.lists(st.builds(theirs, st.integers(1, 3), st.integers(0, 6)), max_size=3),
    st.lists(rows, max_size=6),
)
def test_classes_always_add_up_to_the_drift(account: list[Theirs], single: list[Theirs], told: list[Told]) -> None:
    """Whatever an account says: overlapping buckets, ids that come twice, nothing at all."""
    found([*account, *single], told)


OPENAI = {
    "object": "page",
    "data": [
        {
            "object": "bucket",
            "start_time": START // 1_000_000,
            "end_time": (START + DAY) // 1_000_000,
            "results": [
                {
                    "object": "organization.usage.completions.result",
                    "input_tokens": 1_000,
                    "output_tokens": 500,
                    "input_cached_tokens": 800,
                    "num_model_requests": 5,
                    "model": "gpt",
                },
                {
                    "object": "organization.costs.result",
                    "amount": {"value": 0.06, "currency": "usd"},
                    "line_item": "gpt, input",
                },
            ],
        }
    ],
}
ANTHROPIC = {
    "data": [
        {
            "starting_at": "2026-11-01T00:00:00Z",
            "ending_at": "2026-11-02T00:00:00Z",
            "results": [
                {
                    "uncached_input_tokens": 1_500,
                    "cache_creation": {"ephemeral_1h_input_tokens": 1_000, "ephemeral_5m_input_tokens": 500},
                    "cache_read_input_tokens": 200,
                    "output_tokens": 500,
                    "server_tool_use": {"web_search_requests": 10},
                    "model": "claude",
                },
                {"currency": "USD", "amount": "123.78912", "model": "claude"},
            ],
        }
    ],
    "has_more": False,
}


def read(data: Any, form: Any = "auto", **columns: str) -> list[Theirs]:
    text = data if isinstance(data, str) else json.dumps(data)
    return read_export(text.encode(), form, columns=columns, zone=None)


def test_openai_reports_are_read() -> None:
    """Tokens with cached ones inside, and money of the same model and bucket, in one line."""
    (line,) = read(OPENAI)
    assert line == Theirs(
        start_us=START,
        end_us=START + DAY,
        model="gpt",
        requests=5,
        usage=TokenUsage(input_tokens=1_000, output_tokens=500, cached_input_tokens=800),
        cost_nanousd=60_000_000,
    )
    assert read([OPENAI]) == [line]
    assert read(f"{json.dumps(OPENAI)}\n{json.dumps({'data': []})}\n") == [line]


def test_anthropic_reports_are_read() -> None:
    """Cache reads and writes are part of the input; amounts are cents."""
    (line,) = read(ANTHROPIC)
    assert line.usage == TokenUsage(
        input_tokens=3_200,
        output_tokens=500,
        cached_input_tokens=200,
        cache_write_5m_tokens=500,
        cache_write_1h_tokens=1_000,
        search_count=10,
    )
    assert line.cost_nanousd == 1_237_891_200


def test_any_csv_is_read_by_its_columns() -> None:
    """Known names by themselves, others where they are told; a day, an instant, seconds since 1970."""
    text = "date,model,prompt_tokens,completion_tokens,usd\n2026-11-01,gpt,100,20,$1.5\n1793577600,gpt,1,,\n"
    first, second = sorted(read(text, cost_usd="usd"), key=lambda one: one.cost_nanousd is None)
    assert (first.start_us, first.end_us, first.cost_nanousd) == (START, START + DAY, 1_500_000_000)
    assert (second.cost_nanousd, second.usage) == (None, TokenUsage(input_tokens=1))


#: As Anthropic's dashboard gives them; the key's and the workspace's names matter to nobody here.
DASHBOARD_USAGE = (
    "usage_date_utc,model_version,api_key,workspace,usage_type,context_window,usage_input_tokens_no_cache,"
    "usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,"
    "usage_output_tokens,web_search_count,inference_geo,speed\n"
    "2026-11-01,claude-haiku-4-5-20251001,key,Default,standard,≤ 200k,1000,500,1000,200,500,10,not_available,\n"
    "2026-11-01,claude-haiku-4-5-20251001,other,Default,standard,≤ 200k,500,0,0,0,0,0,not_available,\n"
)
DASHBOARD_COST = (
    "usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,list_price_usd,cost_type,"
    "inference_geo,speed\n"
    "2026-11-01,Claude Haiku 4.5,Default,key,message,≤ 200k,input_no_cache,0.05,0.05,token,not_available,\n"
    "2026-11-01,Claude Haiku 4.5,Default,key,message,≤ 200k,output,0.02,0.02,token,not_available,\n"
)


@pytest.mark.parametrize("form", ["auto", "anthropic", "csv"])
def test_anthropics_dashboard_is_read_without_being_told_its_columns(form: str) -> None:
    """Tokens beside the cache and of it make the input; days are of UTC whatever zone was named; keys are one."""
    prague = ZoneInfo("Europe/Prague")
    (used,) = read_export(DASHBOARD_USAGE.encode(), form, columns={}, zone=prague)  # type: ignore[arg-type]
    (paid,) = read_export(DASHBOARD_COST.encode(), form, columns={}, zone=prague)  # type: ignore[arg-type]
    (reported,) = read(ANTHROPIC)
    assert (used.usage, used.start_us, used.end_us) == (reported.usage, START, START + DAY)
    assert (used.model, used.requests, used.cost_nanousd) == ("claude-haiku-4-5-20251001", None, None)
    assert (paid.model, paid.usage, paid.cost_nanousd) == ("claude-haiku-4-5", None, 70_000_000)
    assert paid.start_us == START


@pytest.mark.parametrize(
    ("line", "name", "is_same"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o", True),
        ("gpt-4-0613", "gpt-4", True),
        ("claude-haiku-4-5", "claude-haiku-4-5-20251001", True),
        ("mistral-large-latest", "mistral-large", True),
        ("gpt-4o-mini", "gpt-4o", False),
        ("claude-sonnet-4-5", "claude-sonnet-4", False),
        ("gpt-4-32k", "gpt-4", False),
    ],
)
def test_a_snapshot_is_its_model_and_another_model_is_not(line: str, name: str, is_same: bool) -> None:
    """What both names begin with says nothing: the smaller model is charged for itself."""
    account = [*EDGES, msgspec.structs.replace(bucket(3, 1, (100, 20), COST), model=line)]
    answer = found(account, [ours(1, 3, model_ids=[name])])
    assert classes(answer) == ({} if is_same else {"missing_here": COST, "missing_there": -COST})


def test_a_line_without_a_model_is_about_what_the_others_leave() -> None:
    """A bill has a line for what no model names, beside those of models."""
    rest = msgspec.structs.replace(bucket(3, 1, (100, 20), COST), model="")
    answer = found([*EDGES, rest, bucket(3, 1, (100, 20), COST)], [ours(1, 3), ours(2, 3, model_ids=["other"])])
    assert answer.differences == []


@pytest.mark.parametrize("zeros", ["", "000", "000000", "000000000"])
def test_a_time_in_digits_is_read_in_its_unit(zeros: str) -> None:
    """Seconds since 1970, or thousandths, millionths and billionths: how many digits there are tells."""
    (line,) = read(f"timestamp,model,cost\n1793491200{zeros},gpt,1\n")
    assert line.start_us == START
    with pytest.raises(PalyraError, match="is no instant"):
        read(f"timestamp,model,cost\n1793491200{zeros}000000000000,gpt,1\n")


HEAD = "date,model,input_tokens,output_tokens,cost\n"
PAGE = '{"data": [{"start_time": 1, "end_time": 2, "results": [%s]}]}'


@pytest.mark.parametrize(
    ("data", "form", "said"),
    [
        ("{}", "openai", "data: there is no such list"),
        ('{"data": 5}', "auto", "data: there is no such list"),
        ('[{"data": []}, {"data": [4]}]', "openai", "[1].data[0]: this is no object"),
        ('{"data": [{"results": [{}]}]}', "anthropic", "data[0].starting_at: it is missing"),
        ('{"data": [', "auto", "line 1, column 11: no JSON"),
        ('{"data": []}\n{"data": [}\n', "auto", "line 2, column 11: no JSON"),
        (PAGE % '{"input_tokens": "many"}', "auto", "data[0].results[0].input_tokens: 'many' is no count"),
        (PAGE % '{"amount": {"value": "NaN"}}', "auto", "data[0].results[0].amount.value: 'NaN' is no amount"),
        (PAGE % '{"amount": 5}', "auto", "data[0].results[0].amount: this is no object"),
        (PAGE % "{}", "auto", "data[0].results[0].amount: 'None' is no amount"),
        ("a,b\n1,2\n", "csv", "line 1: no column says when"),
        ("date,model\n", "csv", "line 1: no column says what was used or what it cost"),
        (HEAD + "2026-11-01,gpt,-5,,\n", "csv", "line 2, column 'input_tokens': '-5' is no count"),
        (HEAD + "2026-11-01,gpt,1,2,3\n\n2026-11-02,gpt,1,2,much\n", "csv", "line 4, column 'cost': 'much' is no"),
        (HEAD + "2026-13-01,gpt,1,2,3\n", "csv", "line 2, column 'date': '2026-13-01' is no instant"),
        (HEAD + "2026-11-01,gpt\n", "csv", "line 2: it has 2 cells under 5 columns"),
        (HEAD + '2026-11-01,gpt,1,2,"0,15"\n', "csv", "line 2, column 'cost': '0,15' is no amount"),
        (HEAD + '2026-11-01,"gpt,1,2,3\n', "csv", "line 2: no csv"),
        (HEAD + "2026-11-01,gpt,99999999999999999999,2,3\n", "csv", "column 'input_tokens'"),
        (HEAD, "csv", "The export has no lines."),
        ('{"data": []}', "auto", "The export has no lines."),
    ],
)
def test_what_cannot_be_read_is_refused_at_its_place(data: str, form: str, said: str) -> None:
    """By line and column, or by the place in the JSON."""
    with pytest.raises(PalyraError) as refused:
        read(data, form)
    assert refused.value.code == "invalid_export"
    assert said in str(refused.value)


def test_a_file_of_another_encoding_is_read_or_refused_at_its_byte() -> None:
    """A spreadsheet's UTF-16 says so in its first bytes; a letter of an old code page is found by line and byte."""
    text = HEAD + "2026-11-01,größe,1,2,0.5\n"
    wide = read_export(text.encode("utf-16"), "auto", columns={}, zone=None)
    assert wide == read_export(text.encode("utf-8-sig"), "auto", columns={}, zone=None) == read(text)
    for data, place in ((text.encode("latin-1"), "line 2, byte 14: byte 0xf6"), (b"\xff\xfea", "UTF-16")):
        with pytest.raises(PalyraError, match=place):
            read_export(data, "csv", columns={}, zone=None)


def test_cells_between_other_marks_and_with_thousands() -> None:
    """Semicolons and tabs stand for commas where the first line has them; commas between thousands go."""
    line = read(HEAD.replace(",", ";") + "2026-11-01;gpt;1,100;20;$1,234.50\n")[0]
    assert (line.usage, line.cost_nanousd) == (TokenUsage(input_tokens=1_100, output_tokens=20), 1_234_500_000_000)
    assert read(HEAD.replace(",", "\t") + "2026-11-01\tgpt\t1,100\t20\t$1,234.50\n") == [line]


def test_a_column_that_is_named_must_be_there() -> None:
    """What the columns are is told."""
    with pytest.raises(PalyraError, match="--map says that 'day' is start, but the columns are: date, model"):
        read(HEAD, start="day")


@having(st.decimals(0, 10**6, places=9))
def test_amounts_are_exact(amount: Any) -> None:
    """Nine digits behind the point are a whole number of nano-USD."""
    assert nanousd_of(amount) == int(amount * 10**9)
