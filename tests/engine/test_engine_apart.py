"""Work beside the loop: in a thread, or in a process that is there only while it is needed."""

from __future__ import annotations

import asyncio
import functools
import os
import pickle
import re
import select
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from palyra.engine.apart import ASKED, Apart, aside, start_child
from palyra.errors import PalyraError
from palyra.limits import APART_BYTES, OFF_LOOP_BYTES
from palyra.wire.apart import read_large_request
from palyra.wire.canonical import body_digest
from palyra.wire.errors import WireError
from palyra.wire.request import decode_chat

BODY = b'{"messages":[{"role":"user","content":"hi"}]}'


@pytest.fixture
def apart() -> Iterator[Apart]:
    made = Apart()
    yield made
    made.close()


def read_in(apart: Apart, body: bytes = BODY) -> Any:
    return apart.ask(read_large_request, body, decode_chat)


async def test_size_decides_where(apart: Apart) -> None:
    """What is small is done at once, what is larger in a thread; what is largest has the child to itself."""
    here = threading.get_ident()
    assert await apart.do(OFF_LOOP_BYTES, threading.get_ident) == here
    assert await apart.do(OFF_LOOP_BYTES + 1, threading.get_ident) != here
    assert await apart.do(APART_BYTES, threading.get_ident) != here
    assert apart.pid is None
    assert apart.pid is None
    request, digest = await apart.do(APART_BYTES + 1, read_in, apart)
    assert (request.raw_tokens, len(digest)) == (8, 64)
    assert apart.pid is not None


async def test_one_child_serves_one_after_the_other(apart: Apart) -> None:
    """It stays for what comes next, and a mistake of a client's does it no harm."""
    asked = [apart.do(APART_BYTES + 1, read_in, apart) for _ in range(3)]
    answers = await asyncio.gather(*asked)
    assert len({digest for _, digest in answers}) == 1
    pid = apart.pid
    with pytest.raises(WireError) as raised:
        await apart.do(APART_BYTES + 1, read_in, apart, b"[]")
    assert raised.value.code == "invalid_request"
    digesting = functools.partial(body_digest, without=("stream",))
    assert await apart.do(APART_BYTES + 1, apart.ask, digesting, BODY) == body_digest(BODY, without=("stream",))
    assert apart.pid == pid


async def test_a_child_that_died_is_started_again(apart: Apart) -> None:
    """Whoever asks next notices nothing."""
    read_in(apart)
    first = apart.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert read_in(apart)[0].raw_tokens == 8
    assert apart.pid not in (None, first)


async def test_a_body_that_kills_two_is_given_up(apart: Apart) -> None:
    """Without an answer there is an error, and the next body finds a new child."""
    with pytest.raises(PalyraError, match="died twice"):
        apart.ask(os.kill, b"", signal.SIGKILL)  # ends over an argument that it cannot take
    assert read_in(apart)[0].raw_tokens == 8


async def test_a_child_that_works_too_long_is_ended() -> None:
    """Its time is up before it could say anything; nobody waits for ever, nor twice."""
    impatient = Apart(work_s=0.0)
    with pytest.raises(PalyraError, match="not read within 0 s"):
        read_in(impatient)
    impatient.close()


async def test_a_rested_child_is_ended_with_its_memory() -> None:
    """What has nothing to do for a while goes."""
    apart = Apart(rest_s=0.0)
    await apart.do(APART_BYTES + 1, read_in, apart)
    while apart.pid is not None:
        await asyncio.sleep(0)


async def test_who_is_cancelled_waits_for_the_thread() -> None:
    """What a thread is at is never left to itself."""
    begun, gate, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait()
        ended.set()

    waiting = asyncio.ensure_future(aside(work))
    await asyncio.to_thread(begun.wait)
    waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()


async def test_what_nobody_waits_for_is_not_finished(apart: Apart) -> None:
    """A client that has gone does not keep the child busy, nor the next one waiting."""
    begun = threading.Event()

    def work() -> None:
        begun.set()
        apart.ask(select.select, b"", [], [])  # does not come back

    await apart.do(APART_BYTES + 1, read_in, apart)
    first = apart.pid
    waiting = asyncio.ensure_future(apart.do(APART_BYTES + 1, work))
    await asyncio.to_thread(begun.wait)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    request, _ = await apart.do(APART_BYTES + 1, read_in, apart)
    assert request.raw_tokens == 8
    assert apart.pid not in (None, first)


def test_a_child_does_not_outlive_its_daemon() -> None:
    """Its input ends with the daemon; what it is at is not finished for nobody."""
    asked = pickle.dumps((functools.partial(re.fullmatch, rb"(a+)+b"), ()))  # takes longer than anybody lives
    body = b"a" * 64
    with start_child() as child:
        assert child.stdin is not None
        child.stdin.write(ASKED.pack(len(asked), len(body)) + asked + body)
        child.stdin.close()
        assert child.wait(timeout=30) in (0, -signal.SIGIO)
