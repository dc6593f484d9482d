"""The vault: secrets at rest, one sealed revision a row, and the only door to them.

A revision is never changed and never used twice; what a reference holds changes by a new one. What is opened stays
in memory as `Secret`, so a request whose secret has not changed reads no file. Everything here is synchronous and
may wait for the disk: who runs a loop calls from a thread. Which secret is in use, and what is a leftover, is not
known here but in the journal; `engine/vault.py` keeps both together.

A vault that is lost, locked or damaged is a state and no exception: `open` raises only where another process holds
it, where its files are open to others, and where configuration names another place for its key.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from pathlib import Path
from typing import Literal, NamedTuple, Self

import msgspec

from palyra.auth.keyfiles import new_vault_key
from palyra.auth.keysource import FileSource, KeychainSource, KeySource, KeySourceName
from palyra.auth.sealed import (
    Opened,
    SecretInfo,
    SecretValue,
    Stored,
    bytes_of,
    data_of,
    opened_as,
    seal,
    shown,
    unseal,
)
from palyra.auth.sealing import SealingKey
from palyra.auth.vaultdb import Meta, VaultDb, VaultUnreadable
from palyra.auth.vaultlock import VaultLock
from palyra.decisions.vault import DamageCode, VaultRef
from palyra.errors import StateError, VaultError
from palyra.redaction import Secret

#: Older revisions that stay open in memory, for attempts that have pinned one.
_KEPT_OPEN_COUNT = 2

VaultStatus = Literal["empty", "open", "locked", "unreadable"]


class VaultFiles(NamedTuple):
    """Where a vault's files are."""

    database: Path
    key: Path
    lock: Path


class Damage(NamedTuple):
    """Something that is wrong with the vault: a code of the specification, and the reference, "" for all of it."""

    code: DamageCode
    ref: str = ""


class Vault:
    """The vault of one state directory, or one in memory. Safe to call from any thread."""

    def __init__(
        self,
        files: VaultFiles | None = None,
        *,
        key_source: KeySourceName = "key_file",
        max_secrets_count: int = 4_096,
    ) -> None:
        """Without files it is in memory. Nothing is opened yet."""
        self._files = files
        self._configured_source = key_source
        self._max_secrets_count = max_secrets_count
        self._guard = threading.RLock()
        self._lock: VaultLock | None = None
        self._db: VaultDb | None = None
        self._meta: Meta | None = None
        self._key: SealingKey | None = None
        self._open: dict[VaultRef, dict[int, Opened]] = {}
        self.status: VaultStatus = "empty"
        #: What keeps it from being open, as the specification's code and in words.
        self.fault: DamageCode | Literal[""] = ""
        self.reason = ""

    @classmethod
    def open(
        cls,
        files: VaultFiles,
        *,
        key_source: KeySourceName = "key_file",
        max_secrets_count: int = 4_096,
        lock_timeout_ms: int = 3_000,
    ) -> Self:
        """Take the lock and open what is there; raises `VaultError` (`vault_busy`) and `StateError`."""
        vault = cls(files, key_source=key_source, max_secrets_count=max_secrets_count)
        vault._lock = VaultLock.acquire(files.lock, timeout_ms=lock_timeout_ms)
        try:
            vault._open_file(files)
        except BaseException:
            vault.close()
            raise
        return vault

    def close(self) -> None:
        """Let go of file and lock."""
        with self._guard:
            if self._db is not None:
                self._db.close()
            self._db = self._key = None
            self._open.clear()
            if self._lock is not None:
                self._lock.release()

    @property
    def vault_id(self) -> str:
        return "" if self._meta is None else self._meta.vault_id

    @property
    def key_source(self) -> str:
        return self._configured_source if self._meta is None else self._meta.key_source

    # -- secrets

    def put(
        self,
        ref: VaultRef,
        value: SecretValue,
        *,
        purpose: str,
        now_us: int,
        audience: str = "",
        profile_id: str = "",
        if_revision: int | None = None,
        above: int = 0,
    ) -> Stored:
        """Store a new revision: a text, or all parts of a credential.

        `if_revision` is the one that must be live (0 = none). `above` is the highest that anybody has seen: a file
        from a backup must not give a number out twice.
        """
        kind, data = data_of(value)
        with self._guard, _Disk():
            key = self._need_key(now_us)
            db, meta = self._need_db()
            live = db.live_revision(*ref)
            if if_revision is not None and if_revision != live:
                message = f"{ref} has revision {live}, not {if_revision}; it was changed meanwhile."
                raise VaultError(message, code="stale_revision")
            if not live and db.references_count() >= self._max_secrets_count:
                message = f"The vault holds {self._max_secrets_count} secrets already (vault.max_secrets)."
                raise VaultError(message, code="too_many_secrets")
            info = SecretInfo(
                ref=str(ref),
                revision=max(db.last_revision(*ref), above) + 1,
                kind=kind,
                purpose=purpose,
                audience=audience,
                profile_id=profile_id,
                created_us=now_us,
                value_bytes=len(data),
            )
            with db.writing():
                db.insert(seal(info, data, key, meta.vault_id))
            opened = opened_as(info, data, key)
            self._remember(ref, opened)
            return Stored(info=info, key_fingerprint=opened.key_fingerprint)

    def get(self, ref: VaultRef, revision: int | None = None) -> Opened:
        """Return a revision (default: the newest); raises `VaultError`: not there, damaged, vault locked."""
        with self._guard, _Disk():
            known = self._open.get(ref, {})
            if revision in known:
                return known[revision]
            if self.status == "empty":
                raise VaultError(f"The vault holds no secret {ref}.", code="secret_not_found")
            key = self._need_open()
            db, meta = self._need_db()
            found = db.row(*ref, revision or db.live_revision(*ref))
            if found is None:
                which = f" of revision {revision}" if revision else ""
                raise VaultError(f"The vault holds no secret {ref}{which}.", code="secret_not_found")
            opened = unseal(found, key, meta.vault_id)
            self._remember(ref, opened)
            return opened

    def cached(self, ref: VaultRef, revision: int) -> Opened | None:
        """Return a revision that is open in memory already; reads no file and waits for nobody."""
        known = self._open.get(ref)
        return None if known is None else known.get(revision)

    def fingerprint(self, value: Secret) -> str:
        """Return a keyed digest of any text: it tells two apart to those who know neither. Raises `VaultError`."""
        with self._guard:
            return self._need_open().fingerprint(value)

    def exists(self, ref: VaultRef) -> bool:
        """Return whether there is such a secret; opens nothing."""
        with self._guard, _Disk():
            return self._db is not None and self._meta is not None and self._db.live_revision(*ref) > 0

    def listed(self, scope: str | None = None) -> list[SecretInfo]:
        """Return what may be shown of the newest revision of each secret, sorted by reference."""
        with self._guard, _Disk():
            if self._db is None or self._meta is None:
                return []
            newest = {(row.scope, row.key): row for row in self._db.index() if scope in (None, row.scope)}
            return [shown(row) for row in newest.values()]

    def revisions(self) -> list[SecretInfo]:
        """Return every revision that is stored."""
        with self._guard, _Disk():
            return [] if self._db is None or self._meta is None else [shown(row) for row in self._db.index()]

    def delete(self, ref: VaultRef, *, below: int | None = None) -> list[int]:
        """Delete a secret, or its revisions below one; return which were there."""
        with self._guard, _Disk():
            if self._db is None or self._meta is None:
                return []
            with self._db.writing():
                deleted = self._db.delete(*ref, below)
            if below is None:
                self._open.pop(ref, None)
            return deleted

    def delete_revision(self, ref: VaultRef, revision: int) -> bool:
        """Delete one revision; return whether it was there."""
        with self._guard, _Disk():
            if self._db is None or self._meta is None:
                return False
            with self._db.writing():
                was_there = self._db.delete_one(*ref, revision)
            self._open.get(ref, {}).pop(revision, None)
            return was_there

    # -- the whole of it

    def verify(self) -> list[Damage]:
        """Open everything and return what does not open."""
        with self._guard:
            if self.status != "open":
                return [Damage(self.fault)] if self.fault else []
            key = self._need_open()
            db, meta = self._need_db()
            found = []
            try:
                for row in db.rows():
                    try:
                        unseal(row, key, meta.vault_id)
                    except VaultError:
                        found.append(Damage("secret_damaged", f"{row.scope}/{row.key}"))
            except (sqlite3.Error, msgspec.ValidationError, UnicodeDecodeError):
                found.append(Damage("vault_unreadable"))
            return list(dict.fromkeys(found))

    def rekey(self, key_source: KeySourceName | None = None) -> dict[str, str]:
        """Seal everything under a new key, kept in this or another place; return the new fingerprints.

        A crash leaves the old key with the old rows, or the new key with the new ones. Raises `VaultError` where a
        secret does not open: it would be lost for good.
        """
        with self._guard, _Disk():
            old = self._need_open()
            db, meta = self._need_db()
            opened = [(row, unseal(row, old, meta.vault_id)) for row in db.rows()]
            present = _source_name(meta.key_source)
            target = key_source or present
            master = new_vault_key()
            new = SealingKey(master)
            source = self._source(target, meta.vault_id)
            if source is not None:
                source.put_next(master)
            fresh = [seal(each.info, bytes_of(each), new, meta.vault_id) for _, each in opened]
            db.replace_key(target, new.check, fresh)
            self._meta, self._key, self._configured_source = db.meta(), new, target
            if source is not None:
                source.promote()
            if target != present and (left := self._source(present, meta.vault_id)) is not None:
                left.forget()
            self._open.clear()
            for row, each in opened:
                self._remember(VaultRef(row.scope, row.key), opened_as(each.info, bytes_of(each), new))
            return {each.info.ref: opened_as(each.info, bytes_of(each), new).key_fingerprint for _, each in opened}

    # -- opening

    def _open_file(self, files: VaultFiles) -> None:
        if not files.database.exists():
            return
        _check_private(files.database)
        try:
            self._db = VaultDb.open(files.database)
            self._meta = self._db.meta()
        except VaultUnreadable as exc:
            self._cannot("unreadable", "vault_unreadable", f"{files.database} cannot be read: {exc}.")
            return
        if self._meta is None:
            return
        if self._meta.key_source != self._configured_source:
            raise StateError(
                f"The key of {files.database} is kept in {self._meta.key_source}, but vault.key_source says"
                f" {self._configured_source}.",
                hint=f"run: palyra config set vault.key_source {self._meta.key_source}",
                code="vault_backend_mismatch",
            )
        try:
            self._find_key(files, self._meta)
        except VaultError as exc:
            self._cannot("locked", "vault_locked", str(exc))

    def _find_key(self, files: VaultFiles, meta: Meta) -> None:
        """Find the key that fits, and finish what a crash left of sealing anew."""
        source = self._source(_source_name(meta.key_source), meta.vault_id)
        assert source is not None
        current, coming = source.current(), source.next()
        if coming is not None and SealingKey(coming).check == meta.key_check:
            source.promote()
            current, coming = coming, None
        if current is None:
            where = files.key if meta.key_source == "key_file" else "the keychain"
            self._cannot("locked", "vault_locked", f"The key of vault {meta.vault_id} is not in {where}.")
            return
        key = SealingKey(current)
        if key.check != meta.key_check:
            message = f"The key in {meta.key_source} is not that of vault {meta.vault_id}."
            self._cannot("locked", "vault_key_mismatch", message)
            return
        if coming is not None:
            source.drop_next()  # it seals nothing here; where no key fits, somebody may still need it
        self._empty_file(_source_name(meta.key_source))
        self._key, self.status = key, "open"

    def _empty_file(self, target: KeySourceName) -> None:
        """Take the key out of its file where the keychain guards it now."""
        if self._files is not None and target == "os_keychain":
            file = FileSource(self._files.key)
            if file.current() is not None:
                file.forget()

    def _cannot(self, status: VaultStatus, fault: DamageCode, reason: str) -> None:
        if status == "unreadable" and self._db is not None:
            self._db.close()
            self._db = None
        self.status, self.fault, self.reason = status, fault, reason

    def _source(self, name: KeySourceName, vault_id: str) -> KeySource | None:
        if self._files is None:
            return None
        return FileSource(self._files.key) if name == "key_file" else KeychainSource(vault_id)

    def _need_key(self, now_us: int) -> SealingKey:
        """Return the key, making the vault where there is none."""
        if self.status == "empty":
            self._make(now_us)
        return self._need_open()

    def _make(self, now_us: int) -> None:
        vault_id = secrets.token_hex(8)
        source = self._source(self._configured_source, vault_id)
        master = None if source is None else source.current()
        if master is None:
            master = new_vault_key()
            if source is not None:
                source.put_next(master)
        key = SealingKey(master)
        try:
            db = self._db or VaultDb.make(None if self._files is None else self._files.database)
        except VaultUnreadable as exc:
            raise VaultError(f"The vault cannot be made: {exc}.", code="vault_unreadable") from exc
        self._db = db
        self._meta = Meta(vault_id, self._configured_source, key.check, now_us)
        db.begin(self._meta)
        if source is not None:
            source.promote()
            self._empty_file(self._configured_source)
        self._key, self.status = key, "open"

    def _need_open(self) -> SealingKey:
        if self._key is None:
            code = "vault_unreadable" if self.status == "unreadable" else "vault_locked"
            raise VaultError(self.reason or "There is no vault yet.", hint="run: palyra vault status", code=code)
        return self._key

    def _need_db(self) -> tuple[VaultDb, Meta]:
        assert self._db is not None
        assert self._meta is not None
        return self._db, self._meta

    def _remember(self, ref: VaultRef, opened: Opened) -> None:
        known = {**self._open.get(ref, {}), opened.info.revision: opened}
        newest = sorted(known)[-_KEPT_OPEN_COUNT:]
        # A new mapping in one step: `cached` reads without the lock.
        self._open[ref] = {revision: known[revision] for revision in newest}


def _source_name(text: str) -> KeySourceName:
    return "os_keychain" if text == "os_keychain" else "key_file"


def _check_private(path: Path) -> None:
    status = path.stat()
    if status.st_mode & 0o077:
        raise StateError(f"{path} can be used by others", hint=f"run: chmod 600 '{path}'")


class _Disk:
    """Says of a failure of the disk that it is one."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (sqlite3.Error, OSError)):
            raise VaultError(f"The vault cannot be used: {error}.", code="vault_unreadable") from error
