"""Smart routing from outside: what the client of each mode sees, and who may ask for another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from budget_kit import rule
from daemon_house import House, chat, open_house, raw_client
from registries import model, provider, registry

from palyra.decisions.keys import DEFAULT_SCOPES
from palyra.engine.budgets import adopt_file_policies
from palyra.events.base import Draft
from palyra.events.config import ConfigAdopted
from palyra.events.routing import RoutingDecided
from palyra.events.smart_routing import SmartRouting

UP = provider("up", max_retries=0, credential_ref="", auth_scheme="none")
OFFER = registry(
    UP,
    model("gpt", "up"),
    model("small", "up", cost_tier="low", quality=30),
    model("large", "up", cost_tier="premium", quality=90),
)


async def configure(house: House, **rules: Any) -> None:
    """Put rules of routing in force."""
    adopted = ConfigAdopted(generation=2, digest="", effective={}, registry=OFFER, routing=SmartRouting(**rules))
    await house.core.record([Draft("config", adopted)], "operator:local")


@pytest.mark.parametrize("mode", ["suggest", "dry_run", "enforced"])
async def test_the_three_modes_as_a_client_sees_them(tmp_path: Path, mode: str) -> None:
    """suggest hints, dry_run is silent, enforced serves another model and says so; the journal has all of it."""
    async with open_house(tmp_path, offer=OFFER) as house, raw_client(house) as raw:
        await configure(house, mode=mode)
        answer = await raw(body=chat())
        headers = {
            name: answer.headers.get(f"x-palyra-{name}") for name in ("routing", "recommended-model", "model")
        }
        fact = house.facts(RoutingDecided)[-1]
        assert fact.recommended == "up/small"
        if mode == "suggest":
            assert headers["recommended-model"] == "up/small"
            assert (headers["model"], answer.json["model"]) == ("gpt", "gpt")
            assert str(headers["routing"]).startswith("suggest;proceed;mode_suggest_only,")
        elif mode == "dry_run":
            assert headers == {"routing": None, "recommended-model": None, "model": "gpt"}
            assert fact.would is not None
            assert fact.would.model_id == "small"
        else:
            assert (headers["model"], answer.json["model"]) == ("small", "small")
            assert headers["recommended-model"] is None
            assert str(headers["routing"]).startswith("enforced;degrade;")
            assert answer.headers["x-palyra-requested-model"] == "gpt"


async def test_a_mode_of_ones_own_wants_a_scope(tmp_path: Path) -> None:
    """Neither raising nor lowering is free; nonsense is refused as such; spelling is free."""
    async with open_house(tmp_path, offer=OFFER) as house, raw_client(house) as raw:
        answer = await raw(body=chat(), headers={"x-palyra-routing": "enforced"})
        assert (answer.status, answer.code) == (403, "missing_scope")
        able = await house.issue("able", scopes=[*DEFAULT_SCOPES["client"], "routing:mode"])
        for value, status in (("Dry-Run", 200), ("ENFORCED", 200), ("always", 400)):
            answer = await raw(key=able, body=chat(), headers={"x-palyra-routing": value})
            assert answer.status == status
        modes = [fact.mode_requested for fact in house.facts(RoutingDecided)]
        assert modes == ["dry_run", "enforced"]


async def test_a_client_may_say_that_nobody_waits(tmp_path: Path) -> None:
    """`x-palyra-task-class: background` is cheap and guarded; keywords and tools are counted at the door."""
    async with open_house(tmp_path, offer=OFFER) as house, raw_client(house) as raw:
        await configure(house, mode="enforced")
        body = chat("Prove the security of this architecture.")
        answer = await raw(body=body, headers={"x-palyra-task-class": "background"})
        assert answer.status == 200
        fact = house.facts(RoutingDecided)[-1]
        assert (fact.task_class, fact.strategy, fact.features.keywords) == ("background", "cheapest", 3)
        assert b"Prove" not in b"".join(row.body for row in house.core.journal.rows)  # type: ignore[attr-defined]


async def test_past_a_limit_a_cheaper_model_answers_and_says_so(tmp_path: Path) -> None:
    """A rule that downgrades acts in mode suggest too; the client learns which model it got, and why."""
    async with open_house(tmp_path, offer=OFFER) as house, raw_client(house) as raw:
        limit = rule(hard_limit=1, on_hard="downgrade", downgrade_to=["small"], managed_by="file")
        await adopt_file_policies(house.core, [limit])
        answer = await raw(body=chat(max_tokens=5))
        assert (answer.status, answer.json["model"]) == (200, "small")
        assert answer.headers["x-palyra-requested-model"] == "gpt"
        assert "budget_downgrade" in answer.headers["x-palyra-routing"]
