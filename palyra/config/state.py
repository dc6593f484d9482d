"""The state directory: where it is, what is in it, and that nobody else can read it.

Directories are made with their mode, not with a changed umask, which belongs to the whole process. A reader takes
`StatePaths` and makes nothing.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import NamedTuple

from palyra.config.document import home_of, user_directory
from palyra.config.schema import path_fault
from palyra.errors import StateError

#: Mode of a directory and of a file: nobody but the owner.
DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
_OTHERS = 0o077
#: The shortest limit of the systems we run on is 104 bytes.
_SOCKET_MAX_BYTES = 100


class StateFile(NamedTuple):
    """Something that lives in the state directory."""

    name: str
    meaning: str
    is_directory: bool = False


#: Everything that this release keeps there.
STATE_FILES: tuple[StateFile, ...] = (
    StateFile("journal.db", "the journal"),
    StateFile("journal.db-wal", "the journal's last commits"),
    StateFile("journal.db-shm", "index of the journal's last commits"),
    StateFile("snapshots.db", "folded states; may be deleted"),
    StateFile("snapshots.db-wal", "the snapshots' last commits"),
    StateFile("snapshots.db-shm", "index of the snapshots' last commits"),
    StateFile("journal.head", "note of the journal's head, which finds a cut tail"),
    StateFile("journal.lock", "lock of the one writer; its text is for people"),
    StateFile("palyra.sock", "where commands reach the daemon"),
    StateFile("admin.token", "key of the operator"),
    StateFile("client.key", "key of local programs"),
    StateFile("vault.key", "the vault's key, and the one that signs the note of the journal's head"),
    StateFile("vault.key.next", "the vault's next key while it is sealed anew"),
    StateFile("vault.db", "the vault: sealed secrets"),
    StateFile("vault.db-journal", "an unfinished write of the vault"),
    StateFile("vault.lock", "lock of whoever may write the vault"),
    StateFile("content.db", "prompts and answers, where content capture is or was on"),
    StateFile("content.db-journal", "an unfinished write of content.db"),
    StateFile("ballast", "space that is given back when the disk is full"),
    StateFile("log", "log files", is_directory=True),
)


class StatePaths(NamedTuple):
    """Where each thing of the state directory is."""

    directory: FilePath
    #: The vault's key file where `vault.key_file` names one; None for the one beside the vault.
    key_file: FilePath | None = None

    @property
    def journal(self) -> FilePath:
        return self.directory / "journal.db"

    @property
    def snapshots(self) -> FilePath:
        return self.directory / "snapshots.db"

    @property
    def head(self) -> FilePath:
        return self.directory / "journal.head"

    @property
    def lock(self) -> FilePath:
        return self.directory / "journal.lock"

    @property
    def socket(self) -> FilePath:
        return self.directory / "palyra.sock"

    @property
    def admin_token(self) -> FilePath:
        return self.directory / "admin.token"

    @property
    def client_key(self) -> FilePath:
        return self.directory / "client.key"

    @property
    def vault_key(self) -> FilePath:
        return self.directory / "vault.key" if self.key_file is None else self.key_file

    @property
    def vault(self) -> FilePath:
        return self.directory / "vault.db"

    @property
    def vault_lock(self) -> FilePath:
        return self.directory / "vault.lock"

    @property
    def content(self) -> FilePath:
        return self.directory / "content.db"

    @property
    def ballast(self) -> FilePath:
        return self.directory / "ballast"

    @property
    def log_dir(self) -> FilePath:
        return self.directory / "log"

    def staged_in(self, directory: FilePath) -> StatePaths:
        """Return the paths of a state that is made in another directory and comes to this one's place."""
        return self._replace(directory=directory)


def find_state_dir(configured: str, environ: Mapping[str, str], key_file: str = "") -> StatePaths:
    """Return the paths below `daemon.state_dir`, or, if that is empty, below the user's state directory.

    Flag and variable stand in `daemon.state_dir` already. Never below the working directory. `key_file` is
    `vault.key_file`.
    """
    fault = path_fault(configured) if configured else ""
    if not fault and configured and not configured.startswith(("/", "~/")):
        fault = "must be absolute, or below the home directory with ~/"
    if fault:
        raise StateError(f"the state directory {fault}", code="bad_path")
    if configured.startswith("~/"):
        directory = FilePath(home_of(environ)) / configured[2:]
    else:
        directory = FilePath(configured) if configured else user_directory("state", environ)
    return StatePaths(directory, named_key_file(key_file))


def named_key_file(configured: str) -> FilePath | None:
    """Return what `vault.key_file` names, which is an absolute path by now; None where it names nothing."""
    return FilePath(configured) if configured else None


def find_socket(paths: StatePaths, environ: Mapping[str, str]) -> FilePath | None:
    """Return where a daemon makes its control socket; None where no place is short enough.

    A socket's name has little room, so a long one is replaced by one in the user's runtime directory.
    """
    if len(os.fsencode(paths.socket)) <= _SOCKET_MAX_BYTES:
        return paths.socket
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if not runtime.startswith("/"):
        return None
    place = FilePath(runtime) / f"palyra-{hashlib.sha256(os.fsencode(paths.directory)).hexdigest()[:8]}.sock"
    return place if len(os.fsencode(place)) <= _SOCKET_MAX_BYTES else None


def prepare_state_dir(paths: StatePaths) -> None:
    """Make the directory if it is missing, and refuse one that others could read or that is not ours."""
    for directory in (*reversed(paths.directory.parents), paths.directory):
        try:
            directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        except FileExistsError as exc:
            raise StateError(f"{directory} is not a directory", code="bad_path") from exc
        except OSError as exc:
            hint = "make it yourself, or name another place with --state-dir"
            raise StateError(f"{directory} cannot be made: {exc.strerror}", hint=hint, code="bad_path") from exc
    check_state_dir(paths)


def check_state_dir(paths: StatePaths) -> None:
    """Raise `StateError` (`insecure_permissions`) naming everything that others may read or that is not ours."""
    faults = find_insecure(paths)
    if faults:
        raise StateError(
            "; ".join(fault.message for fault in faults),
            hint="run: " + " && ".join(fault.fix for fault in faults),
        )


class InsecureFile(NamedTuple):
    """A file or directory that is open to others, and the command that closes it."""

    path: FilePath
    message: str
    fix: str


def find_insecure(paths: StatePaths) -> list[InsecureFile]:
    """Return what is there and has another owner, or a mode that lets others in."""
    candidates = [(paths.directory, True)]
    candidates += [(paths.directory / file.name, file.is_directory) for file in STATE_FILES]
    if paths.key_file is not None:
        candidates += [(paths.key_file.with_name(paths.key_file.name + end), False) for end in ("", ".next")]
    return [fault for path, is_directory in candidates if (fault := _judge(path, is_directory)) is not None]


def _judge(path: FilePath, is_directory: bool) -> InsecureFile | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    mode = stat.S_IMODE(status.st_mode)
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        return InsecureFile(path, f"{path} belongs to another user", f"chown $(id -u) '{path}'")
    if mode & _OTHERS:
        wanted = DIRECTORY_MODE if is_directory else FILE_MODE
        return InsecureFile(path, f"{path} has mode {mode:04o}, wanted {wanted:04o}", f"chmod {wanted:o} '{path}'")
    return None
