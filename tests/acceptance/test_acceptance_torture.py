"""A few kills of the torture that `torture.py` does by the hundred."""

from __future__ import annotations

import random
from pathlib import Path

from torture import Torture


async def test_kill_under_streams_at_random_instants(tmp_path: Path) -> None:
    """Slow streams, plain answers and failovers, killed anywhere: the acknowledged is billed, the rest closed."""
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    torture = Torture(tmp_path, seed)
    await torture.run(5)
    assert torture.figures.kills == 5
    assert torture.figures.replays == 1
    assert torture.figures.abandoned_attempts > 0
