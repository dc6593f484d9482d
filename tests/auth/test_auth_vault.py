"""The vault: what is put in comes out, and nothing else opens, is lost, or is said aloud."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from palyra.auth.keyfiles import read_vault_key, witness_key
from palyra.auth.keysource import FileSource, KeychainSource
from palyra.auth.vault import Damage, Vault, VaultFiles
from palyra.auth.vaultdb import VaultDb
from palyra.auth.vaultlock import VaultLock
from palyra.decisions.vault import VaultRef
from palyra.errors import StateError, VaultError
from palyra.redaction import Secret

OPENAI, GROQ = VaultRef("global", "openai"), VaultRef("agent:coder", "groq")
VALUE = "sk-canary-0123456789abcdef"
NOW_US = 1_800_000_000_000_000


def files_in(directory: Path) -> VaultFiles:
    return VaultFiles(directory / "vault.db", directory / "vault.key", directory / "vault.lock")


@pytest.fixture
def files(tmp_path: Path) -> VaultFiles:
    witness_key(tmp_path / "vault.key", create=True)
    return files_in(tmp_path)


@pytest.fixture
def vault(files: VaultFiles) -> Iterator[Vault]:
    vault = Vault.open(files)
    yield vault
    vault.close()


def put(vault: Vault, ref: VaultRef = OPENAI, value: str = VALUE, **more: Any) -> int:
    return vault.put(ref, Secret(value), purpose="put", now_us=NOW_US, **more).info.revision


def reopened(vault: Vault, files: VaultFiles) -> Vault:
    vault.close()
    return Vault.open(files)


def codes(vault: Vault) -> list[tuple[str, str]]:
    return [tuple(damage) for damage in vault.verify()]


def edit(files: VaultFiles, statement: str, *values: object) -> None:
    with sqlite3.connect(files.database) as connection:
        connection.execute(statement, values)
    connection.close()


def test_what_was_put_in_comes_out(vault: Vault, files: VaultFiles) -> None:
    """Also after a restart; a text has lost the newline at its end, and a set has all its parts."""
    put(vault, value=f"{VALUE}\n", audience="https://api.openai.com:443")
    parts = {"access": Secret("a" * 20), "refresh": Secret("r" * 20)}
    stored = vault.put(GROQ, parts, purpose="connect", now_us=NOW_US, profile_id="groq-1")
    again = reopened(vault, files)
    text, credential = again.get(OPENAI), again.get(GROQ, 1)
    again.close()
    assert text.secret == Secret(VALUE)
    assert text.info.audience == "https://api.openai.com:443"
    assert credential.parts == parts
    assert credential.secret is None
    assert (credential.info.profile_id, credential.key_fingerprint) == ("groq-1", stored.key_fingerprint)


def test_a_vault_is_made_with_its_first_secret(vault: Vault, files: VaultFiles) -> None:
    """Until then there is no file; then one for its owner alone, in which no value can be read."""
    assert (vault.status, files.database.exists()) == ("empty", False)
    put(vault)
    assert (vault.status, files.database.stat().st_mode & 0o777) == ("open", 0o600)
    assert VALUE.encode() not in files.database.read_bytes()


def test_a_revision_is_never_used_twice(vault: Vault) -> None:
    """Not after a deletion, and not where the journal has seen a higher one."""
    assert [put(vault), put(vault)] == [1, 2]
    assert vault.delete(OPENAI) == [1, 2]
    assert put(vault) == 3
    assert put(vault, above=7) == 8
    assert vault.delete(OPENAI, below=8) == [3]
    assert vault.delete(GROQ) == []


def test_a_change_can_be_bound_to_what_was_seen(vault: Vault) -> None:
    """`if_revision` names the one that is live, 0 for none; the other is refused and changes nothing."""
    assert put(vault, if_revision=0) == 1
    assert put(vault, if_revision=1) == 2
    with pytest.raises(VaultError) as caught:
        put(vault, if_revision=1)
    assert caught.value.code == "stale_revision"
    assert vault.listed()[0].revision == 2


@pytest.mark.parametrize(
    ("value", "code"), [("", "invalid_request"), ("\n", "invalid_request"), ("x" * 65_537, "value_too_large")]
)
def test_a_value_has_a_size(vault: Vault, value: str, code: str) -> None:
    """1 to 65,536 bytes; the refusal does not hold the value."""
    with pytest.raises(VaultError) as caught:
        put(vault, value=value)
    assert caught.value.code == code
    assert "xx" not in str(caught.value)
    put(vault, value="x" * 65_536)


def test_a_vault_has_room_for_so_many(files: VaultFiles) -> None:
    """One more reference is refused, a new revision of an old one is not."""
    vault = Vault.open(files, max_secrets_count=1)
    put(vault)
    put(vault)
    with pytest.raises(VaultError) as caught:
        put(vault, GROQ)
    vault.close()
    assert caught.value.code == "too_many_secrets"


def test_a_list_shows_the_newest_of_each_and_no_value(vault: Vault) -> None:
    """Sorted by reference; a scope narrows it."""
    put(vault)
    put(vault)
    put(vault, GROQ, "gsk-1")
    assert [(info.ref, info.revision, info.value_bytes) for info in vault.listed()] == [
        ("agent:coder/groq", 1, 5),
        ("global/openai", 2, len(VALUE)),
    ]
    assert [info.ref for info in vault.listed("global")] == ["global/openai"]
    assert (vault.exists(OPENAI), vault.exists(VaultRef("global", "groq"))) == (True, False)
    assert VALUE not in repr(vault.listed()) + repr(vault.get(OPENAI))


def test_what_is_not_there_is_not_found(vault: Vault) -> None:
    """Before there is a vault, and in it."""
    for _ in range(2):
        with pytest.raises(VaultError) as caught:
            vault.get(GROQ)
        assert caught.value.code == "secret_not_found"
        put(vault)
    with pytest.raises(VaultError):
        vault.get(OPENAI, 9)


def test_what_is_open_is_read_from_memory(vault: Vault, files: VaultFiles) -> None:
    """The newest two revisions of a secret, without a look at the file; a deleted secret is not among them."""
    put(vault)
    put(vault, value="sk-other-0123456789")
    files.database.unlink()
    first, second = vault.cached(OPENAI, 1), vault.cached(OPENAI, 2)
    assert first is not None
    assert second is not None
    assert (first.secret, second.secret) == (Secret(VALUE), Secret("sk-other-0123456789"))
    assert vault.cached(OPENAI, 3) is None
    assert vault.cached(GROQ, 1) is None


def test_a_deleted_secret_is_gone_from_memory_too(vault: Vault) -> None:
    """Nobody gets it any more."""
    put(vault)
    vault.delete(OPENAI)
    assert vault.cached(OPENAI, 1) is None
    put(vault)
    put(vault)
    assert vault.delete_revision(OPENAI, 2)
    assert not vault.delete_revision(OPENAI, 2)
    assert vault.cached(OPENAI, 2) is None
    assert vault.cached(OPENAI, 3) is not None


def test_a_vault_in_memory_has_no_files() -> None:
    """It works alike and ends with the process."""
    vault = Vault()
    put(vault)
    vault.rekey()
    assert vault.get(OPENAI).secret == Secret(VALUE)
    assert vault.key_source == "key_file"
    vault.close()


# -- somebody else's hands in it


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE revision SET scope = 'agent:x' WHERE key = 'openai'",
        "UPDATE revision SET key = 'other' WHERE key = 'openai'",
        "UPDATE revision SET revision = 5 WHERE key = 'openai'",
        "UPDATE revision SET kind = 'credential_set' WHERE key = 'openai'",
        "UPDATE revision SET audience = 'https://evil.example:443' WHERE key = 'openai'",
        "UPDATE revision SET profile_id = 'x' WHERE key = 'openai'",
        "UPDATE revision SET sealed = x'00' WHERE key = 'openai'",
        "UPDATE revision SET sealed = (SELECT sealed FROM revision WHERE key = 'groq') WHERE key = 'openai'",
    ],
)
def test_a_row_that_was_moved_or_changed_does_not_open(vault: Vault, files: VaultFiles, statement: str) -> None:
    """Place, kind, origin and value are sealed together; the other secrets still open."""
    put(vault)
    put(vault, GROQ)
    vault.close()
    edit(files, statement)
    again = Vault.open(files)
    found = codes(again)
    groq = again.get(GROQ).secret
    again.close()
    assert [code for code, _ in found] == ["secret_damaged"]
    assert groq == Secret(VALUE)


def test_a_row_of_another_vault_does_not_open(vault: Vault, files: VaultFiles) -> None:
    """The vault's own name is sealed with it."""
    put(vault)
    vault.close()
    edit(files, "UPDATE vault SET vault_id = 'ffffffffffffffff'")
    again = Vault.open(files)
    assert codes(again) == [("secret_damaged", "global/openai")]
    again.close()


def test_any_flipped_byte_is_damage(vault: Vault, files: VaultFiles) -> None:
    """At each place of the sealed value; the message holds none of it."""
    put(vault)
    vault.close()
    connection = sqlite3.connect(files.database)
    sealed = connection.execute("SELECT sealed FROM revision").fetchone()[0]
    for place in range(len(sealed)):
        flipped = bytes([*sealed[:place], sealed[place] ^ 1, *sealed[place + 1 :]])
        connection.execute("UPDATE revision SET sealed = ?", (flipped,))
        connection.commit()
        again = Vault.open(files)
        with pytest.raises(VaultError) as caught:
            again.get(OPENAI)
        again.close()
        assert (caught.value.code, caught.value.__cause__, caught.value.__context__) == (
            "secret_damaged",
            None,
            None,
        )
    connection.close()


@pytest.mark.parametrize(
    "text", [b"not a database at all, but long enough to look like one" * 20, b"SQLite format 3\0"]
)
def test_a_file_that_is_no_vault_is_left_as_it_is(files: VaultFiles, text: bytes) -> None:
    """It is unreadable, nothing can be had or put, and it is not touched."""
    files.database.write_bytes(text)
    files.database.chmod(0o600)
    vault = Vault.open(files)
    assert (vault.status, codes(vault)) == ("unreadable", [("vault_unreadable", "")])
    for act in (lambda: put(vault), lambda: vault.get(OPENAI), vault.rekey):
        with pytest.raises(VaultError) as caught:
            act()
        assert caught.value.code == "vault_unreadable"
    assert (vault.listed(), vault.delete(OPENAI), vault.delete_revision(OPENAI, 1)) == ([], [], False)
    vault.close()
    assert files.database.read_bytes() == text


def test_a_truncated_vault_is_damage_and_not_a_fresh_start(vault: Vault, files: VaultFiles) -> None:
    """Half of a file is not taken for none."""
    for number in range(40):
        put(vault, VaultRef("global", f"k{number}"), "x" * 1_000)
    vault.close()
    data = files.database.read_bytes()
    files.database.write_bytes(data[: len(data) // 2])
    again = Vault.open(files)
    assert "vault_unreadable" in [code for code, _ in codes(again)]
    again.close()


def test_a_vault_of_a_newer_release_is_not_touched(vault: Vault, files: VaultFiles) -> None:
    """Its format is not guessed at."""
    put(vault)
    vault.close()
    edit(files, "PRAGMA user_version = 2")
    again = Vault.open(files)
    assert again.status == "unreadable"
    assert "newer release" in again.reason
    again.close()


def test_another_database_is_no_vault(files: VaultFiles) -> None:
    """Its tables stay alone."""
    edit(files, "CREATE TABLE x (y)")
    files.database.chmod(0o600)
    vault = Vault.open(files)
    assert vault.status == "unreadable"
    vault.close()


# -- the key


def test_a_lost_key_locks_and_is_not_replaced(vault: Vault, files: VaultFiles) -> None:
    """Nothing is made, changed or opened; the key put back opens everything."""
    put(vault)
    vault.close()
    key = files.key.read_bytes()
    files.key.unlink()
    again = Vault.open(files)
    assert (again.status, codes(again)) == ("locked", [("vault_locked", "")])
    with pytest.raises(VaultError) as caught:
        put(again)
    again.close()
    assert caught.value.code == "vault_locked"
    assert not files.key.exists()
    files.key.write_bytes(key)
    files.key.chmod(0o600)
    once_more = Vault.open(files)
    assert once_more.get(OPENAI).secret == Secret(VALUE)
    once_more.close()


def test_another_key_opens_nothing(vault: Vault, files: VaultFiles, tmp_path: Path) -> None:
    """It is told from a damaged vault, and no row is called damaged."""
    put(vault)
    vault.close()
    (tmp_path / "other").mkdir()
    witness_key(tmp_path / "other" / "vault.key", create=True)
    files.key.write_bytes((tmp_path / "other" / "vault.key").read_bytes())
    again = Vault.open(files)
    assert (again.status, codes(again)) == ("locked", [("vault_key_mismatch", "")])
    assert again.vault_id in again.reason
    again.close()


def test_files_that_others_could_use_are_refused(vault: Vault, files: VaultFiles) -> None:
    """The key file and the vault; nothing is changed."""
    put(vault)
    vault.close()
    for path in (files.key, files.database):
        before = path.read_bytes()
        path.chmod(0o640)
        with pytest.raises(StateError) as caught:
            Vault.open(files)
        assert caught.value.code == "insecure_permissions"
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (before, 0o640)
        path.chmod(0o600)
    VaultLock.acquire(files.lock, timeout_ms=0).release()


def test_a_lost_key_before_the_first_secret_costs_the_witness_alone(files: VaultFiles) -> None:
    """The vault gets a key, but notes of the journal's head that were signed by the old one are not signed anew."""
    files.key.unlink()
    vault = Vault.open(files)
    put(vault)
    vault.close()
    line = read_vault_key(files.key)
    assert line is not None
    assert line.witness is None
    assert witness_key(files.key, create=False) is None


# -- sealed anew


def test_a_new_key_keeps_values_and_revisions(vault: Vault, files: VaultFiles) -> None:
    """The old key opens nothing any more, fingerprints are new, and the journal's note is signed as before."""
    put(vault)
    put(vault)
    first = vault.get(OPENAI).key_fingerprint
    old_key, witness = files.key.read_bytes(), witness_key(files.key, create=False)
    fingerprints = vault.rekey()
    assert fingerprints["global/openai"] == vault.get(OPENAI).key_fingerprint != first
    again = reopened(vault, files)
    assert [again.get(OPENAI, revision).secret for revision in (1, 2)] == [Secret(VALUE)] * 2
    again.close()
    assert witness_key(files.key, create=False) == witness
    files.key.write_bytes(old_key)
    locked = Vault.open(files)
    assert locked.fault == "vault_key_mismatch"
    locked.close()


def test_a_vault_with_a_damaged_secret_is_not_sealed_anew(vault: Vault, files: VaultFiles) -> None:
    """It would be lost for good."""
    put(vault)
    put(vault, GROQ)
    vault.close()
    edit(files, "UPDATE revision SET sealed = x'00' WHERE key = 'groq'")
    again = Vault.open(files)
    with pytest.raises(VaultError) as caught:
        again.rekey()
    assert caught.value.code == "secret_damaged"
    assert again.get(OPENAI).secret == Secret(VALUE)
    again.close()


#: What a write of the vault does to the disk, in order: where it can be cut.
STEPS: list[tuple[type, str]] = [
    (FileSource, "put_next"),
    (VaultDb, "begin"),
    (VaultDb, "replace_key"),
    (VaultDb, "insert"),
    (VaultDb, "delete"),
    (FileSource, "promote"),
    (FileSource, "drop_next"),
]


def die_in(work: Callable[[], object], place: tuple[type, str], *, before: bool) -> None:
    """Do something in a process that is killed before or after a step of it."""
    child = os.fork()
    if child == 0:
        kind, name = place
        real = getattr(kind, name)

        def fatal(self: Any, *arguments: Any, **named: Any) -> Any:
            if before:
                os._exit(9)
            real(self, *arguments, **named)
            os._exit(9)

        setattr(kind, name, fatal)
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step[1])
def test_sealing_anew_can_be_cut_anywhere(
    vault: Vault, files: VaultFiles, step: tuple[type, str], before: bool
) -> None:
    """At the next start everything opens, nothing is left of the next key, and it can be done again."""
    put(vault)
    put(vault, GROQ)
    vault.close()

    def work() -> None:
        Vault.open(files).rekey()

    die_in(work, step, before=before)
    again = Vault.open(files)
    assert (again.status, again.verify()) == ("open", [])
    assert [again.get(ref).secret for ref in (OPENAI, GROQ)] == [Secret(VALUE)] * 2
    assert not files.key.with_name("vault.key.next").exists()
    again.rekey()
    again.close()


def test_a_next_key_is_kept_where_no_key_fits(vault: Vault, files: VaultFiles, tmp_path: Path) -> None:
    """Beside a vault from elsewhere nobody knows whether it is the only key of the right one."""
    put(vault)
    vault.close()
    die_in(lambda: Vault.open(files).rekey(), (VaultDb, "replace_key"), before=False)
    sealed = files.database.read_bytes()
    (tmp_path / "other").mkdir(mode=0o700)
    elsewhere = VaultFiles(*(tmp_path / "other" / name for name in ("vault.db", "vault.key", "vault.lock")))
    witness_key(elsewhere.key, create=True)
    other = Vault.open(elsewhere)
    put(other)
    other.close()
    files.database.write_bytes(elsewhere.database.read_bytes())
    foreign = Vault.open(files)
    assert (foreign.status, foreign.fault) == ("locked", "vault_key_mismatch")
    foreign.close()
    files.database.write_bytes(sealed)
    again = Vault.open(files)
    assert again.get(OPENAI).secret == Secret(VALUE)
    again.close()


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step[1])
@pytest.mark.parametrize("is_key_lost", [False, True])
def test_making_a_vault_can_be_cut_anywhere(
    files: VaultFiles, step: tuple[type, str], before: bool, is_key_lost: bool
) -> None:
    """The next put works, whatever the first one left."""
    if is_key_lost:
        files.key.unlink()

    def work() -> None:
        put(Vault.open(files))

    die_in(work, step, before=before)
    vault = Vault.open(files)
    put(vault, GROQ)
    assert (vault.verify(), vault.get(GROQ).secret) == ([], Secret(VALUE))
    vault.close()


# -- two at once


def test_a_second_process_waits_and_then_gives_up(vault: Vault, files: VaultFiles) -> None:
    """Who holds the lock writes; it is not stolen."""
    with pytest.raises(VaultError) as caught:
        Vault.open(files, lock_timeout_ms=40)
    assert caught.value.code == "vault_busy"
    vault.close()
    Vault.open(files, lock_timeout_ms=0).close()


def test_a_killed_holder_leaves_no_lock(files: VaultFiles) -> None:
    """The kernel frees it, whatever stands in the file."""
    script = (
        "import sys; from pathlib import Path; from palyra.auth.vaultlock import VaultLock;"
        f"VaultLock.acquire(Path({str(files.lock)!r}), timeout_ms=0); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(VaultError):
            Vault.open(files, lock_timeout_ms=0)
        holder.kill()
    Vault.open(files, lock_timeout_ms=0).close()


# -- the system's keychain


class Keychain:
    """A keychain that guards what it holds; `keyring` finds it under an allowed name."""

    priority = 5

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, name: str) -> str | None:
        return self.held.get((service, name))

    def set_password(self, service: str, name: str, value: str) -> None:
        self.held[service, name] = value

    def delete_password(self, service: str, name: str) -> None:
        del self.held[service, name]


class PlaintextKeyring(Keychain):
    """One that does not, and says that it is better."""

    priority = 9


@pytest.fixture
def keychains(monkeypatch: pytest.MonkeyPatch) -> list[Keychain]:
    """What `keyring` finds; a test fills it."""
    found: list[Keychain] = []
    monkeypatch.setattr("keyring.backend.get_all_keyring", lambda: found)
    monkeypatch.setattr(
        "palyra.auth.keysource.ALLOWED_BACKENDS", (f"{Keychain.__module__}.{Keychain.__qualname__}",)
    )
    return found


def test_a_keychain_guards_the_key(files: VaultFiles, keychains: list[Keychain]) -> None:
    """The file keeps only what signs the journal's note; the keychain that is not on the list gets nothing."""
    witness = witness_key(files.key, create=False)
    good, plain = Keychain(), PlaintextKeyring()
    keychains += [plain, good]
    vault = Vault.open(files, key_source="os_keychain")
    put(vault)
    vault.close()
    line = read_vault_key(files.key)
    assert line is not None
    assert line.master is None
    assert witness_key(files.key, create=False) == witness
    assert ([*good.held], plain.held) == ([(f"palyra.vault.{vault.vault_id}", "key")], {})
    again = Vault.open(files, key_source="os_keychain")
    assert again.get(OPENAI).secret == Secret(VALUE)
    again.close()


@pytest.mark.parametrize("others", [[], [PlaintextKeyring()]])
def test_no_allowed_keychain_means_locked(
    files: VaultFiles, keychains: list[Keychain], others: list[Keychain]
) -> None:
    """There is no way down to a file; the message says what was found."""
    keychains.append(Keychain())
    vault = Vault.open(files, key_source="os_keychain")
    put(vault)
    vault.close()
    keychains[:] = others
    again = Vault.open(files, key_source="os_keychain")
    assert (again.status, again.fault) == ("locked", "vault_locked")
    assert ("PlaintextKeyring" if others else "none") in again.reason
    again.close()
    assert read_vault_key(files.key).master is None  # type: ignore[union-attr]


def test_config_that_names_another_place_is_refused(vault: Vault, files: VaultFiles) -> None:
    """The vault says itself where its key is."""
    put(vault)
    vault.close()
    with pytest.raises(StateError) as caught:
        Vault.open(files, key_source="os_keychain")
    assert caught.value.code == "vault_backend_mismatch"


def test_the_key_can_move_into_the_keychain_and_back(
    vault: Vault, files: VaultFiles, keychains: list[Keychain]
) -> None:
    """By sealing everything anew; nothing of the key stays behind."""
    keychains.append(Keychain())
    put(vault)
    vault.rekey("os_keychain")
    assert read_vault_key(files.key).master is None  # type: ignore[union-attr]
    vault.close()
    inside = Vault.open(files, key_source="os_keychain")
    inside.rekey("key_file")
    inside.close()
    back = Vault.open(files)
    assert back.get(OPENAI).secret == Secret(VALUE)
    assert KeychainSource(back.vault_id).current() is None
    back.close()


def test_a_keychain_that_fails_says_so_and_no_more(files: VaultFiles, keychains: list[Keychain]) -> None:
    """Its own words may hold what it holds."""
    from keyring.errors import KeyringError

    class Broken(Keychain):
        """Fails at everything."""

        def get_password(self, service: str, name: str) -> str | None:
            raise KeyringError("the secret is hunter2")

    keychains.append(Keychain())
    vault = Vault.open(files, key_source="os_keychain")
    put(vault)
    vault.close()
    Broken.__qualname__, Broken.__module__ = Keychain.__qualname__, Keychain.__module__
    keychains[:] = [Broken()]
    again = Vault.open(files, key_source="os_keychain")
    assert again.status == "locked"
    assert "hunter2" not in again.reason
    again.close()


def test_damage_is_a_value() -> None:
    """Code, and the reference that it is about."""
    assert Damage("vault_locked") == ("vault_locked", "")
