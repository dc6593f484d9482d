"""Where a vault's key is kept: in its key file, or in the system's keychain.

Both hold the key in use and, while a vault is sealed anew, the next one beside it. A keychain that keeps everything
in plain text is worse than the file, so only those on a list count: of two that are there the file is the safe one.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from palyra.auth.keyfiles import VaultKeyLine, read_vault_key, write_vault_key
from palyra.errors import VaultError
from palyra.redaction import Secret

KeySourceName = Literal["key_file", "os_keychain"]
#: Backends of `keyring` that guard what they hold; `keyrings.alt` above all is not among them.
ALLOWED_BACKENDS = (
    "keyring.backends.SecretService.Keyring",
    "keyring.backends.kwallet.DBusKeyring",
    "keyring.backends.macOS.Keyring",
    "keyring.backends.Windows.WinVaultKeyring",
)


class KeySource(Protocol):
    """A place that holds the key of one vault."""

    def current(self) -> Secret | None:
        """Return the key, None if there is none; raises `VaultError` where the place cannot be asked."""
        ...

    def next(self) -> Secret | None:
        """Return the key that is to come."""
        ...

    def put_next(self, key: Secret) -> None:
        """Keep the key that is to come, durably."""
        ...

    def promote(self) -> None:
        """Put the next key in the place of the present one."""
        ...

    def drop_next(self) -> None:
        """Forget the next key."""
        ...

    def forget(self) -> None:
        """Forget the key, because another place has it."""
        ...


class FileSource:
    """`vault.key`, and `vault.key.next` beside it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next = path.with_name(f"{path.name}.next")

    def current(self) -> Secret | None:
        line = read_vault_key(self._path)
        return None if line is None else line.master

    def next(self) -> Secret | None:
        line = read_vault_key(self._next)
        return None if line is None else line.master

    def put_next(self, key: Secret) -> None:
        write_vault_key(self._next, VaultKeyLine(master=key, witness=self._witness()))

    def promote(self) -> None:
        line = read_vault_key(self._next)
        if line is not None:
            write_vault_key(self._path, line)
            self.drop_next()

    def drop_next(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._next.unlink()

    def forget(self) -> None:
        write_vault_key(self._path, VaultKeyLine(witness=self._witness()))

    def _witness(self) -> Secret | None:
        line = read_vault_key(self._path)
        return None if line is None else line.witness


class KeychainSource:
    """The system's keychain, by `keyring`, as `palyra.vault.<vault_id>`."""

    def __init__(self, vault_id: str) -> None:
        self._service = f"palyra.vault.{vault_id}"

    def current(self) -> Secret | None:
        return self._get("key")

    def next(self) -> Secret | None:
        return self._get("key.next")

    def put_next(self, key: Secret) -> None:
        self._do("set_password", "key.next", key.reveal())

    def promote(self) -> None:
        key = self.next()
        if key is not None:
            self._do("set_password", "key", key.reveal())
            self.drop_next()

    def drop_next(self) -> None:
        self._delete("key.next")

    def forget(self) -> None:
        self._delete("key")

    def _get(self, name: str) -> Secret | None:
        text = self._do("get_password", name)
        return None if text is None else Secret(text)

    def _delete(self, name: str) -> None:
        if self._get(name) is not None:
            self._do("delete_password", name)

    def _do(self, action: str, name: str, *values: str) -> Any:
        backend, report = find_keychain()
        if backend is None:
            raise VaultError(f"There is no keychain that may hold the vault's key: {report.found}.")
        from keyring.errors import KeyringError

        try:
            return getattr(backend, action)(self._service, name, *values)
        except KeyringError as exc:
            reason = type(exc).__name__  # its text may name what it holds
            raise VaultError(f"The keychain {report.found} does not answer: {reason}.") from None


class KeychainReport(msgspec.Struct, frozen=True, kw_only=True):
    """Which keychain was found, in words."""

    found: str
    is_allowed: bool


def find_keychain() -> tuple[Any, KeychainReport]:
    """Return the best backend of `keyring` that is on the list, None if there is none, and what was found.

    A chain of backends is never taken, because it may hold one that is not on the list.
    """
    from keyring.backend import get_all_keyring

    found = sorted(get_all_keyring(), key=lambda backend: -float(backend.priority))
    names = [f"{type(backend).__module__}.{type(backend).__qualname__}" for backend in found]
    for backend, name in zip(found, names, strict=True):
        if name in ALLOWED_BACKENDS:
            return backend, KeychainReport(found=name, is_allowed=True)
    return None, KeychainReport(found=", ".join(names) or "none", is_allowed=False)
