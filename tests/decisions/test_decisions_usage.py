"""The usage row of an attempt, however it ended: what the provider said, else what was seen, else an estimate."""

from __future__ import annotations

from typing import Any

import pytest
from registries import THREE
from story import admit, boot, fail, given, recover, start, succeed

from palyra.decisions.usage import Metered, may_have_cost
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
