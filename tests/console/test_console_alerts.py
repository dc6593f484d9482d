"""Alerts over the console's API: raised by the daemon's own look, listed, seen, and named by the status."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from console_house import open_console
from openai import APIStatusError

RULE: dict[str, Any] = {"scope_kind": "global", "metric_kind": "tokens", "interval_kind": "daily", "hard_limit": 0}


async def test_a_stop_is_told_seen_and_cleared(tmp_path: Path) -> None:
    """The daemon raises it by itself; to acknowledge it takes it off no list; another rule ends it."""
    async with open_console(tmp_path) as ask:
        assert (await ask("alerts")).json["items"] == []
        await ask("budgets/day", method="PUT", body={"rule": RULE})
        with pytest.raises(APIStatusError):
            await ask.say()
        while not (items := (await ask("alerts", state="open")).json["items"]):
            await asyncio.sleep(0)
        alert = items[0]
        assert (alert["kind"], alert["severity"], alert["subject_id"]) == ("budget_hard", "danger", "day")
        assert [one["alert_id"] for one in (await ask("status")).json["alerts"]] == [alert["alert_id"]]
        seen = (await ask.post(f"alerts/{alert['alert_id'][:8]}/ack")).json
        assert seen["state"] == "acknowledged"
        assert seen["acknowledged_by"]
        assert (await ask(f"alerts/{alert['alert_id']}")).json["state"] == "acknowledged"
        assert len((await ask("alerts")).json["items"]) == 1


async def test_an_alert_that_is_none_is_not_found(tmp_path: Path) -> None:
    """Neither to be read nor to be acknowledged."""
    async with open_console(tmp_path) as ask:
        assert (await ask("alerts/4f1c")).code == "alert_not_found"
        assert (await ask.post("alerts/4f1c/ack")).code == "alert_not_found"


async def test_listening_in_the_clear_is_told_as_long_as_it_is_so(tmp_path: Path) -> None:
    """Whoever agreed to it is reminded; a start that listens on this machine alone ends that."""
    daemon = {"host": "0.0.0.0", "allow_plain_remote": True}
    async with open_console(tmp_path, {"daemon": daemon}) as ask:
        while not (items := (await ask("alerts", state="open")).json["items"]):
            await asyncio.sleep(0)
        assert [(one["kind"], one["subject_id"]) for one in items] == [("plain_remote", "0.0.0.0")]
    async with open_console(tmp_path) as ask:
        while (await ask("alerts", state="open")).json["items"]:
            await asyncio.sleep(0)
