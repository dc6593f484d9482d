"""Shared ways of the tests: both loops in strict mode, seeds printed, nothing that waits for a real clock."""

from __future__ import annotations

import gc
import inspect
import os
import sys
from typing import Any

import freezegun
import pytest
from hypothesis import HealthCheck, settings

freezegun.configure(extend_ignore_list=["trio", "outcome"])

# Hundreds of programs are started here: each would compile all that it imports where an image turns this off.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Tests time nothing: an example that the machine is slow over says nothing about the code.
settings.register_profile("palyra", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("palyra")


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: Any, name: str, obj: Any) -> None:
    """Give a coroutine test that names no loop the asyncio mark; strict mode wants one at collection."""
    function = getattr(getattr(obj, "hypothesis", None), "inner_test", obj)
    if collector.istestfunction(obj, name) and inspect.iscoroutinefunction(function):
        marks = {mark.name for mark in getattr(obj, "pytestmark", [])}
        marks |= {mark.name for mark in collector.iter_markers()}
        if not marks & {"trio", "asyncio"}:
            pytest.mark.asyncio(obj)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what has a limit of its own because it takes long, so that no worker ends alone with it."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


def pytest_collection_finish() -> None:
    """Tests that look for what is left behind look through what was made since, and not through the whole suite."""
    gc.collect()
    gc.freeze()
