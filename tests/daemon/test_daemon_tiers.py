"""Service tiers, from outside: held at what was asked for, charged at what was given, in every dialect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from daemon_house import House, chat, open_house, raw_client
from dialect_house import DIALECTS, PATHS, asked
from upstream import Behaviour

from palyra.decisions.pricing import adopt_prices, with_id
from palyra.events.attempts import AttemptStarted
from palyra.events.pricing import PriceEntry
from palyra.events.runs import RunAdmitted
from palyra.events.usage import UsageRecorded

#: What a token costs, by tier; flex has no price of its own.
RATES = {"standard": 10, "priority": 20}
BODIES: dict[str, dict[str, Any]] = {
    "gpt": chat(max_tokens=9),
    "claude": asked(max_tokens=9),
    "oai": {"model": "oai", "input": "Say hi.", "max_output_tokens": 16},
}


async def give_prices(house: House) -> None:
    entries = [
        with_id(
            PriceEntry(
                price_id="",
                provider_id=one.provider_id,
                model_id=one.model_id,
                variant=tier,  # type: ignore[arg-type]
                input_nanousd_per_mtok=rate * 1_000_000,
                output_nanousd_per_mtok=rate * 1_000_000,
            )
        )
        for one in DIALECTS.models
        for tier, rate in RATES.items()
    ]
    await house.core.record(adopt_prices(house.core.state, entries, catalogue_name="", catalogue_version=""))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", list(PATHS))
async def test_a_tier_is_held_as_asked_and_charged_as_given(tmp_path: Path, name: str, stream: bool) -> None:
    """The provider's own word decides; where it says nothing it is taken to have done as it was asked."""
    async with open_house(tmp_path, offer=DIALECTS) as house, raw_client(house) as raw:
        await give_prices(house)

        async def serve(wanted: str, given: str) -> tuple[str, str, UsageRecorded]:
            house.upstream.reply_with(Behaviour(service_tier=given, usage="usage_chunk"))
            body = {**BODIES[name], "stream": stream, **({"service_tier": wanted} if wanted else {})}
            assert (await raw(path=PATHS[name], body=body)).status == 200
            await house.wait_until_idle()
            kinds = (RunAdmitted, AttemptStarted, UsageRecorded)
            admitted, started, row = (house.facts(kind)[-1] for kind in kinds)
            return admitted.variant, started.variant, row  # type: ignore[attr-defined]

        for wanted, given, held, charged, rate in [
            ("", "", "standard", "standard", 10),
            ("auto", "priority", "standard", "priority", 20),
            ("priority", "priority", "priority", "priority", 20),
            ("priority", "default", "priority", "standard", 10),
            ("flex", "flex", "flex", "flex", 10),
            ("", "Strange tier!", "standard", "other", None),
        ]:
            asked_for, started, row = await serve(wanted, given)
            assert (asked_for, started, row.variant) == (held, held, charged), (wanted, given)
            assert row.cost_nanousd == (None if rate is None else row.usage.total_tokens * rate)


async def test_a_tier_that_cannot_be_said_is_not_paid_for(tmp_path: Path) -> None:
    """A request that is translated is sent without it, and says so; it is held and charged as the standard one."""
    async with open_house(tmp_path, offer=DIALECTS) as house, raw_client(house) as raw:
        await give_prices(house)
        answer = await raw(body=chat(model="claude", max_tokens=9, service_tier="priority"))
        assert answer.status == 200
        assert "service_tier" in answer.headers["x-palyra-dropped-params"]
        assert "service_tier" not in house.upstream.requests[-1].json
        assert house.facts(AttemptStarted)[-1].variant == "standard"
        assert house.facts(UsageRecorded)[-1].variant == "standard"
