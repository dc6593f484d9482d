"""Files on disk and the loader on top of them; the process's own environment is never read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from palyra.config.load import LoadedConfig, load_config
from palyra.config.problems import ConfigProblems, Problem


class Load(Protocol):
    def __call__(
        self,
        text: str = "",
        *,
        env: Mapping[str, str] = ...,
        sets: Sequence[str] = ...,
        short: Mapping[str, str] = ...,
    ) -> LoadedConfig: ...


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a file that only its owner can read."""

    def _write(text: str, name: str = "palyra.toml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    return _write


@pytest.fixture
def load(tmp_path: Path, write: Callable[..., Path]) -> Load:
    """Load a configuration from its text."""

    def _load(
        text: str = "",
        *,
        env: Mapping[str, str] = {},
        sets: Sequence[str] = (),
        short: Mapping[str, str] = {},
    ) -> LoadedConfig:
        environ = {"HOME": str(tmp_path), **env}
        return load_config(environ, config_file=str(write(text)), sets=sets, short_flags=short)

    return _load


@pytest.fixture
def problems(load: Load) -> Callable[..., list[Problem]]:
    """Return all problems of a configuration, warnings too, in their order."""

    def _problems(text: str = "", **more: Any) -> list[Problem]:
        try:
            return list(load(text, **more).warnings)
        except ConfigProblems as exc:
            return list(exc.problems)

    return _problems


@pytest.fixture
def codes(problems: Callable[..., list[Problem]]) -> Callable[..., list[tuple[str, str]]]:
    """Return (code, key) of every problem."""
    return lambda text="", **more: [(problem.code, problem.key) for problem in problems(text, **more)]
