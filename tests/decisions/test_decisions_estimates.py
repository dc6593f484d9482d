"""What a request may cost: the four figures, and what they are made of."""

from __future__ import annotations

from typing import Any

from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st
from registries import THREE, model, provider, registry
from story import Outcome, Step, World, admit, complete, given, serve, start, succeed

from palyra.decisions.estimates import estimate_of, expected_nanousd, expected_usage
from palyra.decisions.pricing import adopt_prices, with_id
from palyra.decisions.usage import Metered
from palyra.events.pricing import PriceEntry
from palyra.events.registry import ModelEntry
from palyra.events.routing import PricingEstimate
from palyra.events.runs import TokenEstimate
from palyra.projections.catalog import model_entry
from palyra.usage import TokenUsage

#: A token in costs this much, one from a cache a tenth, one out ten times as much.
IN, CACHED, OUT = 1_000, 100, 10_000


#: One model that listens.
EARS = registry(
    provider("a"), model("ear", "a", role="audio_transcription", max_context_tokens=None), default_chat_model_id=""
)


def priced(of: str = "gpt", **changes: Any) -> Step:
    """Give a model at a price."""

    def step(world: World) -> Outcome:
        fields: dict[str, Any] = {
            "input_nanousd_per_mtok": IN * 1_000_000,
            "cached_input_nanousd_per_mtok": CACHED * 1_000_000,
            "output_nanousd_per_mtok": OUT * 1_000_000,
            **changes,
        }
        entry = with_id(PriceEntry(price_id="", provider_id="a", model_id=of, **fields))
        return Outcome(
            recorded=world.record(adopt_prices(world.state, [entry], catalogue_name="", catalogue_version=""))
        )

    return step


def answered(*lengths: int, model_name: str = "gpt", **changes: Any) -> Step:
    """Let runs be answered with so many tokens each; the input is billed as it was estimated."""

    def step(world: World) -> Outcome:
        for tokens in lengths:
            run_id = f"t{world.state.position}"
            metered = Metered(reported=TokenUsage(input_tokens=100, output_tokens=tokens))
            world.do(
                admit(run_id, model_name, **changes), start(run_id), succeed(run_id, metered), complete(run_id)
            )
        return Outcome()

    return step


def estimated(world: World, **changes: Any) -> PricingEstimate:
    world.do(admit("r1", **changes))
    return estimate_of(world.state, world.run("r1"), gpt(world), world.now_us)


def gpt(world: World) -> ModelEntry:
    entry = model_entry(world.state, "chat", "a", "gpt")
    assert entry is not None
    return entry


def four(estimate: PricingEstimate) -> list[int]:
    found = (
        estimate.lower_nanousd,
        estimate.expected_nanousd,
        estimate.upper_nanousd,
        estimate.worst_nanousd,
    )
    return [figure for figure in found if figure is not None]


def test_without_samples_the_length_is_a_guess() -> None:
    """One token, half of the input or 64, the maximum that is sent; a price alone makes no estimate sure."""
    estimate = estimated(given(THREE, priced()), output_max_tokens=500)
    assert (estimate.basis, estimate.samples_count, estimate.estimate_only) == ("guess", 0, True)
    assert four(estimate) == [
        100 * CACHED + OUT,
        100 * IN + 64 * OUT,
        130 * IN + 500 * OUT,
        130 * IN + 500 * OUT,
    ]


def test_recorded_answers_take_the_place_of_the_guess() -> None:
    """Twenty of 1 to 20 tokens: the second, the tenth, the nineteenth; worst is what it was."""
    world = given(THREE, priced(), answered(*range(1, 21)))
    estimate = estimated(world, output_max_tokens=500)
    assert (estimate.basis, estimate.samples_count, estimate.estimate_only) == ("model", 20, False)
    assert four(estimate) == [
        100 * CACHED + 2 * OUT,
        100 * IN + 10 * OUT,
        120 * IN + 19 * OUT,
        120 * IN + 500 * OUT,
    ]
    assert expected_usage(world.state, world.run("r1"), gpt(world), None) == TokenUsage(
        input_tokens=100, output_tokens=10
    )


def test_an_agent_has_answers_of_its_own() -> None:
    """The same question costs another agent what everybody's costs."""
    world = given(THREE, priced(), answered(*[3] * 20, agent_id="butler"), answered(*[11] * 30))
    assert estimated(world, agent_id="butler").basis == "agent"
    assert expected_nanousd(world.state, world.run("r1"), gpt(world), world.now_us) == 100 * IN + 3 * OUT
    world.do(admit("r2", agent_id="gardener"))
    assert expected_nanousd(world.state, world.run("r2"), gpt(world), world.now_us) == 100 * IN + 11 * OUT


def test_no_answer_is_longer_than_its_maximum() -> None:
    """Every quantile is cut to what is sent; of several choices all together."""
    world = given(THREE, priced(), answered(*[5_000] * 20))
    assert four(estimated(world, output_max_tokens=7)) == [
        100 * CACHED + 7 * OUT,
        100 * IN + 7 * OUT,
        120 * IN + 7 * OUT,
        120 * IN + 7 * OUT,
    ]
    world.do(admit("r2", output_max_tokens=7, choices_count=3))
    assert expected_usage(world.state, world.run("r2"), gpt(world), None).output_tokens == 21


def test_a_public_price_is_an_estimate_whatever_was_recorded() -> None:
    """Only a price that is exact beside samples makes more of it."""
    world = given(THREE, priced(source="catalogue", precision="list"), answered(*[3] * 20))
    estimate = estimated(world)
    assert (estimate.basis, estimate.estimate_only) == ("model", True)


def test_what_cannot_be_priced_has_no_figures() -> None:
    """No price at all, or none of a meter that is used."""
    assert estimated(given(THREE, serve("r0"))) == PricingEstimate()
    world = given(THREE, priced(output_nanousd_per_mtok=None))
    estimate = estimated(world)
    assert (estimate.state, four(estimate)) == ("unknown", [])
    assert estimate.price_id


def test_a_recording_costs_by_its_length_where_that_has_a_rate() -> None:
    """Two minutes at 6,000 a minute, however many tokens it has; by the token where that is what costs."""
    world = given(EARS, priced(of="ear", audio_nanousd_per_minute=6_000))
    world.do(admit("r1", "ear", endpoint="audio_transcription", raw_tokens=900, audio_ms=120_000))
    heard = model_entry(world.state, "audio_transcription", "a", "ear")
    assert heard is not None
    estimate = estimate_of(world.state, world.run("r1"), heard, world.now_us)
    assert four(estimate) == [12_000] * 4
    assert expected_nanousd(world.state, world.run("r1"), heard, world.now_us) == 12_000
    world.do(priced(of="ear", input_audio_nanousd_per_mtok=5_000_000, cached_input_nanousd_per_mtok=None))
    assert four(estimate_of(world.state, world.run("r1"), heard, world.now_us))[1] == 900 * 5 + 50 * OUT


def test_a_recording_whose_length_is_guessed_is_no_more_than_an_estimate() -> None:
    """Its header tells nothing, so its size has to; one that tells its length costs exactly that."""
    heard = {"endpoint": "audio_transcription", "audio_ms": 120_000}
    for is_guessed in (False, True):
        world = given(EARS, priced(of="ear", audio_nanousd_per_minute=6_000))
        world.do(answered(*[3] * 20, model_name="ear", **heard))
        world.do(admit("r1", "ear", **heard, audio_guessed=is_guessed))
        entry = model_entry(world.state, "audio_transcription", "a", "ear")
        assert entry is not None
        assert estimate_of(world.state, world.run("r1"), entry, world.now_us).estimate_only is is_guessed


def test_a_tier_has_a_price_of_its_own() -> None:
    """Where batch or flex have none, that of the standard tier stands in and is no more than an estimate."""
    world = given(THREE, priced(variant="priority"), answered(*[3] * 20))
    assert estimated(world, variant="priority").estimate_only is False
    assert world.run("r1").admitted.variant == "priority"
    world = given(THREE, priced(), answered(*[3] * 20))
    estimate = estimated(world, variant="flex")
    assert (estimate.variant, estimate.state, estimate.estimate_only) == ("flex", "priced", True)
    world = given(THREE, priced(), answered(*[3] * 20))
    assert estimated(world, variant="priority") == PricingEstimate(variant="priority")
    world = given(THREE, priced(state="free"), answered(*[3] * 20))
    assert estimated(world, variant="flex").estimate_only is False


def test_a_request_that_is_translated_loses_its_tier() -> None:
    """The other dialect has no word for it, so it is served and priced as the standard one."""
    world = given(THREE, priced(), answered(*[3] * 20))
    assert estimated(world, variant="priority", dialect="messages").variant == "standard"
    world.do(admit("r2", variant="priority", dialect="chat"))
    assert estimate_of(world.state, world.run("r2"), gpt(world), world.now_us).variant == "priority"


def test_an_estimate_is_the_raw_count_by_its_ratio() -> None:
    """Rounded up: a part of a token is billed as one."""
    for raw, ratio_bp, estimated in ((100, 10_000, 100), (100, 12_500, 125), (3, 10_001, 4), (0, 20_000, 0)):
        assert TokenEstimate(raw=raw, ratio_bp=ratio_bp, upper=raw).estimated == estimated


@settings(max_examples=40)
@generated(
    st.lists(st.integers(0, 3_000), max_size=40),
    st.integers(0, 20_000),
    st.integers(0, 4_000),
    st.integers(1, 3),
    st.sampled_from([{}, {"cached_input_nanousd_per_mtok": 9 * IN * 1_000_000}, {"state": "free"}]),
)
def test_the_figures_are_in_order(
    lengths: list[int], raw: int, most: int, choices: int, changes: dict[str, Any]
) -> None:
    """lower <= expected <= upper <= worst, whatever was recorded, asked and charged."""
    world = given(THREE, priced(**changes), answered(*lengths))
    found = four(estimated(world, raw_tokens=raw, output_max_tokens=most, choices_count=choices))
    assert len(found) == 4
    assert found == sorted(found)
