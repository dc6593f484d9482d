"""The joint: facts are stamped, folded and appended here, in one step that nothing can interrupt.

A `Batch` collects the facts of steps that belong together. Everything between `with core.batch()` and its end
runs without `await`, so what one step decides still holds when the next one is decided; at the end the batch is
handed to the journal as one commit. Memory may be ahead of the disk by the commits in flight. If one of them fails,
memory is wrong: the core takes no more facts, tells its watchers, and folds its state anew from the disk
(fail-stop).

Instants are compared with what is recorded, so a wall clock that leaves the time that passes is a fact of its own,
recorded before anything that is stamped after it: every decision then sees deadlines that fit its `now_us`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from types import TracebackType
from typing import Protocol, Self

from msgspec.json import encode as encode_json

from palyra.decisions.clock import STEP_MIN_US, Reading, step_between, step_while_away
from palyra.engine.clock import Clock, SystemClock, asleep_us
from palyra.engine.codec import encode_fact, state_digest, to_known, to_recorded
from palyra.engine.ids import Ids, SystemIds
from palyra.errors import EngineStopped, JournalUnwritable, Refusal, SecretInEvent
from palyra.events.attempts import AttemptStarted, AttemptSucceeded
from palyra.events.base import Draft, Fact, Recorded
from palyra.events.budgets import BudgetReleased, BudgetReserved
from palyra.events.daemon import DaemonClockStepped
from palyra.events.routing import RoutingDecided
from palyra.events.runs import RunAdmitted, RunCompleted
from palyra.events.usage import UsageRecorded
from palyra.journal.port import Journal, Row
from palyra.limits import PENDING_EVENTS_MAX_COUNT
from palyra.projections.state import State, decode_state, encode_state, evolve
from palyra.redaction import KnownSecrets

SYSTEM = "system:daemon"
#: Facts that hold words which people wrote. They are folded as they will be read back: a word that equals a default
#: is written where the default itself is left out, and the live state must not be told from a replayed one by that.
_FROM_OUTSIDE = ("auth_profile.", "budget_policy.", "config.", "oauth_attempt.", "price_list.")
#: What others have written into the facts of each request. The rest of them is our own words, names of the
#: configuration and numbers, into which nobody can put a secret; looking there too would cost each request a tenth
#: of all that it costs.
FOREIGN_FIELDS: Mapping[type[Fact], Sequence[str]] = {
    RunAdmitted: ("session_id", "agent_id", "tags", "model_requested", "variant"),
    RoutingDecided: ("losses",),
    BudgetReserved: (),
    AttemptStarted: ("dropped",),  # its variant is that of the run
    AttemptSucceeded: ("raw_stop", "upstream_request_id", "upstream_response_id", "upstream_model", "dropped"),
    UsageRecorded: ("variant",),
    BudgetReleased: (),
    RunCompleted: (),
}
_FOREIGN_WORDS = {struct: attrgetter(*fields) if fields else None for struct, fields in FOREIGN_FIELDS.items()}
_REBUILD_FIRST_S, _REBUILD_MAX_S = 1.0, 30.0


class Tap(Protocol):
    """Whoever listens to what is recorded; a list will do."""

    def append(self, recorded: Recorded, /) -> None: ...


class Batch:
    """Facts of one commit. Use as a context manager; await `durable()` after it."""

    def __init__(self, core: Core, actor: str, now_us: int, *, lazy: bool = False) -> None:
        self.now_us = now_us
        self._core = core
        self._actor = actor
        self._lazy = lazy
        self._rows: list[Row] = []
        self._commit: asyncio.Future[None] | None = None
        #: Done after the commit; None while nobody waits.
        self._waiter: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        self._core.check_writable()
        return self

    def add(self, drafts: Sequence[Draft]) -> None:
        """Stamp facts and fold them; they are on their way to the disk when the batch ends."""
        if not drafts:
            return
        core, state, actor, now_us = self._core, self._core.state, self._actor, self.now_us
        encoded = [(draft, *encode_fact(draft.body)) for draft in drafts]
        core.refuse_secrets(encoded)  # before anything is folded
        for draft, name, schema, body in encoded:
            stream, position, version = draft.stream, state.position + 1, state.streams.get(draft.stream, 0) + 1
            correlation, key = draft.correlation, draft.command_key
            row = Row(position, stream, version, name, schema, now_us, actor, correlation, 0, key, body)
            self._rows.append(row)
            if name.startswith(_FROM_OUTSIDE):
                recorded = to_recorded(row)
            else:
                recorded = Recorded(position, stream, version, now_us, actor, correlation, 0, key, draft.body)
            evolve(state, recorded)
            for tap in core.taps:
                tap.append(recorded)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            if self._rows:
                self._core.fail()
            return
        if self._rows:
            self._commit = self._core.append(self._rows, self._committed, lazy=self._lazy)

    def _committed(self, commit: asyncio.Future[None]) -> None:
        self._core.committed(commit)
        if self._waiter is not None:
            _tell(self._waiter, commit)

    async def durable(self) -> None:
        """Wait until the batch is on the disk; raises `JournalUnwritable`. Being cancelled changes nothing."""
        if self._commit is None:
            return
        if self._waiter is not None or self._commit.done():
            await _wait_for(self._commit)
        else:
            # It is told by the batch itself, which hears of the commit anyhow.
            self._waiter = self._commit.get_loop().create_future()
            await self._waiter


async def _wait_for(commit: asyncio.Future[None]) -> None:
    """Wait on a future of one's own: a waiter that is cancelled must not take the commit's from the others."""
    if commit.done():
        commit.result()
        return
    waiter: asyncio.Future[None] = commit.get_loop().create_future()
    commit.add_done_callback(functools.partial(_tell, waiter))
    await waiter


def _tell(waiter: asyncio.Future[None], commit: asyncio.Future[None]) -> None:
    if waiter.done():
        return
    error = commit.exception()
    if error is None:
        waiter.set_result(None)
    else:
        waiter.set_exception(error)


class Core:
    """State and journal, and the only way to change either."""

    def __init__(
        self,
        journal: Journal,
        state: State,
        *,
        clock: Clock | None = None,
        ids: Ids | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        is_read_only: bool = False,
        known: KnownSecrets | None = None,
    ) -> None:
        self.journal = journal
        self.state = state
        self.clock: Clock = clock or SystemClock()
        self.ids: Ids = ids or SystemIds()
        #: Awaited when a commit has failed: whoever acts on the state lets go of it before it is folded anew.
        self.on_failure: Callable[[], Awaitable[None]] | None = None
        #: Awaited before each try to open the journal again: whatever may help the disk to take it.
        self.make_room: Callable[[], Awaitable[None]] | None = None
        #: Awaited after that, before anybody else can record: it closes everything that was open.
        self.on_rebuilt: Callable[[], Awaitable[object]] | None = None
        #: Told what keeps the state from being folded anew, after each try.
        self.on_trouble: Callable[[Exception], None] | None = None
        #: Told after each commit that is durable.
        self.on_commit: Callable[[], None] | None = None
        #: The secrets that no fact may hold.
        self.known = known or KnownSecrets()
        #: Told the name of a fact that was refused because it held one.
        self.on_leak: Callable[[str], None] | None = None
        #: Told after each step of the clock that was recorded.
        self.on_clock_step: Callable[[], None] | None = None
        #: Why no new run is taken although facts can be recorded; None while runs are taken.
        self.shortage: Refusal | None = None
        self.asleep_us = asleep_us
        self._reading = self._read_clocks()
        #: Take every recorded fact, for whoever reads history and must miss nothing meanwhile.
        self.taps: list[Tap] = []
        self._pause = pause
        self._is_read_only = is_read_only
        self._failed = False
        self._stopped = False
        self._rebuilding: asyncio.Task[None] | None = None
        #: Future of the newest batch; those before it are durable when it is.
        self.last_commit: asyncio.Future[None] | None = None
        #: The journal's head when `on_commit` was told last.
        self._told_position = 0

    @property
    def is_writable(self) -> bool:
        return not (self._failed or self._stopped or self._is_read_only)

    @property
    def takes_runs(self) -> bool:
        return self.is_writable and self.shortage is None

    @property
    def is_busy(self) -> bool:
        """Return whether too many facts wait for the disk to take more work."""
        return self.journal.pending_count > PENDING_EVENTS_MAX_COUNT

    def check_writable(self) -> None:
        """Raise what keeps facts from being recorded."""
        if self._stopped:
            raise EngineStopped
        if self._is_read_only:
            raise JournalUnwritable("the daemon was started with --read-only and records nothing")
        if self._failed:
            raise JournalUnwritable("the journal cannot be written; it is being opened again")

    def batch(self, actor: str = SYSTEM, *, lazy: bool = False) -> Batch:
        """Return a new batch; `lazy` facts ride with the next commit instead of asking for one."""
        last, now_us = self._reading, self.clock.now_us()
        drift_us = now_us - last.wall_us - (self.clock.monotonic_us() - last.monotonic_us)
        if not -STEP_MIN_US <= drift_us <= STEP_MIN_US:
            self.watch_clock()
            now_us = self.clock.now_us()
        return Batch(self, actor, now_us, lazy=lazy)

    def watch_clock(self) -> None:
        """Read the clocks, and record it if the wall clock has left the time that passed since they were read last.

        While nothing can be recorded they are left for later.
        """
        if self.is_writable:
            last, self._reading = self._reading, self._read_clocks()
            self._record_step(step_between(last, self._reading))

    def catch_up_with_clock(self) -> None:
        """Compare the clock with the newest fact that is on the disk, which cannot be later."""
        self._record_step(step_while_away(self.state.recorded_at_us, self.clock.now_us()))

    def _record_step(self, stepped: DaemonClockStepped | None) -> None:
        if stepped is None:
            return
        with Batch(self, SYSTEM, self.clock.now_us()) as batch:
            batch.add([Draft("daemon", stepped)])
        if self.on_clock_step is not None:
            self.on_clock_step()

    def _read_clocks(self) -> Reading:
        return Reading(self.clock.now_us(), self.clock.monotonic_us(), self.asleep_us())

    @contextlib.contextmanager
    def tapped(self) -> Iterator[list[Recorded]]:
        """Give a list of what is recorded from here on."""
        tap: list[Recorded] = []
        with self.heard_by(tap):
            yield tap

    @contextlib.contextmanager
    def heard_by(self, tap: Tap) -> Iterator[None]:
        """Hand over what is recorded from here on, right after it was folded."""
        self.taps.append(tap)
        try:
            yield
        finally:
            # By identity: of two taps that hold the same so far, each is its own.
            self.taps = [one for one in self.taps if one is not tap]

    def refuse_secrets(self, encoded: Sequence[tuple[Draft, str, int, bytes]]) -> None:
        """Raise `SecretInEvent` if a fact holds a secret: it would stand in the journal for ever."""
        foreign: list[bytes] = []
        for draft, _, _, body in encoded:
            fact = draft.body
            if type(fact) not in _FOREIGN_WORDS:
                foreign.append(body)
            elif (words := _FOREIGN_WORDS[type(fact)]) is not None:
                foreign.append(encode_json(words(fact)))
        if foreign and self.known.are_in(b"\n".join(foreign)):
            name = next((name for _, name, _, body in encoded if self.known.are_in(body)), encoded[0][1])
            if self.on_leak is not None:
                self.on_leak(name)
            raise SecretInEvent(f"A fact ({name}) would have held a secret; nothing was recorded.")

    async def record(self, drafts: Sequence[Draft], actor: str = SYSTEM) -> None:
        """Record facts that were decided already, and wait until they are durable."""
        with self.batch(actor) as batch:
            batch.add(drafts)
        await batch.durable()

    async def durable(self) -> None:
        """Wait until everything recorded so far is on the disk; raises `JournalUnwritable`."""
        if self.last_commit is not None:
            await _wait_for(self.last_commit)

    def append(
        self, rows: Sequence[Row], on_end: Callable[[asyncio.Future[None]], None], *, lazy: bool
    ) -> asyncio.Future[None]:
        """Hand rows that are folded already to the journal; `on_end` passes how that ended on to `committed`."""
        try:
            commit = self.journal.append(rows, lazy=lazy)
        except BaseException:
            self.fail()
            raise
        commit.add_done_callback(on_end)
        self.last_commit = commit
        return commit

    def committed(self, commit: asyncio.Future[None]) -> None:
        """Go on after a commit; of all that went to the disk together, the first one tells of it."""
        if commit.exception() is not None:
            self.fail()
        elif self.journal.head.position != self._told_position:
            self._told_position = self.journal.head.position
            if self.on_commit is not None:
                self.on_commit()

    def fail(self) -> None:
        """Take no more facts, and fold the state anew as soon as the disk allows it."""
        self._failed = True
        if not self._stopped and (self._rebuilding is None or self._rebuilding.done()):
            self._rebuilding = asyncio.get_running_loop().create_task(self._rebuild(), name="rebuild")

    async def wait_until_rebuilt(self) -> None:
        """Wait until a failure has been overcome; returns at once where there was none."""
        if self._rebuilding is not None:
            await asyncio.shield(self._rebuilding)

    async def _rebuild(self) -> None:
        wait_s = _REBUILD_FIRST_S
        while self._failed:
            try:
                await self._fold_anew()
            except Exception as error:
                self._failed = True
                if self.on_trouble is not None:
                    self.on_trouble(error)
                await self._pause(wait_s)
                wait_s = min(wait_s * 2, _REBUILD_MAX_S)

    async def _fold_anew(self) -> None:
        if self.on_failure is not None:
            await self.on_failure()
        if self.last_commit is not None:
            # What is on its way to the disk has to arrive or to fail, or the fold would miss it.
            await asyncio.wait([self.last_commit])
            self.last_commit = None
        if self.make_room is not None:
            await self.make_room()
        await self.journal.recover()
        self.state = await load_state(self.journal)
        self._failed = False
        if self.on_rebuilt is not None:
            await self.on_rebuilt()

    async def snapshot(self) -> int:
        """Keep the state as it is now for a quick start, once the disk has come as far; returns its position.

        It is encoded here and now, which holds the loop: for the end of a daemon, when nobody waits any more.
        And twice: a text that equals a default without being it is written, and left out once it was read back.
        """
        self.check_writable()  # or the state may hold what the disk never took
        position, data = self.state.position, encode_state(decode_state(encode_state(self.state)))
        await self.durable()
        await self.journal.save_snapshot(position, state_digest(), data)
        return position

    async def stop(self) -> None:
        """Take no more facts and close the journal."""
        self._stopped = True
        if self._rebuilding is not None:
            self._rebuilding.cancel()
            await asyncio.gather(self._rebuilding, return_exceptions=True)
        await self.journal.close()


async def load_state(journal: Journal, upto: int | None = None) -> State:
    """Return the state after a position (default: the journal's head): newest usable snapshot, then what follows.

    The loop goes on between two batches, also where a journal answers at once.
    Raises `JournalNewer` when the log holds names of a newer release: it must not be written past.
    """
    snapshot = await journal.load_snapshot(state_digest(), upto)
    state = State() if snapshot is None else decode_state(snapshot.state)
    async for rows in journal.read(state.position, upto):
        for row in rows:
            evolve(state, to_known(row))
        await asyncio.sleep(0)
    return state
