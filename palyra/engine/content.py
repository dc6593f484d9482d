"""Content capture: what was asked and answered, kept beside the journal where somebody has turned that on.

It listens at the provider's port, so that bytes are kept as they arrived; writing them happens in a thread, after
the client has its answer. A run never waits for it and never fails because of it: what cannot be kept is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

from palyra.decisions.runs import AdmitRun
from palyra.engine.apart import Apart
from palyra.engine.client import Reply
from palyra.engine.clock import Clock
from palyra.engine.exchange import Ended
from palyra.engine.surfaces import Part
from palyra.events.registry import ModelEntry
from palyra.limits import APART_BYTES, OFF_LOOP_BYTES
from palyra.memory.content import PURGE_ROWS_COUNT, Content, ContentStore
from palyra.providers.port import Answer, Call, Provider
from palyra.redaction import Secret
from palyra.units import US_PER_S
from palyra.wire.apart import key_of_large
from palyra.wire.fixtures import KEPT_HEADERS, canonical, request_key
from palyra.wire.request import SurfaceRequest

#: Of what waits to be written; beyond it runs are not kept.
_WAITING_MAX_BYTES = 64 * 1024 * 1024
_DAY_US = 86_400 * US_PER_S
_PURGE_EVERY_US = 3_600 * US_PER_S
#: Surfaces whose answer may be put together here: what the client got is kept of them.
_WHOLE_SURFACES = ("embeddings", "audio_transcription")


class ContentRules(msgspec.Struct, frozen=True, kw_only=True):
    """`[privacy]`, as far as it is about content."""

    is_on: bool = False
    days_count: int = 30
    #: Of one request, and of one answer.
    max_bytes: int = 1_048_576
    #: Whose content is kept; none stands for all.
    principals: Collection[str] = ()


class Taken:
    """What is kept of one run while it is under way."""

    def __init__(
        self, command: AdmitRun, request: SurfaceRequest, content_type: str, clock: Clock, max_bytes: int
    ) -> None:
        self.command = command
        self.request = request
        self.content_type = content_type
        self.at_us = clock.now_us()
        self._clock = clock
        self._max_bytes = max_bytes
        self.entry: ModelEntry | None = None
        self.api = ""
        self.stream = False
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.chunks: list[tuple[int, bytes]] = []
        self.size_bytes = 0
        self.is_cut = False
        self.usage: dict[str, int] = {}

    def listen(self, provider: Provider, entry: ModelEntry, part: Part) -> Provider:
        """Return a provider that keeps what it answers; what the attempt before was answered is forgotten."""
        self.entry, self.api, self.stream = entry, part.api, part.stream
        self.status, self.headers, self.chunks, self.size_bytes, self.is_cut = 0, {}, [], 0, False
        return _Listening(provider, self, self._clock)

    def take(self, after_us: int, data: bytes) -> None:
        """Keep bytes of the answer, up to the bound."""
        if not data or self.is_cut:
            return
        room = self._max_bytes - self.size_bytes
        self.is_cut = len(data) > room
        self.chunks.append((after_us, data[:room]))
        self.size_bytes += min(len(data), room)

    def note_end(self, ended: Ended) -> None:
        """Remember what the provider says was used."""
        usage = ended.metered.reported
        self.usage = {} if usage is None else {name: n for name, n in msgspec.structs.asdict(usage).items() if n}

    @property
    def model_id(self) -> str:
        """The model that was asked last, else the one that was asked for."""
        return self.entry.model_id if self.entry is not None else self.request.model

    def content(self, outcome: str, reply: Reply, key: str) -> Content:
        """Return what is written; called in a thread."""
        command, request, model_id = self.command, self.request, self.model_id
        if request.surface in _WHOLE_SURFACES and reply.body is not None and reply.status == 200:
            self.headers = {"content-type": reply.headers["content-type"]}
            after_us = self.chunks[-1][0] if self.chunks else 0
            self.chunks, self.size_bytes, self.is_cut = [], 0, False
            self.take(after_us, reply.body)
        return Content(
            run_id=command.run_id,
            at_us=self.at_us,
            principal_id=command.principal_id,
            session_id=command.session_id,
            agent_id=command.agent_id,
            surface=request.surface,
            content_type=self.content_type,
            key=key,
            request=request.body if len(request.body) <= self._max_bytes else b"",
            request_bytes=len(request.body),
            model_id=model_id,
            upstream_model=self.entry.upstream_model if self.entry is not None else "",
            api=self.api,
            stream=self.stream,
            status=self.status,
            headers={name: value for name, value in self.headers.items() if name in KEPT_HEADERS},
            chunks=self.chunks,
            answer_cut=self.is_cut,
            outcome=outcome,
            usage=self.usage,
        )


class _Listening:
    """A provider whose answers are kept; satisfies `palyra.providers.port.Provider`."""

    def __init__(self, provider: Provider, taken: Taken, clock: Clock) -> None:
        self._provider = provider
        self._taken = taken
        self._clock = clock

    async def send(self, call: Call, secret: Secret | None) -> Answer:
        """See `palyra.providers.port.Provider.send`."""
        started_us = self._clock.monotonic_us()
        answer = await self._provider.send(call, secret)
        self._taken.status, self._taken.headers = answer.status, answer.headers
        return _Heard(answer, self._taken, self._clock, started_us)

    async def close(self) -> None:
        """See `palyra.providers.port.Provider.close`."""
        await self._provider.close()


class _Heard:
    """An answer whose bytes are kept; satisfies `palyra.providers.port.Answer`."""

    def __init__(self, answer: Answer, taken: Taken, clock: Clock, started_us: int) -> None:
        self._answer = answer
        self._taken = taken
        self._clock = clock
        self._started_us = started_us
        self.status = answer.status
        self.headers = answer.headers
        self.close = answer.close

    async def chunk(self) -> bytes:
        """See `palyra.providers.port.Answer.chunk`."""
        data = await self._answer.chunk()
        self._taken.take(self._clock.monotonic_us() - self._started_us, data)
        return data

    async def flow(self, take: Callable[[bytes], bool]) -> None:
        """See `palyra.providers.port.Answer.flow`."""

        def keep(data: bytes) -> bool:
            self._taken.take(self._clock.monotonic_us() - self._started_us, data)
            return take(data)

        await self._answer.flow(keep)

    async def body(self, max_bytes: int) -> bytes:
        """See `palyra.providers.port.Answer.body`."""
        data = await self._answer.body(max_bytes)
        self._taken.take(self._clock.monotonic_us() - self._started_us, data)
        return data


class Contents:
    """Keeps the content of runs, and lets go of it."""

    def __init__(
        self,
        path: Path | None,
        clock: Clock,
        rules: ContentRules,
        *,
        on_trouble: Callable[[Exception], None],
        apart: Apart | None = None,
    ) -> None:
        """`path` is None for a store in memory; `on_trouble` is told why something could not be kept.

        What is large is read by `apart`.
        """
        self._apart = apart or Apart()
        self._rules = rules
        #: Runs that were not kept although they should have been.
        self.lost_count = 0
        self._path = path
        self._clock = clock
        self._on_trouble = on_trouble
        self._store: ContentStore | None = None
        self._is_there = path is not None and path.exists()
        self._turn = asyncio.Lock()
        self._waiting_bytes = 0
        self._writing: set[asyncio.Task[None]] = set()
        #: What is past its day is looked for then; at once after a start.
        self._purge_due_us = 0

    @property
    def rules(self) -> ContentRules:
        """What is kept from now on."""
        return self._rules

    def obey(self, rules: ContentRules) -> None:
        """Keep by other rules from now on; a shorter time is one for what is there as well, and soon."""
        if rules.days_count < self._rules.days_count:
            self._purge_due_us = 0
        self._rules = rules

    def begin(self, command: AdmitRun, request: SurfaceRequest, content_type: str) -> Taken | None:
        """Return what keeps a run's content; None where it is not kept."""
        rules = self.rules
        if not rules.is_on or (rules.principals and command.principal_id not in rules.principals):
            return None
        if self._waiting_bytes > _WAITING_MAX_BYTES:
            self.lost_count += 1
            return None
        return Taken(command, request, content_type, self._clock, rules.max_bytes)

    def keep(self, taken: Taken, outcome: str, reply: Reply) -> None:
        """Write what a run held; nobody waits for it."""
        size_bytes = taken.size_bytes + len(taken.request.body)
        self._waiting_bytes += size_bytes
        task = asyncio.create_task(self._write(taken, outcome, reply, size_bytes), name="keep content")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write(self, taken: Taken, outcome: str, reply: Reply, size_bytes: int) -> None:
        try:
            async with self._turn:
                body = taken.request.body
                key = await self._apart.do(max(len(body), OFF_LOOP_BYTES + 1), self._key, taken)
                await asyncio.to_thread(self._put, taken, outcome, reply, key)
        except Exception as error:
            self.lost_count += 1
            self._on_trouble(error)
        finally:
            self._waiting_bytes -= size_bytes

    def _key(self, taken: Taken) -> str:
        """Return by what a request like this one is known; reads all of it."""
        request, model_id = taken.request, taken.model_id
        if len(request.body) <= APART_BYTES or request.recording is not None:
            return request_key(canonical(request, model_id))
        small = msgspec.structs.replace(request, body=b"", neutral=None)
        return self._apart.ask(key_of_large, request.body, small, model_id)

    def _put(self, taken: Taken, outcome: str, reply: Reply, key: str) -> None:
        store = self._opened()
        store.put(taken.content(outcome, reply, key), taken.at_us + self.rules.days_count * _DAY_US)

    def _opened(self) -> ContentStore:
        if self._store is None:
            self._store = ContentStore.open(self._path)
            self._is_there = True
        return self._store

    async def settle(self) -> None:
        """Wait for what is being written."""
        while self._writing:
            await asyncio.wait(self._writing)

    def due_at_us(self) -> int | None:
        """Return when it is to be looked for what is past its day; None where nothing is kept."""
        return self._purge_due_us if self._is_there else None

    async def do(self) -> None:
        """Let go of what is past its day, whether anything is kept by now or not; the rest of much is due at once.

        A store that cannot be read is told of and looked at later: it keeps nobody from being served.
        """
        now_us = self._clock.now_us()
        self._purge_due_us = now_us + _PURGE_EVERY_US
        try:
            async with self._turn:
                older_us = now_us - self.rules.days_count * _DAY_US
                gone_count = await asyncio.to_thread(lambda: self._opened().purge(now_us, older_us))
        except Exception as error:
            self._on_trouble(error)
        else:
            if gone_count >= PURGE_ROWS_COUNT:
                self._purge_due_us = now_us

    async def erase(self, kind: str, subject: str) -> int:
        """Delete all that is kept of a subject; return of how many runs."""
        await self.settle()
        if not self._is_there:
            return 0
        async with self._turn:
            return await asyncio.to_thread(lambda: self._opened().erase(kind, subject))

    async def close(self) -> None:
        """Write what is left and let go of the file."""
        await self.settle()
        if self._store is not None:
            await asyncio.to_thread(self._store.close)
