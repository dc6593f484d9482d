"""kill -9 in the middle of a connection and of a rotation: at the next start nothing is half done or lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from change_and_die import PLACES
from console_house import Operator, open_console
from listing_provider import GOOD_KEY, Listing
from test_console_auth import config, connect, say

NEW_KEY = "sk-new-0123456789abcdef"
#: A change is there once the journal has been written, and before that it is not.
DONE_FROM = ("write-after", "delete-before", "delete-after", "-before")


async def killed(directory: Path, up: Listing, path: str, body: Any, places: Sequence[str]) -> list[Path]:
    """Ask for a change on copies of a state, in processes that are killed at each step of it; return the copies."""
    here = Path(__file__).parent
    python_path = os.pathsep.join(str(one) for one in (here.parents[1], here.parent, here))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(here / "change_and_die.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": python_path},
    )
    folder = directory / "killed"
    told: dict[str, Any] = {"original": str(directory / "original"), "folder": str(folder), "places": list(places)}
    told |= {"config": config(up), "path": path, "body": body}
    out, _ = await process.communicate(json.dumps(told).encode())
    ended = dict(line.rsplit(" ", 1) for line in out.decode().splitlines())
    assert ended.pop("-before") == "0"
    assert ended == {f"{name}-{when}": str(-signal.SIGKILL) for name in places for when in ("before", "after")}
    return sorted(folder.iterdir())


async def check_agreement(ask: Operator) -> None:
    """The vault holds what the journal names and no other revision; nothing is damaged, and all of it is listed."""
    keeper, known = ask.daemon.vault, ask.daemon.core.state.vault.secrets
    held = [(info.ref, info.revision) for info in keeper.vault.revisions()]
    in_use = {(ref, secret.revision) for ref, secret in known.items()}
    assert in_use <= set(held)
    # A rotated profile may keep the one before, for attempts that have pinned it.
    assert {(ref, revision + 1) for ref, revision in held if (ref, revision) not in in_use} <= in_use
    assert (keeper.vault.verify(), keeper.findings()) == ([], [])
    listed = {item["ref"] for item in (await ask("vault/secrets")).json["items"]}
    assert {ref for ref, _ in held} == set(known)
    assert listed <= set(known)


@pytest.mark.timeout(180)
async def test_a_connection_that_was_killed(tmp_path: Path) -> None:
    """The very first one, which makes the vault: it is there whole, with a key that works, or not at all."""
    async with Listing() as up:
        async with open_console(tmp_path / "original", config(up)):
            pass
        body = {"api_key": GOOD_KEY, "profile_id": "work", "profile_name": "Work"}
        for case in await killed(tmp_path, up, "auth/providers/up/api-key", body, list(PLACES)[:-1]):
            async with open_console(case, config(up)) as ask:
                await check_agreement(ask)
                names = [one["profile_id"] for one in (await ask("auth/profiles")).json["items"]]
                assert names == (["work"] if case.name in DONE_FROM else []), case.name
                if not names:
                    assert (await connect(ask, profile_id="work")).status == 201, case.name
                assert await say(ask) == "Hi"
                await check_agreement(ask)


@pytest.mark.timeout(180)
async def test_a_rotation_that_was_killed(tmp_path: Path) -> None:
    """The old key goes on, or the new one is in use; either works, and what else the vault holds is untouched."""
    async with Listing() as up:
        async with open_console(tmp_path / "original", config(up)) as ask:
            await ask("vault/secrets", method="PUT", body={"ref": "global/other", "value": "something else"})
            await connect(ask, profile_id="work")
        up.keys = [GOOD_KEY, NEW_KEY]
        body = {"api_key": NEW_KEY}
        places = ("insert", "put", "write", "delete")
        for case in await killed(tmp_path, up, "auth/profiles/work/rotate", body, places):
            async with open_console(case, config(up)) as ask:
                await check_agreement(ask)
                shown = (await ask("auth/profiles/work")).json
                is_done = case.name in DONE_FROM
                assert (shown["health"], shown["vault_revision"]) == ("static", 2 if is_done else 1), case.name
                assert await say(ask) == "Hi"
                assert up.requests[-1][1] == f"Bearer {NEW_KEY if is_done else GOOD_KEY}"
                rotated = await ask.post("auth/profiles/work/rotate", body)
                assert rotated.json["state"] == "rotated"
                assert (await ask("auth/profiles/work")).json["vault_revision"] > shown["vault_revision"]
                await check_agreement(ask)
