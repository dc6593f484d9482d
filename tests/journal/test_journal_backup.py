"""Backups: copied beside a busy writer, verified before they exist, and refused when a byte of them changed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from journal_helpers import JOURNAL_ID, NOW_US, open_sqlite, row, rows, tampering, write_journal

from palyra.errors import JournalDamaged, PalyraError
from palyra.journal import staging as staging_module
from palyra.journal.backup import MANIFEST_FILE, Manifest, back_up, check_backup_journal, read_backup
from palyra.journal.reader import JournalReader
from palyra.journal.staging import exchange, put_in_place, staging
from palyra.journal.verify import verify
from palyra.journal.witness import WITNESS_FILE, read_witness

KEY = b"k" * 32


def make_backup(journal: Path, target: Path, **arguments: Any) -> Manifest:
    """Make a backup with this suite's identity."""
    given = {"backup_id": "01BACKUP", "release": "0.1.0", "now_us": NOW_US, "witness_key": KEY, **arguments}
    return back_up(journal, target, **given)


def contents(folder: Path) -> dict[str, bytes]:
    """Return what a folder's files hold."""
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def names_in(folder: Path) -> list[str]:
    """Return what is in a folder, by name."""
    return sorted(each.name for each in folder.iterdir())


def modes(folder: Path) -> set[str]:
    """Return the modes of a directory and of what is in it."""
    return {oct(path.stat().st_mode & 0o777) for path in (folder, *folder.iterdir())}


async def test_a_backup_is_whole_private_and_verified(tmp_path: Path) -> None:
    """Journal, a witness for its head, other databases and plain files, each with size and SHA-256."""
    path = await write_journal(tmp_path / "journal.db", rows(1, 300))
    vault = tmp_path / "vault.db"
    with contextlib.closing(sqlite3.connect(vault, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE secret (a)")
    (tmp_path / "palyra.toml").write_text("version = 1\n")
    before = contents(tmp_path)
    seen: list[tuple[str, int, int]] = []
    target = tmp_path / "backups" / "monday"
    manifest = make_backup(
        path,
        target,
        databases=[vault, tmp_path / "memory.db"],
        files={"palyra.toml": tmp_path / "palyra.toml", "vault.key": tmp_path / "vault.key"},
        progress=lambda *figures: seen.append(figures),
    )
    names = ["journal.db", "journal.head", "palyra.toml", "vault.db"]
    assert [file.name for file in manifest.files] == names
    assert sorted(each.name for each in target.iterdir()) == sorted([*names, MANIFEST_FILE])
    assert modes(target) == {"0o700", "0o600"}
    assert (manifest.journal_id, manifest.position, manifest.schema) == (JOURNAL_ID, 300, 1)
    assert verify(target / "journal.db", witness_key=KEY).findings == []
    assert read_backup(target) == manifest
    check_backup_journal(target, manifest, KEY, None)
    assert {label for label, _, _ in seen} == {
        *("copying journal.db, pages", "copying vault.db, pages", "checking")
    }
    shutil.rmtree(tmp_path / "backups")
    assert contents(tmp_path) == before, "the source was only read"


async def test_a_backup_beside_a_busy_writer_verifies(tmp_path: Path) -> None:
    """While commits go on, the copy is one instant's: everything acknowledged before it, nothing half."""
    path = tmp_path / "journal.db"
    journal = await open_sqlite(path)
    await journal.append(rows(1, 2_000))
    position, is_done = 2_000, asyncio.Event()

    async def append() -> None:
        nonlocal position
        while not is_done.is_set():
            await journal.append([row(position + 1), row(position + 2)])
            position += 2

    writer = asyncio.create_task(append())
    try:
        for number in range(4):
            acknowledged = journal.head.position
            manifest = await asyncio.to_thread(make_backup, path, tmp_path / f"{number}")
            assert acknowledged <= manifest.position <= journal.head.position
            assert manifest.position % 2 == 0, "a commit was split"
            report = verify(tmp_path / f"{number}" / "journal.db", witness_key=KEY)
            assert (report.findings, report.rows_count) == ([], manifest.position)
            with JournalReader(path) as reader:
                link = reader.link(manifest.position)
            assert link is not None
            assert link.hex() == manifest.link
    finally:
        is_done.set()
        await writer
        await journal.close()
    print("backups beside a writer: 4, positions appended meanwhile:", position - 2_000)
    assert position > 2_000


async def test_without_a_key_the_witness_vouches_by_its_link(tmp_path: Path) -> None:
    """A backup can be made and checked without the key; then that is information, not damage."""
    path = await write_journal(tmp_path / "journal.db", rows(1, 5))
    manifest = make_backup(path, tmp_path / "b", witness_key=None)
    witness = read_witness(tmp_path / "b" / WITNESS_FILE)
    assert witness is not None
    assert (witness.position, witness.mac) == (5, "")
    check_backup_journal(tmp_path / "b", manifest, None, None)


async def test_what_cannot_be_backed_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that is taken, a full disk, a damaged or missing journal: refused, with no half backup."""
    path = await write_journal(tmp_path / "journal.db", rows(1, 50))
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "x").touch()
    for target in (taken, taken / "x"):
        with pytest.raises(PalyraError) as refused:
            make_backup(path, target)
        assert refused.value.code == "bad_path"
    before = names_in(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(staging_module, "_FREE_TENTHS", 10**15)
        with pytest.raises(PalyraError) as refused:
            make_backup(path, tmp_path / "b")
        assert (refused.value.code, refused.value.exit_code) == ("needs_space", 7)
    with tampering(path) as connection:
        connection.execute("UPDATE event SET body = '{}' WHERE position = 7")
    with pytest.raises(JournalDamaged, match="link_mismatch at position 7"):
        make_backup(path, tmp_path / "b")
    path.write_bytes(b"no database" * 1_000)
    with pytest.raises(JournalDamaged):
        make_backup(path, tmp_path / "b")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        make_backup(path, tmp_path / "b")
    assert names_in(tmp_path) == [name for name in before if name != path.name]


async def test_a_changed_backup_is_refused(tmp_path: Path) -> None:
    """A byte of any file, a missing file, names that lead outside, another journal: each is found first."""
    path = await write_journal(tmp_path / "journal.db", rows(1, 20))
    (tmp_path / "palyra.toml").write_text("version = 1\n")
    make_backup(path, tmp_path / "b", files={"palyra.toml": tmp_path / "palyra.toml"})
    for name in ("journal.db", "journal.head", "palyra.toml"):
        copy = tmp_path / f"with-other-{name}"
        shutil.copytree(tmp_path / "b", copy)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 0x04
        (copy / name).write_bytes(content)
        with pytest.raises(JournalDamaged, match=f"file {name} is not the one"):
            read_backup(copy)
        (copy / name).unlink()
        with pytest.raises(JournalDamaged, match=f"lacks its file {name}"):
            read_backup(copy)
    text = (tmp_path / "b" / MANIFEST_FILE).read_text()
    for changed in ("{", text.replace("palyra.toml", "../palyra.toml"), text.replace("journal.db", "other.db")):
        (tmp_path / "b" / MANIFEST_FILE).write_text(changed)
        with pytest.raises(JournalDamaged):
            read_backup(tmp_path / "b")
    (tmp_path / "b" / MANIFEST_FILE).write_text(json.dumps({**json.loads(text), "position": 19}))
    with pytest.raises(JournalDamaged, match="not the one that its"):
        check_backup_journal(tmp_path / "b", read_backup(tmp_path / "b"), KEY, None)
    for nothing in (tmp_path / "nothing", path):
        with pytest.raises(PalyraError, match="is not a backup"):
            read_backup(nothing)


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """Work that fails leaves nothing; work that succeeds has its name, over an empty directory too."""
    target = tmp_path / "deep" / "state"
    with pytest.raises(FileNotFoundError), staging(target, "1") as staged:
        (staged / "missing").unlink()
    assert names_in(tmp_path / "deep") == []
    target.mkdir()
    with staging(target, "1") as staged:
        (staged / "file").touch()
        put_in_place(staged, target)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["state"]
    assert (target / "file").exists()


@pytest.mark.parametrize("can_swap", [True, False])
def test_directories_change_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_swap: bool) -> None:
    """The new one has the name and the old one another, whether the system can swap two names or not."""
    if not can_swap:
        monkeypatch.setattr(staging_module, "_swapped", lambda one, other: False)
    state, old = tmp_path / "state", tmp_path / "old"
    state.mkdir()
    (state / "before").touch()
    with staging(state, "1") as staged:
        (staged / "after").touch()
        exchange(staged, state, old)
    assert [path.name for path in state.iterdir()] == ["after"]
    assert [path.name for path in old.iterdir()] == ["before"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "state"]
