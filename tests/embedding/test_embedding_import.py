"""The package as it is imported: light, and with one public list."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import palyra


def loaded_by(code: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after some code."""
    show = "import sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", f"{code}; {show}"], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def test_importing_the_package_loads_none_of_it() -> None:
    """Neither loop, server, database nor any other module of ours is there before it is used."""
    loaded = loaded_by("import palyra; palyra.__version__")
    assert not loaded & {"aiohttp", "trio", "aiosqlite", "sqlite3", "asyncio", "msgspec", "structlog"}
    assert {name for name in loaded if name.startswith("palyra")} == {"palyra"}


def test_reading_a_journal_needs_no_server() -> None:
    """`open_journal` loads what reads, and nothing that serves."""
    assert not loaded_by("import palyra; palyra.open_journal") & {"aiohttp", "trio", "aiosqlite"}


def test_the_public_list_is_whole() -> None:
    """Each name is there, in `dir`, documented, and known to type checkers from where it is loaded."""
    tree = ast.parse(Path(palyra.__file__).read_text(encoding="utf-8"))
    typed = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
        if alias.name != "TYPE_CHECKING"
    }
    assert {*typed, "__version__"} == set(palyra.__all__)
    for name, module in typed.items():
        value = getattr(palyra, name)
        assert value is getattr(sys.modules[module or ""], name)
        assert inspect.getdoc(value)
        assert name in dir(palyra)


def test_what_can_be_called_is_documented() -> None:
    """Every public method and attribute of the public classes says what it gives."""
    for kind in (palyra.Daemon, palyra.OpenedJournal, palyra.LiveJournal, palyra.Recorded):
        for name, value in vars(kind).items():
            if not name.startswith("_") and (callable(value) or isinstance(value, property)):
                assert inspect.getdoc(value), f"{kind.__name__}.{name}"


def test_other_names_are_not_there() -> None:
    """A slip is an AttributeError, as of any module."""
    with pytest.raises(AttributeError, match="Deamon"):
        _ = palyra.Deamon  # type: ignore[attr-defined]
