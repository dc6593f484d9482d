"""Files that hold a key: one line, mode 0600, ours. Written whole or not at all, and read only as they must be.

`admin.token` and `client.key` hold a client key. `vault.key` holds the vault's key and the one that signs the note
of the journal's head, both as hexadecimal digits, `-` for one that is not there: `KEY`, from which the second
follows, `KEY WITNESS` once the vault was sealed anew, `- WITNESS` where the system's keychain guards the vault's
key, `KEY -` where a lost file was replaced. The witness's key outlives the vault's: notes that are kept elsewhere
stay good.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

import msgspec

from palyra.decisions.key_text import KeyText, read_key
from palyra.errors import StateError
from palyra.redaction import Secret

_MODE = 0o600
_OTHERS = 0o077
_FILE_MAX_BYTES = 4_096
_VAULT_KEY_BYTES = 32
_WITNESS_DOMAIN = b"palyra.witness.v1"


def read_key_file(path: Path) -> Secret | None:
    """Return the line in a key file, or None if there is no file.

    Raises `StateError` for one that others may read, that is not ours, or that is no plain file. It is not used,
    and not closed in silence either: somebody may have read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StateError(f"{path} cannot be read: {exc.strerror}", hint=f"look at: ls -l '{path}'") from exc
    try:
        _check(path, os.fstat(descriptor))
        data = os.read(descriptor, _FILE_MAX_BYTES)
    finally:
        os.close(descriptor)
    return Secret(data.decode("ascii", "replace").strip())


def read_client_key(path: Path) -> KeyText | None:
    """Return what the key in a file says, without its secret; None if there is none, or something else."""
    line = read_key_file(path)
    return None if line is None else read_key(line.reveal())


def write_key_file(path: Path, secret: Secret) -> None:
    """Put a key in its file, in place of what is there. A crash leaves the old file or the new one.

    Raises `StateError` where there is no place for it.
    """
    try:
        _write(path, secret)
    except OSError as exc:
        hint = f"look at: ls -ld '{path.parent}'"
        raise StateError(f"{path} cannot be written: {exc.strerror}", hint=hint, code="bad_path") from exc


def check_place(path: Path) -> None:
    """See to it that a client key can be written there, before there is one that could be lost.

    Raises `StateError` where nothing can be written, or where a file of something else would be replaced.
    """
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        hint = f"look at: ls -ld '{path.parent}'"
        raise StateError(f"{path} cannot be written", hint=hint, code="bad_path")
    try:
        is_free = not os.path.lexists(path) or read_client_key(path) is not None
    except StateError:
        is_free = False
    if not is_free:
        raise StateError(f"{path} holds something else than a key", hint="name another file", code="bad_path")


def _write(path: Path, secret: Secret) -> None:
    unfinished = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        unfinished.unlink()
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, _MODE)
        file.write(secret.reveal().encode() + b"\n")
        file.flush()
        os.fsync(descriptor)
    unfinished.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class VaultKeyLine(msgspec.Struct, frozen=True, kw_only=True):
    """What `vault.key` holds."""

    #: 64 hexadecimal digits; None where it is elsewhere.
    master: Secret | None = None
    #: The key that signs the note of the journal's head; None where it was lost.
    witness: Secret | None = None


def new_vault_key() -> Secret:
    """Return a new key of a vault, as it is written: 64 hexadecimal digits."""
    return Secret(secrets.token_bytes(_VAULT_KEY_BYTES).hex())


def read_vault_key(path: Path) -> VaultKeyLine | None:
    """Return what a vault's key file holds, None if there is none; raises `StateError` where it is none."""
    line = read_key_file(path)
    if line is None:
        return None
    parts = line.reveal().split(" ")
    keys = [None if part == "-" else _key_of(part, path) for part in parts]
    if len(keys) == 1 and keys[0] is not None:
        return VaultKeyLine(master=keys[0], witness=_derived(keys[0]))
    if len(keys) == 2:
        return VaultKeyLine(master=keys[0], witness=keys[1])
    raise _no_key(path)


def write_vault_key(path: Path, line: VaultKeyLine) -> None:
    """Put both keys into their file, in place of what is there."""
    master = "-" if line.master is None else line.master.reveal()
    witness = "-" if line.witness is None else line.witness.reveal()
    write_key_file(path, Secret(f"{master} {witness}"))


def witness_key(path: Path, *, create: bool) -> bytes | None:
    """Return the key that signs the note of the journal's head, or None if it is lost.

    `create` makes a missing file; for a new journal only: a lost key is not replaced by one that fits nothing.
    """
    line = read_vault_key(path)
    if line is None:
        if not create:
            return None
        master = new_vault_key()
        write_key_file(path, master)
        line = VaultKeyLine(master=master, witness=_derived(master))
    return None if line.witness is None else bytes.fromhex(line.witness.reveal())


def _derived(master: Secret) -> Secret:
    return Secret(hmac.digest(bytes.fromhex(master.reveal()), _WITNESS_DOMAIN, hashlib.sha256).hex())


def _key_of(text: str, path: Path) -> Secret:
    try:
        is_key = len(bytes.fromhex(text)) == _VAULT_KEY_BYTES == len(text) // 2
    except ValueError:
        is_key = False
    if not is_key:
        raise _no_key(path)
    return Secret(text)


def _no_key(path: Path) -> StateError:
    hint = "put the right file back, or move this one away and go on without a keyed witness"
    return StateError(f"{path} does not hold a vault's key", hint=hint, code="vault_key_missing")


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise StateError(f"{path} is not a plain file", hint=f"look at: ls -l '{path}'")
    if status.st_uid != os.geteuid():
        raise StateError(f"{path} belongs to another user", hint=f"run: chown $(id -u) '{path}'")
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS:
        raise StateError(f"{path} has mode {mode:04o}, wanted {_MODE:04o}", hint=f"run: chmod 600 '{path}'")
