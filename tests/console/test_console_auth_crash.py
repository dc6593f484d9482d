"""What a crash in the middle of a connection leaves on the disk, and what the next start makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from console_house import open_console
from listing_provider import GOOD_KEY, Listing
from test_console_auth import config, connect, say

from palyra.auth.vault import Vault, VaultFiles
from palyra.decisions.vault import VaultRef
from palyra.redaction import Secret

REF = VaultRef("global", "auth.work")
#: Where in a connection or a rotation the process dies: before the vault's write, behind it and before the fact
#: that names it, and behind both, before what is older is deleted.
STEPS = ("before", "between", "behind")


def left_behind(state_dir: Path, purpose: str, above: int) -> None:
    """Put a revision that nothing names, as a crash between the two writes does."""
    vault = Vault.open(VaultFiles(state_dir / "vault.db", state_dir / "vault.key", state_dir / "vault.lock"))
    value = {"api_key": Secret("sk-never-told-0123456789")}
    vault.put(REF, value, purpose=purpose, now_us=1, audience="https://x:443", profile_id="work", above=above)
    vault.close()


def revisions(state_dir: Path) -> list[int]:
    vault = Vault.open(VaultFiles(state_dir / "vault.db", state_dir / "vault.key", state_dir / "vault.lock"))
    found = [info.revision for info in vault.revisions() if info.ref == str(REF)]
    vault.close()
    return found


@pytest.mark.parametrize("step", STEPS)
async def test_a_connection_is_there_whole_or_not_at_all(tmp_path: Path, step: str) -> None:
    """Nobody was told, so the secret goes; a profile whose fact stands has its secret, and is used."""
    async with Listing() as up:
        async with open_console(tmp_path, config(up)) as ask:
            await ask("vault/secrets", method="PUT", body={"ref": "global/other", "value": GOOD_KEY})
            if step == "behind":
                await connect(ask, profile_id="work")
        if step == "between":
            left_behind(tmp_path, "connect", above=0)
        async with open_console(tmp_path, config(up)) as ask:
            names = [one["profile_id"] for one in (await ask("auth/profiles")).json["items"]]
            assert names == (["work"] if step == "behind" else [])
            if step != "behind":
                assert (await connect(ask, profile_id="work")).status == 201
            assert (await ask("auth/profiles/work")).json["health"] == "static"
            assert await say(ask) == "Hi"
        assert revisions(tmp_path) == ([2] if step == "between" else [1])


@pytest.mark.parametrize("step", STEPS)
async def test_a_rotation_leaves_a_key_that_works(tmp_path: Path, step: str) -> None:
    """The old one where the new one was not told of, else the new one; the revision of neither is used again."""
    async with Listing() as up:
        async with open_console(tmp_path, config(up)) as ask:
            await connect(ask, profile_id="work")
            if step == "behind":
                up.keys = ["sk-new-0123456789"]
                await ask.post("auth/profiles/work/rotate", {"api_key": "sk-new-0123456789"})
        if step == "between":
            left_behind(tmp_path, "rotate", above=1)
        async with open_console(tmp_path, config(up)) as ask:
            shown = (await ask("auth/profiles/work")).json
            assert (shown["health"], shown["vault_revision"]) == ("static", 2 if step == "behind" else 1)
            assert await say(ask) == "Hi"
            up.keys = [GOOD_KEY]
            done = await ask.post("auth/profiles/work/rotate", {"api_key": GOOD_KEY})
            assert done.json["state"] == "rotated"
            shown = (await ask("auth/profiles/work")).json
            assert shown["vault_revision"] == {"before": 2, "between": 3, "behind": 3}[step]
