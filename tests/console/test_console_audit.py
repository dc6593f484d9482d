"""`auth/audit`: every touch of a secret in one list, the newest first, without the secrets."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from console_house import open_console

from palyra.engine.console.audit import FAMILIES
from palyra.events.vocabulary import VOCABULARY


async def test_what_was_done_with_secrets_is_listed(tmp_path: Path) -> None:
    """Issuing a key and storing a secret stand on top, with who did it; a request is no such thing."""
    async with open_console(tmp_path) as ask:
        made = (await ask.post("keys", {"name": "ci"})).json
        stored = await ask("vault/secrets", method="PUT", body={"ref": "global/x", "value": "hush-hush-hush"})
        assert stored.status == 200
        await ask.say()
        found = await ask("auth/audit")
        items = found.json["items"]
        assert [one["name"] for one in items[:2]] == ["vault.secret_stored", "vault.created"]
        assert {one["name"] for one in items} >= {"client_key.issued", "vault.secret_stored"}
        assert not any(one["name"].startswith(("run.", "attempt.", "daemon.")) for one in items)
        assert [one["position"] for one in items] == sorted((one["position"] for one in items), reverse=True)
        issued = next(one for one in items if one["name"] == "client_key.issued")
        assert sorted(issued) == ["actor", "body", "name", "position", "recorded_at_us", "stream"]
        assert issued["stream"] == f"key-{made['key']['key_id']}"
        assert issued["actor"] != "system"
        assert issued["body"]["kind"] == "client"
        assert made["secret"] not in str(items)
        assert "hush" not in str(items)


async def test_its_pages_join_to_the_whole_while_more_is_recorded(tmp_path: Path) -> None:
    """A cursor names a position, so that a key that is issued between two pages moves nothing."""
    async with open_console(tmp_path) as ask:
        await ask.post("keys", {"name": "one"})
        whole = (await ask("auth/audit")).json
        assert whole["next_cursor"] is None
        joined, cursor = [], ""
        while cursor is not None:
            page = (await ask("auth/audit", limit=1, **({"cursor": cursor} if cursor else {}))).json
            assert len(page["items"]) == 1
            joined += page["items"]
            cursor = page["next_cursor"]
            if len(joined) == 1:
                await ask.post("keys", {"name": "two"})
        assert joined == whole["items"]
        assert (await ask("auth/audit", cursor="?")).code == "invalid_query"


def test_each_family_has_facts() -> None:
    """A pattern that nothing matches would be a name that was changed."""
    for pattern in FAMILIES.names:
        assert any(fnmatchcase(name, pattern) for name in VOCABULARY.entries)
