"""Settings whose effect only shows from outside: with each of them something is otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest
from authorization_server import AuthorizationServer
from console_house import open_console
from test_console_oauth import browsing, log_in, start, state_of
from test_console_vault import put

from palyra.config.load import load_given
from palyra.engine.adoptable import adoptable_of
from palyra.events.accounting import Accounting
from palyra.events.smart_routing import ScoreWeights
from palyra.units import US_PER_S

HELLO = {"model": "deterministic", "messages": [{"role": "user", "content": "Hello?"}]}


@pytest.mark.parametrize(("anonymous", "status"), [("refuse", 401), ("loopback", 200)])
async def test_programs_of_this_machine_may_need_no_key(tmp_path: Path, anonymous: str, status: int) -> None:
    """`auth.anonymous_client`: nobody is let in without a key unless it says so."""
    config = {"auth": {"anonymous_client": anonymous}}
    async with open_console(tmp_path, config) as ask, aiohttp.ClientSession() as session:
        async with session.post(f"{ask.daemon.base_url}/chat/completions", json=HELLO) as answer:
            assert answer.status == status


async def test_the_vault_holds_so_many_secrets(tmp_path: Path) -> None:
    """`vault.max_secrets`: one more is refused, another value of one that is there is not."""
    async with open_console(tmp_path, {"vault": {"max_secrets": 1}}) as ask:
        assert (await put(ask, "global/one")).status == 200
        refused = await put(ask, "global/two")
        assert (refused.status, "vault.max_secrets" in refused.error["message"]) == (409, True)
        assert (await put(ask, "global/one", "another-value-0123456789")).status == 200


@pytest.mark.parametrize(("mode", "status"), [("strict", 502), ("lenient", 200)])
async def test_what_was_not_recorded_may_be_answered_by_rules(tmp_path: Path, mode: str, status: int) -> None:
    """`fixture_mode`: a provider that replays says so, unless its rules may help out."""
    (tmp_path / "heard.jsonl").write_text("\n")
    entry: dict[str, Any] = {"provider_id": "det", "kind": "deterministic", "fixture_mode": mode}
    entry["fixtures"] = str(tmp_path / "heard.jsonl")
    models = [{"model_id": "deterministic", "provider_id": "det"}]
    config = {"model_provider": {"providers": [entry], "models": models}}
    async with open_console(tmp_path / "state", config) as ask, aiohttp.ClientSession() as session:
        headers = {"authorization": f"Bearer {ask.daemon.client_key}"}
        async with session.post(f"{ask.daemon.base_url}/chat/completions", json=HELLO, headers=headers) as answer:
            assert answer.status == status, await answer.text()


async def test_a_login_is_made_as_it_is_configured(tmp_path: Path) -> None:
    """`[auth.oauth.openai]`: more for the page, a secret for the endpoint, and so long a time."""
    async with AuthorizationServer() as up:
        config = up.config
        config["auth"]["oauth"]["openai"] |= {
            "extra_authorize_params": {"prompt": "select_account"},
            "client_secret_vault_ref": "global/client",
            "attempt_ttl_ms": 120_000,
        }
        async with open_console(tmp_path, config) as ask, browsing() as browser:
            assert (await put(ask, "global/client", "planted-client-secret")).status == 200
            started = await start(ask)
            asked = await browser.go_to_provider(started)
            assert asked["prompt"] == "select_account"
            told = await state_of(ask, started)
            left_us = told["expires_us"] - ask.daemon.core.clock.now_us()
            assert 60 * US_PER_S < left_us <= 120 * US_PER_S
            await log_in(ask, up)
            assert up.token_requests[-1]["client_secret"] == "planted-client-secret"


def test_what_decisions_read_is_what_is_written() -> None:
    """Accounting, credentials and routing: every figure that is not as designed reaches the record."""
    parts = {"length_bp": 1, "tools_bp": 2, "json_bp": 3, "images_bp": 4, "keywords_bp": 5}
    given = {
        "usage": {"unknown_outcome": "zero", "abandoned": "input"},
        "budgets": {"default_output_cap_tokens": 77},
        "approvals": {"request_ttl_hours": 2, "four_eyes": True},
        "auth": {"max_profiles_per_candidate": 2},
        "routing": {"weights": parts, "classes": {"background": {"min_quality": 7}}},
        "model_provider": {"response_cache_max_bytes": 2 << 20},
    }
    adopted = adoptable_of(load_given(given, {}, {}).config, [])
    assert adopted.accounting == Accounting(
        unknown_outcome="zero",
        abandoned="input",
        default_output_cap_tokens=77,
        approval_ttl_hours=2,
        four_eyes=True,
    )
    assert adopted.routing.weights == ScoreWeights(**parts)
    assert adopted.routing.min_quality == {"background": 7}
    assert adopted.registry.max_profiles_per_candidate == 2
    assert adopted.registry.response_cache_max_bytes == 2 << 20
