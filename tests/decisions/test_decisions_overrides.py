"""Prices that people write: exact decimals, and everything that is wrong at once."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from palyra.decisions.overrides import read_overrides
from palyra.limits import OVERRIDES_MAX_COUNT

ROW: dict[str, Any] = {"provider_id": "a", "model_id": "m"}


def read(*rows: dict[str, Any]) -> Any:
    entries, faults = read_overrides([{**ROW, **row} for row in rows], ["a", "b"])
    assert faults == []
    return entries


@pytest.mark.parametrize(
    ("written", "nanousd"),
    [("0.59", 590_000_000), (0.1, 100_000_000), (0.3, 300_000_000), (2, 2_000_000_000), ("1e-9", 1), ("0", 0)],
)
def test_amounts_are_exact(written: Any, nanousd: int) -> None:
    """0.1 is a tenth, however it was written."""
    [entry] = read({"input_usd_per_mtok": written})
    assert entry.input_nanousd_per_mtok == nanousd


def test_every_key_has_its_field() -> None:
    """Rates, tiers, window, variant and what kind of price it is."""
    [entry] = read(
        {
            "variant": "batch",
            "effective_from": date(2026, 1, 1),
            "effective_to": "2026-02-01T00:00:00+01:00",
            "assumed": True,
            "currency": "USD",
            "audio_usd_per_minute": "0.006",
            "search_usd_per_thousand": 10,
            "tiers": [{"above_input_tokens": 200_000, "input_usd_per_mtok": 6}],
        }
    )
    assert (entry.variant, entry.source, entry.precision) == ("batch", "assumed", "assumed")
    assert entry.effective_from_us == int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
    assert entry.effective_to_us == int(datetime(2026, 1, 31, 23, tzinfo=UTC).timestamp()) * 1_000_000
    assert (entry.audio_nanousd_per_minute, entry.search_nanousd_per_thousand) == (6_000_000, 10_000_000_000)
    assert entry.tiers[0].input_nanousd_per_mtok == 6_000_000_000


def test_free_is_declared() -> None:
    """It has no rates; without a model it is for all models of the provider."""
    entries, faults = read_overrides([{"provider_id": "a", "free": True}], ["a"])
    assert faults == []
    assert (entries[0].state, entries[0].model_id) == ("free", "*")


@pytest.mark.parametrize(
    ("row", "path", "code"),
    [
        ({"input_usd_per_mtok": "-1"}, ("input_usd_per_mtok",), "price_negative"),
        ({"input_usd_per_mtok": "nan"}, ("input_usd_per_mtok",), "price_not_finite"),
        ({"input_usd_per_mtok": float("inf")}, ("input_usd_per_mtok",), "price_not_finite"),
        ({"input_usd_per_mtok": "cheap"}, ("input_usd_per_mtok",), "price_not_finite"),
        ({"input_usd_per_mtok": "0.0000000001"}, ("input_usd_per_mtok",), "price_precision"),
        ({"input_usd_per_mtok": 1_000_001}, ("input_usd_per_mtok",), "price_too_large"),
        ({"input_usd_per_mtok": True}, ("input_usd_per_mtok",), "wrong_type"),
        ({"input_usd_per_mtok": 1, "currency": "EUR"}, ("currency",), "price_currency"),
        ({"input_usd_per_mtok": 1, "colour": "red"}, ("colour",), "unknown_key"),
        ({"input_usd_per_mtok": 1, "provider_id": "x"}, ("provider_id",), "price_unknown_provider"),
        ({"input_usd_per_mtok": 1, "provider_id": 1}, ("provider_id",), "wrong_type"),
        ({"input_usd_per_mtok": 1, "variant": "gold"}, ("variant",), "bad_enum"),
        ({"input_usd_per_mtok": 1, "assumed": "yes"}, ("assumed",), "wrong_type"),
        ({"input_usd_per_mtok": 1, "free": True}, ("free",), "price_free_with_rates"),
        ({}, (), "price_empty"),
        ({"input_usd_per_mtok": 1, "effective_from": "soon"}, ("effective_from",), "price_window"),
        ({"input_usd_per_mtok": 1, "effective_from": 5}, ("effective_from",), "price_window"),
        (
            {"input_usd_per_mtok": 1, "effective_from": "2026-02-01", "effective_to": datetime(2026, 1, 1)},
            ("effective_to",),
            "price_window",
        ),
        ({"input_usd_per_mtok": 1, "tiers": [1]}, ("tiers",), "wrong_type"),
        (
            {"input_usd_per_mtok": 1, "tiers": [{"above_input_tokens": 0, "input_usd_per_mtok": 1}]},
            ("tiers", 0),
            "price_tier_order",
        ),
        ({"input_usd_per_mtok": 1, "tiers": [{"above_input_tokens": 5}]}, ("tiers", 0), "price_empty"),
        (
            {"input_usd_per_mtok": 1, "tiers": [{"above_input_tokens": 5, "output_usd_per_mtok": 1, "x": 1}]},
            ("tiers", 0, "x"),
            "unknown_key",
        ),
    ],
)
def test_each_slip_is_refused_at_its_place(row: dict[str, Any], path: tuple[Any, ...], code: str) -> None:
    """The path leads to the value that is wrong."""
    _, faults = read_overrides([{**ROW, **row}], ["a"])
    assert [(fault.path, fault.code) for fault in faults] == [((0, *path), code)]


def test_all_problems_come_at_once() -> None:
    """Nobody mends a file one message at a time; a row without a provider is one of them."""
    _, faults = read_overrides([{"input_usd_per_mtok": -1}, {**ROW, "variant": "gold"}], ["a"])
    assert [(fault.path[0], fault.code) for fault in faults] == [
        (0, "missing_key"),
        (0, "price_negative"),
        (1, "bad_enum"),
        (1, "price_empty"),
    ]


def test_two_prices_at_one_instant_are_refused() -> None:
    """Windows that touch do not overlap; other models, variants and assumptions have windows of their own."""
    first = {"input_usd_per_mtok": 1, "effective_to": "2026-02-01"}
    read(first, {"input_usd_per_mtok": 2, "effective_from": "2026-02-01"})
    read(first, {**first, "variant": "batch"}, {**first, "model_id": "n"}, {**first, "assumed": True})
    _, faults = read_overrides([{**ROW, **first}, {**ROW, "input_usd_per_mtok": 2}], ["a"])
    assert [(fault.path, fault.code) for fault in faults] == [((1,), "price_overlap")]


def test_too_many_are_refused_by_name() -> None:
    """As many as there may be pass; one more is refused, and none is left out in silence."""
    rows = [{**ROW, "model_id": f"m{number}", "free": True} for number in range(OVERRIDES_MAX_COUNT + 1)]
    assert read_overrides(rows[:-1], ["a"])[1] == []
    assert [fault.code for fault in read_overrides(rows, ["a"])[1]] == ["limit_overrides"]
