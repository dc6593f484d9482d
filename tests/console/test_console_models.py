"""Providers asked on demand, their lists read, circuits held and defaults noted, over the console's API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from console_house import Operator, open_console
from openai import AsyncOpenAI
from upstream import Behaviour, Upstream


def config(url: str, **settings: Any) -> dict[str, Any]:
    """Return a provider that serves its list, asked when somebody wants it and not by itself."""
    ollama = {
        "provider_id": "ollama",
        "kind": "openai_compatible",
        "flavor": "ollama",
        "base_url": url,
        "allow_private_base_url": True,
    }
    return {"model_provider": {"providers": [ollama], "health_ttl_ms": 0, "discovery_ttl_ms": 0, **settings}}


@asynccontextmanager
async def asking(tmp_path: Path, **settings: Any) -> AsyncIterator[tuple[Upstream, Operator]]:
    async with Upstream(models=["llama", "nomic-embed"]) as up:
        async with open_console(tmp_path / "state", config(up.url, **settings)) as ask:
            yield up, ask


async def test_a_test_tells_how_a_provider_does(tmp_path: Path) -> None:
    """It costs nothing, and is recorded as any probe is."""
    async with asking(tmp_path) as (up, ask):
        (row,) = (await ask.post("models/test")).json["items"]
        assert (row["result"], row["health"], row["models_count"]) == ("ok", "healthy", 2)
        up.models_behaviour = Behaviour.raw(b"{}", status=401)
        (row,) = (await ask.post("models/test", {"provider": "ollama"})).json["items"]
        assert (row["result"], row["failure_class"], row["health"]) == ("failed", "auth_invalid", "degraded")
        (provider,) = (await ask("models")).json["providers"]
        assert (provider["probe_result"], provider["last_error"]) == ("failed", "auth_invalid")
        assert up.requests == []
        assert (await ask.post("models/test", {"provider": "nobody"})).code == "provider_not_found"


async def test_what_a_provider_lists_can_be_asked_for(tmp_path: Path) -> None:
    """By everybody who may, from the moment on that its list was read; and no longer when it is gone twice."""
    async with asking(tmp_path) as (up, ask):
        assert (await ask("models")).json["models"] == []
        (row,) = (await ask.post("models/discover")).json["items"]
        assert (row["added"], row["mode"]) == (["llama", "nomic-embed"], "serve")
        answer = (await ask("models")).json
        assert [(one["model_id"], one["role"]) for one in answer["models"]] == [
            ("llama", "chat"),
            ("nomic-embed", "embeddings"),
        ]
        assert (answer["default_chat_model_id"], answer["problems"]) == ("llama", [])
        async with AsyncOpenAI(base_url=ask.daemon.base_url, api_key=ask.daemon.client_key) as client:
            assert {one.id async for one in client.models.list()} >= {"llama", "nomic-embed"}
            said = await client.chat.completions.create(model="llama", messages=[{"role": "user", "content": "Hi"}])
            assert said.model == "llama"
        assert json.loads(up.requests[0].body)["model"] == "llama"
        up.models = ["llama"]
        assert (await ask.post("models/discover")).json["items"][0]["gone"] == []
        assert (await ask.post("models/discover")).json["items"][0]["gone"] == ["nomic-embed"]


async def test_what_a_provider_lists_has_its_price(tmp_path: Path) -> None:
    """A public one or the operator's own, from the moment on that it is listed, and at once after a start."""
    async with Upstream(models=["gpt-4o-mini", "house"]) as up:
        given = config(up.url)
        given["model_provider"]["providers"][0]["price_vendor"] = "openai"
        own = {"provider_id": "ollama", "model_id": "house", "input_usd_per_mtok": "1", "output_usd_per_mtok": "2"}
        given["pricing"] = {"overrides": [own]}
        for answers in ("discover", "status"):
            async with open_console(tmp_path / "state", given) as ask:
                if answers == "discover":
                    assert (await ask("pricing")).json["items"] == []
                    await ask.post("models/discover")
                entries = [one["entry"] for one in (await ask("pricing")).json["items"]]
                sources = {one["model_id"]: one.get("source", "operator") for one in entries}
                assert sources == {"gpt-4o-mini": "catalogue", "house": "operator"}


async def test_a_list_that_is_only_shown_serves_nobody(tmp_path: Path) -> None:
    """Mode list."""
    async with Upstream(models=["llama"]) as up:
        given = config(up.url)
        given["model_provider"]["providers"][0]["discovery_mode"] = "list"
        async with open_console(tmp_path / "state", given) as ask:
            await ask.post("models/discover")
            answer = (await ask("models")).json
            assert (answer["models"], [one["upstream_model"] for one in answer["listed"]]) == ([], ["llama"])


async def test_a_circuit_can_be_held(tmp_path: Path) -> None:
    """Open: no request passes, whatever is asked; closed again, they do."""
    async with asking(tmp_path) as (up, ask):
        await ask.post("models/discover")
        held = (await ask.post("models/circuit", {"provider": "ollama", "after": "open", "for_ms": 60_000})).json
        assert (held["circuit"], held["health"]) == ("open", "unavailable")
        plan = (await ask("models/plan", model="llama")).json
        assert (plan["refusal_code"], plan["excluded"][0]["excluded_by"]) == ("all_circuits_open", "circuit_open")
        freed = (await ask.post("models/circuit", {"provider": "ollama", "after": "closed"})).json
        assert (freed["circuit"], freed["until_us"]) == ("closed", None)
        assert (await ask("models/plan", model="llama")).json["refusal_code"] == ""
        assert up.requests == []


async def test_a_plan_is_what_a_request_would_get(tmp_path: Path) -> None:
    """With the figures of its candidates and who says them; nothing is recorded."""
    async with asking(tmp_path) as (up, ask):
        up.models_behaviour = Behaviour.raw(b'[{"id": "big", "context_length": 65536}, {"id": "small"}]')
        await ask.post("models/discover")
        position = (await ask("models")).json["at"]["position"]
        plan = (await ask("models/plan", model="big", tokens=20_000, max_output=100)).json
        assert [(one["model_id"], one["max_context_tokens"]) for one in plan["plan"]] == [("big", 65_536)]
        assert plan["plan"][0]["sources"] == {"max_context_tokens": "discovery", "max_output_tokens": "default"}
        assert plan["resolved_by"] == "discovered"
        small = (await ask("models/plan", model="small", tokens=20_000)).json
        assert small["refusal_code"] == "context_window_exceeded"
        assert (await ask("models")).json["at"]["position"] == position


@pytest.mark.parametrize("model", ["llama", "ollama/llama"])
async def test_a_default_is_noted_that_is_in_force(tmp_path: Path, model: str) -> None:
    """Another one is refused where the daemon has no file to write it into, and one that is not there anyway."""
    async with asking(tmp_path, default_chat_model_id=model) as (_, ask):
        noted = await ask.post("models/default", {"model": model})
        assert (noted.status, noted.json["model"]) == (200, model)
        assert (await ask.post("models/default", {"model": "other"})).code == "model_not_found"
        await ask.post("models/discover")
        other = {"llama": "ollama/llama", "ollama/llama": "llama"}[model]
        assert (await ask.post("models/default", {"model": other})).code == "conflict"
        assert (await ask("models/plan")).json["model_id"] == "llama"


async def test_another_default_is_written_into_the_daemons_file(tmp_path: Path) -> None:
    """It is checked, written, adopted and recorded in one; a model that cannot be it changes nothing."""
    file = tmp_path / "palyra.toml"
    file.write_text(
        """# mine
[[model_provider.providers]]
provider_id = "script"
kind = "deterministic"
[[model_provider.models]]
model_id = "one"
provider_id = "script"
[[model_provider.models]]
model_id = "two"
provider_id = "script"
[[model_provider.models]]
model_id = "vec"
role = "embeddings"
provider_id = "script"
"""
    )
    file.chmod(0o600)
    async with open_console(tmp_path / "state", file) as ask:
        assert (await ask.post("models/default", {"model": "nobody"})).code == "model_not_found"
        assert (await ask.post("models/default", {"model": "vec"})).code == "model_role_mismatch"
        assert "default" not in file.read_text()
        done = await ask.post("models/default", {"model": "two"})
        assert (done.status, done.json["model"]) == (200, "two")
        assert "# mine\n" in file.read_text()
        assert 'default_chat_model_id = "two"' in file.read_text()
        assert (await ask("models")).json["default_chat_model_id"] == "two"
        names = [one.name async for one in ask.daemon.journal]
        assert names[-1] == "default_model.set"
        assert names.count("config.adopted") == 2
