"""Usage by quarter of an hour, and the calibration of estimates by what was billed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st
from registries import THREE
from story import T0_US, World, admit, complete, fail, given, record, serve, start, succeed, wait

from palyra.decisions.usage import Metered
from palyra.events.usage import UsageRecorded
from palyra.projections.usage import CELL_US, KEEP_CELLS_COUNT, Calibration, UsageCell, calibrate, total_of
from palyra.usage import TokenUsage

DAY_MS = 24 * 3_600_000


def row(
    raw: int, billed: int, source: str = "provider", upstream_model: str = "gpt-a", at_us: int = T0_US
) -> UsageRecorded:
    return UsageRecorded(
        attempt=1,
        provider_id="a",
        model_id="gpt",
        upstream_model=upstream_model,
        principal_id="key:tester",
        endpoint="chat",
        effective_at_us=at_us,
        usage=TokenUsage(input_tokens=billed, output_tokens=1),
        source=source,  # type: ignore[arg-type]
        raw_input_tokens=raw,
    )


def test_rows_add_up_by_quarter_and_user() -> None:
    """Provider, model, principal and endpoint each have a cell of their own in each quarter of an hour."""
    world = given(
        THREE, serve("r1"), serve("r2"), wait(ms=CELL_US // 1_000), serve("r3"), serve("r4", principal_id="x")
    )
    two = UsageCell(rows_count=2, input_tokens=180, output_tokens=40, unpriced_count=2, unpriced_tokens=220)
    one = UsageCell(rows_count=1, input_tokens=90, output_tokens=20, unpriced_count=1, unpriced_tokens=110)
    assert world.state.usage.cells == {
        T0_US: {"a|gpt|key:tester|chat|http": two},
        T0_US + CELL_US: {"a|gpt|key:tester|chat|http": one, "a|gpt|x|chat|http": one},
    }
    assert total_of(world.state) == UsageCell(
        rows_count=4, input_tokens=360, output_tokens=80, unpriced_count=4, unpriced_tokens=440
    )


def test_each_part_of_a_row_adds_up() -> None:
    """What was read from a cache, written into one for how long, and thought."""
    used = TokenUsage(
        input_tokens=90,
        output_tokens=20,
        cached_input_tokens=7,
        cache_write_5m_tokens=5,
        cache_write_1h_tokens=3,
        reasoning_tokens=2,
    )
    world = given(THREE)
    for name in ("r1", "r2"):
        world.do(admit(name), start(name), succeed(name, Metered(reported=used)), complete(name))
    total = total_of(world.state)
    assert (total.cached_input_tokens, total.cache_write_5m_tokens, total.cache_write_1h_tokens) == (14, 10, 6)
    assert (total.input_tokens, total.output_tokens, total.reasoning_tokens) == (180, 40, 4)


def test_a_row_counts_in_the_quarter_in_which_its_run_was_admitted() -> None:
    """A run that lasts over the quarter's end belongs to where it began."""
    world = given(THREE, wait(ms=899_999), admit("r1"), start("r1"), wait(ms=60_000), succeed("r1"), complete("r1"))
    assert list(world.state.usage.cells) == [T0_US]


def test_a_row_says_by_itself_where_it_counts() -> None:
    """A row whose run has left memory is counted like any other."""
    world = given(THREE, wait(ms=CELL_US // 1_000 + 5), record("run-gone", row(10, 7)))
    assert list(world.state.usage.cells) == [T0_US]
    assert list(world.state.usage.cells[T0_US]) == ["a|gpt|key:tester|chat|http"]


def test_parts_and_estimates_are_counted_apart() -> None:
    """Cached, written and reasoning tokens as parts; rows that are not the provider's own as estimated."""
    usage = TokenUsage(
        input_tokens=9,
        output_tokens=8,
        cached_input_tokens=4,
        cache_write_5m_tokens=2,
        cache_write_1h_tokens=1,
        reasoning_tokens=6,
    )
    body = UsageRecorded(
        attempt=1,
        provider_id="a",
        model_id="m",
        upstream_model="m",
        principal_id="key:tester",
        endpoint="chat",
        effective_at_us=T0_US,
        cost_state="priced",
        cost_nanousd=70,
        usage=usage,
        source="partial",
        raw_input_tokens=9,
    )
    assert total_of(given(THREE, record("run-x", body)).state) == UsageCell(
        rows_count=1,
        input_tokens=9,
        output_tokens=8,
        cached_input_tokens=4,
        cache_write_5m_tokens=2,
        cache_write_1h_tokens=1,
        reasoning_tokens=6,
        estimated_count=1,
        estimated_output_tokens=8,
        cost_nanousd=70,
    )


def test_quarters_are_forgotten_after_five_weeks_of_use() -> None:
    """The first filled goes first and the total keeps it; a clock that was a year ahead makes no quarter old."""
    world = given(THREE, serve("r0"), wait(ms=365 * DAY_MS), serve("r1"), wait(ms=-365 * DAY_MS))
    for number in range(2, KEEP_CELLS_COUNT + 1):
        world.do(record(f"run-r{number}", row(10, 7, at_us=world.now_us + number * CELL_US)))
    cells = world.state.usage.cells
    assert (len(cells), T0_US in cells) == (KEEP_CELLS_COUNT, False)
    assert next(iter(cells)) == T0_US + 365 * DAY_MS * 1_000
    assert total_of(world.state).rows_count == KEEP_CELLS_COUNT + 1


def learnt(world: World, upstream_model: str = "gpt-a") -> Calibration:
    return world.state.usage.calibrations.get(f"a/{upstream_model}", Calibration())


@pytest.mark.parametrize(
    ("raw", "source", "samples"),
    [(64, "provider", 1), (63, "provider", 0), (100, "partial", 0), (100, "estimated", 0), (0, "provider", 0)],
)
def test_only_the_providers_counts_of_inputs_large_enough_teach(raw: int, source: str, samples: int) -> None:
    """Small inputs and estimates say nothing about the ratio."""
    assert learnt(given(THREE, record("run-x", row(raw, 90, source)))).samples_count == samples


def test_a_failed_attempt_that_reported_nothing_teaches_nothing() -> None:
    """Its row is an estimate itself."""
    world = given(THREE, admit("r1"), start("r1"), fail("r1", "timeout_idle", phase="body"))
    assert world.state.usage.calibrations == {}


def test_one_sample_moves_ratio_and_bound_by_their_stated_steps() -> None:
    """10,000 + (12,000 - 10,000) // 16 and 13,000 - 50; a sample past the bound lifts it by 950."""
    assert learnt(given(THREE, record("run-x", row(100, 120)))) == Calibration(
        samples_count=1, ratio_bp=10_125, high_bp=12_950
    )
    assert learnt(given(THREE, record("run-x", row(100, 131)))).high_bp == 13_950


@pytest.mark.parametrize(
    ("billed", "sample_bp"), [(0, 2_500), (25, 2_500), (26, 2_600), (400, 40_000), (9_000, 40_000)]
)
def test_a_sample_is_clamped(billed: int, sample_bp: int) -> None:
    """One absurd bill moves the ratio no further than a quarter or four times would."""
    ratio_bp = learnt(given(THREE, record("run-x", row(100, billed)))).ratio_bp
    assert ratio_bp == 10_000 + (sample_bp - 10_000) // 16


def test_each_upstream_model_learns_for_itself() -> None:
    """Calibration is by provider and the name on the wire."""
    world = given(THREE, record("run-x", row(100, 120), row(100, 120, upstream_model="gpt-b")))
    assert learnt(world) == learnt(world, "gpt-b")
    assert list(world.state.usage.calibrations) == ["a/gpt-a", "a/gpt-b"]


def test_the_ratio_is_used_from_the_eighth_sample() -> None:
    """Before, the raw count is the estimate, though the bound moves from the first sample on."""
    world = given(THREE, record("run-x", *[row(100, 80)] * 7))
    assert calibrate(world.state, "a", "gpt-a", 1_000) == (10_000, 1_000, 1_265)
    world.do(record("run-x", row(100, 80)))
    ratio_bp, estimated, upper = calibrate(world.state, "a", "gpt-a", 1_000)
    assert (ratio_bp, estimated, upper) == (9_191, 920, 1_260)
    assert calibrate(world.state, "a", "other", 1_000) == (10_000, 1_000, 1_300)


def test_estimates_round_up() -> None:
    """A started token is a token."""
    world = given(THREE, record("run-x", *[row(100, 81)] * 8))
    ratio_bp, estimated, upper = calibrate(world.state, "a", "gpt-a", 1)
    assert (estimated, upper) == (1, 2)
    assert ratio_bp < 10_000


def test_two_hundred_recorded_samples_end_in_the_pinned_figures() -> None:
    """A journal's calibration is a fold: the same rows end in the same ratio and bound for ever."""
    chance = random.Random(20_261_121)
    rows = [
        row(raw := chance.randrange(64, 5_000), raw * chance.randrange(8_000, 15_000) // 10_000) for _ in range(200)
    ]
    assert learnt(given(THREE, record("run-x", *rows))) == Calibration(
        samples_count=200, ratio_bp=10_734, high_bp=14_000
    )


def by_hand(samples: list[tuple[int, int]]) -> tuple[int, int]:
    """The rule of the specification, sample by sample, with floor division spelt out."""
    ratio, high = 10_000, 13_000
    for raw, billed in samples:
        sample = max(2_500, min(40_000, (billed * 10_000 - billed * 10_000 % raw) // raw))
        difference = sample - ratio
        ratio += (difference - difference % 16) // 16
        high = high + 950 if sample > high else high - 50
        high = max(10_000, min(40_000, high))
    return ratio, high


@settings(max_examples=60)
@generated(st.lists(st.tuples(st.integers(64, 200_000), st.integers(0, 1_000_000)), max_size=40))
def test_calibration_is_the_stated_fold(samples: list[tuple[int, int]]) -> None:
    """Whatever was billed, ratio and bound are those of the rule done by hand, and never leave their range."""
    world = given(THREE, record("run-x", *(row(raw, billed) for raw, billed in samples)))
    found = learnt(world)
    assert (found.ratio_bp, found.high_bp) == by_hand(samples)
    assert 2_500 <= found.ratio_bp <= 40_000
    assert 10_000 <= found.high_bp <= 40_000


def test_the_bound_settles_near_the_95th_percentile() -> None:
    """After many samples about one in twenty lies above the bound."""
    chance = random.Random(7)
    world = given(THREE)
    above = 0
    for _ in range(2_000):
        billed = chance.randrange(5_000, 20_000)
        above += billed > learnt(world).high_bp
        world.do(record("run-x", row(10_000, billed)))
    assert 0.03 < above / 2_000 < 0.07
