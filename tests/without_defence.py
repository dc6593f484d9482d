"""A plugin of pytest that takes defences away, so that their tests can be seen to fail.

    PYTHONPATH=tests python -m pytest -p without_defence --without-defence pkce tests/auth/test_auth_pkce.py

runs tests without one; `--without-each-defence FILE` runs the tests of every defence without it, and each of them
once with everything in place (with its first parameters: all are run where it stands), and writes what became of
them to a file. Everything is collected once: what is run without a defence is run in a fork, which ends with it.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path

import pytest
from _pytest.outcomes import Failed
from _pytest.runner import runtestprotocol
from defences import DEFENCES

#: How the control is called, which has every defence.
NONE = "none"
_AT_ONCE_COUNT = 2
#: Longer than any of the tests takes; one that hangs has not failed for the right reason.
_LIMIT_S = 20
#: Where nobody answers any more, that is seen soon.
_ANSWER_TIMEOUT_S = 1.0

#: What the calls of this process ended with, by test.
_raised: dict[str, BaseException] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-defence", action="append", default=[], choices=list(DEFENCES))
    parser.addoption("--without-each-defence", metavar="FILE")


def pytest_collection_finish(session: pytest.Session) -> None:
    for name in session.config.getoption("--without-defence"):
        DEFENCES[name].take_away()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    if call.when == "call" and call.excinfo is not None:
        _raised[item.nodeid] = call.excinfo.value
    return (yield)


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    file = session.config.getoption("--without-each-defence")
    if file is None:
        return None
    by_test: dict[str, list[pytest.Item]] = {}
    for item in session.items:
        by_test.setdefault(item.nodeid.removeprefix("tests/").partition("[")[0], []).append(item)
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # made once for all forks
    assert threading.active_count() == 1
    gc.freeze()
    plan = {NONE: tuple(by_test)} | {name: one.tests for name, one in DEFENCES.items()}
    Path(file).write_text(json.dumps(_run_all(plan, by_test, Path(file))))
    return True


def _run_all(
    plan: Mapping[str, Iterable[str]], by_test: Mapping[str, list[pytest.Item]], file: Path
) -> dict[str, dict[str, str]]:
    """Run the tests of each name in a fork without that defence, and return how they ended."""
    found: dict[str, dict[str, str]] = {}
    running: dict[int, str] = {}

    def wait() -> None:
        name = running.pop(os.wait()[0])
        told = file.with_name(f"{file.name}.{name}")
        found[name] = json.loads(told.read_text()) if told.exists() else {}

    for name, tests in plan.items():
        if len(running) >= _AT_ONCE_COUNT:
            wait()
        process_id = os.fork()
        if process_id == 0:
            try:
                ended = _run_without(name, {test: by_test[test] for test in tests})
                file.with_name(f"{file.name}.{name}").write_text(json.dumps(ended))
            finally:
                os._exit(0)
        running[process_id] = name
    while running:
        wait()
    return found


def _run_without(name: str, items: Mapping[str, list[pytest.Item]]) -> dict[str, str]:
    """Run tests in this process, which has no further use."""
    if name == NONE:
        return {test: _outcome(each[:1], is_control=True) for test, each in items.items()}
    signal.alarm(_LIMIT_S)
    try:
        DEFENCES[name].take_away()
    except Exception as error:
        return dict.fromkeys(items, f"cannot be taken away: {error!r}")
    if "daemon_house" in sys.modules:
        sys.modules["daemon_house"].__dict__["ANSWER_TIMEOUT_S"] = _ANSWER_TIMEOUT_S
    return {test: _outcome(each, is_control=False) for test, each in items.items()}


def _outcome(items: list[pytest.Item], *, is_control: bool) -> str:
    """Run a test with each of its parameters until one fails, and return "passed", "failed", or what went wrong."""
    for item in items:
        for report in runtestprotocol(item, nextitem=None, log=False):
            if report.failed:
                error = _raised.get(item.nodeid)
                is_missed = report.when == "call" and error is not None and _is_missed(error)
                return "failed" if is_missed and not is_control else f"{item.name}: {report.when}: {error!r}"
    return "passed"


def _is_missed(error: BaseException) -> bool:
    """Return whether a test says that something is not as it should be; a stand-in that crashes proves nothing."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_missed(one) for one in error.exceptions)
    return isinstance(error, AssertionError | Failed)
