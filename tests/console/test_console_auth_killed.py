"""kill -9 in the middle of a change of a secret: at the next start nothing is half done or lost."""

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
from authorization_server import AuthorizationServer
from console_house import Operator, open_console
from listing_provider import GOOD_KEY, Listing
from test_console_auth import config, connect, say
from test_console_oauth import facts, log_in

from palyra.decisions.vault import VaultRef
from palyra.events.auth import AuthProfileRefreshed

NEW_KEY = "sk-new-0123456789abcdef"
CONNECTING = ("begin", "promote", "insert", "put", "write")
#: A change is there once the journal has been written, and before that it is not.
DONE_FROM = ("write-after", "delete-before", "delete-after", "-before")


async def killed(
    directory: Path, config: dict[str, Any], path: str, body: Any, places: Sequence[str], method: str = "POST"
) -> list[Path]:
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
    told |= {"config": config, "method": method, "path": path, "body": body}
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
        for case in await killed(tmp_path, config(up), "auth/providers/up/api-key", body, CONNECTING):
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
        for case in await killed(tmp_path, config(up), "auth/profiles/work/rotate", body, places):
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


@pytest.mark.timeout(180)
async def test_a_put_that_was_killed(tmp_path: Path) -> None:
    """The old value is in use, or the new one; and nothing else that the vault held is touched."""
    secrets = "vault/secrets"
    async with Listing() as up:
        async with open_console(tmp_path / "original", config(up)) as ask:
            for ref in ("global/one", "global/other"):
                await ask(secrets, method="PUT", body={"ref": ref, "value": "an old value"})
        body = {"ref": "global/one", "value": "the new value"}
        places = ("insert", "put", "write", "delete")
        for case in await killed(tmp_path, config(up), secrets, body, places, "PUT"):
            async with open_console(case, config(up)) as ask:
                await check_agreement(ask)
                revision = 2 if case.name in DONE_FROM else 1
                assert held_by(ask, "one", revision) == ("the new value" if revision == 2 else "an old value")
                assert held_by(ask, "other", 1) == "an old value"
                again = await ask(secrets, method="PUT", body=body)
                assert again.json["revision"] > revision
                await check_agreement(ask)


def held_by(ask: Operator, key: str, revision: int) -> str:
    secret = ask.daemon.vault.opened(VaultRef("global", key), revision).secret
    assert secret is not None
    return secret.reveal()


@pytest.mark.timeout(180)
async def test_sealing_anew_that_was_killed(tmp_path: Path) -> None:
    """Everything opens under the old key or the new one, the journal knows by which, and one key is left."""
    async with Listing() as up:
        async with open_console(tmp_path / "original", config(up)) as ask:
            await ask("vault/secrets", method="PUT", body={"ref": "global/one", "value": "a value"})
            await connect(ask, profile_id="work")
        key = (tmp_path / "original" / "vault.key").read_bytes()
        places = ("put_next", "replace_key", "promote", "rekey", "write")
        for case in await killed(tmp_path, config(up), "vault/rekey", {}, places):
            async with open_console(case, config(up)) as ask:
                await check_agreement(ask)
                assert held_by(ask, "one", 1) == "a value"
                assert await say(ask) == "Hi"
                known = ask.daemon.core.state.vault.secrets["global/one"]
                opened = ask.daemon.vault.opened(VaultRef("global", "one"), 1)
                assert known.key_fingerprint == opened.key_fingerprint, case.name
            assert not (case / "vault.key.next").exists()
            is_old = case.name in ("rekey-before", "put_next-before", "put_next-after", "replace_key-before")
            assert ((case / "vault.key").read_bytes() == key) == is_old, case.name


@pytest.mark.timeout(180)
async def test_a_renewal_that_was_killed(tmp_path: Path) -> None:
    """What was sealed is found, what was under way is tried once more; the profile has a token that works."""
    async with AuthorizationServer() as up:
        up.rotates = False  # every case begins with the same refresh token
        async with open_console(tmp_path / "original", up.config) as ask:
            profile_id = await log_in(ask, up)
        path = f"auth/profiles/{profile_id}/refresh"
        for case in await killed(tmp_path, up.config, path, {}, ("write", "insert", "put", "delete")):
            async with open_console(case, up.config) as ask:
                await ask.daemon.tokens.do()
                await ask.daemon.tokens.settle()
                await check_agreement(ask)
                shown = (await ask(f"auth/profiles/{profile_id}")).json
                assert (shown["health"], shown["refresh"]["state"]) == ("ok", "idle"), case.name
                assert await say(ask) == "Hi"
                recovered = [one.recovered for one in await facts(ask, AuthProfileRefreshed)]
                assert recovered == {"write-before": [], "put-after": [True]}.get(case.name, [False]), case.name
