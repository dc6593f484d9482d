"""A whole engine for tests: any journal, real or scripted providers, a client that remembers, and an audit.

::

    async with Upstream() as up, house(one(up.url)) as world:
        reply = await world.chat()
        assert world.names(reply.run_id) == HAPPY

When the house is left it is audited: nothing open, nothing held, every start with its one end, and the state equal
to a fold of the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import registries

from palyra.decisions.runs import AdmitRun
from palyra.engine.boot import recover
from palyra.engine.clock import Clock
from palyra.engine.codec import to_recorded
from palyra.engine.core import Core, load_state
from palyra.engine.exchange import ClientGone
from palyra.engine.ids import SeededIds
from palyra.engine.run import Reply, RunSettings, RunTask
from palyra.engine.runs import Runs
from palyra.engine.surfaces import Around, EmbeddingsSurface
from palyra.engine.text_surface import ChatSurface
from palyra.errors import JournalUnwritable, PalyraError
from palyra.events.base import Draft, Fact
from palyra.events.config import ConfigAdopted
from palyra.events.registry import ModelEntry, ProviderEntry, Registry
from palyra.journal.memory import MemoryJournal
from palyra.journal.port import Journal, Row
from palyra.journal.reader import JournalReader
from palyra.journal.sqlite import SqliteJournal
from palyra.projections.state import State, encode_state, evolve
from palyra.providers.http import HttpProvider, HttpSettings
from palyra.providers.port import Provider
from palyra.redaction import Secret
from palyra.wire.netguard import BaseUrl, validate_base_url_network_policy
from palyra.wire.request import decode_chat, decode_embeddings

#: The events of a run that is answered at once.
HAPPY = [
    "run.admitted",
    "routing.decided",
    "attempt.started",
    "attempt.succeeded",
    "usage.recorded",
    "run.completed",
]
ATTEMPT_ENDS = ("attempt.succeeded", "attempt.failed", "attempt.abandoned")
RUN_ENDS = ("run.completed", "run.failed", "run.cancelled")


def provider(provider_id: str, base_url: str = "", **changes: Any) -> ProviderEntry:
    """Return a provider with quick, usual settings."""
    quick: dict[str, Any] = {
        "base_url": base_url,
        "allow_private_base_url": True,
        "request_timeout_ms": 5_000,
        "connect_timeout_ms": 2_000,
        "first_byte_timeout_ms": 5_000,
        "idle_timeout_ms": 5_000,
        "max_retries": 0,
        "retry_backoff_ms": 1,
        "drain_max_ms": 2_000,
    }
    return registries.provider(provider_id, **{**quick, **changes})


def model(model_id: str, provider_id: str, **changes: Any) -> ModelEntry:
    """Return a model that can do everything, called the same upstream."""
    quick: dict[str, Any] = {
        "upstream_model": model_id,
        "request_timeout_ms": 5_000,
        "first_byte_timeout_ms": 5_000,
    }
    return registries.model(model_id, provider_id, **{**quick, **changes})


def registry(*entries: ProviderEntry | ModelEntry, **settings: Any) -> Registry:
    """Return a registry; `m` is the default chat model unless said otherwise."""
    return registries.registry(*entries, **{"default_chat_model_id": "m", **settings})


def one(base_url: str = "", *, of_model: Mapping[str, Any] | None = None, **changes: Any) -> Registry:
    """Return model `m` at provider `a` alone; `changes` are the provider's, `of_model` the model's."""
    return registry(provider("a", base_url, **changes), model("m", "a", **(of_model or {})))


def two(url_a: str = "", url_b: str = "", *, of_model: Mapping[str, Any] | None = None, **changes: Any) -> Registry:
    """Return model `m` at providers `a` and `b`, tried in this order; the changes are those at `a`."""
    return registry(
        provider("a", url_a, **changes),
        provider("b", url_b),
        model("m", "a", **(of_model or {})),
        model("m", "b", priority=200),
    )


class World:
    """Core and runs over one journal. `await World.make(...)`, then `chat(...)`."""

    def __init__(
        self,
        core: Core,
        registry: Registry,
        extra: Mapping[str, Provider] | None = None,
        settings: RunSettings | None = None,
    ) -> None:
        self.core = core
        self.registry = registry
        self.providers: dict[str, Provider] = dict(extra or {})
        self.secrets: dict[str, Secret] = {}
        self.runs = Runs(core, self, settings=settings)
        self.bugs: list[str] = []
        self.runs.on_bug = self.bugs.append
        self.troubles: list[Exception] = []
        core.on_trouble = self.troubles.append
        core.on_rebuilt = functools.partial(recover, core, "boot-test")

    @classmethod
    async def make(
        cls,
        registry: Registry,
        *,
        journal: Journal | None = None,
        extra: Mapping[str, Provider] | None = None,
        settings: RunSettings | None = None,
        clock: Clock | None = None,
        seed: int = 1,
    ) -> World:
        """Fold what the journal holds, adopt the registry, and be ready."""
        journal = journal or MemoryJournal(journal_id="01TEST", now_us=1)
        state = await load_state(journal)
        # Another process makes other ids.
        core = Core(journal, state, ids=SeededIds(seed + state.position), clock=clock, pause=no_pause)
        generation = state.config.generation + 1
        adopted = ConfigAdopted(generation=generation, digest="d", effective={}, registry=registry)
        await core.record([Draft("config", adopted)])
        return cls(core, registry, extra, settings)

    @property
    def state(self) -> State:
        return self.core.state

    def provider(self, provider_id: str) -> Provider:
        if provider_id not in self.providers:
            entry = next(one for one in self.registry.providers if one.provider_id == provider_id)
            base = validate_base_url_network_policy(entry.base_url, allow_private=True)
            assert isinstance(base, BaseUrl)
            self.providers[provider_id] = HttpProvider(
                HttpSettings(base=base, allow_private=True, auth_scheme=entry.auth_scheme)
            )
        return self.providers[provider_id]

    @property
    def absent(self) -> tuple[str, ...]:
        return ()

    def secret(self, provider_id: str, credential_ref: str, revision: int) -> Secret | None:
        if not credential_ref:
            return None
        if credential_ref not in self.secrets:
            raise PalyraError(f"{credential_ref} is not set")
        return self.secrets[credential_ref]

    def start(self, body: Mapping[str, Any], client: Taker | None = None, **changes: Any) -> RunTask:
        """Start a chat run (or embeddings, where the body has `input`)."""
        raw = json.dumps(body).encode()
        endpoint = "embeddings" if "input" in body else "chat"
        request = decode_embeddings(raw) if endpoint == "embeddings" else decode_chat(raw)
        around = Around(apart=self.runs.apart)
        surface = (EmbeddingsSurface if endpoint == "embeddings" else ChatSurface)(request, {}, around)
        values: dict[str, Any] = {
            "run_id": self.core.ids.ulid(self.core.clock.now_us()),
            "principal_id": "key:test",
            "endpoint": endpoint,
            "model": request.model,
            "stream": request.stream,
            "needs": request.needs,
            "raw_tokens": request.raw_tokens,
            "output_max_tokens": request.output_max_tokens,
            "choices_count": request.choices_count,
            "dimensions": request.dimensions,
            "body_digest": hashlib.sha256(raw).hexdigest(),
            "body_bytes": len(raw),
        }
        return self.runs.start(AdmitRun(**{**values, **changes}), surface, client)

    def start_chat(self, text: str = "Say hi.", client: Taker | None = None, **body: Any) -> RunTask:
        """Start a chat run; `changes` among the body's fields are fields of `AdmitRun`."""
        changes = body.pop("changes", {})
        body = {"model": "m", "messages": [{"role": "user", "content": text}], **body}
        if body.get("stream") and client is None:
            client = Taker()
        return self.start(body, client, **changes)

    async def chat(self, text: str = "Say hi.", client: Taker | None = None, **body: Any) -> Reply:
        """Run one chat request to its reply."""
        return await self.start_chat(text, client, **body).task

    async def close(self) -> None:
        await self.runs.cancel_all("shutdown")
        self.runs.apart.close()
        for one in self.providers.values():
            await one.close()
        await self.core.stop()

    # -- what was recorded

    def rows(self) -> list[Row]:
        """Return the durable rows."""
        journal = self.core.journal
        if isinstance(journal, SqliteJournal):
            with JournalReader(journal.path) as reader:
                return [row for rows in reader.rows() for row in rows]
        return journal.rows  # type: ignore[attr-defined,no-any-return]

    def facts(self, kind: type[Fact] | None = None, run_id: str = "") -> list[Any]:
        """Return what was recorded, of one kind or of all, of one run or of all streams."""
        stream = f"run-{run_id}" if run_id else ""
        bodies = [to_recorded(row).body for row in self.rows() if not stream or row.stream == stream]
        return [body for body in bodies if kind is None or isinstance(body, kind)]

    def names(self, run_id: str = "") -> list[str]:
        """Return the names of a run's events, or of all events behind the configuration's."""
        rows = self.rows()
        return [row.name for row in rows if (row.stream == f"run-{run_id}" if run_id else row.position > 1)]

    # -- what must hold whenever nothing is under way

    def slots_used(self) -> dict[str, int]:
        """Return slots in use by provider, without those of which none is."""
        return {provider_id: count for provider_id, count in self.runs.slots._used.items() if count}

    def audit(self) -> None:
        """Nothing is open or held, every start has its one end, and the state is the fold of the journal."""
        assert self.bugs == []
        assert self.runs.open == {}
        assert self.state.runs.open == {}
        assert self.state.budgets.holds == {}
        assert self.state.heartbeats.board == {}
        assert self.slots_used() == {}
        assert not any(self.runs.slots._waiting.values())
        rows = self.rows()
        audit_runs(rows)
        assert encode_state(fold(rows)) == encode_state(self.state)


async def no_pause(seconds: float) -> None:
    """Let the loop turn once instead of waiting."""
    await asyncio.sleep(0)


def fold(rows: Sequence[Row]) -> State:
    """Return the state after these rows."""
    state = State()
    for row in rows:
        evolve(state, to_recorded(row))
    return state


def audit_runs(rows: Sequence[Row]) -> None:
    """Check the story that each run's stream tells."""
    streams: dict[str, list[Row]] = {}
    for row in rows:
        if row.stream.startswith("run-"):
            streams.setdefault(row.stream, []).append(row)
    for stream, story in streams.items():
        names = [row.name for row in story]
        if names[-1] == "run.refused":
            assert "attempt.started" not in names, (stream, names)
            continue
        if names[1] == "cache.hit":
            assert names == ["run.admitted", "cache.hit", "run.completed"], (stream, names)
            continue
        assert names[:2] == ["run.admitted", "routing.decided"], (stream, names)
        assert [name in RUN_ENDS for name in names] == [False] * (len(names) - 1) + [True], (stream, names)
        _audit_attempts(stream, story)


def _audit_attempts(stream: str, story: Sequence[Row]) -> None:
    seen: dict[str, Counter[int]] = {}
    is_open = False
    for row in story:
        kind = "attempt.ended" if row.name in ATTEMPT_ENDS else row.name
        number = json.loads(row.body).get("attempt", 1)
        seen.setdefault(kind, Counter())[number] += 1
        if kind == "attempt.started":
            assert not is_open, (stream, story)
        is_open = {"attempt.started": True, "attempt.ended": False}.get(kind, is_open)
    started = seen.get("attempt.started", Counter())
    assert list(started) == list(range(1, len(started) + 1)), (stream, story)
    assert seen.get("attempt.ended", Counter()) == started, (stream, story)
    held, freed = (seen.get(kind, Counter()) for kind in ("budget.reserved", "budget.released"))
    assert held == freed <= started, (stream, story)
    usage = seen.get("usage.recorded", Counter())
    assert all(count == 1 and number in started for number, count in usage.items()), (stream, story)


@asynccontextmanager
async def house(registry: Registry, **arguments: Any) -> AsyncIterator[World]:
    """A world that is closed and audited."""
    world = await World.make(registry, **arguments)
    try:
        yield world
        await world.runs.wait_until_idle()
        with contextlib.suppress(JournalUnwritable):
            await world.core.durable()  # facts that are not urgent too
        world.audit()
    finally:
        await world.close()


class Taker:
    """A client of a stream: keeps what it gets, and leaves after `leaves_after` sends."""

    def __init__(self, leaves_after: int | None = None) -> None:
        self.headers: dict[str, str] = {}
        self.begun_count = 0
        self.data = b""
        self.sends = 0
        self._leaves_after = leaves_after
        self._changed = asyncio.Event()

    async def begin(self, headers: Mapping[str, str]) -> None:
        self.headers = dict(headers)
        self.begun_count += 1

    async def close(self, data: bytes) -> None:
        await self.send(data)

    async def send(self, data: bytes) -> None:
        if self._leaves_after is not None and self.sends >= self._leaves_after:
            raise ClientGone
        self.sends += 1
        self.data += data
        self._changed.set()

    def offer(self, data: bytes) -> bool:
        return False

    async def got(self, piece: bytes) -> None:
        """Wait until this has arrived."""
        while piece not in self.data:
            self._changed.clear()
            await self._changed.wait()

    @property
    def text(self) -> str:
        """Return the text that the stream's content deltas make up."""
        lines = [line for line in self.data.decode().splitlines() if line.startswith("data: {")]
        choices = [choice for line in lines for choice in json.loads(line[6:]).get("choices", [])]
        return "".join(choice.get("delta", {}).get("content") or "" for choice in choices)

    @property
    def is_complete(self) -> bool:
        """Return whether the stream came to its end."""
        return self.data.endswith(b"data: [DONE]\n\n")

    @property
    def error(self) -> dict[str, Any] | None:
        """Return the error that the stream ended with."""
        for line in self.data.decode().splitlines():
            if line.startswith('data: {"error"'):
                return dict(json.loads(line[6:]))
        return None
