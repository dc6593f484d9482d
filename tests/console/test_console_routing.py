"""How models are chosen and what came of it, over HTTP and by the command."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from console_house import Operator, open_console
from openai import AsyncOpenAI

RATES = {"large": ("3", "15"), "tiny": ("0.1", "0.4")}


def config(mode: str) -> dict[str, Any]:
    """Return a dear model, which is the default, and a cheap one."""
    return {
        "routing": {"mode": mode, "agents": {"lone": "suggest"}},
        "pricing": {
            "overrides": [
                {
                    "provider_id": "own",
                    "model_id": name,
                    "input_usd_per_mtok": rate[0],
                    "output_usd_per_mtok": rate[1],
                }
                for name, rate in RATES.items()
            ]
        },
        "model_provider": {
            "providers": [{"provider_id": "own", "kind": "deterministic"}],
            "models": [
                {"model_id": "large", "provider_id": "own", "quality": 90},
                {"model_id": "tiny", "provider_id": "own", "quality": 30, "cost_tier": "low"},
            ],
            "default_chat_model_id": "large",
        },
    }


async def say(ask: Operator, key: str = "", **headers: str) -> str:
    """Make a simple request and return its run."""
    async with AsyncOpenAI(base_url=ask.daemon.base_url, api_key=key or ask.daemon.client_key) as client:
        answer = await client.chat.completions.with_raw_response.create(
            model="palyra/auto", messages=[{"role": "user", "content": "Hello?"}], extra_headers=headers
        )
    return str(answer.headers["x-palyra-run-id"])


async def test_what_was_tried_out_is_told_with_what_it_would_save(tmp_path: Path) -> None:
    """The mode, the models, each decision with what came of it, and why it fell: as four answers of one console."""
    async with open_console(tmp_path, config("dry_run")) as ask:
        run_id = await say(ask)
        await say(ask, **{"x-palyra-agent": "lone", "x-palyra-session": "s"})
        await say(ask, **{"x-palyra-agent": "lone", "x-palyra-session": "s", "x-palyra-task-class": "background"})
        shown = (await ask("routing")).json
        assert (shown["rules"]["mode"], shown["default_model"]) == ("dry_run", "large")
        assert [one["model_id"] for one in shown["models"] if one["is_default"]] == ["large"]
        assert {one["model_id"]: one["sample_nanousd"] for one in shown["models"]} == {
            "large": 18_000_000,
            "tiny": 500_000,
        }
        report = (await ask("usage/routing", limit=2)).json
        figures = report["figures"]
        assert (figures["decisions"], figures["modes"]) == (3, {"dry_run": 1, "suggest": 2})
        assert figures["hints"] == {"given": 2, "answered": 1, "followed": 0, "followed_bp": 0}
        (tried,) = report["comparisons"]
        assert (tried["served"], tried["would"], tried["runs"]) == ("own/large", "own/tiny", 1)
        assert figures["would_save_nanousd"] == tried["expected_nanousd"] - tried["would_nanousd"] > 0
        assert len(report["recent"]) == 2
        assert (await ask("usage/routing")).json["recent"][-1]["run_id"] == run_id
        explained = (await ask(f"usage/routing/{run_id}")).json
        assert explained["choice"]["recommended"] == "own/tiny"
        found = (await ask("usage/insights")).json
        assert found["routing"] == figures
        assert {one["name"]: one["runs"] for one in found["class_mix"]} == {"interactive": 2, "background": 1}
        assert [one["name"] for one in found["scope_mix"]] == ["interactive"]
        assert [(one["provider_id"], one["attempts"], one["circuit"]) for one in found["providers"]] == [
            ("own", 3, "closed")
        ]
        assert [one["cost_samples"] for one in found["calibration"]] == [1]


async def test_a_program_sees_its_own_decisions(tmp_path: Path) -> None:
    """Those of others it cannot count, and whose run it is does not show."""
    async with open_console(tmp_path, config("suggest")) as ask:
        made = (await ask.post("keys", {"name": "app", "scopes": ["v1:chat", "usage:read"]})).json
        own, foreign = await say(ask, made["secret"]), await say(ask)
        assert (await ask("usage/routing", key=made["secret"])).json["figures"]["decisions"] == 1
        assert (await ask(f"usage/routing/{own}", key=made["secret"])).status == 200
        hidden = await ask(f"usage/routing/{foreign}", key=made["secret"])
        assert (hidden.status, hidden.code) == (404, "run_not_found")


async def test_alerts_stand_in_insights_and_reports(tmp_path: Path) -> None:
    """A limit that was passed is told where figures are."""
    rule = {"policy_id": "day", "scope_kind": "global", "metric_kind": "tokens", "interval_kind": "daily"}
    budgets = {"policies": [{**rule, "soft_limit": 1}]}
    async with open_console(tmp_path, {**config("suggest"), "budgets": budgets}) as ask:
        await say(ask)
        while not (await ask("alerts", state="open")).json["items"]:
            await asyncio.sleep(0)
        found = (await ask("usage/insights")).json["alerts"]
        assert [(one["kind"], one["subject_id"]) for one in found] == [("budget_soft", "day")]

        def report() -> bytes:
            command = [sys.executable, "-m", "palyra", "usage", "report", "--dataset", "alerts", "--format", "csv"]
            environ = {**os.environ, "PALYRA_STATE_DIR": str(ask.daemon.paths.directory)}
            return subprocess.run(command, env=environ, check=True, capture_output=True).stdout

        head, row = (await asyncio.to_thread(report)).decode().splitlines()
        assert head.startswith("alert_id,raised_us,kind,severity,state,")
        assert row.startswith(f"{found[0]['alert_id']},")


@pytest.mark.parametrize("agent", ["", "coder"])
def test_the_mode_is_written_into_the_file(tmp_path: Path, agent: str) -> None:
    """Of all, or of one agent; what else stands there stays."""
    file = tmp_path / "palyra.toml"
    file.write_text('version = 1\n\n[routing]\nmode = "suggest"  # for now\n')
    file.chmod(0o600)
    command = [sys.executable, "-m", "palyra", "routing", "set", "enforced", "--config", str(file)]
    command += ["--agent", agent] if agent else []
    environ = {**os.environ, "PALYRA_STATE_DIR": str(tmp_path / "state")}
    ran = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    assert "from the next start on" in ran.stdout
    text = file.read_text()
    assert "# for now" in text
    assert ('mode = "suggest"' in text, "enforced" in text) == (bool(agent), True)
