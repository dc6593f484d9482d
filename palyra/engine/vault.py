"""Vault and journal kept together: a secret is sealed first, its fact recorded second, the old one deleted third.

A crash in between leaves at most a revision that nothing names, and the next start sorts it out (`reconcile`). One
write at a time; a caller that is cancelled does not stop one half-way. What a run needs is in memory: `opened`
reads a file only for a revision that nobody has opened in this process.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar, cast

from palyra.auth.keysource import KeySourceName
from palyra.auth.sealed import Opened, SecretValue, Stored
from palyra.auth.vault import Damage, Vault, VaultFiles
from palyra.config.state import StatePaths
from palyra.config.tree import VaultConfig
from palyra.decisions.vault import (
    DamageCode,
    Reconciliation,
    VaultRef,
    kept_below,
    read_vault_ref,
    reconcile,
    stored_fact,
)
from palyra.engine.core import Core
from palyra.engine.vault_looks import held_as, look_at
from palyra.errors import JournalUnwritable, VaultError, or_refuse
from palyra.events.base import Draft
from palyra.events.vault import VaultCreated, VaultRekeyed, VaultSecretDeleted
from palyra.limits import COMMIT_MAX_COUNT
from palyra.redaction import Secret

T = TypeVar("T")
STREAM = "vault"
#: Records facts in somebody's name and waits until they are durable.
Recorder = Callable[[Sequence[Draft]], Awaitable[None]]


class VaultKeeper:
    """The vault of a running engine; the only one who writes to it."""

    def __init__(self, core: Core, vault: Vault) -> None:
        self.vault = vault
        self._core = core
        self._one_write = asyncio.Lock()

    def opened(self, ref: VaultRef, revision: int) -> Opened:
        """Return a revision; raises `VaultError`. From memory unless nobody has opened it yet."""
        return self.vault.cached(ref, revision) or self.vault.get(ref, revision)

    async def reconcile(self) -> None:
        """Compare vault and journal, record what is new and delete what nothing names; then all are in memory.

        At a start, before anything is served.
        """
        async with self._one_write:
            if self.vault.status == "empty" and not self._core.state.vault.secrets:
                return
            look = await asyncio.to_thread(look_at, self.vault)
            await self._record_and_sweep(reconcile(self._core.state, look))
            for info in self.vault.revisions():
                self._know(self.vault.cached(ref_of(info.ref), info.revision))

    async def verify(self) -> list[Damage]:
        """Open every secret, record what is new about it, and return what is wrong."""
        await self.reconcile()
        return self.findings()

    def findings(self) -> list[Damage]:
        """Return what is known to be wrong, vault first."""
        parts = [name.partition("|") for name in self._core.state.vault.damage]
        return sorted(
            (Damage(cast(DamageCode, code), ref) for code, _, ref in parts), key=lambda each: (each.ref, each.code)
        )

    async def put(
        self,
        ref: VaultRef,
        value: SecretValue,
        *,
        reason: str,
        record: Recorder | None = None,
        audience: str = "",
        profile_id: str = "",
        if_revision: int | None = None,
        then: Callable[[Stored], Sequence[Draft]] = lambda stored: (),
    ) -> Stored:
        """Store a new revision and return it once it is recorded; it is the one that the next attempt uses.

        `then` gives the facts that go with it, in the same commit. Raises `VaultError`, or `JournalUnwritable`, in
        which case nothing is left of it.
        """
        work = functools.partial(
            self.vault.put,
            ref,
            value,
            purpose=reason,
            now_us=self._core.clock.now_us(),
            audience=audience,
            profile_id=profile_id,
            if_revision=if_revision,
        )
        return await self._whole(self._put(ref, work, reason, record or self._core.record, then))

    async def _put(
        self,
        ref: VaultRef,
        work: functools.partial[Stored],
        reason: str,
        record: Recorder,
        then: Callable[[Stored], Sequence[Draft]],
    ) -> Stored:
        self._core.check_writable()
        known = self._core.state.vault
        if self.vault.status == "empty" and known.secrets:
            message = "The journal names secrets, but their vault is gone; nothing is put in its place."
            raise VaultError(message, hint="put vault.db back", code="vault_unreadable")
        stored = await asyncio.to_thread(work, above=known.last_revisions.get(str(ref), 0))
        try:
            fact = stored_fact(held_as(stored.info, stored.key_fingerprint), reason)
            drafts = [*self._made(), Draft(STREAM, fact), *then(stored)]
            await record(drafts)
        except BaseException as error:
            # The token that a new one was had for is spent: what cannot be recorded now is found later.
            if not (reason == "refresh" and isinstance(error, JournalUnwritable)):
                await asyncio.to_thread(self.vault.delete_revision, ref, stored.info.revision)
            raise
        self._know(self.vault.cached(ref, stored.info.revision))
        below = kept_below(stored.info.ref, stored.info.revision)
        for revision in await asyncio.to_thread(self.vault.delete, ref, below=below):
            self._core.known.let_go(f"{ref}@{revision}")
        return stored

    async def delete(
        self,
        ref: VaultRef,
        *,
        reason: str,
        record: Recorder | None = None,
        then: Sequence[Draft] = (),
    ) -> bool:
        """Delete a secret and return whether there was one. The fact comes first: what it names must be there."""
        return await self._whole(self._delete(ref, reason, record or self._core.record, then))

    async def _delete(self, ref: VaultRef, reason: str, record: Recorder, then: Sequence[Draft]) -> bool:
        self._core.check_writable()
        name = str(ref)
        if self.vault.status in ("locked", "unreadable"):
            raise VaultError(self.vault.reason, hint="run: palyra vault status", code=self._locked_code())
        secret = self._core.state.vault.secrets.get(name)
        if secret is not None:
            deleted = Draft(STREAM, VaultSecretDeleted(ref=name, revision=secret.revision, reason=reason))
            await record([deleted, *then])
        gone = await asyncio.to_thread(self.vault.delete, ref)
        self._core.known.let_go(f"{name}@")
        return secret is not None or bool(gone)

    def fingerprint(self, value: Secret) -> str:
        """Return a keyed digest of any text; raises `VaultError`."""
        return self.vault.fingerprint(value)

    async def rekey(self, key_source: KeySourceName | None = None, *, record: Recorder | None = None) -> None:
        """Seal everything under a new key. Values and revisions stay."""
        await self._whole(self._rekey(key_source, record or self._core.record))

    async def _rekey(self, key_source: KeySourceName | None, record: Recorder) -> None:
        self._core.check_writable()
        fingerprints = await asyncio.to_thread(self.vault.rekey, key_source)
        fact = VaultRekeyed(
            vault_id=self.vault.vault_id,
            key_source=self.vault.key_source,
            key_fingerprints={
                ref: each for ref, each in fingerprints.items() if ref in self._core.state.vault.secrets
            },
        )
        await record([Draft(STREAM, fact)])

    def _know(self, opened: Opened | None) -> None:
        """Let no fact and no line of the log hold what was opened."""
        if opened is not None:
            values = opened.parts.values() if opened.secret is None else (opened.secret,)
            self._core.known.hold(f"{opened.info.ref}@{opened.info.revision}", *values)

    def _locked_code(self) -> str:
        return "vault_unreadable" if self.vault.status == "unreadable" else "vault_locked"

    def _made(self) -> list[Draft]:
        """Return the fact that the vault is there, if the journal does not know it."""
        if self.vault.vault_id == self._core.state.vault.vault_id:
            return []
        made = VaultCreated(vault_id=self.vault.vault_id, key_source=self.vault.key_source)
        return [Draft(STREAM, made)]

    async def _record_and_sweep(self, found: Reconciliation) -> None:
        for first in range(0, len(found.drafts), COMMIT_MAX_COUNT):
            await self._core.record(found.drafts[first : first + COMMIT_MAX_COUNT])
        for name, revision in found.leftovers:
            await asyncio.to_thread(self.vault.delete_revision, ref_of(name), revision)

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Do a write alone and to its end, also when whoever asked has gone."""

        async def alone() -> T:
            async with self._one_write:
                return await work

        return await asyncio.shield(asyncio.create_task(alone()))


def open_vault(paths: StatePaths, settings: VaultConfig) -> Vault:
    """Take a state's vault and open it as far as it opens; raises `VaultError` (`vault_busy`) and `StateError`."""
    return Vault.open(
        VaultFiles(database=paths.vault, key=paths.vault_key, lock=paths.vault_lock),
        key_source=settings.key_source,
        max_secrets_count=settings.max_secrets,
        lock_timeout_ms=settings.lock_timeout_ms,
    )


def ref_of(text: str) -> VaultRef:
    """Return the reference that a text spells; raises `Refused` (`invalid_vault_ref`)."""
    return or_refuse(read_vault_ref(text))
