"""A whole engine for tests: any journal, real providers, real upstreams on loopback, a client that remembers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from palyra.decisions.runs import AdmitRun
from palyra.engine.core import Core
from palyra.engine.exchange import ClientGone
from palyra.engine.ids import SeededIds
from palyra.engine.run import Reply, RunSettings, RunTask
from palyra.engine.runs import Runs
from palyra.engine.surfaces import ChatSurface, EmbeddingsSurface
from palyra.events.base import Draft, Fact
from palyra.events.config import ConfigAdopted
from palyra.events.registry import Capabilities, ModelEntry, ProviderEntry, Registry
from palyra.journal.memory import MemoryJournal
from palyra.journal.port import Journal
from palyra.projections.state import State
from palyra.providers.http import HttpProvider, HttpSettings
from palyra.providers.port import Provider
from palyra.redaction import Secret
from palyra.wire.netguard import BaseUrl, validate_base_url_network_policy
from palyra.wire.request import decode_chat, decode_embeddings

ALL = Capabilities(
    tools=True,
    parallel_tools=True,
    tool_choice=True,
    json_mode=True,
    json_schema=True,
    vision=True,
    logprobs=True,
    multi_choice=True,
    streaming=True,
)


def provider(provider_id: str, base_url: str = "", **changes: Any) -> ProviderEntry:
    """Return a provider with quick, usual settings."""
    values: dict[str, Any] = {
        "provider_id": provider_id,
        "display_name": provider_id,
        "kind": "openai_compatible",
        "flavor": "generic",
        "base_url": base_url,
        "allow_private_base_url": True,
        "request_timeout_ms": 5_000,
        "connect_timeout_ms": 2_000,
        "first_byte_timeout_ms": 5_000,
        "idle_timeout_ms": 5_000,
        "max_retries": 0,
        "retry_backoff_ms": 1,
        "retry_after_cap_ms": 10_000,
        "circuit_breaker_failure_threshold": 5,
        "circuit_breaker_cooldown_ms": 30_000,
        "max_concurrency": 32,
        "max_queue": 256,
        "queue_timeout_ms": 30_000,
        "on_client_disconnect": "drain",
        "drain_max_ms": 2_000,
        "drain_max_tokens": 4_096,
    }
    return ProviderEntry(**{**values, **changes})


def model(model_id: str, provider_id: str, **changes: Any) -> ModelEntry:
    """Return a model that can do everything."""
    values: dict[str, Any] = {
        "model_id": model_id,
        "provider_id": provider_id,
        "upstream_model": model_id,
        "capabilities": ALL,
        "max_context_tokens": 128_000,
        "max_tokens_per_event": 128_000,
        "request_timeout_ms": 5_000,
        "first_byte_timeout_ms": 5_000,
    }
    return ModelEntry(**{**values, **changes})


class World:
    """Core and runs over one journal. `await World.make(...)`, then `chat(...)`."""

    def __init__(self, core: Core, registry: Registry, extra: Mapping[str, Provider] | None = None) -> None:
        self.core = core
        self.registry = registry
        self.providers: dict[str, Provider] = dict(extra or {})
        self.secrets: dict[str, Secret] = {}
        self.runs = Runs(core, self, settings=RunSettings())
        self.bugs: list[str] = []
        self.runs.on_bug = self.bugs.append

    @classmethod
    async def make(
        cls,
        registry: Registry,
        *,
        journal: Journal | None = None,
        extra: Mapping[str, Provider] | None = None,
        seed: int = 1,
    ) -> World:
        journal = journal or MemoryJournal(journal_id="01TEST", now_us=1)
        core = Core(journal, State(), ids=SeededIds(seed))
        adopted = ConfigAdopted(generation=1, digest="d", effective={}, registry=registry)
        await core.record([Draft("config", adopted)])
        return cls(core, registry, extra)

    def provider(self, provider_id: str) -> Provider:
        if provider_id not in self.providers:
            entry = next(one for one in self.registry.providers if one.provider_id == provider_id)
            base = validate_base_url_network_policy(entry.base_url, allow_private=True)
            assert isinstance(base, BaseUrl)
            self.providers[provider_id] = HttpProvider(
                HttpSettings(base=base, allow_private=True, auth_scheme=entry.auth_scheme)
            )
        return self.providers[provider_id]

    def secret(self, credential_ref: str) -> Secret | None:
        return self.secrets[credential_ref] if credential_ref else None

    def start(self, body: Mapping[str, Any], client: Taker | None = None, **changes: Any) -> RunTask:
        """Start a chat run (or embeddings, where the body has `input`)."""
        raw = json.dumps(body).encode()
        endpoint = "embeddings" if "input" in body else "chat"
        request = decode_embeddings(raw) if endpoint == "embeddings" else decode_chat(raw)
        surface = (EmbeddingsSurface if endpoint == "embeddings" else ChatSurface)(request, {})
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

    async def chat(self, text: str = "Say hi.", client: Taker | None = None, **body: Any) -> Reply:
        """Run one chat request to its reply."""
        changes = body.pop("changes", {})
        body = {"model": "m", "messages": [{"role": "user", "content": text}], **body}
        if body.get("stream") and client is None:
            client = Taker()
        return await self.start(body, client, **changes).task

    async def close(self) -> None:
        await self.runs.cancel_all("shutdown")
        for one in self.providers.values():
            await one.close()
        await self.core.stop()

    def facts(self, stream: str = "") -> list[Fact]:
        """Return what was recorded, of one stream or of all."""
        from palyra.engine.codec import to_recorded

        rows = self.core.journal.rows  # type: ignore[attr-defined]
        return [to_recorded(row).body for row in rows if not stream or row.stream == stream]  # type: ignore[misc]

    def names(self, run_id: str = "") -> list[str]:
        """Return the names of a run's events, or of all events behind the configuration's."""
        rows = self.core.journal.rows  # type: ignore[attr-defined]
        return [row.name for row in rows if (row.stream == f"run-{run_id}" if run_id else row.position > 1)]


class Taker:
    """A client of a stream: keeps what it gets, and leaves after `leaves_after` sends."""

    def __init__(self, leaves_after: int | None = None) -> None:
        self.headers: dict[str, str] = {}
        self.data = b""
        self.sends = 0
        self._leaves_after = leaves_after

    async def begin(self, headers: Mapping[str, str]) -> None:
        self.headers = dict(headers)

    async def send(self, data: bytes) -> None:
        if self._leaves_after is not None and self.sends >= self._leaves_after:
            raise ClientGone
        self.sends += 1
        self.data += data

    @property
    def text(self) -> str:
        """Return the text that the stream's content deltas make up."""
        pieces = []
        for line in self.data.decode().splitlines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:]).get("choices", []):
                    pieces.append(choice.get("delta", {}).get("content") or "")
        return "".join(pieces)
