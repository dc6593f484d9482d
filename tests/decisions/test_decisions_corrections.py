"""Corrections stand beside rows: what a row counts as, and what makes it something else."""

from __future__ import annotations

import msgspec
from budget_kit import price
from reports_kit import Told, history_of
from story import given, serve

from palyra.decisions.corrections import correct, correction_of, counted_rows
from palyra.decisions.recost import recost
from palyra.events.usage import UsageCorrected, UsageRecorded
from palyra.usage import TokenUsage

FIRST = Told(at_us=1, model_ids=["gpt"])


def test_a_row_counts_as_it_was_corrected_last() -> None:
    """Tokens add up, the last cost holds; of an unknown cost what was known before is known still."""
    (counted,) = counted_rows(
        history_of([msgspec.structs.replace(FIRST, corrections=[(5, 3), (None, 4)])])
    ).values()
    assert counted.row.usage == TokenUsage(input_tokens=100, output_tokens=27)
    assert (counted.row.cost_nanousd, counted.row.known_nanousd, counted.row.cost_state) == (None, 5, "unknown")
    assert counted.corrected == "recost"


def test_a_correction_says_what_changes() -> None:
    """Applied, the row is what was wanted; wanted again, nothing is left to correct."""
    history = history_of([FIRST])
    (counted,) = counted_rows(history).values()
    wanted = TokenUsage(input_tokens=90, output_tokens=25)
    made = correction_of(counted, usage=wanted, cost_nanousd=7, price_id="", reason="reconciled", by="operator:x")
    assert made is not None
    assert (made.change_nanousd, made.deltas, made.tokens_before) == (
        7 - 1_000,
        TokenUsage(input_tokens=-10, output_tokens=5),
        120,
    )
    (draft,) = correct([made])
    assert draft.stream == "corrections"
    after = msgspec.structs.replace(history[-1], position=99, stream="corrections", body=made)
    (again,) = counted_rows([*history, after]).values()
    assert correction_of(again, usage=wanted, cost_nanousd=7, price_id="", reason="reconciled") is None


def test_a_correction_of_nothing_is_passed_over() -> None:
    """A row that is not at hand cannot be corrected."""
    history = history_of([msgspec.structs.replace(FIRST, corrections=[(5, 0)])])
    assert counted_rows([one for one in history if not isinstance(one.body, UsageRecorded)]) == {}


def test_what_a_provider_accounted_for_is_not_priced_again() -> None:
    """A row that was reconciled keeps its cost, whatever the list says now."""
    world = given(None, serve("r1"), price())
    (counted,) = counted_rows(world.history).values()
    made = correction_of(counted, usage=counted.row.usage, cost_nanousd=7, price_id="", reason="reconciled")
    assert isinstance(made, UsageCorrected)
    assert len(recost(world.state, world.history, from_us=0, to_us=1 << 62).corrections) == 1
    world.record(correct([made]))
    assert recost(world.state, world.history, from_us=0, to_us=1 << 62).corrections == []
