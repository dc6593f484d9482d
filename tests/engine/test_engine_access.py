"""The way in: keys of a first start, and the count of those who were turned away."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from palyra.auth.keyfiles import read_key_file, write_key_file
from palyra.auth.keys import make_key
from palyra.decisions.keys import Caller
from palyra.engine.access import KINDS_MAX_COUNT, WINDOW_US, Access
from palyra.engine.codec import to_recorded
from palyra.engine.core import Core
from palyra.engine.ids import SeededIds
from palyra.errors import Refusal, StateError
from palyra.events.keys import AccessDenied
from palyra.journal.memory import MemoryJournal
from palyra.journal.writer import JournalOptions
from palyra.projections.keys import live_keys
from palyra.projections.state import State
from palyra.redaction import Secret


class HandClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.us = 1_000_000

    def now_us(self) -> int:
        return self.us

    def monotonic_us(self) -> int:
        return self.us


class Door:
    """An access over a journal in memory, with its clock and its two files."""

    def __init__(self, directory: Path, **settings: object) -> None:
        self.clock = HandClock()
        self.journal = MemoryJournal(journal_id="01DOOR", now_us=1, options=JournalOptions(lazy_append_ms=1))
        self.core = Core(self.journal, State(), clock=self.clock, ids=SeededIds(1))
        self.access = Access(self.core, **settings)  # type: ignore[arg-type]
        self.paths = SimpleNamespace(admin_token=directory / "admin.token", client_key=directory / "client.key")

    def key(self, path: Path) -> str:
        secret = read_key_file(path)
        assert secret is not None
        return secret.reveal()

    def whose(self, key: str, **headers: str) -> Caller | Refusal:
        return self.access.identify({"authorization": f"Bearer {key}", **headers}, "127.0.0.1")

    @property
    def recorded(self) -> list[tuple[str, int]]:
        """What was recorded of denials: reason and count."""
        bodies = [to_recorded(row).body for row in self.journal.rows]
        return [(body.reason, body.count) for body in bodies if isinstance(body, AccessDenied)]


async def test_a_first_start_makes_two_keys(tmp_path: Path) -> None:
    """Both files are made, each with a live key of its kind; a second start makes none."""
    door = Door(tmp_path)
    issued = await door.access.ensure_keys(door.paths)
    assert [(one.kind, one.path) for one in issued] == [
        ("admin", door.paths.admin_token),
        ("client", door.paths.client_key),
    ]
    assert await door.access.ensure_keys(door.paths) == []
    for kind, path in (("admin", door.paths.admin_token), ("client", door.paths.client_key)):
        caller = door.whose(door.key(path))
        assert isinstance(caller, Caller)
        assert caller.kind == kind
        assert caller.principal_id == f"key:{caller.key_id}"
        assert path.stat().st_mode & 0o777 == 0o600
    await door.core.stop()


async def test_no_secret_is_in_the_journal(tmp_path: Path) -> None:
    """Neither key is in any row, not even a part of its secret."""
    door = Door(tmp_path)
    await door.access.ensure_keys(door.paths)
    stored = b"".join(row.body for row in door.journal.rows)
    for path in (door.paths.admin_token, door.paths.client_key):
        secret = door.key(path).rpartition("_")[2]
        assert secret[:12].encode() not in stored
    await door.core.stop()


async def test_a_lost_file_gets_a_new_key_and_the_old_one_dies(tmp_path: Path) -> None:
    """A file that is gone is replaced; what it held opens nothing any more; the other file stays."""
    door = Door(tmp_path)
    await door.access.ensure_keys(door.paths)
    old, admin = door.key(door.paths.client_key), door.key(door.paths.admin_token)
    door.paths.client_key.unlink()
    (issued,) = await door.access.ensure_keys(door.paths)
    assert issued.kind == "client"
    assert isinstance(door.whose(old), Refusal)
    assert isinstance(door.whose(door.key(door.paths.client_key)), Caller)
    assert door.key(door.paths.admin_token) == admin
    assert [len(live_keys(door.core.state, kind, door.clock.us)) for kind in ("client", "admin")] == [1, 1]
    await door.core.stop()


@pytest.mark.parametrize("what", ["unknown", "garbage", "other kind"])
async def test_a_file_that_holds_no_key_of_ours_is_replaced(tmp_path: Path, what: str) -> None:
    """A key that the journal does not know (a crash behind the file), garbage, or the other kind's is replaced."""
    door = Door(tmp_path)
    await door.access.ensure_keys(door.paths)
    texts = {
        "unknown": make_key("client").secret,
        "garbage": Secret("garbage"),
        "other kind": read_key_file(door.paths.admin_token),
    }
    wrong = texts[what]
    assert wrong is not None
    write_key_file(door.paths.client_key, wrong)
    (issued,) = await door.access.ensure_keys(door.paths)
    assert issued.kind == "client"
    assert isinstance(door.whose(door.key(door.paths.client_key)), Caller)
    assert len(live_keys(door.core.state, "client", door.clock.us)) == 1
    await door.core.stop()


async def test_a_file_that_others_can_read_stops_the_start(tmp_path: Path) -> None:
    """An open key file is an error, and nothing is issued in its place."""
    door = Door(tmp_path)
    await door.access.ensure_keys(door.paths)
    door.paths.client_key.chmod(0o644)
    with pytest.raises(StateError) as caught:
        await door.access.ensure_keys(door.paths)
    assert caught.value.code == "insecure_permissions"
    assert len(live_keys(door.core.state, "client", door.clock.us)) == 1
    await door.core.stop()


async def test_only_a_plain_local_request_may_be_anonymous(tmp_path: Path) -> None:
    """Without a key the configuration and the peer decide; two different keys are refused anyway."""
    door, closed = Door(tmp_path, anonymous="loopback"), Door(tmp_path)
    caller = door.access.identify({}, "::1")
    assert isinstance(caller, Caller)
    assert caller.principal_id == "local"
    for answer in (
        door.access.identify({}, "10.0.0.1"),
        door.access.identify({}, ""),
        door.access.identify({"via": "x"}, "127.0.0.1"),
        closed.access.identify({}, "127.0.0.1"),
        door.whose("a", **{"x-api-key": "b"}),
    ):
        assert isinstance(answer, Refusal)
    await door.core.stop()
    await closed.core.stop()


async def test_denials_are_recorded_in_aggregate(tmp_path: Path) -> None:
    """The first of a kind is recorded at once, what follows once a minute with its count."""
    door = Door(tmp_path)
    for _ in range(5):
        door.access.deny("chat", "invalid_client_key", "127.0.0.1")
    door.access.deny("models", "bad_host", "127.0.0.1")
    assert door.core.state.counts["access.denied"] == 2
    door.clock.us += WINDOW_US
    door.access.deny("models", "bad_host", "127.0.0.1")
    door.access.deny("chat", "invalid_client_key", "127.0.0.1")
    door.clock.us += WINDOW_US
    door.access.deny("other", "route_not_found", "127.0.0.1")
    await door.core.stop()
    assert door.recorded == [
        ("invalid_client_key", 1),
        ("bad_host", 1),
        ("invalid_client_key", 4),
        ("bad_host", 1),
        ("invalid_client_key", 1),
        ("route_not_found", 1),
    ]
    assert sum(door.core.state.keys.denied.values()) == 9


async def test_a_flush_records_the_rest(tmp_path: Path) -> None:
    """A flush records what was counted, durably, and once."""
    door = Door(tmp_path)
    for _ in range(3):
        door.access.deny("chat", "missing_client_key", "127.0.0.1")
    await door.access.flush()
    await door.access.flush()
    assert door.recorded == [("missing_client_key", 1), ("missing_client_key", 2)]
    await door.core.stop()


async def test_kinds_are_bounded(tmp_path: Path) -> None:
    """However many kinds there are, a minute has at most so many facts, and no denial is lost."""
    door = Door(tmp_path)
    for number in range(KINDS_MAX_COUNT * 2):
        door.access.deny(f"surface-{number}", "bad_host", "127.0.0.1")
    assert door.core.state.counts["access.denied"] == KINDS_MAX_COUNT
    await door.access.flush()
    assert sum(door.core.state.keys.denied.values()) == KINDS_MAX_COUNT * 2
    await door.core.stop()


async def test_a_journal_that_fails_loses_no_count(tmp_path: Path) -> None:
    """While the journal cannot be written denials are counted on, and recorded when it works again."""
    door = Door(tmp_path)
    await door.access.ensure_keys(door.paths)
    door.core.fail()
    for _ in range(3):
        door.access.deny("chat", "journal_unwritable", "127.0.0.1")
    await door.access.flush()
    assert door.recorded == []
    rebuilding = door.core._rebuilding
    assert rebuilding is not None
    await rebuilding
    door.access.deny("chat", "journal_unwritable", "127.0.0.1")
    await door.access.flush()
    assert door.recorded == [("journal_unwritable", 4)]
    await door.core.stop()
