"""The port's contract, over both journals: what the engine may rely on, whoever keeps the rows."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from journal_helpers import JOURNAL_ID, NOW_US, PATIENT, open_sqlite, row, rows

from palyra.errors import JournalUnwritable
from palyra.journal.chain import genesis_link, row_link
from palyra.journal.memory import MemoryJournal
from palyra.journal.port import Head, Journal, Row
from palyra.journal.sqlite import SqliteJournal
from palyra.journal.writer import CALL_MAX_COUNT, JournalOptions


class Bench:
    """A journal under test, and the two things that tests do to it beyond the port."""

    def __init__(self, journal: MemoryJournal | SqliteJournal) -> None:
        self.journal: Journal = journal
        self._made = journal

    def fail_next_commit(self, *, is_kept: bool) -> None:
        """Make the next commit fail; its rows are stored all the same when `is_kept`."""
        if isinstance(self._made, MemoryJournal):
            self._made.fail_next_commits(1, is_kept=is_kept)
            return
        store = self._made._file
        write = store.write

        async def failing_write(batch: list[Row], links: list[bytes]) -> None:
            store.write = write  # type: ignore[method-assign]
            if is_kept:
                await write(batch, links)
            raise OSError("a commit was made to fail")

        store.write = failing_write  # type: ignore[method-assign]


Make = Callable[[JournalOptions | None], Awaitable[Bench]]


@pytest_asyncio.fixture(params=["memory", "sqlite"])
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Make]:
    """Make journals of one kind; they are closed after the test."""
    made: list[MemoryJournal | SqliteJournal] = []

    async def make_one(options: JournalOptions | None = None) -> Bench:
        if request.param == "memory":
            journal: MemoryJournal | SqliteJournal = MemoryJournal(
                journal_id=JOURNAL_ID, now_us=NOW_US, options=options
            )
        else:
            journal = await open_sqlite(tmp_path / "journal.db", options=options)
        made.append(journal)
        return Bench(journal)

    yield make_one
    for journal in made:
        await journal.close()


async def collect(batches: AsyncIterator[list[Row]]) -> list[Row]:
    """Return all rows of an iterator of batches."""
    return [each async for batch in batches for each in batch]


async def test_new_journal_has_the_genesis_head(make: Make) -> None:
    """A new journal has an id, no rows, and the link that the id gives."""
    journal = (await make(None)).journal
    assert journal.journal_id == JOURNAL_ID
    assert journal.head == Head(0, genesis_link(JOURNAL_ID), NOW_US)
    assert journal.pending_count == 0
    assert await collect(journal.read()) == []


async def test_rows_come_back_as_they_were_appended(make: Make) -> None:
    """Every field survives, empty ones included, and the head carries the chain's link."""
    journal = (await make(None)).journal
    full = row(2, "provider-ü", 1, correlation="run-x", causation=1, command_key="k", body='{"ü":"☃"}'.encode())
    stored = [row(1, causation=0), full]
    await journal.append(stored)
    assert await collect(journal.read()) == stored
    link = row_link(row_link(genesis_link(JOURNAL_ID), stored[0]), stored[1])
    assert journal.head == Head(2, link, full.recorded_at_us)


async def test_append_is_durable_only_when_its_future_resolves(make: Make) -> None:
    """`append` returns before the commit; pending rows are counted and not readable."""
    journal = (await make(None)).journal
    durable = journal.append(rows(1, 3))
    assert not durable.done()
    assert journal.pending_count == 3
    assert journal.head.position == 0
    await durable
    assert journal.pending_count == 0
    assert journal.head.position == 3


async def test_concurrent_appends_keep_their_order(make: Make) -> None:
    """A hundred appenders get their rows in the order of their calls."""
    journal = (await make(None)).journal
    await asyncio.gather(*(journal.append([row(position)]) for position in range(1, 101)))
    assert await collect(journal.read()) == rows(1, 100)


async def test_calls_of_any_length_are_never_split(make: Make) -> None:
    """A call longer than a commit goes in one; waiters see whole calls only."""
    journal = (await make(JournalOptions(commit_max_count=4))).journal
    first, second = journal.append(rows(1, 3)), journal.append(rows(4, 12))
    heads = []
    first.add_done_callback(lambda _: heads.append(journal.head.position))
    second.add_done_callback(lambda _: heads.append(journal.head.position))
    await asyncio.gather(first, second)
    assert heads in ([3, 12], [12, 12])
    assert await collect(journal.read()) == rows(1, 12)


async def test_nothing_is_durable_at_once(make: Make) -> None:
    """A call without rows has nothing to wait for."""
    journal = (await make(None)).journal
    assert journal.append([]).done()
    assert journal.pending_count == 0


@pytest.mark.parametrize("positions", [[2], [0], [1, 3], [1, 1]])
async def test_position_that_does_not_continue_is_a_bug(make: Make, positions: list[int]) -> None:
    """`ValueError`, and nothing of the call is taken."""
    journal = (await make(None)).journal
    with pytest.raises(ValueError, match="does not continue"):
        journal.append([row(position, version=n) for n, position in enumerate(positions, 1)])
    assert journal.pending_count == 0
    await journal.append([row(1)])


async def test_call_beyond_one_statement_is_refused(make: Make) -> None:
    """More rows than one INSERT takes are a `ValueError`, not a failure of the journal."""
    journal = (await make(None)).journal
    with pytest.raises(ValueError, match="at most"):
        journal.append(rows(1, CALL_MAX_COUNT + 1))
    await journal.append(rows(1, CALL_MAX_COUNT))
    assert journal.head.position == CALL_MAX_COUNT


async def test_cancelled_and_forgotten_callers_change_nothing(make: Make) -> None:
    """Rows of a caller that was cancelled or never waited are stored all the same."""
    journal = (await make(None)).journal

    async def append_one() -> None:
        await journal.append([row(1)])

    task = asyncio.create_task(append_one())
    await asyncio.sleep(0)
    task.cancel()
    journal.append([row(2)])
    await journal.append([row(3)])
    assert task.cancelled() or task.cancelling()
    assert await collect(journal.read()) == rows(1, 3)


async def test_lazy_rows_ride_with_the_next_commit(make: Make) -> None:
    """Lazy rows alone wake nobody; the next eager row takes them along, in order."""
    journal = (await make(PATIENT)).journal
    lazy = journal.append(rows(1, 2), lazy=True)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not lazy.done()
    assert journal.pending_count == 2
    await journal.append([row(3)])
    assert lazy.done()
    assert await collect(journal.read()) == rows(1, 3)


async def test_lazy_rows_wait_no_longer_than_said(make: Make) -> None:
    """Without company lazy rows are committed after `lazy_append_ms`."""
    journal = (await make(JournalOptions(lazy_append_ms=10))).journal
    for position in (1, 2):
        await asyncio.wait_for(journal.append([row(position)], lazy=True), timeout=30)
    assert journal.head.position == 2


async def test_lazy_row_behind_a_commit_in_flight_stays_lazy(make: Make) -> None:
    """A commit that ends does not drag a lone lazy row into a commit of its own."""
    journal = (await make(PATIENT)).journal
    eager = journal.append([row(1)])
    lazy: list[asyncio.Future[None]] = []
    asyncio.get_running_loop().call_soon(lambda: lazy.append(journal.append([row(2)], lazy=True)))
    await eager
    for _ in range(5):
        await asyncio.sleep(0)
    assert lazy[0].done() == (journal.head.position == 2)
    await journal.append([row(3)])
    assert journal.head.position == 3


@pytest.mark.parametrize("is_kept", [False, True])
async def test_failed_commit_fails_everybody_until_recover(make: Make, is_kept: bool) -> None:
    """Waiters and later appends get `JournalUnwritable`; `recover` tells the truth and goes on from there."""
    bench = await make(JournalOptions(commit_max_count=2))
    journal = bench.journal
    await journal.append([row(1)])
    bench.fail_next_commit(is_kept=is_kept)
    waiting = [journal.append(rows(2, 3)), journal.append([row(4)])]
    for durable in waiting:
        with pytest.raises(JournalUnwritable, match="cannot be written"):
            await durable
    with pytest.raises(JournalUnwritable):
        journal.append([row(2)])
    assert journal.pending_count == 0
    assert journal.head.position == 1
    assert await collect(journal.read()) == [row(1)]
    head = await journal.recover()
    assert head == journal.head
    assert head.position == (3 if is_kept else 1)
    await journal.append([row(head.position + 1)])
    assert await collect(journal.read()) == rows(1, head.position + 1)


async def test_recover_of_a_sound_journal_changes_nothing(make: Make) -> None:
    """`recover` without a failure returns the head and loses no waiting row."""
    journal = (await make(PATIENT)).journal
    lazy = journal.append([row(1)], lazy=True)
    assert (await journal.recover()).position == 0
    await journal.append([row(2)])
    assert lazy.done()


async def test_version_that_is_there_already_fails_the_journal(make: Make) -> None:
    """Two events with one version of a stream never both exist; the journal stops and recovers."""
    journal = (await make(None)).journal
    await journal.append([row(1, "run-a", 1)])
    with pytest.raises(JournalUnwritable, match="contradicts"):
        await journal.append([row(2, "run-a", 1)])
    assert (await journal.recover()).position == 1
    await journal.append([row(2, "run-a", 2)])


async def test_body_that_is_no_text_fails_the_journal(make: Make) -> None:
    """A body that is not UTF-8 is a bug that stores nothing."""
    journal = (await make(None)).journal
    with pytest.raises(JournalUnwritable, match="utf-8"):
        await journal.append([row(1, body=b"\xff")])
    assert (await journal.recover()).position == 0


async def test_failures_that_nobody_awaits_are_silent(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A forgotten future that fails logs no 'exception was never retrieved'."""
    bench = await make(None)
    with caplog.at_level(logging.DEBUG, logger="asyncio"):
        bench.fail_next_commit(is_kept=False)
        bench.journal.append([row(1)])
        with pytest.raises(JournalUnwritable):
            await bench.journal.append([row(2)])
        gc.collect()
        await asyncio.sleep(0)
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize("last", [5, 2_500])
async def test_read_bounds(make: Make, last: int) -> None:
    """`read` yields after < position <= upto, near the head from memory and far from it from the store."""
    journal = (await make(None)).journal
    await journal.append(rows(1, last))
    assert await collect(journal.read()) == rows(1, last)
    assert await collect(journal.read(2, 4)) == rows(3, 4)
    assert await collect(journal.read(after=last - 1)) == rows(last, last)
    assert await collect(journal.read(0, last + 7)) == rows(1, last)
    assert await collect(journal.read(last)) == []


async def test_follow_goes_on_while_rows_are_appended(make: Make) -> None:
    """Followers that start at any position see each row once, in order, as commits come."""
    journal = (await make(None)).journal
    await journal.append(rows(1, 10))

    async def follow(after: int) -> list[Row]:
        seen: list[Row] = []
        async for batch in journal.follow(after):
            seen += batch
            if seen[-1].position >= 200:
                return seen
        raise AssertionError("the journal was closed")

    followers = [asyncio.create_task(follow(after)) for after in (0, 7, 10, 150)]
    for position in range(11, 201):
        durable = journal.append([row(position)])
        if position % 7 == 0:
            await durable
    seen = await asyncio.gather(*followers)
    assert seen == [rows(1, 200), rows(8, 200), rows(11, 200), rows(151, 200)]


async def test_slow_follower_skips_nothing(make: Make) -> None:
    """A follower that is thousands of rows behind is served from the store, then from memory."""
    journal = (await make(None)).journal
    await journal.append([row(1)])
    follower = journal.follow()
    seen = list(await anext(follower))
    await journal.append(rows(2, 2_000))
    await journal.append(rows(2_001, 3_000))
    while len(seen) < 3_000:
        seen += await anext(follower)
    assert seen == rows(1, 3_000)


async def test_follow_outlives_a_failure_and_ends_with_the_journal(make: Make) -> None:
    """A follower sees nothing of a failed commit but what `recover` finds, and ends when the journal closes."""
    bench = await make(None)
    journal = bench.journal
    following = asyncio.create_task(collect(journal.follow()))
    await journal.append([row(1)])
    bench.fail_next_commit(is_kept=True)
    with pytest.raises(JournalUnwritable):
        await journal.append([row(2)])
    await journal.recover()
    await journal.append([row(3)])
    await journal.close()
    assert await following == rows(1, 3)


async def test_close_makes_everything_durable_and_is_idempotent(make: Make) -> None:
    """Lazy rows too; afterwards appends, and only they, are refused."""
    journal = (await make(PATIENT)).journal
    lazy = journal.append(rows(1, 2), lazy=True)
    await asyncio.gather(journal.close(), journal.close())
    await journal.close()
    assert lazy.done()
    assert lazy.exception() is None
    assert journal.head.position == 2
    with pytest.raises(JournalUnwritable, match="closed"):
        journal.append([row(3)])
    with pytest.raises(JournalUnwritable, match="closed"):
        await journal.recover()


async def test_close_says_so_when_rows_were_lost(make: Make) -> None:
    """A last commit that fails is not silent, even if nobody awaits its rows."""
    bench = await make(PATIENT)
    bench.journal.append([row(1)], lazy=True)
    bench.fail_next_commit(is_kept=False)
    with pytest.raises(JournalUnwritable):
        await bench.journal.close()
    await bench.journal.close()


async def test_cancelled_close_goes_on(make: Make) -> None:
    """Cancelling whoever closes the journal does not cancel the closing."""
    journal = (await make(PATIENT)).journal
    lazy = journal.append([row(1)], lazy=True)
    task = asyncio.create_task(journal.close())
    await asyncio.sleep(0)
    task.cancel()
    await journal.close()
    assert lazy.exception() is None
    assert journal.head.position == 1


async def test_snapshots_by_digest_and_position(make: Make) -> None:
    """The newest one at or before a position is found; another shape's are not."""
    journal = (await make(None)).journal
    await journal.append(rows(1, 10))
    assert await journal.load_snapshot("shape-1") is None
    for position in (2, 5, 9):
        await journal.save_snapshot(position, "shape-1", b"state %d" % position)
    newest = await journal.load_snapshot("shape-1")
    assert newest is not None
    assert (newest.position, newest.state) == (9, b"state 9")
    for at, expected in ((9, 9), (8, 5), (2, 2), (1, None)):
        found = await journal.load_snapshot("shape-1", at)
        assert (found and found.position) == expected
    assert await journal.load_snapshot("shape-2") is None
    await journal.save_snapshot(10, "shape-2", b"x" * 200_000)
    found = await journal.load_snapshot("shape-2")
    assert found is not None
    assert (found.link, found.state) == (journal.head.link, b"x" * 200_000)
    assert await journal.load_snapshot("shape-1") is None


@pytest.mark.parametrize("position", [0, 3])
async def test_snapshot_of_what_is_not_durable_is_a_bug(make: Make, position: int) -> None:
    """A state is kept only for a position that the log has."""
    journal = (await make(None)).journal
    await journal.append(rows(1, 2))
    with pytest.raises(ValueError, match="not durable"):
        await journal.save_snapshot(position, "shape", b"")
