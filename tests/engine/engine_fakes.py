"""What stands in for time, disk and network where a test must decide each step; all of it follows the ports."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from palyra.errors import TransportFailed
from palyra.journal.memory import MemoryJournal
from palyra.journal.port import Row
from palyra.providers.port import Answer, Call
from palyra.redaction import Secret

T0_US = 1_800_000_000_000_000


class ManualClock:
    """A clock that a test moves."""

    def __init__(self, now_us: int = T0_US) -> None:
        self.us = now_us

    def now_us(self) -> int:
        return self.us

    def monotonic_us(self) -> int:
        return self.us

    def pass_ms(self, duration_ms: int) -> None:
        self.us += duration_ms * 1_000


class GatedJournal(MemoryJournal):
    """A journal whose commits wait for a word once `hold` was called; it remembers what each of them held."""

    def __init__(self) -> None:
        super().__init__(journal_id="01TEST", now_us=1)
        #: Names of the rows of every commit that was begun.
        self.commits: list[list[str]] = []
        self._is_held = False
        self._permits = asyncio.Semaphore(0)
        self._begun = asyncio.Event()
        self._write = self._memory.write
        self._memory.write = self._write_when_allowed  # type: ignore[method-assign]

    def hold(self) -> None:
        """Let no further commit pass before `allow`."""
        self._is_held = True
        self.commits.clear()

    def allow(self, count: int = 1) -> None:
        """Let so many commits pass."""
        for _ in range(count):
            self._permits.release()

    def let_go(self) -> None:
        """Let all commits pass from now on."""
        self._is_held = False
        self.allow()

    async def begun(self, count: int) -> list[str]:
        """Wait until so many commits were begun since `hold`; return what the last of them holds."""
        while len(self.commits) < count:
            self._begun.clear()
            await self._begun.wait()
        return self.commits[count - 1]

    async def _write_when_allowed(self, rows: list[Row], links: list[bytes]) -> None:
        self.commits.append([row.name for row in rows])
        self._begun.set()
        if self._is_held:
            await self._permits.acquire()
        await self._write(rows, links)


class Script:
    """One scripted answer: a head, and pieces of a body. A piece is bytes, a failure, or an event to wait for.

    Before each piece the loop turns once, so that whoever counts its steps can come in between.
    """

    def __init__(
        self,
        *pieces: bytes | TransportFailed | asyncio.Event,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        refuses: TransportFailed | None = None,
        head: asyncio.Event | None = None,
    ) -> None:
        self.pieces = pieces
        self.status = status
        self.headers = {"content-type": "application/json", **(headers or {})}
        self.refuses = refuses
        self.head = head


class ScriptedAnswer:
    """An answer that plays its script."""

    def __init__(self, script: Script) -> None:
        self._pieces = deque(script.pieces)
        self.status = script.status
        self.headers = script.headers
        self.is_closed = False

    async def chunk(self) -> bytes:
        await asyncio.sleep(0)
        while self._pieces:
            piece = self._pieces.popleft()
            if isinstance(piece, asyncio.Event):
                await piece.wait()
            elif isinstance(piece, TransportFailed):
                raise piece
            else:
                return piece
        return b""

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


class ScriptedProvider:
    """A provider without sockets: each call takes the next script, or the default."""

    def __init__(self, *scripts: Script, default: Callable[[Call], Script] | None = None) -> None:
        self.calls: list[Call] = []
        self.answers: list[ScriptedAnswer] = []
        self._scripts = deque(scripts)
        #: Answers when no script is left.
        self.default = default or good_answer

    def script(self, *scripts: Script) -> None:
        """Queue scripts for the next calls."""
        self._scripts.extend(scripts)

    async def send(self, call: Call, secret: Secret | None) -> Answer:
        self.calls.append(call)
        script = self._scripts.popleft() if self._scripts else self.default(call)
        await asyncio.sleep(0)
        if script.head is not None:
            await script.head.wait()
        if script.refuses is not None:
            raise script.refuses
        answer = ScriptedAnswer(script)
        self.answers.append(answer)
        return answer

    async def close(self) -> None:
        assert all(answer.is_closed for answer in self.answers), "an answer was left open"


def good_answer(call: Call) -> Script:
    """Return a complete answer to whatever was asked."""
    asked = json.loads(call.body)
    if call.path == "/embeddings":
        return embeddings(asked)
    return stream("Hel", "lo.") if call.stream else unary("Hello.")


def unary(text: str = "Hello.", **usage: int) -> Script:
    """Return a chat completion in two pieces."""
    counts = {"prompt_tokens": 11, "completion_tokens": 5, **usage}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = json.dumps({"id": "c1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": counts})
    return Script(body[:20].encode(), body[20:].encode())


def event(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    """Return one event of a chat stream."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    chunk = {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": choices, **more}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


ROLE = event({"role": "assistant", "content": ""})
STOP = event({}, "stop")
USAGE = event(usage={"prompt_tokens": 11, "completion_tokens": 5})
DONE = b"data: [DONE]\n\n"
EVENTS = {"content-type": "text/event-stream"}


def stream(*texts: str, ending: tuple[bytes | TransportFailed | asyncio.Event, ...] | None = None) -> Script:
    """Return a chat stream of these texts, one a piece."""
    pieces = [event({"content": text}) for text in texts]
    return Script(ROLE, *pieces, *((STOP, USAGE, DONE) if ending is None else ending), headers=EVENTS)


def embeddings(asked: dict[str, Any]) -> Script:
    """Return a vector for each input: its number among the inputs, and the length of its text."""
    inputs = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
    data = [{"object": "embedding", "index": n, "embedding": [n, len(text)]} for n, text in enumerate(inputs)]
    body = {"object": "list", "data": data, "model": "e", "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    return Script(json.dumps(body).encode())


def error(status: int, code: str = "", message: str = "no", **headers: str) -> Script:
    """Return an error in OpenAI's envelope."""
    body = json.dumps({"error": {"message": message, "type": "api_error", "code": code or None}}).encode()
    return Script(body, status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})


def cut(failure_class: str = "stream_truncated", phase: str = "body") -> TransportFailed:
    """Return a failure of the transport."""
    return TransportFailed(failure_class, phase, f"the script says {failure_class}")


async def turn(count: int = 1) -> None:
    """Let the loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(holds: Callable[[], object]) -> None:
    """Let the loop turn until this holds; what it waits for must come without the passing of time."""
    while not holds():
        await asyncio.sleep(0)


class BrittleJournal(MemoryJournal):
    """A journal whose n-th commit fails, with or without its rows being kept, as a disk may do."""

    def __init__(self, nth: int = 0, *, is_kept: bool = False, failures_count: int = 1) -> None:
        super().__init__(journal_id="01TEST", now_us=1)
        self.commits_count = 0
        self._nth = nth
        self._is_kept = is_kept
        self._failures_count = failures_count
        self._write = self._memory.write
        self._memory.write = self._write_or_fail  # type: ignore[method-assign]

    async def _write_or_fail(self, rows: list[Row], links: list[bytes]) -> None:
        self.commits_count += 1
        await asyncio.sleep(0)
        if self.commits_count == self._nth:
            self.fail_next_commits(self._failures_count, is_kept=self._is_kept)
        await self._write(rows, links)


def brittle_connection(nth: int, *, is_done_before: bool = False) -> type[sqlite3.Connection]:
    """Return the class of connections whose n-th INSERT fails, before or after it did its work."""
    count = 0

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            nonlocal count
            count += sql.startswith("INSERT INTO event")
            is_failing = sql.startswith("INSERT INTO event") and count == nth
            if is_failing and not is_done_before:
                raise sqlite3.OperationalError("disk I/O error")
            cursor = super().execute(sql, *arguments)
            if is_failing:
                cursor.close()
                raise sqlite3.OperationalError("disk I/O error")
            return cursor

    return Connection
