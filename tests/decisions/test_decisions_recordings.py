"""Recordings: what they may cost at most, what they are taken to have used, and which models may stand in."""

from __future__ import annotations

from typing import Any

import pytest
from registries import model, provider, registry
from story import World, admit, fail, given, start, succeed

from palyra.decisions.naming import resolve
from palyra.decisions.pricing import adopt_prices, usage_of_recording, with_id
from palyra.decisions.sizing import size_of, worst_nanousd
from palyra.decisions.usage import Metered
from palyra.errors import Refusal
from palyra.events.pricing import PriceEntry
from palyra.events.routing import RoutingDecided
from palyra.events.usage import UsageRecorded
from palyra.projections.budgets import Where
from palyra.usage import TokenUsage

EARS = registry(
    provider("a"),
    provider("b"),
    model("gpt", "a"),
    model("ear", "a", role="audio_transcription", max_context_tokens=None, fallbacks=["other"]),
    model("other", "b", role="audio_transcription", max_context_tokens=None),
    model("third", "b", role="audio_transcription", max_context_tokens=None),
    default_audio_transcription_model_id="ear",
)
MINUTE = 60_000


def price(**rates: Any) -> PriceEntry:
    return with_id(PriceEntry(**{"price_id": "", "provider_id": "a", "model_id": "ear", **rates}))


BY_MINUTE = price(audio_nanousd_per_minute=6_000_000)
BY_TOKEN = price(input_audio_nanousd_per_mtok=6_000, output_nanousd_per_mtok=10_000)
BY_INPUT = price(input_nanousd_per_mtok=6_000, output_nanousd_per_mtok=10_000)
FREE = price(state="free")


def heard(audio_ms: int = MINUTE, **changes: Any) -> Any:
    """Let a recording in."""
    return admit("r", "ear", endpoint="audio_transcription", audio_ms=audio_ms, raw_tokens=100, **changes)


@pytest.mark.parametrize(
    ("entry", "usage"),
    [
        (BY_MINUTE, TokenUsage(audio_ms=MINUTE)),
        (BY_TOKEN, TokenUsage(input_tokens=100, input_audio_tokens=100, output_tokens=20)),
        (BY_INPUT, TokenUsage(input_tokens=100, output_tokens=20)),
        (FREE, TokenUsage(input_tokens=100, output_tokens=20, audio_ms=MINUTE)),
        (None, TokenUsage(input_tokens=100, output_tokens=20, audio_ms=MINUTE)),
    ],
)
def test_what_nobody_tells_is_taken_by_the_meter_that_has_a_rate(
    entry: PriceEntry | None, usage: TokenUsage
) -> None:
    """Never by two at once, so that its cost is known wherever there is a price."""
    assert usage_of_recording(entry, 100, 20, MINUTE) == usage


def test_the_worst_is_the_length_or_the_tokens() -> None:
    """A minute of a price by the minute, whatever the tokens are."""
    assert worst_nanousd(BY_MINUTE, 100, 20, MINUTE) == 6_000_000
    assert worst_nanousd(BY_INPUT, 1_000_000, 0, MINUTE) == 6_000
    assert worst_nanousd(None, 100, 20, MINUTE) is None


def test_a_transcript_is_bounded_by_its_recording() -> None:
    """Ten tokens a second and some for its form; the length goes into the size."""
    world = given(EARS, heard(output_max_tokens=None))
    size = size_of(world.state, world.run("r"), Where("a", "ear"), "ear-a", world.now_us)
    assert (size.output_tokens, size.audio_ms) == (256 + 600, MINUTE)


def priced(world: World, *entries: PriceEntry) -> None:
    world.record(adopt_prices(world.state, list(entries), catalogue_name="", catalogue_version=""))


@pytest.mark.parametrize("metered", [Metered(), Metered(output_estimate_tokens=20)])
def test_an_answer_whose_provider_tells_nothing_costs_its_length(metered: Metered) -> None:
    """Estimated, and said to be."""
    world = given(EARS)
    priced(world, BY_MINUTE)
    world.do(heard(), start("r"), succeed("r", metered=metered))
    (row,) = world.facts(UsageRecorded)
    assert (row.usage, row.source, row.cost_nanousd) == (TokenUsage(audio_ms=MINUTE), "estimated", 6_000_000)


def test_only_who_was_named_may_stand_in() -> None:
    """A transcript by another model is another transcript: fallbacks are candidates, look-alikes are not."""
    world = given(EARS, heard(), fail_first())
    (decided,) = world.facts(RoutingDecided)
    assert decided.failover == "declared"
    assert [step.model_id for step in decided.plan] == ["ear", "other"]


def fail_first() -> Any:
    return lambda world: (start("r")(world), fail("r", may_retry=False)(world))[-1]


def test_each_role_has_its_default() -> None:
    """A request that names no model gets its role's; a chat model is no ear."""
    state = given(EARS).state
    found = resolve(state, "audio_transcription", "")
    assert not isinstance(found, Refusal)
    assert found.model_id == "ear"
    wrong = resolve(state, "audio_transcription", "gpt")
    assert isinstance(wrong, Refusal)
    assert wrong.code == "model_role_mismatch"
