"""Backoff: how long the next try at the same candidate waits, and when there is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st
from registries import provider

from palyra.decisions.failures import Failure
from palyra.decisions.retries import PATIENCE_MS, backoff_ms, wait_before_retry_ms


def waited(failure_class: str = "overloaded", **changes: Any) -> int | None:
    """Return the wait with backoff 100 ms, two tries more, Retry-After up to 10 s, a minute left, no jitter."""
    of_failure = {key: changes.pop(key) for key in ("phase", "retry_after_ms", "should_retry") if key in changes}
    figures: dict[str, Any] = {"retry": 0, "time_left_ms": 60_000, "jitter_bp": 0, "has_alternative": False}
    max_retries = changes.pop("max_retries", 2)
    return wait_before_retry_ms(
        Failure(failure_class=failure_class, **{"phase": "headers", **of_failure}),
        provider("a", retry_backoff_ms=100, max_retries=max_retries),
        **{**figures, **changes},
    )


@pytest.mark.parametrize(
    ("retry", "least_ms", "full_ms"),
    [(0, 50, 100), (1, 100, 200), (2, 200, 400), (6, 3_200, 6_400), (7, 4_000, 8_000)],
)
def test_each_try_waits_twice_as_long_half_of_it_by_chance(retry: int, least_ms: int, full_ms: int) -> None:
    """Jitter 0 gives half the step, jitter close to 1 nearly all of it."""
    assert backoff_ms(retry, 100, None, 0) == least_ms
    assert full_ms - backoff_ms(retry, 100, None, 9_999) in (0, 1)


@settings(max_examples=200)
@generated(retry=st.integers(0, 1_000), base_ms=st.integers(1, 60_000), jitter_bp=st.integers(0, 9_999))
def test_a_wait_stays_between_half_its_step_and_the_step(retry: int, base_ms: int, jitter_bp: int) -> None:
    """No jitter leaves [step/2, step], and no step passes 8 s."""
    step_ms = min(8_000, base_ms * 2 ** min(retry, 20))
    assert step_ms // 2 <= backoff_ms(retry, base_ms, None, jitter_bp) <= step_ms


@pytest.mark.parametrize(
    ("retry_after_ms", "jitter_bp", "wait_ms"),
    [(0, 0, 50), (40, 0, 50), (5_000, 0, 5_000), (5_000, 4_000, 5_100), (5_000, 9_999, 5_249)],
)
def test_retry_after_is_the_least_wait(retry_after_ms: int, jitter_bp: int, wait_ms: int) -> None:
    """What the provider asked for, with up to 250 ms of chance on top, unless backoff waits longer anyway."""
    assert backoff_ms(0, 100, retry_after_ms, jitter_bp) == wait_ms


@pytest.mark.parametrize(
    ("failure_class", "max_retries", "waits"),
    [
        ("overloaded", 2, [50, 100, None]),
        ("overloaded", 0, [None]),
        ("timeout_first_byte", 2, [50, None]),
        ("timeout_first_byte", 0, [None]),
        ("timeout_idle", 2, [None]),
        ("invalid_request", 2, [None]),
    ],
)
def test_a_class_says_how_often(failure_class: str, max_retries: int, waits: list[int | None]) -> None:
    """yes: up to max_retries; once: one try more; no: none."""
    tried = [waited(failure_class, retry=retry, max_retries=max_retries) for retry in range(len(waits))]
    assert tried == waits


def test_the_provider_may_overrule_the_class() -> None:
    """x-should-retry true gives even a hopeless failure its tries, false takes them from the others."""
    assert waited("invalid_request", should_retry=True) == 50
    assert waited("timeout_first_byte", should_retry=True, retry=1) == 100
    assert waited("overloaded", should_retry=False) is None


def test_nothing_is_tried_again_after_content() -> None:
    """A client that has seen part of an answer never sees another one's."""
    assert waited(phase="content") is None
    assert waited(phase="content", should_retry=True) is None


@pytest.mark.parametrize(
    ("retry_after_ms", "time_left_ms", "wait_ms"),
    [
        (10_000, 60_000, 10_000),
        (10_001, 60_000, None),
        (3_000, 3_001, 3_000),
        (3_000, 3_000, None),
        (3_000, 2_999, None),
    ],
)
def test_a_pause_above_the_cap_or_the_time_left_is_not_waited_for(
    retry_after_ms: int, time_left_ms: int, wait_ms: int | None
) -> None:
    """Longer than retry_after_cap_ms, or than the run lives: no try more at this candidate."""
    assert waited(retry_after_ms=retry_after_ms, time_left_ms=time_left_ms) == wait_ms


def test_a_run_that_ends_before_the_wait_does_is_not_tried_again() -> None:
    """Without Retry-After too, the wait has to end before the run."""
    assert waited(time_left_ms=50) is None
    assert waited(time_left_ms=51) == 50


def test_patience_ends_where_another_candidate_is_ready() -> None:
    """A rate limit that asks for more than a second is left at once, if there is somewhere to go."""
    longer_ms = PATIENCE_MS + 1
    assert waited("rate_limited", retry_after_ms=longer_ms, has_alternative=True) is None
    assert waited("rate_limited", retry_after_ms=longer_ms) == longer_ms
    assert waited("rate_limited", retry_after_ms=PATIENCE_MS, has_alternative=True) == PATIENCE_MS
    assert waited("overloaded", retry_after_ms=longer_ms, has_alternative=True) == longer_ms
