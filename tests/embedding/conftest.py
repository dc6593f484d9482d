"""A machine with nobody's configuration on it, and loops that notice what is left behind."""

from __future__ import annotations

import asyncio
import gc
import tempfile
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from embedding_host import Run


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the directory under which home, temporary files and the working directory are; it is empty."""
    root = tmp_path / "machine"
    root.mkdir()
    for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "PALYRA_CONFIG", "PALYRA_STATE_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(root))
    monkeypatch.setattr(tempfile, "tempdir", str(root))
    monkeypatch.chdir(root)
    yield root
    assert list(root.rglob("*")) == [], "files were left behind"


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a program on a loop of its own; a task or an error that it leaves behind is a failure."""

    def run_checked(main: Coroutine[Any, Any, object]) -> None:
        troubles: list[dict[str, Any]] = []

        async def checked() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
            await main
            assert asyncio.all_tasks() == {asyncio.current_task()}
            gc.collect()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(checked())
        gc.collect()
        assert troubles == []

    return run_checked
