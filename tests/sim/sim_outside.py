"""Providers and clients of a simulation: they follow their ports, and watch what the engine does with them."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sim_loop import VirtualLoop
from sim_plan import MOODS, Arrival
from sim_script import HANGS_MS, Script, failed, script_of

from palyra.engine.exchange import ClientGone
from palyra.errors import PalyraError, TransportFailed
from palyra.providers.port import Answer, Call
from palyra.redaction import Secret

if TYPE_CHECKING:
    from sim_world import Simulation

_NUMBER = re.compile(rb"#(\d+)#")
#: As a provider writes it, and as it is written here of an answer that came whole.
_CONTENT = re.compile(rb'"content": ?"((?:w\d+ )*)"')
DONE = b"data: [DONE]\n\n"


def body_of(arrival: Arrival) -> bytes:
    """Return the body of a request; its number travels in the text."""
    text = f"#{arrival.number}# Say something."
    if arrival.kind == "embed":
        inputs = [text] * arrival.inputs_count
        return json.dumps({"model": arrival.model, "input": inputs if arrival.inputs_count > 1 else text}).encode()
    body = {"model": arrival.model, "messages": [{"role": "user", "content": text}]}
    if arrival.max_tokens is not None:
        body["max_tokens"] = arrival.max_tokens
    if arrival.kind == "stream":
        body["stream"] = True
        if arrival.number % 3 == 0:
            body["stream_options"] = {"include_usage": True}
    return json.dumps(body).encode()


class Outside:
    """All providers, and the secrets. `palyra.engine.run.Outward` of one life."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.answers: list[SimAnswer] = []
        #: Calls by request, over all lives.
        self.calls_count: Counter[int] = Counter()
        #: Until when a provider cannot be reached, by monotonic time, and whether it says nothing at all.
        self.outages: dict[str, tuple[int, bool]] = {}
        #: Words of the newest answer to each request.
        self.texts: dict[int, str] = {}

    def provider(self, provider_id: str) -> SimProvider:
        return SimProvider(self, provider_id)

    @property
    def absent(self) -> tuple[str, ...]:
        return ()

    def secret(self, provider_id: str, credential_ref: str, revision: int) -> Secret | None:
        if credential_ref in self.simulation.plan.gone:
            raise PalyraError(f"{credential_ref} is not set")
        return Secret("sk-simulated") if credential_ref else None

    def check_closed(self) -> None:
        """Nobody may leave an answer open."""
        for answer in self.answers:
            self.simulation.check(answer.is_closed, "an answer of a provider was left open")
        self.answers.clear()


class SimProvider:
    """`palyra.providers.port.Provider` that answers by the seed, the request and the number of the call."""

    def __init__(self, outside: Outside, provider_id: str) -> None:
        self._outside = outside
        self._provider_id = provider_id

    async def send(self, call: Call, secret: Secret | None) -> Answer:
        outside, plan = self._outside, self._outside.simulation.plan
        loop = outside.simulation.loop
        found = _NUMBER.search(call.body)
        assert found is not None
        number = int(found[1])
        outside.calls_count[number] += 1
        outside.simulation.note_sent(number, self._provider_id, call.body)
        arrival = outside.simulation.arrivals[number]
        rng = random.Random(f"{plan.seed}/{number}/{outside.calls_count[number]}")
        script = script_of(rng, call, MOODS[plan.moods[self._provider_id]], arrival.words_count)
        until_us, is_silent = outside.outages.get(self._provider_id, (0, False))
        if until_us > loop.now_us:
            script = Script(head_ms=HANGS_MS if is_silent else 0, refuses=failed("network_unavailable", "connect"))
        deadline_us = loop.now_us + call.total_timeout_ms * 1_000
        first_us = loop.now_us + call.first_byte_timeout_ms * 1_000 if call.stream else deadline_us
        await _pass(loop, script.head_ms, min(first_us, deadline_us), lambda: _late(first_us, deadline_us))
        if script.refuses is not None:
            raise script.refuses
        if script.status == 200:
            outside.texts[number] = script.text
        answer = SimAnswer(outside.simulation, script, call, deadline_us)
        outside.answers.append(answer)
        return answer

    async def close(self) -> None:
        """There is nothing to let go of."""


def _late(first_us: int, deadline_us: int) -> TransportFailed:
    return failed("timeout_first_byte" if first_us < deadline_us else "timeout_total", "headers")


async def _pass(loop: VirtualLoop, wait_ms: int, upto_us: int, late: Callable[[], TransportFailed]) -> None:
    """Let time pass; raises where the wait goes past its deadline."""
    allowed_us = upto_us - loop.now_us
    if wait_ms * 1_000 > allowed_us:
        await asyncio.sleep(max(0, allowed_us) / 1_000_000)
        raise late()
    await asyncio.sleep(wait_ms / 1_000)


class SimAnswer:
    """An answer that plays its script."""

    def __init__(self, simulation: Simulation, script: Script, call: Call, deadline_us: int) -> None:
        self.status = script.status
        self.headers: Mapping[str, str] = script.headers
        self.is_closed = False
        self._simulation = simulation
        self._pieces = deque(script.pieces)
        self._call = call
        self._deadline_us = deadline_us

    async def chunk(self) -> bytes:
        self._simulation.check(not self.is_closed, "a closed answer is read")
        if not self._pieces:
            await asyncio.sleep(0)
            return b""
        wait_ms, piece = self._pieces.popleft()
        loop = self._simulation.loop
        idle_us = loop.now_us + self._call.idle_timeout_ms * 1_000 if self._call.stream else self._deadline_us
        upto_us = min(idle_us, self._deadline_us)
        await _pass(
            loop,
            wait_ms,
            upto_us,
            lambda: failed("timeout_idle" if idle_us < self._deadline_us else "timeout_total", "body"),
        )
        if isinstance(piece, TransportFailed):
            raise piece
        return piece

    async def flow(self, take: Callable[[bytes], bool]) -> None:
        while self._pieces and take(await self.chunk()):
            pass

    async def body(self, max_bytes: int) -> bytes:
        parts = []
        while part := await self.chunk():
            parts.append(part)
        return b"".join(parts)

    async def close(self) -> None:
        self.is_closed = True


class SimClient:
    """`palyra.engine.exchange.Client` that may be slow, break, or leave; it watches the order of what it gets."""

    def __init__(self, simulation: Simulation, arrival: Arrival) -> None:
        self.is_gone = False
        self.data = bytearray()
        self._simulation = simulation
        self._arrival = arrival
        self._has_begun = False
        self._is_repeat = False
        self._sends_count = 0

    @property
    def is_complete(self) -> bool:
        """Return whether the stream came to its end."""
        return self.data.endswith(DONE)

    @property
    def text(self) -> str:
        """Return the words that the stream brought."""
        return b"".join(_CONTENT.findall(bytes(self.data))).decode()

    async def close(self, data: bytes) -> None:
        await self.send(data)

    async def begin(self, headers: Mapping[str, str]) -> None:
        self._simulation.check(not self._has_begun, "a stream begins twice")
        await self._take()
        self._has_begun = True
        self._is_repeat = "x-palyra-idempotent-replay" in headers

    async def send(self, data: bytes) -> None:
        self._simulation.check(self._has_begun, "a stream has bytes before its head")
        self._simulation.check(not self.is_complete, f"{data!r} comes after the end of a stream")
        self._sends_count += 1
        await self._take(data)

    def offer(self, data: bytes) -> bool:
        if self.is_gone or self._arrival.send_ms or self._sends_count + 1 == self._arrival.breaks_at_send:
            return False
        self._simulation.check(self._has_begun, "a stream has bytes before its head")
        self._simulation.check(not self.is_complete, f"{data!r} comes after the end of a stream")
        self._sends_count += 1
        self.data += data
        return True

    async def _take(self, data: bytes = b"") -> None:
        if self._sends_count == self._arrival.breaks_at_send:
            self.is_gone = True
        if self.is_gone:
            raise ClientGone
        self.data += data
        if self.is_complete and data and not self._is_repeat:
            self._simulation.note_last_byte(self._arrival.number, has_error=b'"error"' in data)
        await asyncio.sleep(self._arrival.send_ms / 1_000)
        if self.is_gone:
            raise ClientGone
