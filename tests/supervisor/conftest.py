"""What the supervisor logs is kept for the tests instead of printed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    """The log entries of one test."""
    with capture_logs() as entries:
        yield entries
