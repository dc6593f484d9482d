"""`budgets/check`: what rules would say to a request and what it may cost, without anything being recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from console_house import Operator, open_console

MODELS: dict[str, Any] = {
    "model_provider": {
        "providers": [{"provider_id": "d", "kind": "deterministic"}],
        "models": [{"model_id": "gpt", "provider_id": "d"}],
        "default_chat_model_id": "gpt",
    },
    "pricing": {
        "overrides": [
            {"provider_id": "d", "model_id": "gpt", "input_usd_per_mtok": "1", "output_usd_per_mtok": "10"}
        ]
    },
    "budgets": {
        "policies": [
            {
                "policy_id": "day",
                "scope_kind": "principal",
                "scope_id": "*",
                "metric_kind": "tokens",
                "interval_kind": "daily",
                "hard_limit": 2_000,
            }
        ]
    },
}


async def checked(ask: Operator, **body: Any) -> dict[str, Any]:
    answer = await ask("budgets/check", method="POST", body=body)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json
    return found


async def test_a_request_is_judged_and_priced_and_nothing_recorded(tmp_path: Path) -> None:
    """By its bound: input at its upper figure, output at its maximum; four figures, in order."""
    async with open_console(tmp_path, MODELS) as ask:
        before = len(ask.daemon.journal)
        found = await checked(ask, tokens=1_000, max_output=100, principal="key:x")
        assert (found["served"], found["refusal_code"]) == ("d/gpt", "")
        (model,) = found["models"]
        (evaluation,) = model["evaluations"]
        assert (evaluation["policy_id"], evaluation["subject"], evaluation["status"]) == ("day", "key:x", "ok")
        assert (evaluation["requested_value"], evaluation["headroom_value"]) == (1_400, 600)
        estimate = model["estimate"]
        assert (estimate["basis"], estimate["estimate_only"], model["status"]) == ("guess", True, "ok")
        assert [estimate[f"{name}_nanousd"] for name in ("lower", "expected", "upper", "worst")] == [
            1_010_000,
            2_000_000,
            2_300_000,
            2_300_000,
        ]
        assert len(ask.daemon.journal) == before
        assert ask.daemon.core.state.budgets.holds == {}


async def test_what_would_be_refused_says_so(tmp_path: Path) -> None:
    """By a rule, and by what the request allows itself; the evaluation tells what stops it."""
    async with open_console(tmp_path, MODELS) as ask:
        found = await checked(ask, tokens=3_000, max_output=100)
        assert (found["served"], found["refusal_code"]) == ("", "budget_request_too_large")
        (model,) = found["models"]
        assert (model["status"], model["evaluations"][0]["headroom_value"]) == ("blocked", 2_000 - 4_000)
        found = await checked(ask, tokens=100, max_output=100, max_cost_nanousd=5)
        assert found["refusal_code"] == "budget_request_too_large"
        assert {one["policy_id"] for one in found["models"][0]["evaluations"]} == {"day", "request.max_cost"}


async def test_a_short_answer_makes_it_fit(tmp_path: Path) -> None:
    """Who names no maximum is kept to what is left."""
    async with open_console(tmp_path, MODELS) as ask:
        (model,) = (await checked(ask, tokens=1_000))["models"]
        assert (model["output_cap_tokens"], model["evaluations"][0]["requested_value"]) == (700, 2_000)


async def test_a_name_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    """As a request with it would be; and so is what is no description."""
    async with open_console(tmp_path, MODELS) as ask:
        answer = await ask("budgets/check", method="POST", body={"model": "nobody"})
        assert (answer.status, answer.code) == (404, "model_not_found")
        answer = await ask("budgets/check", method="POST", body={"tokens": -1})
        assert (answer.status, answer.code) == (400, "invalid_request")


async def test_the_asker_is_who_pays_where_nobody_is_named(tmp_path: Path) -> None:
    """The operator; of a program's question, the program, and it may ask for nobody else."""
    async with open_console(tmp_path, MODELS) as ask:
        (model,) = (await checked(ask, model="gpt", max_output=1))["models"]
        assert model["evaluations"][0]["subject"] == "operator:local"
        made = (await ask.post("keys", {"name": "app", "scopes": ["v1:chat", "usage:read"]})).json
        own = await ask.post("budgets/check", {"model": "gpt"}, key=made["secret"])
        (model,) = own.json["models"]
        assert model["evaluations"][0]["subject"] == made["key"]["principal"]
        foreign = await ask.post("budgets/check", {"principal": "key:other"}, key=made["secret"])
        assert (foreign.status, foreign.code) == (403, "binding_violation")
