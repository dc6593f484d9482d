"""Finding and reading a configuration file: bytes, text, tree and places. Nothing here knows a key.

A tree that a program gives is read like the tree of a file; only its places are not known.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any, Literal

import msgspec

from palyra.config.positions import Places, find_positions, place_of
from palyra.config.problems import Findings, Path, Source
from palyra.errors import ConfigInvalid
from palyra.limits import CONFIG_FILE_MAX_BYTES

SYSTEM_FILE = FilePath("/etc/palyra/palyra.toml")
_FILE_NAME = "palyra.toml"
_SYNTAX = re.compile(
    r"(?P<message>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL
)


class Document:
    """A TOML file that could be read, or a program's tree in its place."""

    def __init__(self, file: str, digest: str, text: str, tree: dict[str, Any]) -> None:
        #: "" for a program's tree.
        self.file = file
        self.kind: Literal["file", "program"] = "file" if file else "program"
        #: SHA-256 of its bytes, hex.
        self.digest = digest
        self.tree = tree
        self._text = text
        #: Keys of the tree that stand elsewhere in the text.
        self._moved: Mapping[Path, Path] = {}
        #: The format that the text is in, where that is an older one.
        self.migrated_from: int | None = None

    def migrate(self, tree: dict[str, Any], moved: Mapping[Path, Path], migrated_from: int) -> None:
        """Take the tree of the present format; `moved` says where its keys stand in the text."""
        self.tree, self._moved, self.migrated_from = tree, moved, migrated_from

    @cached_property
    def _places(self) -> Places:
        # A third of the loading time, and a file without problems is seldom asked for places.
        return find_positions(self._text)

    def source(self, path: Path) -> Source:
        """Return the place of a key, or of the nearest table around it."""
        line, column = place_of(self._places, self._moved.get(path, path))
        return Source(kind=self.kind, file=self.file, line=line, column=column)


def user_directory(kind: Literal["config", "state"], environ: Mapping[str, str]) -> FilePath:
    """Return the user's directory of Palyra for configuration or state."""
    if sys.platform in ("win32", "darwin"):
        import platformdirs  # only where the XDG rules do not hold

        find = platformdirs.user_config_path if kind == "config" else platformdirs.user_state_path
        return find("palyra", appauthor=False)
    variable, fallback = {
        "config": ("XDG_CONFIG_HOME", ".config"),
        "state": ("XDG_STATE_HOME", ".local/state"),
    }[kind]
    named = environ.get(variable, "")
    # The XDG rules ignore a relative path; following it would search the working directory.
    base = FilePath(named) if named.startswith("/") else FilePath(home_of(environ)) / fallback
    return base / "palyra"


def home_of(environ: Mapping[str, str]) -> str:
    """Return the home directory, by `HOME` or else by the user's account."""
    return environ.get("HOME") or os.path.expanduser("~")


def locate(
    environ: Mapping[str, str], named: str | None = None, system_file: FilePath = SYSTEM_FILE
) -> FilePath | None:
    """Return the configuration file: the named one, `PALYRA_CONFIG`, the user's, the system's; None without one.

    A file that is named and missing raises `config_not_found`. The working directory is never searched: a cloned
    repository must not redirect a gateway.
    """
    wanted = named or environ.get("PALYRA_CONFIG", "").strip()
    if wanted:
        file = FilePath(wanted)
        if not os.path.exists(file):
            by = "--config" if named else "PALYRA_CONFIG"
            raise ConfigInvalid(f"{by} names {file}, which does not exist", code="config_not_found")
        return file
    candidates = (user_directory("config", environ) / _FILE_NAME, system_file)
    return next((file for file in candidates if os.path.exists(file)), None)


def given_document(tree: Mapping[str, Any]) -> Document:
    """Return a program's tree as a document of its own; raises `TypeError` for what is no data (paths are)."""
    data = msgspec.json.encode(dict(tree), enc_hook=os.fspath, order="sorted")
    return Document("", hashlib.sha256(data).hexdigest(), "", msgspec.json.decode(data))


def read_document(file: FilePath, findings: Findings) -> Document | None:
    """Return a file's content; None (and the reason in `findings`) where it cannot be understood at all."""
    whole = Source(kind="file", file=str(file))
    try:
        data, mode = _read(file)
    except OSError as exc:
        findings.error("bad_path", "", f"cannot be read: {exc.strerror or exc}", whole)
        return None
    if mode & 0o022:
        findings.error(
            "insecure_mode", "", "others than its owner may write this file", whole, f"run: chmod go-w {file}"
        )
    if len(data) > CONFIG_FILE_MAX_BYTES:
        findings.error("too_large", "", f"is longer than {CONFIG_FILE_MAX_BYTES:,} bytes", whole)
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        findings.error("toml_syntax", "", "is not UTF-8", Source(kind="file", file=str(file), line=line, column=1))
        return None
    tree = _parse(text, str(file), findings)
    if tree is None:
        return None
    return Document(str(file), hashlib.sha256(data).hexdigest(), text, tree)


def text_document(text: str, name: str, findings: Findings) -> Document | None:
    """Return a text as the document of this name; None (and the reason in `findings`) for one that is no TOML."""
    tree = _parse(text, name, findings)
    return None if tree is None else Document(name, hashlib.sha256(text.encode()).hexdigest(), text, tree)


def _read(file: FilePath) -> tuple[bytes, int]:
    """Return the bytes (one more than allowed at most) and the mode of a regular file."""
    with open(file, "rb", opener=_open) as opened:
        mode = os.fstat(opened.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise OSError("it is not a regular file")
        return opened.read(CONFIG_FILE_MAX_BYTES + 1), mode


def _open(file: str, flags: int) -> int:
    """Open without waiting for the other end of a pipe."""
    return os.open(file, flags | getattr(os, "O_NONBLOCK", 0))


def _parse(text: str, file: str, findings: Findings) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except RecursionError:
        findings.error("toml_syntax", "", "is nested too deeply", Source(kind="file", file=file))
    except ValueError as exc:  # TOMLDecodeError, or a number with thousands of digits
        match = _SYNTAX.fullmatch(str(exc))
        line, column = (int(match["line"]), int(match["column"])) if match and match["line"] else (0, 0)
        if match and not line:
            line, column = text.count("\n") + 1, 1
        message = match["message"] if match else "holds a number that is too long"
        findings.error("toml_syntax", "", message, Source(kind="file", file=file, line=line, column=column))
    return None
