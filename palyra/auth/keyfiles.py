"""Files that hold a key: one line, mode 0600, ours. Written whole or not at all, and read only as they must be.

`admin.token` and `client.key` hold a client key, `vault.key` 32 random bytes as hexadecimal digits.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from palyra.decisions.keys import KeyText, read_key
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
    """Put a key in its file, in place of what is there. A crash leaves the old file or the new one."""
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


def witness_key(path: Path, *, create: bool) -> bytes | None:
    """Return the sub-key that signs the note of the journal's head, or None if the vault's key is missing.

    `create` makes a missing one; for a new journal only: a lost key is not replaced by one that fits nothing.
    """
    line = read_key_file(path)
    if line is None:
        if not create:
            return None
        line = Secret(secrets.token_bytes(_VAULT_KEY_BYTES).hex())
        write_key_file(path, line)
    try:
        key = bytes.fromhex(line.reveal())
    except ValueError:
        key = b""
    if len(key) != _VAULT_KEY_BYTES:
        hint = "put the right file back, or move this one away and go on without a keyed witness"
        raise StateError(f"{path} does not hold a vault's key", hint=hint, code="vault_key_missing")
    return hmac.digest(key, _WITNESS_DOMAIN, hashlib.sha256)


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise StateError(f"{path} is not a plain file", hint=f"look at: ls -l '{path}'")
    if status.st_uid != os.geteuid():
        raise StateError(f"{path} belongs to another user", hint=f"run: chown $(id -u) '{path}'")
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS:
        raise StateError(f"{path} has mode {mode:04o}, wanted {_MODE:04o}", hint=f"run: chmod 600 '{path}'")
