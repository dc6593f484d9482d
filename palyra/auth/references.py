"""Credentials that live outside the vault: an environment variable or a file, named by reference.

A reference is public (`env:GROQ_API_KEY`, `file:/run/secrets/groq`) and stands in configuration and journal; what
it leads to is read anew each time it is used, so that a rotated secret serves the next call, is kept nowhere, and
must never appear in a message. A reference that leads nowhere is one provider's problem and nobody else's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from palyra.decisions.key_text import refuse_own_key
from palyra.errors import PalyraError
from palyra.redaction import Secret

SECRET_MAX_BYTES = 65_536
_DEFAULT_SECRETS_DIRECTORY = Path("/run/secrets")


class CredentialMissing(PalyraError):
    """A credential reference leads to no usable secret."""

    code = "missing_credential"

    def __init__(self, credential_ref: str, reason: str) -> None:
        super().__init__(f"credential {credential_ref}: {reason}")
        self.credential_ref = credential_ref


class ReferenceSource:
    """Reads secrets by reference: variables of a given environment, files of this user."""

    def __init__(
        self, environment: Mapping[str, str], *, secrets_directory: Path = _DEFAULT_SECRETS_DIRECTORY
    ) -> None:
        """`secrets_directory` and `$CREDENTIALS_DIRECTORY` may hold files that everybody can read."""
        self._environment = environment
        credentials = environment.get("CREDENTIALS_DIRECTORY", "")
        named = [Path(credentials)] if os.path.isabs(credentials) else []
        self._shared_directories = tuple(path.resolve() for path in (secrets_directory, *named))

    def get(self, credential_ref: str) -> Secret:
        """Return the secret of `env:NAME` or `file:PATH`; raises `CredentialMissing`."""
        form, _, rest = credential_ref.partition(":")
        if form == "env" and rest:
            return _one_line(credential_ref, self._environment.get(rest, ""))
        if form == "file" and os.path.isabs(rest):
            return self._read(credential_ref, Path(rest))
        raise CredentialMissing(credential_ref, "is neither env:NAME nor file:/ABSOLUTE/PATH")

    def _read(self, credential_ref: str, path: Path) -> Secret:
        try:
            # A FIFO must not be waited for; it is refused once it is open and can no longer change.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or "no such path"
            raise CredentialMissing(credential_ref, f"cannot be opened: {reason}") from exc
        try:
            self._check(credential_ref, path, os.fstat(descriptor))
            return _one_line(credential_ref, _text(credential_ref, descriptor))
        finally:
            os.close(descriptor)

    def _check(self, credential_ref: str, path: Path, found: os.stat_result) -> None:
        """Refuse a file that somebody else could have written or could read."""
        if not stat.S_ISREG(found.st_mode):
            raise CredentialMissing(credential_ref, "is not a regular file")
        if found.st_uid not in (0, os.geteuid()):
            raise CredentialMissing(credential_ref, "belongs to another user")
        if found.st_size > SECRET_MAX_BYTES:
            raise CredentialMissing(credential_ref, f"is larger than {SECRET_MAX_BYTES} bytes")
        is_shared = any(path.resolve().is_relative_to(directory) for directory in self._shared_directories)
        allowed = 0o444 | 0o600 if is_shared else 0o600
        mode = stat.S_IMODE(found.st_mode)
        if mode & ~allowed:
            raise CredentialMissing(
                credential_ref, f"has mode {mode:04o}, others could use it; run: chmod 600 {path}"
            )


def _text(credential_ref: str, descriptor: int) -> str:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        raw = file.read(SECRET_MAX_BYTES + 1)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        pass
    # Outside the handler: the decoding error holds the bytes.
    raise CredentialMissing(credential_ref, "is not UTF-8 text")


def _one_line(credential_ref: str, text: str) -> Secret:
    """Return the secret that one line holds; it goes into a header, so nothing in it may end one."""
    value = text.strip()
    if not value:
        raise CredentialMissing(credential_ref, "is not set or blank")
    if not value.isprintable():
        raise CredentialMissing(credential_ref, "holds more than one line, or control characters")
    if refuse_own_key(value, "") is not None:
        raise CredentialMissing(credential_ref, "is a key of Palyra itself; requests would come back in a loop")
    return Secret(value)
