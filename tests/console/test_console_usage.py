"""Usage over HTTP: equal to the offline report digit for digit, and to each program only its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from console_house import Operator, open_console
from openai import AsyncOpenAI

CONFIG: dict[str, Any] = {
    "pricing": {
        "overrides": [
            {
                "provider_id": "priced",
                "model_id": "deterministic",
                "input_usd_per_mtok": "3",
                "output_usd_per_mtok": "15",
            }
        ]
    },
    "model_provider": {
        "providers": [{"provider_id": "priced", "kind": "deterministic"}],
        "models": [{"model_id": "deterministic", "provider_id": "priced"}],
        "default_chat_model_id": "deterministic",
    },
}


async def say(ask: Operator, key: str, text: str = "Hello?", **headers: str) -> None:
    """Make one request with a key."""
    async with AsyncOpenAI(base_url=ask.daemon.base_url, api_key=key, max_retries=0) as client:
        await client.chat.completions.create(
            model="deterministic", messages=[{"role": "user", "content": text}], extra_headers=headers
        )


async def offline(ask: Operator, *arguments: str) -> Any:
    """Return what the report of a process of its own says about the journal of a running daemon."""

    def run() -> bytes:
        command = [sys.executable, "-m", "palyra", "usage", "report", "--json", *arguments]
        environ = {**os.environ, "PALYRA_STATE_DIR": str(ask.daemon.paths.directory)}
        return subprocess.run(command, env=environ, check=True, capture_output=True).stdout

    document = json.loads(await asyncio.to_thread(run))
    # Amounts in USD stand beside those in nano-USD for people alone.
    document["rows"] = [
        {name: cell for name, cell in row.items() if not name.endswith("_usd")} for row in document["rows"]
    ]
    return document


def cells(totals: dict[str, Any]) -> dict[str, Any]:
    """Return nested totals as the columns of a report."""
    flat: dict[str, Any] = {}
    for name, value in totals.items():
        if isinstance(value, dict):
            unit = "_ms" if name.endswith("_ms") else ""
            flat |= {f"{name.removesuffix('_ms')}_{part}{unit}": figure for part, figure in value.items()}
        else:
            flat[name] = value
    return flat


async def test_the_console_and_the_report_agree_digit_for_digit(tmp_path: Path) -> None:
    """Totals, models, agents, the course of days and requests one by one, at one position."""
    async with open_console(tmp_path, CONFIG) as ask:
        client = ask.daemon.client_key
        for number in range(6):
            agent = {"x-palyra-agent": "ab"[number % 2]} if number else {}
            await say(ask, client, "word " * (number + 1), **agent)
        window = {"from": "2020-01-01"} | {"from": "", "to": ""}
        summary = (await ask("usage/summary", bucket="day")).json
        at = summary["at"]["position"]
        fixed = ["--as-of", str(at)]
        whole = (await offline(ask))["rows"][0]
        assert cells(summary["totals"]) == whole
        assert whole["runs"] == 6
        assert whole["cost_nanousd"] > 0
        assert whole["cost_complete"] is True
        assert window["from"] == ""
        for name in ("model", "agent", "principal", "provider", "key", "session"):
            items = (await ask(f"usage/{name}s")).json["items"]
            rows = (await offline(ask, "--group-by", name, *fixed))["rows"]
            mine = {one["id"]: cells(one) for one in items}
            assert set(mine) == {row[f"{name}_id"] for row in rows}
            for row in rows:
                mine_row = mine[row[f"{name}_id"]]
                assert {column: mine_row[column] for column in row if column != f"{name}_id"} == {
                    column: value for column, value in row.items() if column != f"{name}_id"
                }
        runs = (await ask("usage/runs", limit=4)).json
        assert [len(runs["items"]), runs["next_cursor"] is None] == [4, False]
        rest = (await ask("usage/runs", limit=4, cursor=runs["next_cursor"])).json
        assert [len(rest["items"]), rest["next_cursor"]] == [2, None]
        told = {one["run_id"]: one for one in [*runs["items"], *rest["items"]]}
        for row in (await offline(ask, "--dataset", "runs"))["rows"]:
            one = told.pop(row["run_id"])
            assert one["cost_nanousd"] == row["cost_nanousd"]
            assert one["usage"].get("input_tokens", 0) == row["input_tokens"]
            assert one["attempts"][0]["price_id"]
        assert told == {}


async def test_a_program_sees_its_own_use_and_nobody_elses(tmp_path: Path) -> None:
    """A client key with the scope asks about its own principal, whatever it asks about."""
    async with open_console(tmp_path, CONFIG) as ask:
        wish = {"name": "app", "scopes": ["v1:chat", "usage:read"]}
        made = (await ask.post("keys", wish)).json
        secret, principal = made["secret"], made["key"]["principal"]
        await say(ask, ask.daemon.client_key)
        await say(ask, secret)
        assert (await ask("usage/summary")).json["totals"]["runs"] == 2
        own = await ask("usage/summary", key=secret)
        assert own.json["totals"]["runs"] == 1
        assert [one["id"] for one in (await ask("usage/principals", key=secret)).json["items"]] == [principal]
        assert (await ask("usage/runs", key=secret)).json["items"][0]["principal_id"] == principal
        foreign = await ask("usage/summary", key=secret, principal_id="key:somebody")
        assert (foreign.status, foreign.code, foreign.error["field"]) == (403, "binding_violation", "principal_id")
        assert (await ask("usage/summary", key=ask.daemon.client_key)).code == "missing_scope"


async def test_what_cannot_be_asked_is_refused_by_name(tmp_path: Path) -> None:
    """Each with the field that is at fault."""
    async with open_console(tmp_path) as ask:
        for query, field in (
            ({"from": "soon"}, "from"),
            ({"timezone": "Middle/Earth"}, "timezone"),
            ({"bucket": "year"}, "bucket"),
            ({"bucket": "15m"}, "bucket"),
            ({"colour": "red"}, "colour"),
        ):
            answer = await ask("usage/summary", **query)
            assert (answer.status, answer.code, answer.error["field"]) == (400, "invalid_query", field)
        assert (await ask("usage/timeline", group_by="day")).error["field"] == "group_by"


async def test_a_session_that_nobody_used_has_no_figures(tmp_path: Path) -> None:
    """It is no error to ask about it."""
    async with open_console(tmp_path) as ask:
        answer = (await ask("usage/sessions/01KNOBODY")).json
        assert (answer["totals"]["runs"], answer["runs"]) == (0, [])
