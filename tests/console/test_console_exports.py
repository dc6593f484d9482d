"""Files over HTTP: the report's own bytes, made by a process of their own; and what would be, asked over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
from pathlib import Path
from typing import Any, get_args

import aiohttp
import polars
import pytest
from console_house import CONSOLE, Operator, open_console
from reports_kit import Told, day_us, history_of
from test_console_routing import config, say

from palyra.cli.main import main
from palyra.engine.codec import to_row
from palyra.engine.console.exports import ExportParams
from palyra.engine.console.frame import JournalFiles
from palyra.engine.console.past import ChildPast, ThreadPast
from palyra.engine.console.table import USAGE_EXPORT
from palyra.engine.reports.tables import Dataset
from palyra.errors import PalyraError, Refused
from palyra.journal.lock import LockState
from palyra.journal.memory import MemoryJournal

RULES = {
    "policies": [
        {
            "policy_id": "day",
            "scope_kind": "principal",
            "scope_id": "*",
            "metric_kind": "tokens",
            "interval_kind": "daily",
            "soft_limit": 1,
        }
    ]
}


def offline(ask: Operator, *arguments: str) -> bytes:
    """Return what the report writes about the journal of a running daemon."""
    out = io.TextIOWrapper(io.BytesIO())
    with contextlib.redirect_stdout(out):
        assert main(["usage", "report", *arguments, "--state-dir", str(ask.daemon.paths.directory)]) == 0
    return out.buffer.getvalue()  # type: ignore[attr-defined]


async def test_a_file_over_http_is_the_reports_own(tmp_path: Path) -> None:
    """Every dataset at one position, byte for byte; a frame holds the same cells."""
    async with open_console(tmp_path, {**config("dry_run"), "budgets": RULES}) as ask:
        for number in range(3):
            await say(ask, **{"x-palyra-agent": "=a" if number else "b"})
        while not (await ask("alerts", state="open")).json["items"]:
            await asyncio.sleep(0)
        position = (await ask("status")).json["at"]["position"]
        fixed = {"from": "2026-01-01", "to": "2026-12-31", "at": position}
        told = ["--from", "2026-01-01", "--to", "2026-12-31", "--as-of", str(position)]
        for dataset in get_args(Dataset):
            found = await ask("usage/export", dataset=dataset, **fixed)
            assert found.status == 200
            assert found.headers["content-type"] == "text/csv; charset=utf-8; header=present"
            assert found.headers["content-disposition"] == f'attachment; filename="palyra-{dataset}-{position}.csv"'
            assert found.headers["cache-control"] == "no-store"
            assert found.body == offline(ask, "--dataset", dataset, "--format", "csv", *told)
        found = await ask("usage/export", dataset="runs", format="json", **fixed)
        assert found.body == offline(ask, "--dataset", "runs", "--format", "json", *told)
        found = await ask("usage/export", dataset="runs", format="parquet", **fixed)
        frame = polars.read_parquet(io.BytesIO(found.body))
        assert frame.equals(
            polars.read_parquet(io.BytesIO(offline(ask, "--dataset", "runs", "--format", "parquet", *told)))
        )
        assert sorted(frame["agent_id"]) == ["=a", "=a", "b"]
        grouped = await ask("usage/export", group_by="agent", top=1, **fixed)
        assert grouped.body == offline(ask, "--group-by", "agent", "--top", "1", "--format", "csv", *told)


async def test_what_no_file_can_be_made_of_is_refused_by_name(tmp_path: Path) -> None:
    """Before the first byte, in the console's one form."""
    async with open_console(tmp_path) as ask:
        for query, field in (
            ({"dataset": "colours"}, "dataset"),
            ({"format": "html"}, "format"),
            ({"dataset": "runs", "group_by": "model"}, "group_by"),
            ({"dataset": "runs", "top": 3}, "top"),
            ({"bucket": "hour"}, "bucket"),
            ({"from": "soon"}, "from"),
            ({"colour": "red"}, "colour"),
            ({"at_least": "x"}, "at_least"),
        ):
            answer = await ask("usage/export", **query)
            assert (answer.status, answer.code, answer.error["field"]) == (400, "invalid_query", field)
        assert (await ask("usage/export", at=10**9)).code == "position_not_found"
        assert (await ask("usage/export", method="POST")).status == 405


async def test_a_program_gets_its_own_rows(tmp_path: Path) -> None:
    """Of every dataset; what tells of everybody it does not get."""
    async with open_console(tmp_path, {**config("suggest"), "budgets": RULES}) as ask:
        made = (await ask.post("keys", {"name": "app", "scopes": ["v1:chat", "usage:read"]})).json
        secret, principal = made["secret"], made["key"]["principal"]
        await say(ask, secret)
        await say(ask)
        for dataset in ("runs", "attempts", "usage", "budgets"):
            everybody = (await ask("usage/export", dataset=dataset)).body.decode().splitlines()
            own = (await ask("usage/export", key=secret, dataset=dataset)).body.decode().splitlines()
            assert (len(everybody), len(own)) == (3, 2)
            assert principal in own[1]
        refused = await ask("usage/what-if", method="POST", key=secret, body={"toml": "version = 1"})
        assert (refused.status, refused.code) == (403, "binding_violation")
        assert (await ask("usage/explain", method="POST", key=secret, body={"principal": "key:x"})).status == 403


async def test_a_journal_in_memory_has_files_too() -> None:
    """Made in a thread, for there is no file that another process could read."""
    journal = MemoryJournal(journal_id="01MEMORY", now_us=0)
    await journal.append([to_row(one) for one in history_of([Told(at_us=day_us(2026, 5, 5))])])
    past, asked = ThreadPast(journal), {"at": None, "zone": "UTC", "now_us": day_us(2026, 5, 6)}
    params = ExportParams(dataset="runs")
    async with past.download(USAGE_EXPORT, params, **asked, lock=LockState(True, None)) as arriving:
        assert len(b"".join([chunk async for chunk in arriving.chunks]).splitlines()) == 2
        assert arriving.file_name == f"palyra-runs-{journal.head.position}.csv"
    with pytest.raises(Refused):
        async with past.download(
            USAGE_EXPORT, ExportParams(dataset="runs", top=1), **asked, lock=LockState(True, None)
        ):
            pass


async def test_a_client_that_goes_ends_the_process(tmp_path: Path) -> None:
    """Whoever hangs up leaves nothing running, and the next one is served."""
    async with open_console(tmp_path, config("suggest")) as ask:
        await say(ask)
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {ask.key}"}) as session:
            for _ in range(6):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await session.get(f"{ask.daemon.url}{CONSOLE}usage/export")
        while _children():
            await asyncio.sleep(0)
        assert (await ask("usage/export")).status == 200


def _children() -> list[int]:
    """Return the processes that make files for this one."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(place.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"palyra.engine.console.child" in place.joinpath("cmdline").read_bytes():
                found.append(int(place.name))
        except OSError:
            pass  # it has ended meanwhile
    return found


async def test_a_file_that_is_not_made_whole_is_an_error(tmp_path: Path) -> None:
    """Where the process dies behind the beginning, nobody takes the part for the whole."""
    async with open_console(tmp_path, config("suggest")) as ask:
        await asyncio.gather(*(say(ask, **{"x-palyra-agent": "a" * 128}) for _ in range(250)))
        past = ChildPast(JournalFiles(ask.daemon.paths.journal, ask.daemon.paths.vault_key))
        asked: dict[str, Any] = {"at": None, "zone": "UTC", "now_us": ask.daemon.core.clock.now_us()}
        params = ExportParams(dataset="runs")
        async with past.download(USAGE_EXPORT, params, **asked, lock=LockState(True, None)) as arriving:
            await anext(arriving.chunks)
            for pid in _children():
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(PalyraError, match="died"):
                async for _ in arriving.chunks:
                    pass


def decided(ask: Operator) -> dict[str, int]:
    """Return how many facts about requests there are."""
    counts = ask.daemon.core.state.counts
    return {name: count for name, count in counts.items() if name.startswith(("run.", "routing.", "budget."))}


async def test_a_plan_is_made_of_a_text_that_is_forgotten(tmp_path: Path) -> None:
    """It is the plan of a request of that size with those keywords; nothing is journaled."""
    async with open_console(tmp_path, config("enforced")) as ask:
        text = "Prove the security of this architecture."
        told = (await ask.post("usage/explain", {"prompt": text})).json
        same = (await ask("models/plan", tokens=told["raw_tokens"], keywords=3)).json
        assert {**told, "at": None} == {**same, "at": None}
        assert told["choice"]["score_parts"]["keywords"] == 1_500
        for name in ("tokens", "keywords"):
            assert (await ask.post("usage/explain", {"prompt": text, name: 7})).error["field"] == name
        assert (await ask.post("usage/explain", {"prompts": text})).code == "unknown_field"
        assert (await ask("usage/explain", method="POST", tokens=3)).error["field"] == "tokens"
        assert (await ask("usage/explain")).status == 405
        assert decided(ask) == {}


OTHER = """
version = 1
[model_provider]
default_chat_model_id = "large"
[[model_provider.providers]]
provider_id = "own"
kind = "deterministic"
[[model_provider.models]]
model_id = "large"
provider_id = "own"
quality = 90
[[model_provider.models]]
model_id = "tiny"
provider_id = "own"
quality = 30
cost_tier = "low"
"""


async def test_another_configuration_is_tried_out_on_history(tmp_path: Path) -> None:
    """Who would have been refused; what is no configuration is refused with its place. Nothing is written."""
    async with open_console(tmp_path, config("suggest")) as ask:
        for _ in range(3):
            await say(ask)
        before = decided(ask)
        same = await ask.post("usage/what-if", {"toml": OTHER})
        assert same.json["counts"]["same"] == same.json["runs"] == 3
        rule = '[[budgets.policies]]\npolicy_id = "stop"\nscope_kind = "global"\nmetric_kind = "tokens"\n'
        rule += 'interval_kind = "daily"\nhard_limit = 0\n'
        found = (await ask.post("usage/what-if", {"toml": OTHER + rule})).json
        assert found["counts"]["newly_blocked"] == 3
        assert (await ask.post("usage/what-if", {"toml": OTHER + rule, "to": "2020-01-01"})).json["runs"] == 0
        wrong = await ask.post("usage/what-if", {"toml": "version = 1\n[daemon]\nprt = 1\n"})
        assert (wrong.status, wrong.code) == (422, "config_invalid")
        assert wrong.error["message"].startswith("toml:3:1 daemon.prt: unknown key")
        assert (await ask.post("usage/what-if", {"toml": OTHER, "from": "soon"})).error["field"] == "from"
        assert (await ask.post("usage/what-if", {})).error["field"] == "toml"
        assert decided(ask) == before != {}
