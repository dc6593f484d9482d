"""Answers that are handed over as they arrive: the same bytes, the same ends, no turn of the loop in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from provider_calls import call, provider_at
from upstream import CUT, HANG, Behaviour, Fault, Upstream

from palyra.errors import TransportFailed
from palyra.providers.port import Answer

LONG = Behaviour(text=" ".join(["word"] * 40))


async def read_as_it_flows(answer: Answer, wants_more: Callable[[int], bool] = lambda count: True) -> list[bytes]:
    """Take what is handed over as long as more is wanted, then one piece that is asked for, until the end."""
    taken: list[bytes] = []

    def take(data: bytes) -> bool:
        taken.append(data)
        return wants_more(len(taken))

    while True:
        await answer.flow(take)
        piece = await answer.chunk()
        if not piece:
            return taken
        taken.append(piece)


@pytest.mark.parametrize("every", [1, 2, 3, 100])
async def test_nothing_is_lost_between_two_ways_of_taking(every: int) -> None:
    """Handed over or asked for, in whatever turns: each byte once, in order, and the connection rests."""
    async with Upstream() as up, provider_at(up.url) as provider:
        up.reply_with(LONG, LONG)
        whole = await (await provider.send(call(stream=True), None)).body(1 << 20)
        answer = await provider.send(call(stream=True), None)
        assert b"".join(await read_as_it_flows(answer, lambda count: count % every != 0)) == whole
        assert up.connections_made_count == 1


@pytest.mark.parametrize(("step", "ending"), [(HANG, "timeout_idle"), (CUT, "stream_truncated")])
async def test_a_flow_that_breaks_off_tells_why_when_it_is_asked(step: Fault, ending: str) -> None:
    """Silence and a cut end the flow; the next chunk says which it was."""
    async with Upstream() as up, provider_at(up.url) as provider:
        up.reply_with(Behaviour(after={3: step}))
        answer = await provider.send(call(stream=True, idle=300), None)
        with pytest.raises(TransportFailed) as caught:
            await read_as_it_flows(answer)
        assert (caught.value.failure_class, caught.value.phase) == (ending, "body")
        await up.connections_closed()


async def test_whoever_raises_over_a_piece_is_told_so() -> None:
    """What the taker raises reaches whoever let it flow, and the connection can be closed after it."""
    async with Upstream() as up, provider_at(up.url) as provider:
        gate = asyncio.Event()
        up.reply_with(Behaviour(after={1: gate}))
        answer = await provider.send(call(stream=True), None)
        assert await answer.chunk()

        def refuse(data: bytes) -> bool:
            raise ValueError(data[:4])

        flowing = asyncio.ensure_future(answer.flow(refuse))
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(ValueError, match="data"):
            await flowing
        await answer.close()
        await up.connections_closed()


async def test_a_flow_that_is_cancelled_gives_the_answer_up() -> None:
    """Nobody takes the rest, so the connection is closed."""
    async with Upstream() as up, provider_at(up.url) as provider:
        up.reply_with(Behaviour(after={2: HANG}))
        answer = await provider.send(call(stream=True), None)
        seen = asyncio.Event()
        flowing = asyncio.ensure_future(answer.flow(lambda data: seen.set() is None))
        await seen.wait()
        flowing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flowing
        await up.connections_closed()
