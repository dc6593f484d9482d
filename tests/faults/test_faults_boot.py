"""What a start may find: each fault has a code, a sentence and a way out, and leaves the files as they were."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from faults_kit import (
    CHAT,
    fill,
    listed,
    needs_root,
    read_only,
    served,
    settings,
    small_disk,
    somebody_without_rights,
)

import palyra
from palyra.app import Daemon
from palyra.auth.keyfiles import witness_key
from palyra.config.load import load_given
from palyra.daemon.logs import Log
from palyra.engine.replay import fold_file
from palyra.errors import JournalUnwritable, PalyraError
from palyra.journal.verify import verify
from palyra.journal.witness import read_witness
from palyra.readonly import ReadOnlyDaemon, _Nowhere

URL = "http://127.0.0.1:9/v1"


async def used_state(tmp_path: Path) -> Path:
    """Return the state directory of a daemon that has served and was stopped, with its log not yet folded back."""
    state_dir, copy = tmp_path / "state", tmp_path / "crashed"
    async with served(state_dir) as house:
        for _ in range(3):
            assert (await house.chat())[0] == 200
        await house.daemon._witness.do()  # type: ignore[union-attr]
        shutil.copytree(state_dir, copy, ignore=shutil.ignore_patterns("*.sock"))
    return copy


async def start(state_dir: Path, **journal: Any) -> PalyraError:
    """Start a daemon that must not come up; return why."""
    with pytest.raises(PalyraError) as caught:
        async with Daemon(settings(URL, **journal), state_dir=state_dir):
            pass
    error = caught.value
    assert str(error)
    assert error.hint, f"{error} has no way out"
    return error


def digests(state_dir: Path) -> dict[str, str]:
    """Return what is in the files that matter."""
    return {
        name: hashlib.sha256((state_dir / name).read_bytes()).hexdigest()
        for name in ("journal.db", "journal.db-wal", "journal.head")
        if (state_dir / name).exists()
    }


def cut_log(state_dir: Path) -> None:
    log = state_dir / "journal.db-wal"
    os.truncate(log, log.stat().st_size // 2)


def tear_log(state_dir: Path) -> None:
    log = state_dir / "journal.db-wal"
    data = bytearray(log.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    log.write_bytes(data)


def lose_log(state_dir: Path) -> None:
    (state_dir / "journal.db-wal").unlink()


def overwrite_start(state_dir: Path) -> None:
    fold_log_back(state_dir)
    with open(state_dir / "journal.db", "r+b") as file:
        file.write(b"\xff" * 4_096)


def overwrite_middle(state_dir: Path) -> None:
    fold_log_back(state_dir)
    path = state_dir / "journal.db"
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2 // 4_096 * 4_096)
        file.write(b"\xff" * 8_192)


def fold_log_back(state_dir: Path) -> None:
    with sqlite3.connect(state_dir / "journal.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def empty_journal(state_dir: Path) -> None:
    lose_log(state_dir)
    os.truncate(state_dir / "journal.db", 0)


def lose_journal(state_dir: Path) -> None:
    lose_log(state_dir)
    (state_dir / "journal.db").unlink()


def lose_note(state_dir: Path) -> None:
    (state_dir / "journal.head").unlink()


def forge_note(**changes: Any) -> Callable[[Path], None]:
    def forge(state_dir: Path) -> None:
        witness = read_witness(state_dir / "journal.head")
        assert witness is not None
        # Not by our own hand, which takes the last signed note along.
        (state_dir / "journal.head").write_bytes(msgspec.json.encode(msgspec.structs.replace(witness, **changes)))

    return forge


def garble_note(state_dir: Path) -> None:
    (state_dir / "journal.head").write_bytes(b"\x00 no note")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_log, "tail_cut"),
        (tear_log, "tail_cut"),
        (lose_log, "tail_cut"),
        (overwrite_start, "not a SQLite database"),
        (overwrite_middle, ""),
        (empty_journal, "gone or empty"),
        (lose_journal, "gone or empty"),
        (lose_note, "witness_missing"),
        (forge_note(mac=""), "witness_mismatch"),
        (forge_note(mac="00" * 32), "witness_mismatch"),
        (forge_note(position=1), "witness_mismatch"),
        (forge_note(journal_id="01OTHER"), "witness_mismatch"),
        (garble_note, "witness_mismatch"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
async def test_damage_is_refused_and_left_as_it_was(
    tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    """`journal_damaged` with a way out; not a byte of it is changed by the start that refuses it."""
    state_dir = await used_state(tmp_path)
    damage(state_dir)
    before = digests(state_dir)
    error = await start(state_dir, verify_at_start="full" if damage is overwrite_middle else "quick")
    assert (error.code, error.exit_code, error.http_status) == ("journal_damaged", 7, 503)
    assert said in str(error)
    assert "--read-only" in (error.hint or "")
    assert digests(state_dir) == before


def edit_row(state_dir: Path) -> None:
    with contextlib.closing(sqlite3.connect(state_dir / "journal.db", isolation_level=None)) as connection:
        (guard,) = connection.execute(
            "SELECT sql FROM sqlite_schema WHERE name = 'event_is_never_changed'"
        ).fetchone()
        connection.execute("DROP TRIGGER event_is_never_changed")
        connection.execute("UPDATE event SET actor = 'nobody' WHERE position = 9")
        connection.execute(guard)


async def test_damage_is_told_in_the_journal_where_the_log_can_go_on(tmp_path: Path) -> None:
    """A row that was edited: the file is whole and nothing is missing, so the start that refuses says so, once."""
    state_dir = await used_state(tmp_path)
    head = fold_file(state_dir / "journal.db").state.position
    edit_row(state_dir)
    for _ in range(2):
        error = await start(state_dir, verify_at_start="full")
        assert (error.code, error.exit_code) == ("journal_damaged", 7)
        assert "link_mismatch at position 9" in str(error)
        state = fold_file(state_dir / "journal.db").state
        assert state.position == head + 1
        (damage,) = state.journal.damages
        assert (damage.position, damage.code, damage.found_position) == (head + 1, "link_mismatch", 9)
    report = verify(state_dir / "journal.db", witness_key=witness_key(state_dir / "vault.key", create=False))
    assert [(finding.code, finding.position) for finding in report.findings] == [("link_mismatch", 9)]
    for way in ("palyra journal restore", "palyra journal accept-fork", "palyra serve --read-only"):
        assert way in (error.hint or "")


async def test_person_can_go_on_with_a_journal_as_it_is(tmp_path: Path) -> None:
    """The way out that is named works: without the check the note is made anew; the next start is a plain one."""
    state_dir = await used_state(tmp_path)
    lose_note(state_dir)
    async with served(state_dir, verify_at_start="off") as house:
        assert (await house.chat())[0] == 200
    async with served(state_dir) as house:
        assert house.daemon.found == "clean"
        assert house.daemon.core.state.config.generation >= 2


async def test_lost_key_costs_no_log_and_one_that_is_found_again_vouches_for_what_it_signed(tmp_path: Path) -> None:
    """Without its key the note is compared by its link; the last signed one goes along until the key is back."""
    state_dir = await used_state(tmp_path)
    key = (state_dir / "vault.key").read_bytes()
    (state_dir / "vault.key").unlink()
    async with served(state_dir) as house:
        assert (await house.chat())[0] == 200
    (state_dir / "vault.key").write_bytes(key)
    (state_dir / "vault.key").chmod(0o600)
    async with served(state_dir) as house:
        assert (await house.chat())[0] == 200
    signed = read_witness(state_dir / "journal.head")
    assert signed is not None
    assert signed.mac


async def test_newer_schema_is_refused_untouched(tmp_path: Path) -> None:
    """`journal_newer`, exit 5: the release that wrote it must be started."""
    state_dir = await used_state(tmp_path)
    connection = sqlite3.connect(state_dir / "journal.db")
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = digests(state_dir)
    error = await start(state_dir)
    assert (error.code, error.exit_code) == ("journal_newer", 5)
    assert digests(state_dir) == before


async def test_second_daemon_names_the_first(tmp_path: Path) -> None:
    """`journal_locked`, exit 7, with pid and URL of the one that runs, which notices nothing."""
    async with served(tmp_path / "state") as house:
        error = await start(tmp_path / "state")
        assert (error.code, error.exit_code) == ("journal_locked", 7)
        assert f"Process {os.getpid()} " in str(error)
        assert house.daemon.url in str(error)
        assert (await house.chat())[0] == 200


@needs_root
async def test_read_only_disk_is_refused_and_can_be_looked_at(tmp_path: Path) -> None:
    """`journal_unwritable`; a read-only daemon lives there and refuses what would be recorded; reading works."""
    state_dir = await used_state(tmp_path)
    position = fold_file(state_dir / "journal.db").state.position
    with read_only(state_dir):
        error = await start(state_dir)
        assert (error.code, error.exit_code) == ("journal_unwritable", 7)
        assert "read-only" in str(error)
        await check_read_only(state_dir, position)
        assert fold_file(state_dir / "journal.db").state.position == position


async def check_read_only(state_dir: Path, position: int) -> None:
    """Start a daemon that writes nothing, and ask it everything."""
    before = listed(state_dir)
    loaded = load_given({"daemon": {"port": 0, "state_dir": str(state_dir)}}, {"HOME": "/nowhere"}, {})
    daemon = ReadOnlyDaemon(loaded)
    await daemon.start()
    assert not daemon.finished.done()
    assert list(daemon.loop_stacks()) == []
    async with aiohttp.ClientSession() as session:

        async def ask(method: str, path: str, body: Any = None, *, by: str = "client.key") -> tuple[int, Any]:
            key = (state_dir / by).read_text().strip()
            headers = {"authorization": f"Bearer {key}"}
            async with session.request(method, daemon.url + path, json=body, headers=headers) as answer:
                return answer.status, await answer.json()

        assert await ask("GET", "/healthz") == (200, {"status": "alive"})
        assert await ask("GET", "/readyz") == (503, {"status": "journal_unwritable"})
        for method, path in (("POST", CHAT), ("POST", "/v1/embeddings"), ("GET", "/v1/models")):
            status, refused = await ask(method, path, {} if method == "POST" else None)
            assert (status, refused["error"]["code"]) == (503, "journal_unwritable")
        console = functools.partial(ask, by="admin.token")
        if daemon.trouble:  # nobody is known where the journal cannot be read
            assert (await console("GET", "/console/v1/status"))[0] == 401
        else:
            for place in ("status", "runs", "journal/status", f"models?at={position - 1}"):
                status, answer = await console("GET", f"/console/v1/{place}")
                assert status == 200, (place, answer)
                assert answer["at"]["position"] == position - (1 if "at=" in place else 0)
            for method, place in (("POST", "models/test"), ("POST", "config/reload"), ("POST", "auth/login-codes")):
                status, refused = await console(method, f"/console/v1/{place}", {})
                assert (status, refused["error"]["code"]) == (503, "journal_unwritable"), place
            assert (await ask("GET", "/console/v1/status"))[0] == 403
    await daemon.stop()
    assert daemon.position == position
    assert listed(state_dir) == before


async def test_damaged_journal_can_be_looked_at(tmp_path: Path) -> None:
    """A read-only daemon says what is wrong with the journal and serves all the same."""
    state_dir = await used_state(tmp_path)
    overwrite_start(state_dir)
    loaded = load_given({"daemon": {"port": 0, "state_dir": str(state_dir)}}, {"HOME": "/nowhere"}, {})
    daemon = ReadOnlyDaemon(loaded)
    await daemon.start()
    assert "not a SQLite database" in daemon.trouble
    await daemon.stop()
    await check_read_only(state_dir, 0)


@needs_root
async def test_lost_permissions_are_named(tmp_path: Path) -> None:
    """A directory of ours in which we may not write any more: denied, with the way out."""
    # Not tmp_path: nobody else may enter that.
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(await used_state(tmp_path), state_dir := Path(folder) / "state")
        with somebody_without_rights(state_dir):
            error = await start(state_dir)
    assert (error.code, error.exit_code) == ("journal_unwritable", 7)
    assert "denied" in str(error)


@needs_root
async def test_disk_that_is_full_at_the_start_is_named(tmp_path: Path) -> None:
    """Not even the lock fits: `journal_unwritable`, and the way out is room."""
    with small_disk(tmp_path / "disk", 1) as disk:
        fill(disk)
        error = await start(disk / "state")
    assert (error.code, error.exit_code) == ("journal_unwritable", 7)
    assert "the disk is full" in str(error)


@pytest.mark.parametrize(("which", "told"), [("all", [200, 503]), ("errors", [503]), ("off", [])])
async def test_read_only_daemon_logs_what_is_wanted(tmp_path: Path, which: str, told: list[int]) -> None:
    """Requests are in its log as they are in that of any daemon: all of them, those that failed, or none."""
    state_dir, file = await used_state(tmp_path), tmp_path / "palyra.log"
    given = {"daemon": {"port": 0, "state_dir": str(state_dir)}, "observability": {"log_requests": which}}
    log = Log(log_format="json", file=file)
    daemon = ReadOnlyDaemon(load_given(given, {"HOME": "/nowhere"}, {}), log=log)
    await daemon.start()
    async with aiohttp.ClientSession() as session:
        for path in ("/healthz", "/nowhere"):
            async with session.get(daemon.url + path) as answer:
                await answer.read()
    await daemon.stop()
    log.close()
    assert [json.loads(line)["status"] for line in file.read_text().splitlines()] == told


async def test_read_only_daemon_wants_a_directory_and_a_port(tmp_path: Path) -> None:
    """What others can read is refused as ever, and so is a port that is taken."""
    state_dir = await used_state(tmp_path)
    async with served(tmp_path / "other") as house:
        port = house.daemon.server.port
        tree = {"daemon": {"port": port, "state_dir": str(state_dir)}}
        with pytest.raises(PalyraError) as caught:
            await ReadOnlyDaemon(load_given(tree, {"HOME": "/nowhere"}, {})).start()
        assert caught.value.code == "address_in_use"
    state_dir.chmod(0o755)
    with pytest.raises(PalyraError) as caught:
        await ReadOnlyDaemon(load_given(tree, {"HOME": "/nowhere"}, {})).start()
    assert caught.value.code == "insecure_permissions"


def test_what_a_read_only_daemon_would_send_goes_nowhere() -> None:
    """Its engine has no outside."""
    with pytest.raises(JournalUnwritable):
        _Nowhere().provider("up")
    with pytest.raises(JournalUnwritable):
        _Nowhere().secret("up", "config:up", 0)
    assert _Nowhere().absent == ()


def test_read_only_is_a_flag_of_serve(tmp_path: Path) -> None:
    """`palyra serve --read-only` says what it looks at in one line, and ends on a signal with 0."""
    state_dir = tmp_path / "state"
    state_dir.mkdir(mode=0o700)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PALYRA_")}
    with subprocess.Popen(
        [sys.executable, "-m", "palyra", "serve", "--read-only", "--port", "0", "--state-dir", str(state_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**environ, "HOME": str(tmp_path)},
        cwd=Path(palyra.__file__).parents[1],
    ) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    assert (ready["event"], ready["read_only"], ready["position"]) == ("daemon_ready", True, 0)
    assert "There is no journal" in ready["trouble"]
    assert listed(state_dir) == set()
