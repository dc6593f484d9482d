"""Work that is done to its end, so that no daemon stops half way up or down because its caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


async def see_through(work: Coroutine[Any, Any, None], on_cancel: Callable[[], object] = lambda: None) -> None:
    """Do work to its end, however often we are cancelled meanwhile: `on_cancel` is told, and it is raised at last.

    What the work itself raises goes first.
    """
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as exc:
            cancelled = exc
            on_cancel()
    try:
        task.result()
        if cancelled is not None:
            raise cancelled
    finally:
        del cancelled, task  # their tracebacks hold this frame
