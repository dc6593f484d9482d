"""When a provider says that it may be asked again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palyra.wire.retry_after import read_limit_reset_ms, read_retry_after_ms

NOW_US = 1_700_000_000_000_000  # 2023-11-14T22:13:20Z


@pytest.mark.parametrize(
    ("headers", "asked_ms"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2_000),
        ({"retry-after": "0.5"}, 500),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, 3_600_000),
        ({"retry-after": "1e9"}, 3_600_000),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:25 GMT"}, 5_000),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:15 GMT"}, 0),
        ({"retry-after": "Fri, 14 Nov 2053 22:13:15 GMT"}, 3_600_000),
        ({"retry-after": "Fri, 99 Nov 2053 22:13:15 GMT"}, None),
        ({"retry-after-ms": "250", "retry-after": "9"}, 250),
        ({"retry-after-ms": "?", "retry-after": "9"}, 9_000),
    ],
)
def test_pause_that_an_answer_asks_for(headers: dict[str, str], asked_ms: int | None) -> None:
    """Milliseconds go before seconds, seconds before a date; nonsense is as good as nothing."""
    assert read_retry_after_ms(headers, NOW_US) == asked_ms


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_header_gives_a_pause_within_its_bounds(exact: str, value: str) -> None:
    """No text of a provider makes the reading fail or the pause longer than an hour."""
    asked_ms = read_retry_after_ms({"retry-after-ms": exact, "retry-after": value}, NOW_US)
    assert asked_ms is None or 0 <= asked_ms <= 3_600_000


@pytest.mark.parametrize(
    ("reset", "asked_ms"),
    [
        ("6m0s", 360_000),
        ("1.5s", 1_500),
        ("120ms", 120),
        ("1h2m3.5s", 3_600_000),
        ("2d", 3_600_000),
        ("7", 7_000),
        ("0.25", 250),
        ("1700000005", 5_000),
        ("1600000000", 0),
        ("2023-11-14T22:13:25Z", 5_000),
        ("2023-11-14T22:13:25+00:00", 5_000),
        ("2023-11-14T22:13:15Z", 0),
        ("6m or so", None),
        ("soon", None),
        ("-5", None),
        ("nan", None),
        ("", None),
    ],
)
def test_limits_begin_anew_at_a_time(reset: str, asked_ms: int | None) -> None:
    """Written as a duration, as seconds, or as an instant, as OpenAI, Groq and Anthropic do."""
    headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": reset}
    assert read_limit_reset_ms(headers, NOW_US) == asked_ms


def test_only_limits_that_are_used_up_are_waited_for() -> None:
    """The last of them to begin anew; one of which something is left begins whenever it wants."""
    headers = {
        "x-ratelimit-remaining-requests": "3",
        "x-ratelimit-reset-requests": "9m",
        "anthropic-ratelimit-input-tokens-remaining": "0",
        "anthropic-ratelimit-input-tokens-reset": "2023-11-14T22:13:24Z",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2023-11-14T22:13:22Z",
        "x-ratelimit-remaining": "0",
    }
    assert read_limit_reset_ms(headers, NOW_US) == 4_000
    assert read_limit_reset_ms({"x-ratelimit-reset-tokens": "1s"}, NOW_US) is None


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_text_makes_the_reading_fail(left: str, reset: str) -> None:
    """And no pause is longer than an hour."""
    for remaining in (left, "0"):
        headers = {"x-ratelimit-remaining": remaining, "x-ratelimit-reset": reset}
        asked_ms = read_limit_reset_ms(headers, NOW_US)
        assert asked_ms is None or 0 <= asked_ms <= 3_600_000
