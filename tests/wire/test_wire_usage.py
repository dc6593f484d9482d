"""Usage in its many spellings, brought into the normal form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palyra.decisions.pricing import cost_of
from palyra.events.pricing import PriceEntry
from palyra.usage import TokenUsage
from palyra.wire.usage import (
    decode_usage,
    merge_usage,
    read_cost_nanousd,
    read_messages_usage,
    read_openai_usage,
)


def read(**fields: Any) -> tuple[TokenUsage | None, tuple[str, ...]]:
    """Read a usage object as it would arrive."""
    return read_openai_usage(decode_usage(json.dumps(fields).encode()))


@pytest.mark.parametrize(
    ("fields", "usage"),
    [
        (
            {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
            TokenUsage(input_tokens=3, output_tokens=2),
        ),
        ({"input_tokens": 3, "output_tokens": 2}, TokenUsage(input_tokens=3, output_tokens=2)),
        ({"prompt_eval_count": 3, "eval_count": 2}, TokenUsage(input_tokens=3, output_tokens=2)),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "prompt_tokens_details": {
                    "cached_tokens": 40,
                    "cache_write_tokens": 5,
                    "audio_tokens": 6,
                    "image_tokens": 7,
                },
                "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 3},
            },
            TokenUsage(
                input_tokens=100,
                output_tokens=50,
                cached_input_tokens=40,
                cache_write_5m_tokens=5,
                input_audio_tokens=6,
                input_image_tokens=7,
                reasoning_tokens=20,
                output_audio_tokens=3,
            ),
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 1,
                "prompt_cache_hit_tokens": 4,
                "prompt_tokens_details": None,
            },
            TokenUsage(input_tokens=9, output_tokens=1, cached_input_tokens=4),
        ),
        (
            {"input_tokens": 9, "output_tokens": 1, "input_token_details": {"cached_tokens": 4}, "seconds": 1.5},
            TokenUsage(input_tokens=9, output_tokens=1, cached_input_tokens=4, audio_ms=1500),
        ),
        # Reasoning outside completion is seen by the total.
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 22,
                "completion_tokens_details": {"reasoning_tokens": 7},
            },
            TokenUsage(input_tokens=10, output_tokens=12, reasoning_tokens=7),
        ),
        # A missing side is the difference.
        ({"prompt_tokens": 10, "total_tokens": 15}, TokenUsage(input_tokens=10, output_tokens=5)),
        ({"completion_tokens": 10, "total_tokens": 15}, TokenUsage(input_tokens=5, output_tokens=10)),
    ],
)
def test_clean_usage(fields: dict[str, Any], usage: TokenUsage) -> None:
    """What adds up has no anomaly."""
    assert read(**fields) == (usage, ())


@pytest.mark.parametrize(
    ("fields", "usage", "anomalies"),
    [
        ({}, None, ()),
        ({"total_tokens": 5}, None, ()),
        ({"prompt_tokens": "3"}, None, ("usage_invalid_value",)),
        ({"prompt_tokens": -1, "completion_tokens": True}, None, ("usage_invalid_value",)),
        (
            {"prompt_tokens": 1_000_000_001, "input_tokens": 3, "completion_tokens": 1},
            (3, 1),
            ("usage_invalid_value",),
        ),
        ({"prompt_tokens": 3}, (3, 0), ("usage_output_missing",)),
        ({"completion_tokens": 3}, (0, 3), ("usage_input_missing",)),
        ({"prompt_tokens": 9, "total_tokens": 3}, (9, 0), ("usage_output_missing",)),
        ({"completion_tokens": 9, "total_tokens": 3}, (0, 9), ("usage_input_missing",)),
        ({"prompt_tokens": 3.0, "completion_tokens": 1}, (0, 1), ("usage_invalid_value", "usage_input_missing")),
        ({"seconds": 2}, (0, 0), ("usage_input_missing", "usage_output_missing")),
        ({"seconds": -2, "duration": "x"}, None, ()),
    ],
)
def test_odd_usage(fields: dict[str, Any], usage: tuple[int, int] | None, anomalies: tuple[str, ...]) -> None:
    """What is no count is absent, and named."""
    found, codes = read(**fields)
    assert (found and (found.input_tokens, found.output_tokens), codes) == (usage, anomalies)


def test_parts_above_their_total_are_cut_in_order() -> None:
    """The image part goes before the cached one, audio before reasoning."""
    usage, anomalies = read(
        prompt_tokens=10,
        completion_tokens=4,
        prompt_tokens_details={"cached_tokens": 8, "image_tokens": 3, "audio_tokens": 2},
        completion_tokens_details={"reasoning_tokens": 6, "audio_tokens": 1},
    )
    assert usage == TokenUsage(
        input_tokens=10, output_tokens=4, cached_input_tokens=8, input_audio_tokens=2, reasoning_tokens=4
    )
    assert anomalies == ("usage_inconsistent",)


def test_a_reported_zero_stays_and_is_named_when_output_was_seen() -> None:
    """Zero is a count; only next to an answer it is odd. Embeddings have no output to miss."""
    fields = {"prompt_tokens": 3, "completion_tokens": 0}
    assert read_openai_usage(fields)[1] == ()
    assert read_openai_usage(fields, output_seen=True)[1] == ("usage_zero_reported",)
    assert read_openai_usage({"prompt_tokens": 3}, expects_output=False)[1] == ()


def test_the_last_value_of_a_field_wins() -> None:
    """Counts are cumulative: null keeps what was there, details merge, nothing is added."""
    before = {"prompt_tokens": 3, "completion_tokens": 1, "details": {"a": 1, "b": 2}, "odd": 1}
    after = {"completion_tokens": 5, "prompt_tokens": None, "details": {"b": 3}, "odd": {"c": 1}}
    merged = merge_usage(before, after)
    assert merged == {"prompt_tokens": 3, "completion_tokens": 5, "details": {"a": 1, "b": 3}, "odd": {"c": 1}}
    assert merge_usage({}, before) == before


@pytest.mark.parametrize(
    ("spelled", "nanousd"),
    [
        ("0.0012345675", 1_234_568),
        ("0.0000000005", 1),
        ("0.00000000049", 0),
        ("2", 2_000_000_000),
        ('"0.5"', 500_000_000),
        ("0", 0),
        ("-1", None),
        ("true", None),
        ("null", None),
        ('"free"', None),
        ('"NaN"', None),
        ("1e999", None),
        ("1e99999999999999999999", None),
    ],
)
def test_the_reported_cost_is_exact(spelled: str, nanousd: int | None) -> None:
    """Decimal text becomes nano-USD, half up, without a float in between."""
    assert read_cost_nanousd(decode_usage(f'{{"cost":{spelled}}}'.encode())) == nanousd


@given(
    st.dictionaries(
        st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens", "seconds"]), st.integers()
    )
)
def test_every_usage_is_in_normal_form(fields: dict[str, int]) -> None:
    """No count is negative and no part exceeds its total."""
    usage, _ = read(**fields, prompt_tokens_details={"cached_tokens": 5}, completion_tokens_details=7)
    if usage is not None:
        assert 0 <= usage.cached_input_tokens <= usage.input_tokens
        assert usage.output_tokens >= 0


def test_what_is_no_object_reports_nothing() -> None:
    """Null, numbers and broken text are no usage."""
    assert [decode_usage(raw) for raw in (b"null", b"7", b"{")] == [{}, {}, {}]


def test_one_call_is_one_usage_in_either_body() -> None:
    """What was read from a cache and written to it stands beside the input there, inside of it here; once each."""
    there = {
        "input_tokens": 60,
        "cache_read_input_tokens": 30,
        "cache_creation_input_tokens": 10,
        "output_tokens": 7,
    }
    inside = {
        "prompt_tokens": 100,
        "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 10},
        "completion_tokens": 7,
        "total_tokens": 107,
    }
    both = read_messages_usage(decode_usage(json.dumps(there).encode())), read(**inside)
    wanted = TokenUsage(input_tokens=100, output_tokens=7, cached_input_tokens=30, cache_write_5m_tokens=10)
    assert both == ((wanted, ()), (wanted, ()))
    price = PriceEntry(
        price_id="",
        provider_id="p",
        model_id="m",
        input_nanousd_per_mtok=1_000_000,
        cached_input_nanousd_per_mtok=100_000,
        cache_write_5m_nanousd_per_mtok=1_250_000,
        output_nanousd_per_mtok=5_000_000,
    )
    costs = [cost_of(usage, price).nanousd for usage, _ in both if usage is not None]
    assert costs == [60 + 3 + 13 + 35] * 2  # 12.5 for what was written, half up
