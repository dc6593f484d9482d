"""The usage row of an attempt, however it ended: what the provider said, else what was seen, else an estimate."""

from __future__ import annotations

from typing import Any

import pytest
from registries import THREE, model, provider, registry
from story import admit, boot, fail, given, record, recover, start, succeed

from palyra.decisions.pricing import usage_of_recording, with_id
from palyra.decisions.usage import Metered, may_have_cost
from palyra.events.accounting import Accounting
from palyra.events.config import ConfigAdopted
from palyra.events.pricing import PriceEntry, PriceListAdopted
from palyra.events.usage import UsageRecorded
from palyra.usage import TokenUsage

SEEN = TokenUsage(input_tokens=80, output_tokens=7, cached_input_tokens=30)


def row_of(*steps: Any) -> UsageRecorded | None:
    """Return the row that the last of the steps wrote for attempt 1 of r1."""
    rows = given(THREE, admit("r1"), start("r1"), *steps).facts(UsageRecorded)
    assert len(rows) <= 1
    return rows[0] if rows else None


@pytest.mark.parametrize(
    ("metered", "source", "usage"),
    [
        (Metered(reported=SEEN), "provider", SEEN),
        (Metered(reported=SEEN, output_estimate_tokens=99), "provider", SEEN),
        (Metered(output_estimate_tokens=12), "estimated", TokenUsage(input_tokens=100, output_tokens=12)),
    ],
)
def test_a_complete_answer_has_the_providers_counts_or_an_estimate(
    metered: Metered, source: str, usage: TokenUsage
) -> None:
    """Estimates never overwrite reported numbers; without any, input and output are estimated."""
    row = row_of(succeed("r1", metered))
    assert row is not None
    assert (row.source, row.billed, row.usage, row.raw_input_tokens) == (source, "yes", usage, 100)


@pytest.mark.parametrize(
    ("metered", "source", "billed", "usage"),
    [
        (Metered(reported=SEEN, output_estimate_tokens=9), "partial", "yes", (80, 9)),
        (Metered(reported=SEEN, output_estimate_tokens=3), "partial", "yes", (80, 7)),
        (Metered(reported=TokenUsage(output_tokens=4)), "partial", "yes", (100, 4)),
        (Metered(output_estimate_tokens=9), "estimated", "yes", (100, 9)),
        (Metered(), "estimated", "unknown", (100, 0)),
    ],
)
def test_a_stream_that_was_cut_counts_what_was_seen(
    metered: Metered, source: str, billed: str, usage: tuple[int, int]
) -> None:
    """The larger of reported and seen output; input that was not reported is the estimate."""
    row = row_of(fail("r1", "timeout_idle", phase="content", metered=metered, status=200))
    assert row is not None
    assert (row.source, row.billed) == (source, billed)
    assert (row.usage.input_tokens, row.usage.output_tokens) == usage


def test_another_service_than_the_standard_has_a_price_of_its_own() -> None:
    """What was served in a batch is charged as that; without such a price its cost is not known."""
    row = row_of(succeed("r1", Metered(reported=SEEN, variant="batch")))
    assert row is not None
    assert (row.variant, row.cost_nanousd) == ("batch", None)


def test_what_the_provider_says_of_its_service_beats_what_was_asked_for() -> None:
    """A tier that was asked for and not given is not charged; where nothing is said it was given."""

    def charged(asked: str, said: str) -> tuple[str, int | None]:
        entries = [
            with_id(PriceEntry(price_id="", provider_id="a", model_id="gpt", variant=variant, **rates(cost)))
            for variant, cost in (("standard", 10), ("priority", 20))
        ]
        listed = PriceListAdopted(price_version=1, digest="d", config_generation=1, entries=entries)
        world = given(THREE, record("pricing", listed), admit("r1", variant=asked), start("r1"))
        [row] = world.do(succeed("r1", Metered(reported=SEEN, variant=said))).facts(UsageRecorded)
        return row.variant, row.cost_nanousd

    assert charged("priority", "priority") == charged("priority", "") == ("priority", 87 * 20)
    assert charged("priority", "standard") == charged("standard", "") == ("standard", 87 * 10)
    assert charged("standard", "priority") == ("priority", 87 * 20)
    assert charged("flex", "") == ("flex", 87 * 10)
    assert charged("standard", "scale") == ("scale", None)


def rates(each: int) -> dict[str, int]:
    return {f"{name}_nanousd_per_mtok": each * 1_000_000 for name in ("input", "output")}


def test_parts_that_were_reported_before_the_cut_are_kept() -> None:
    """Cached tokens and the like stay in a partial row."""
    row = row_of(fail("r1", "stream_truncated", phase="content", metered=Metered(reported=SEEN), status=200))
    assert row is not None
    assert row.usage.cached_input_tokens == 30


@pytest.mark.parametrize(
    ("failure_class", "phase", "status", "has_row"),
    [
        ("dns_failed", "connect", 0, False),
        ("timeout_connect", "connect", 0, False),
        ("tls_failed", "connect", 0, False),
        ("netguard_blocked", "connect", 0, False),
        ("cancelled", "connect", 0, False),
        ("invalid_request", "headers", 400, False),
        ("rate_limited", "headers", 429, False),
        ("redirect_refused", "headers", 302, False),
        ("transient_upstream", "headers", 500, False),
        ("timeout_first_byte", "headers", 0, True),
        ("network_unavailable", "headers", 0, True),
        ("cancelled", "headers", 0, True),
        ("malformed_response", "body", 200, True),
        ("stream_truncated", "body", 200, True),
    ],
)
def test_only_what_may_have_been_billed_has_a_row(
    failure_class: str, phase: str, status: int, has_row: bool
) -> None:
    """Not reached, or answered with an error: none. Sent and then silence: a row that says so."""
    row = row_of(fail("r1", failure_class, phase=phase, status=status))
    assert (row is not None) == has_row
    if row is not None:
        assert row.billed == "unknown"


def test_output_that_was_seen_is_billed_whatever_the_status() -> None:
    """A 500 after content costs what was said before it."""
    assert may_have_cost(phase="content", status=500, saw_output=True)
    assert not may_have_cost(phase="headers", status=500, saw_output=False)


def test_an_abandoned_attempt_is_charged_with_all_it_held() -> None:
    """Nobody knows what the call that was open cost: input bound and output maximum, billed unknown."""
    row = row_of(boot(), recover())
    assert row is not None
    assert (row.source, row.billed) == ("estimated", "unknown")
    assert row.usage == TokenUsage(input_tokens=130, output_tokens=50)


def test_zero_tokens_are_believed_unless_the_provider_is_known_to_say_so() -> None:
    """Where its rule says so, what the provider left at zero is estimated; what it did count stays."""
    seen = Metered(
        reported=TokenUsage(input_tokens=80), output_estimate_tokens=12, anomalies=("usage_zero_reported",)
    )
    for rule, source, output_tokens in (("trust", "provider", 0), ("estimate", "partial", 12)):
        world = given(registry(provider("a", zero_usage=rule), model("gpt", "a")), admit("r1"), start("r1"))
        [row] = world.do(succeed("r1", seen)).facts(UsageRecorded)
        assert (row.source, row.usage) == (source, TokenUsage(input_tokens=80, output_tokens=output_tokens))


def test_a_provider_that_is_believed_sets_the_cost() -> None:
    """What it says that it cost is the cost, where its rule says so; else it is noted beside."""
    said = Metered(reported=SEEN, provider_cost_nanousd=123)
    for source, cost in (("provider", ("priced", 123)), ("price_book", ("unknown", None))):
        world = given(registry(provider("a", cost_source=source), model("gpt", "a")), admit("r1"), start("r1"))
        [row] = world.do(succeed("r1", said)).facts(UsageRecorded)
        assert (row.cost_state, row.cost_nanousd) == cost
        assert row.provider_cost_nanousd == 123


def test_what_a_crash_cut_off_is_counted_by_its_rule() -> None:
    """Its input, all that it held, or nothing."""
    for rule, tokens in (("input", 100), ("reserved", 180), ("zero", None)):
        adopted = ConfigAdopted(
            generation=1, digest="", effective={}, registry=THREE, accounting=Accounting(abandoned=rule)
        )
        world = given(THREE, record("config", adopted), admit("r1"), start("r1"))
        rows = world.do(boot(), recover()).facts(UsageRecorded)
        assert [row.usage.total_tokens for row in rows] == ([] if tokens is None else [tokens])


def test_a_recording_without_counts_is_taken_by_its_length() -> None:
    """By the minute where that has a price, else by tokens, which are audio where audio has a rate of its own."""
    length = {"audio_ms": 60_000}
    for price, usage in (
        (PriceEntry(price_id="x", provider_id="a", model_id="gpt", audio_nanousd_per_minute=6), length),
        (
            PriceEntry(price_id="x", provider_id="a", model_id="gpt", input_audio_nanousd_per_mtok=9),
            {"input_tokens": 70, "input_audio_tokens": 70, "output_tokens": 5},
        ),
        (
            PriceEntry(price_id="x", provider_id="a", model_id="gpt", input_nanousd_per_mtok=9),
            {"input_tokens": 70, "output_tokens": 5},
        ),
        (None, {"input_tokens": 70, "output_tokens": 5, **length}),
    ):
        assert usage_of_recording(price, 70, 5, 60_000) == TokenUsage(**usage)
