"""A journal of an older release: backed up, upgraded, and told; and what may go wrong with that.

The newer release of these tests is this one with two synthetic migrations more.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from faults_kit import served, settings

from palyra.app import Daemon
from palyra.auth.keyfiles import witness_key
from palyra.cli.main import main
from palyra.config.state import StatePaths, prepare_state_dir
from palyra.engine.replay import fold_file, verify_replay
from palyra.engine.restore import restore
from palyra.engine.upgrade import upgrade_offline
from palyra.errors import JournalNewer, JournalUnwritable, PalyraError
from palyra.journal import migrations
from palyra.journal.backup import read_backup
from palyra.journal.migrations import released_migrations
from palyra.journal.reader import JournalReader
from palyra.journal.sqlite import prepare_file
from palyra.journal.verify import verify

URL = "http://127.0.0.1:9/v1"
NOTE = "CREATE TABLE note (text TEXT NOT NULL) STRICT;"
INDEX = "CREATE INDEX event_name ON event (name);"
BROKEN = "CREATE TABLE half (a ANY) STRICT; INSERT INTO nowhere VALUES (1);"
OLD = len(released_migrations())


@contextmanager
def newer_release(*steps: str) -> Iterator[int]:
    """Be a release that knows these migrations more; gives the number of its last one."""
    known = released_migrations()
    folder = _Folder([(each.name, each.sql) for each in known])
    folder.add(*((f"{number:04}_step.sql", sql) for number, sql in enumerate(steps or (NOTE, INDEX), OLD + 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "migrations_folder", lambda: folder)
        released_migrations.cache_clear()
        try:
            yield len(released_migrations())
        finally:
            patch.undo()
            released_migrations.cache_clear()


class _File(NamedTuple):
    name: str
    text: str

    def read_text(self, encoding: str) -> str:
        return self.text


class _Folder:
    def __init__(self, files: list[tuple[str, str]]) -> None:
        self._files = [_File(*file) for file in files]

    def add(self, *files: tuple[str, str]) -> None:
        self._files += [_File(*file) for file in files]

    def iterdir(self) -> Iterator[_File]:
        return iter(self._files)


async def old_state(tmp_path: Path) -> StatePaths:
    """Return a state that the release before has served and stopped."""
    async with served(tmp_path / "state") as house:
        for _ in range(2):
            assert (await house.chat())[0] == 200
    return StatePaths(tmp_path / "state")


def schema(journal: Path) -> int:
    with JournalReader(journal) as reader:
        return reader.schema


def rows(journal: Path, upto: int) -> list[object]:
    with JournalReader(journal) as reader:
        return [row for batch in reader.stored_rows(0, upto) for row in batch]


def sound(paths: StatePaths) -> bool:
    return verify(paths.journal, witness_key=witness_key(paths.vault_key, create=False)).is_sound


def backups(paths: StatePaths) -> list[Path]:
    return sorted((paths.directory / "backups").iterdir()) if (paths.directory / "backups").exists() else []


async def test_a_newer_release_upgrades_what_it_finds(tmp_path: Path) -> None:
    """A verified backup of the old file, then the new number, no row rewritten, and a fact; once."""
    paths = await old_state(tmp_path)
    head = fold_file(paths.journal).state.position
    before = rows(paths.journal, head)
    with newer_release() as newest:
        async with Daemon(settings(URL), state_dir=paths.directory) as daemon:
            done = daemon.upgraded
            assert done is not None
            assert (done.before, done.after) == (OLD, newest)
            assert daemon.core.state.journal.upgrades == [(done.head_position, OLD, newest)]
        assert schema(paths.journal) == newest
        assert rows(paths.journal, head) == before
        assert sound(paths)
        assert verify_replay(paths.journal).divergence is None
        (kept,) = backups(paths)
        assert str(kept) == done.backup_directory
        async with Daemon(settings(URL), state_dir=paths.directory) as daemon:
            assert daemon.upgraded is None
    assert (read_backup(kept).schema, read_backup(kept).position) == (OLD, head)


async def test_the_way_back_is_the_backup(tmp_path: Path) -> None:
    """The older release refuses the upgraded journal without changing a byte, and serves the backup again."""
    paths = await old_state(tmp_path)
    with newer_release():
        async with Daemon(settings(URL), state_dir=paths.directory) as daemon:
            assert daemon.upgraded is not None
            kept = Path(daemon.upgraded.backup_directory)
    shutil.move(kept, tmp_path / "kept")
    before = {file.name: file.read_bytes() for file in paths.directory.iterdir() if file.is_file()}
    with pytest.raises(JournalNewer):
        async with served(paths.directory):
            pass
    after = {file.name: file.read_bytes() for file in paths.directory.iterdir() if file.is_file()}
    assert {name for name in before if before[name] != after[name]} <= {"journal.lock"}
    await asyncio.to_thread(
        restore, paths, tmp_path / "kept", is_replacing=True, is_loss_accepted=True, progress=None
    )
    async with served(paths.directory) as house:
        assert (await house.chat())[0] == 200


async def test_an_upgrade_that_is_not_wanted_is_refused(tmp_path: Path) -> None:
    """`--no-upgrade`: `upgrade_due`, exit 7, with the command; the journal stays as it is."""
    paths = await old_state(tmp_path)
    with newer_release():
        with pytest.raises(PalyraError) as caught:
            await Daemon(settings(URL), state_dir=paths.directory, upgrade=False).start()
        assert (caught.value.code, caught.value.exit_code) == ("upgrade_due", 7)
        assert "palyra journal upgrade" in (caught.value.hint or "")
    assert (schema(paths.journal), backups(paths)) == (OLD, [])
    async with Daemon(settings(URL), state_dir=paths.directory, upgrade=False) as daemon:
        assert daemon.upgraded is None


async def test_no_upgrade_without_room_for_the_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`upgrade_needs_space`, exit 7: nothing is migrated that could not be gone back on."""
    paths = await old_state(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1))
    with newer_release():
        with pytest.raises(PalyraError) as caught:
            await Daemon(settings(URL), state_dir=paths.directory).start()
        assert (caught.value.code, caught.value.exit_code) == ("upgrade_needs_space", 7)
        assert "free some space" in (caught.value.hint or "")
    assert (schema(paths.journal), backups(paths)) == (OLD, [])


async def test_a_migration_that_fails_leaves_the_old_release_able_to_start(tmp_path: Path) -> None:
    """The error names the backup; the number before the failed one is in force."""
    paths = await old_state(tmp_path)
    with newer_release(BROKEN), pytest.raises(JournalUnwritable, match="no such table: nowhere") as caught:
        await Daemon(settings(URL), state_dir=paths.directory).start()
    (kept,) = backups(paths)
    assert str(kept) in (caught.value.hint or "")
    assert schema(paths.journal) == OLD
    async with served(paths.directory) as house:
        assert (await house.chat())[0] == 200


async def test_a_damaged_journal_is_not_upgraded(tmp_path: Path) -> None:
    """Offline too it is checked whole first, against its witness."""
    paths = await old_state(tmp_path)
    paths.head.write_bytes(paths.head.read_bytes().replace(b'"mac":"', b'"mac":"0'))
    with newer_release(), pytest.raises(PalyraError) as caught:
        await asyncio.to_thread(upgrade_offline, paths)
    assert caught.value.code == "journal_damaged"
    assert (schema(paths.journal), backups(paths)) == (OLD, [])


def test_the_command_checks_and_upgrades(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--check` exits 7 when it is due; without it the upgrade is made; then both say that nothing is due."""
    paths = asyncio.run(old_state(tmp_path))
    command = ("journal", "upgrade", "--state-dir", str(paths.directory))
    assert main([*command, "--check"]) == 0
    with newer_release() as newest:
        assert main([*command, "--check"]) == 7
        told = capsys.readouterr()
        assert "an upgrade is due" in told.out
        assert "code: upgrade_due · exit 7" in told.err
        assert main(command) == 0
        assert f"schema     {OLD} to {newest}" in capsys.readouterr().out
        assert main([*command, "--check"]) == 0
        assert main(command) == 0
        assert "up to date" in capsys.readouterr().out
        assert fold_file(paths.journal).state.journal.upgrades[-1][1:] == (OLD, newest)
        assert sound(paths)
    assert main([*command, "--check"]) == 5


async def test_a_first_start_that_was_killed_is_no_old_journal(tmp_path: Path) -> None:
    """A journal without an event is brought up to date in passing: there is nothing to go back to."""
    paths = StatePaths(tmp_path / "state")
    prepare_state_dir(paths)
    witness_key(paths.vault_key, create=True)
    prepare_file(paths.journal, new_journal_id="01FIRST", now_us=1)
    with newer_release() as newest:
        async with Daemon(settings(URL), state_dir=paths.directory) as daemon:
            assert (daemon.upgraded, daemon.found) == (None, "new")
        assert schema(paths.journal) == newest
    assert backups(paths) == []
