"""Content that is kept: when what is past its day goes."""

from __future__ import annotations

from pathlib import Path

from engine_fakes import ManualClock

from palyra.engine.content import ContentRules, Contents
from palyra.memory.content import PURGE_ROWS_COUNT, Content

DAY_US = 86_400 * 1_000_000


async def test_an_hour_is_the_longest_that_is_kept_past_its_day() -> None:
    """Much goes in steps that follow one another; fewer days act at once; without content nothing is looked for."""
    clock = ManualClock(1_000 * DAY_US)
    kept = Contents(None, clock, ContentRules(), on_trouble=lambda error: None)
    assert kept.due_at_us() is None
    store = kept._opened()
    for number in range(PURGE_ROWS_COUNT + 1):
        content = Content(
            run_id=f"{number}", at_us=1, principal_id="p", surface="chat", key="k", outcome="completed"
        )
        store.put(content, expires_us=2)
    assert kept.due_at_us() == 0
    await kept.do()
    assert (store.count, kept.due_at_us()) == (1, clock.now_us())
    await kept.do()
    assert (store.count, kept.due_at_us()) == (0, clock.now_us() + DAY_US // 24)
    kept.obey(ContentRules(days_count=7))
    assert kept.due_at_us() == 0
    await kept.close()


async def test_a_store_that_cannot_be_read_is_told_of_and_looked_at_later(tmp_path: Path) -> None:
    """It keeps nobody from being served."""
    (tmp_path / "content.db").write_bytes(b"no database at all" * 100)
    clock, troubles = ManualClock(), list[Exception]()
    kept = Contents(tmp_path / "content.db", clock, ContentRules(), on_trouble=troubles.append)
    assert kept.due_at_us() == 0
    await kept.do()
    assert len(troubles) == 1
    assert kept.due_at_us() == clock.now_us() + DAY_US // 24
    await kept.close()
