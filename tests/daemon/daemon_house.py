"""A whole gateway on a free loopback port, over a journal in memory and a provider that misbehaves on demand."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import aiohttp
from openai import AsyncOpenAI
from registries import model, provider, registry
from upstream import Upstream

from palyra.auth.keyfiles import read_key_file
from palyra.auth.keys import make_key
from palyra.daemon.gateway import Gateway
from palyra.daemon.request_lines import RequestLine
from palyra.daemon.requests import GatewayLimits
from palyra.daemon.server import Server
from palyra.decisions.key_changes import KeyWish, issue
from palyra.decisions.key_text import read_key
from palyra.decisions.keys import ALL_SCOPES
from palyra.engine.access import Access
from palyra.engine.codec import to_recorded
from palyra.engine.core import Core
from palyra.engine.ids import SeededIds
from palyra.engine.run import RunSettings
from palyra.engine.runs import Runs
from palyra.events.base import Draft, Fact
from palyra.events.config import ConfigAdopted
from palyra.events.registry import Registry
from palyra.journal.memory import MemoryJournal
from palyra.journal.writer import JournalOptions
from palyra.projections.state import State
from palyra.providers.http import HttpProvider, HttpSettings
from palyra.providers.port import Provider
from palyra.redaction import Secret
from palyra.wire.netguard import BaseUrl, validate_base_url_network_policy

FactT = TypeVar("FactT", bound=Fact)

CHAT = "/v1/chat/completions"
#: Every route that wants a key.
GUARDED = [CHAT, "/v1/embeddings", "/v1/models", "/v1/models/gpt"]
#: JSON that breaks off.
BROKEN = b'{"model": "gpt", "messages": ['
#: How long an answer over a plain socket is waited for.
ANSWER_TIMEOUT_S = 30.0

#: One chat model with an alias, one for embeddings that takes two inputs a call; both at the provider `up`.
OFFER = registry(
    provider("up", max_retries=0, credential_ref="", auth_scheme="none"),
    model("gpt", "up", upstream_model="gpt-x", aliases=["fast"]),
    model("vec", "up", upstream_model="vec-x", role="embeddings", max_batch=2),
    default_embeddings_model_id="vec",
)


class House:
    """The gateway with everything behind it. `async with open_house(tmp_path) as house:`"""

    def __init__(self, core: Core, upstream: Upstream) -> None:
        self.core = core
        self.upstream = upstream
        self.upstream_url = upstream.url
        self.lines: list[RequestLine] = []
        self.bugs: list[str] = []
        self._changed = asyncio.Event()
        core.on_commit = self._note
        self._providers: dict[str, Provider] = {}
        self.client_key = self.admin_key = ""
        #: For how long answers to failing peers were held back; nobody waits for it here.
        self.pauses_s: list[float] = []
        self.runs: Runs
        self.access: Access
        self.gateway: Gateway
        self.server: Server

    # -- what runs ask of the outside

    def provider(self, provider_id: str) -> Provider:
        if provider_id not in self._providers:
            base = validate_base_url_network_policy(self.upstream_url, allow_private=True)
            assert isinstance(base, BaseUrl)
            settings = HttpSettings(base=base, allow_private=True, auth_scheme="none")
            self._providers[provider_id] = HttpProvider(settings)
        return self._providers[provider_id]

    @property
    def absent(self) -> tuple[str, ...]:
        return ()

    def secret(self, provider_id: str, credential_ref: str, revision: int) -> Secret | None:
        return None

    async def pause(self, duration_s: float) -> None:
        self.pauses_s.append(duration_s)

    # -- what tests ask

    async def issue(self, name: str = "ci", **wish: Any) -> str:
        """Issue a client key, and return it."""
        key = make_key("client")
        text = read_key(key.secret.reveal())
        assert text is not None
        decision = issue(self.core.state, KeyWish(name=name, **wish), text, ALL_SCOPES, self.core.clock.now_us())
        assert decision.refusal is None, decision.refusal
        await self.core.record(decision.drafts, "operator:local")
        return key.secret.reveal()

    @property
    def url(self) -> str:
        return f"{self.server.url}/v1"

    def sdk(self, key: str | None = None, **settings: Any) -> AsyncOpenAI:
        """Return the official client; it does not try again."""
        return AsyncOpenAI(base_url=self.url, api_key=key or self.client_key, max_retries=0, **settings)

    def facts(self, kind: type[FactT]) -> list[FactT]:
        """Return all durable facts of a kind, oldest first."""
        journal = self.core.journal
        assert isinstance(journal, MemoryJournal)
        return [body for row in journal.rows if isinstance(body := to_recorded(row).body, kind)]

    def counted(self, name: str) -> int:
        """Return how many events of a name there are, those on their way to the disk included."""
        return self.core.state.counts.get(name, 0)

    @property
    def denied(self) -> dict[str, int]:
        """Requests that were turned away before anybody was known, by surface and reason, as recorded so far."""
        return {kind.removesuffix("|loopback"): count for kind, count in self.core.state.keys.denied.items()}

    async def wait_until_idle(self) -> None:
        """Wait until no run is open."""
        await self.runs.wait_until_idle()

    async def wait_for(self, holds: Callable[[], object]) -> None:
        """Wait until something holds; looks again after each commit and each line of the log."""
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    def _note(self, line: RequestLine | None = None) -> None:
        if line is not None:
            self.lines.append(line)
        self._changed.set()

    async def wait_until_writable(self) -> None:
        """Wait until a failed journal has been opened again."""
        rebuilding = self.core._rebuilding
        assert rebuilding is not None
        await rebuilding


@contextlib.asynccontextmanager
async def open_house(
    directory: Path,
    *,
    offer: Registry = OFFER,
    anonymous: Any = "refuse",
    run_settings: RunSettings | None = None,
    server: Mapping[str, Any] | None = None,
    **limits: Any,
) -> AsyncIterator[House]:
    """Open a house; leaving it checks that no request left a bug or a task behind."""
    core = Core(
        MemoryJournal(journal_id="01HOUSE", now_us=1, options=JournalOptions(lazy_append_ms=1)),
        State(),
        ids=SeededIds(1),
    )
    before = asyncio.all_tasks()
    async with Upstream() as upstream:
        house = House(core, upstream)
        await core.record([Draft("config", ConfigAdopted(generation=1, digest="d", effective={}, registry=offer))])
        house.access = Access(core, anonymous=anonymous)
        paths = SimpleNamespace(admin_token=directory / "admin.token", client_key=directory / "client.key")
        await house.access.ensure_keys(paths)
        house.client_key, house.admin_key = (_read(path) for path in (paths.client_key, paths.admin_token))
        house.runs = Runs(core, house, settings=run_settings, on_bug=house.bugs.append)
        house.gateway = Gateway(
            core=core,
            runs=house.runs,
            access=house.access,
            limits=GatewayLimits(**{"max_request_bytes": 1 << 20, "max_inflight_bytes": 8 << 20, **limits}),
            log=house._note,
            on_bug=house.bugs.append,
            pause=house.pause,
        )
        bind = {"host": "127.0.0.1", "port": 0, "idle_timeout_ms": 60_000, "max_connections_count": 100}
        house.server = Server(house.gateway, **{**bind, **(server or {})})
        await house.server.start()
        try:
            yield house
        finally:
            await house.runs.cancel_all("shutdown")
            house.runs.apart.close()
            await house.server.stop()
            for one in house._providers.values():
                await one.close()
    await core.stop()
    assert house.bugs == []
    assert house.gateway.bodies.held_bytes == 0
    assert not house.runs.open
    left = {task for task in asyncio.all_tasks() - before if not task.done()}
    await asyncio.gather(*left)


def _read(path: Path) -> str:
    secret = read_key_file(path)
    assert secret is not None
    return secret.reveal()


def chat(text: str = "Say hi.", **changes: Any) -> dict[str, Any]:
    """Return the body of a chat request."""
    return {"model": "gpt", "messages": [{"role": "user", "content": text}], **changes}


class Answer:
    """An answer, read whole."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Code of a refusal, "" where nothing was refused; every one is in the envelope and names a run."""
        if self.status < 400:
            return ""
        assert self.headers["content-type"] == "application/json"
        assert self.json["palyra"]["run_id"] == self.headers["x-palyra-run-id"] == self.headers["request-id"]
        assert set(self.json["error"]) == {"message", "type", "param", "code"}
        return str(self.json["error"]["code"])


class Raw:
    """A client without manners: sends what it is told to."""

    def __init__(self, house: House, session: aiohttp.ClientSession) -> None:
        self._house = house
        self._session = session

    async def __call__(
        self,
        method: str = "POST",
        path: str = "/v1/chat/completions",
        *,
        key: str | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request; `body` is JSON unless it is bytes, `key` "" sends none."""
        sent = {"content-type": "application/json", **(headers or {})}
        key = self._house.client_key if key is None else key
        if key:
            sent.setdefault("authorization", f"Bearer {key}")
        data = body if body is None or not isinstance(body, (dict, list, str)) else json.dumps(body).encode()
        if isinstance(data, bytes) and len(data) > 1 << 20:
            data = io.BytesIO(data)  # as the client wants what is large
        url = self._house.server.url + path
        async with self._session.request(method, url, data=data, headers=sent) as response:
            return Answer(response.status, response.headers, await response.read())


@contextlib.asynccontextmanager
async def raw_client(house: House) -> AsyncIterator[Raw]:
    """Open a client without manners."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield Raw(house, session)


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read one answer with a content-length off a socket."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    lines = head.split("\r\n")[:-2]
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(lines[0].split(" ")[1]), headers, body)


async def over_socket(port: int, data: bytes) -> Answer:
    """Send bytes as they are and read one answer; whoever waits for more than was sent gives none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await read_answer(reader)
    except TimeoutError:
        raise AssertionError("no answer") from None
    finally:
        writer.close()
        await writer.wait_closed()


def head(house: House, *lines: str, path: str = "/v1/chat/completions", key: str | None = None) -> bytes:
    """Return the head of a POST as it goes over a socket."""
    key = house.client_key if key is None else key
    fixed = [
        f"POST {path} HTTP/1.1",
        f"Host: 127.0.0.1:{house.server.port}",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
    ]
    return "\r\n".join([*fixed, *lines, "", ""]).encode()
