"""The pass over the rows: every fact that counts is added to the group that it belongs to.

Only the facts that say something about use are read. In memory are the requests that are open at the row that is
read, and the groups. Tokens and money go where the call that used them went; a request itself is counted once, at
the provider and model that it came to last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Protocol

import msgspec

from palyra.engine.codec import to_known
from palyra.engine.reports.calendar import BUCKETS, Calendar
from palyra.engine.reports.figures import Histogram, Sums, ms_of
from palyra.engine.reports.scope import DIMENSIONS, Scope, Where, class_of, where_of
from palyra.events import attempts, cache, routing, runs, usage
from palyra.events.base import Fact, Recorded
from palyra.journal.port import Reader
from palyra.units import BP_PER_UNIT, US_PER_S

#: Told how far it is, of how many rows.
Progress = Callable[[int, int], None]
#: Value of each thing that is grouped by; a bucket of time as its first instant.
Key = tuple[Any, ...]

#: What is looked at, of all that is recorded.
NAMES = (
    "run.admitted", "run.refused", "run.completed", "run.failed", "run.cancelled", "cache.hit", "attempt.started",
    "attempt.failed", "attempt.abandoned", "usage.recorded", "usage.corrected",
)  # fmt: skip
#: A clock may be set back so far without anybody noting it down.
_SLACK_US = 600 * US_PER_S
#: Smaller inputs say too little about an estimate.
_SAMPLE_MIN_TOKENS = 64


def recorded_since(
    rows: Reader, since_us: int, names: Iterable[str], progress: Progress | None = None
) -> Iterator[Recorded]:
    """Yield the facts of these names that can concern requests since an instant.

    A request's facts stand behind its admission, and the log is in the order of time where no clock was set back.
    """
    head = rows.head().position
    after = 0 if _was_set_back(rows) else rows.position_at(since_us - _SLACK_US)
    for batch in rows.rows(after, head, list(names)):
        for row in batch:
            yield to_known(row)
        if progress is not None:
            progress(batch[-1].position - after, head - after)


def _was_set_back(rows: Reader) -> bool:
    steps = (row for batch in rows.stream("daemon") for row in batch if row.name == "daemon.clock_stepped")
    return any(getattr(to_known(row).body, "step_us", 0) < 0 for row in steps)


class Accuracy:
    """How estimates of one model's input compare with what its provider counted."""

    __slots__ = ("errors_bp", "estimated_tokens", "real_tokens", "samples")

    def __init__(self) -> None:
        self.samples = self.estimated_tokens = self.real_tokens = 0
        self.errors_bp = Histogram()

    def add(self, row: usage.UsageRecorded) -> None:
        real, guessed = row.usage.input_tokens, row.raw_input_tokens
        if row.source == "provider" and guessed >= _SAMPLE_MIN_TOKENS and real:
            self.samples += 1
            self.estimated_tokens += guessed
            self.real_tokens += real
            self.errors_bp.add(abs(guessed - real) * BP_PER_UNIT // real)


class _Open(msgspec.Struct):
    """A request that has not ended at the row that is read."""

    admitted: runs.RunAdmitted
    at_us: int
    provider_id: str = ""
    model_id: str = ""
    #: The newest attempt that came to nothing.
    failed_attempt: int = 0

    def where(self) -> Where:
        return where_of(self.admitted, self.provider_id, self.model_id)


class Grouping:
    """Figures of a scope by what it is grouped by. Feed it facts in order, then `close` it."""

    def __init__(self, scope: Scope, group_by: Iterable[str] = (), calendar: Calendar | None = None) -> None:
        self.names = list(group_by)
        #: A request may be of another class than where it comes from says; only its decision tells.
        self.reads = (*NAMES, "routing.decided") if "task_class" in self.names else NAMES
        self.groups: dict[Key, Sums] = {}
        self.accuracy: dict[tuple[str, str], Accuracy] = {}
        self._scope = scope
        self._wanted = scope.filters.wanted()
        self._open: dict[str, _Open] = {}
        #: By run: the class that its decision tells, where that is not the one of its origin.
        self._classes: dict[str, str] = {}
        time = next((name for name in self.names if name in BUCKETS), None)
        self._calendar = calendar or (None if time is None else scope.calendar(time))
        self._time_place = self.names.index(time) if time is not None else 0
        places = [DIMENSIONS.index(name) for name in self.names if name in DIMENSIONS]
        self._key_of: Callable[[Where], Key] = _getter(places)
        self._handlers: dict[type, Callable[[Recorded, Any], None]] = {
            runs.RunAdmitted: self._admitted,
            routing.RoutingDecided: self._routed,
            attempts.AttemptStarted: self._started,
            attempts.AttemptFailed: self._came_to_nothing,
            attempts.AttemptAbandoned: self._came_to_nothing,
            usage.UsageRecorded: self._used,
            usage.UsageCorrected: self._corrected,
            cache.CacheHit: self._hit,
            runs.RunCompleted: self._completed,
            runs.RunFailed: self._ended("runs_failed"),
            runs.RunCancelled: self._ended("runs_cancelled"),
            runs.RunRefused: self._refused,
        }

    def add(self, recorded: Recorded) -> None:
        """Count a fact; those that say nothing about use are passed over."""
        body = recorded.body
        handle = self._handlers.get(type(body))
        if handle is not None:
            handle(recorded, body)

    def close(self) -> None:
        """Count what is open still."""
        for stream, run in self._open.items():
            sums = self._at(run.at_us, run.where(), stream)
            if sums is not None:
                sums.runs_open += 1
        self._open.clear()

    def _at(self, at_us: int, where: Where, stream: str) -> Sums | None:
        """Return the group of a request; None where it is not asked for."""
        scope = self._scope
        if not scope.from_us <= at_us < scope.to_us:
            return None
        for place, value in self._wanted:
            if where[place] != value:
                return None
        if stream in self._classes:
            where = (*where[:-1], self._classes[stream])
        key = self._key_of(where)
        if self._calendar is not None:
            place = self._time_place
            key = (*key[:place], self._calendar.window(at_us).start_us, *key[place:])
        sums = self.groups.get(key)
        if sums is None:
            sums = self.groups[key] = Sums()
        sums.see(at_us, where[2])
        return sums

    def _admitted(self, recorded: Recorded, body: runs.RunAdmitted) -> None:
        self._open[recorded.stream] = _Open(body, recorded.recorded_at_us)

    def _routed(self, recorded: Recorded, body: routing.RoutingDecided) -> None:
        run = self._open.get(recorded.stream)
        if body.task_class != class_of("http" if run is None else run.admitted.origin):
            self._classes[recorded.stream] = body.task_class

    def _started(self, recorded: Recorded, body: attempts.AttemptStarted) -> None:
        run = self._open.get(recorded.stream)
        if run is None:
            return
        run.provider_id, run.model_id = body.provider_id, body.model_id
        sums = self._at(run.at_us, run.where(), recorded.stream)
        if sums is not None:
            sums.attempts += 1

    def _came_to_nothing(
        self, recorded: Recorded, body: attempts.AttemptFailed | attempts.AttemptAbandoned
    ) -> None:
        run = self._open.get(recorded.stream)
        if run is not None:
            run.failed_attempt = body.attempt

    def _used(self, recorded: Recorded, body: usage.UsageRecorded) -> None:
        where = where_of(body, body.provider_id, body.model_id)
        sums = self._at(body.effective_at_us, where, recorded.stream)
        if sums is None:
            return
        run = self._open.get(recorded.stream)
        sums.add_usage(body, is_absorbed=run is not None and run.failed_attempt == body.attempt)
        model = body.provider_id, body.model_id
        if model not in self.accuracy:
            self.accuracy[model] = Accuracy()
        self.accuracy[model].add(body)

    def _corrected(self, recorded: Recorded, body: usage.UsageCorrected) -> None:
        where = where_of(body, body.provider_id, body.model_id)
        sums = self._at(body.effective_at_us, where, f"run-{body.run_id}")
        if sums is not None:
            sums.add_correction(body)

    def _hit(self, recorded: Recorded, body: cache.CacheHit) -> None:
        run = self._open.get(recorded.stream)
        sums = None if run is None else self._at(run.at_us, run.where(), recorded.stream)
        if sums is not None:
            sums.cache_hits += 1
            sums.cache_saved_tokens += body.saved_input_tokens + body.saved_output_tokens
            sums.cache_saved_nanousd += body.saved_nanousd

    def _completed(self, recorded: Recorded, body: runs.RunCompleted) -> None:
        run = self._open.pop(recorded.stream, None)
        sums = None if run is None else self._at(run.at_us, run.where(), recorded.stream)
        if sums is not None:
            sums.runs_ok += 1
            sums.latency.add(ms_of(body.duration_us))

    def _ended(self, figure: str) -> Callable[[Recorded, Fact], None]:
        def count(recorded: Recorded, body: Fact) -> None:
            run = self._open.pop(recorded.stream, None)
            sums = None if run is None else self._at(run.at_us, run.where(), recorded.stream)
            if sums is not None:
                setattr(sums, figure, getattr(sums, figure) + 1)

        return count

    def _refused(self, recorded: Recorded, body: runs.RunRefused) -> None:
        run = self._open.pop(recorded.stream, None)
        at_us = recorded.recorded_at_us if run is None else run.at_us
        sums = self._at(at_us, where_of(body, "", "") if run is None else run.where(), recorded.stream)
        if sums is not None:
            sums.runs_refused += 1


def _getter(places: list[int]) -> Callable[[Where], Key]:
    if not places:
        return lambda where: ()
    if len(places) == 1:
        place = places[0]
        return lambda where: (where[place],)
    return itemgetter(*places)


class Folding(Protocol):
    """Whatever is made of the facts of one pass."""

    @property
    def reads(self) -> Sequence[str]:
        """Names of the facts that it is made of."""

    def add(self, recorded: Recorded) -> None:
        """Take the next fact."""

    def close(self) -> None:
        """There is no further one."""


def fold(rows: Reader, *groupings: Folding, since_us: int, progress: Progress | None = None) -> None:
    """Feed groupings the journal in one pass, from where requests since an instant begin."""
    names = dict.fromkeys(name for grouping in groupings for name in grouping.reads)
    for recorded in recorded_since(rows, since_us, names, progress):
        for grouping in groupings:
            grouping.add(recorded)
    for grouping in groupings:
        grouping.close()
