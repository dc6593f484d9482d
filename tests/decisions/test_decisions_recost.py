"""Corrected prices: old rows cost what the list in force says, beside what they said themselves."""

from __future__ import annotations

from budget_kit import TOKEN_NANOUSD, consumed, price, put, rule
from registries import model, provider, registry
from story import T0_US, World, given, serve, wait

from palyra.decisions.corrections import correct
from palyra.decisions.recost import Recosted, recost
from palyra.projections.usage import total_of

ONE = registry(provider("a"), model("gpt", "a"))
#: What `serve` uses: 90 in and 20 out.
USED = 110


def recosted(world: World, *, from_us: int = 0, to_us: int = 1 << 62) -> Recosted:
    return recost(world.state, world.history, from_us=from_us, to_us=to_us)


def test_rows_without_a_price_get_one() -> None:
    """A price that comes late counts in totals and budgets; applied twice is applied once."""
    world = given(ONE, price(), serve("r0"), put(rule(metric_kind="usd_cost", hard_limit=10**9)))
    world.do(price(input_nanousd_per_mtok=2 * 10**9, output_nanousd_per_mtok=2 * 10**9))
    found = recosted(world)
    assert (found.rows_count, len(found.corrections)) == (1, 1)
    assert (found.cost_before_nanousd, found.cost_after_nanousd) == (USED * TOKEN_NANOUSD, 2 * USED * TOKEN_NANOUSD)
    world.record(correct(found.corrections))
    assert total_of(world.state).cost_nanousd == 2 * USED * TOKEN_NANOUSD
    assert consumed(world, "day", "key:tester", world.now_us) == 2 * USED * TOKEN_NANOUSD
    assert recosted(world).corrections == []
    world.do(put(rule("late", metric_kind="usd_cost", hard_limit=10**9)))
    assert consumed(world, "late", "key:tester", world.now_us) == 2 * USED * TOKEN_NANOUSD


def test_unknown_becomes_known_and_is_counted_so() -> None:
    """The row was unpriced before and is not after."""
    world = given(ONE, serve("r1"), price())
    found = recosted(world)
    assert (found.unpriced_before_count, found.unpriced_after_count) == (1, 0)
    world.record(correct(found.corrections))
    total = total_of(world.state)
    assert (total.unpriced_count, total.cost_nanousd) == (0, USED * TOKEN_NANOUSD)
    cell = world.state.usage.cells[T0_US]["a|gpt|key:tester|chat|http"]
    assert (cell.unpriced_count, cell.cost_nanousd) == (0, USED * TOKEN_NANOUSD)


def test_only_the_rows_that_are_asked_for() -> None:
    """By the admission of their run, half open; without a price nothing is corrected."""
    world = given(ONE, serve("r1"), wait(ms=1_000), serve("r2"), price())
    assert recosted(world, to_us=world.now_us).rows_count == 1
    assert recosted(world, from_us=world.now_us).rows_count == 1
    assert recosted(given(ONE, serve("r1"))).corrections == []
