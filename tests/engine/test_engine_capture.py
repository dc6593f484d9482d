"""Capsules of real runs: whatever happened to them, they are decided again the same, from the capsule alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from engine_fakes import ManualClock, Script, ScriptedProvider, cut, embeddings, error, stream, turn, unary
from engine_world import RunTask, Taker, World, model, provider, registry
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra.decisions.capsule import Capsule
from palyra.decisions.redecide import Verdict, redecide
from palyra.engine.capture import capture, decode_capsule, encode_capsule, make_capsule, read_capsule
from palyra.engine.codec import to_recorded
from palyra.errors import JournalUnwritable, PalyraError
from palyra.events.auth import AuthProfileConnected
from palyra.events.base import Draft, Recorded
from palyra.events.config import ConfigAdopted
from palyra.events.daemon import DaemonClockStepped
from palyra.events.registry import Registry
from palyra.journal.memory import MemoryJournal
from palyra.journal.sqlite import SqliteJournal
from palyra.projections.run_view import view_of_run
from palyra.projections.state import State, evolve
from palyra.providers.port import Call


def config(cooldown_ms: int = 50) -> Registry:
    return registry(
        provider(
            "a",
            max_retries=2,
            retry_backoff_ms=1,
            circuit_breaker_failure_threshold=2,
            circuit_breaker_cooldown_ms=cooldown_ms,
            max_concurrency=2,
            max_queue=1,
            credential_ref="env:KEY_OF_A",
            auth_scheme="bearer",
            headers={"x-team": "blue"},
        ),
        provider(
            "b",
            "https://b.example/v1",
            auth_scheme="bearer",
            auth_provider_kind="b-inc",
            on_client_disconnect="cancel",
            circuit_breaker_failure_threshold=3,
            max_concurrency=1,
        ),
        model("m", "a"),
        model("m", "b", priority=200),
        model("n", "b", max_context_tokens=600),
        model("e", "a", role="embeddings", max_batch=1, dimensions=8),
        default_embeddings_model_id="e",
        run_timeout_ms=2_000,
    )


ANSWERS = (
    "good",
    "good",
    "gated",
    "500",
    "429",
    "bare 429",
    "401",
    "402",
    "404",
    "stop",
    "go",
    "cut",
    "cut late",
    "refused",
    "junk",
    "window",
)
answers = st.sampled_from(ANSWERS)
actions = st.one_of(
    st.tuples(st.just("chat"), answers, answers, st.sampled_from(["m", "m", "n", "b/m", "nobody", ""])),
    st.tuples(st.just("stream"), answers, answers),
    st.tuples(st.just("embed"), answers, answers, st.sampled_from([None, 4, 9])),
    st.tuples(st.just("leave"), st.integers(0, 20)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("turn"), st.integers(1, 12)),
    st.tuples(st.just("turn"), st.integers(1, 12)),
    st.tuples(st.just("open")),
    st.tuples(st.just("wait"), st.sampled_from([1, 49, 60, 500, 3_000])),
    st.tuples(st.just("fail"), st.booleans()),
    st.tuples(st.just("adopt"), st.sampled_from([10, 5_000])),
    st.tuples(st.just("step"), st.sampled_from([-1_000, 700_000])),
)


_CONNECTED: dict[str, Any] = {"provider": "b-inc", "audience": "https://b.example:443", "vault_revision": 1}


class History:
    """One engine on its way through a list of actions."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.journal = MemoryJournal(journal_id="01TEST", now_us=1)
        self.plan: list[str] = []
        self.gate = asyncio.Event()
        self.runs: list[RunTask] = []
        self.world: World

    def answer(self, call: Call) -> Script:
        kind = self.plan.pop(0) if self.plan else "good"
        good = embeddings({"input": ["x"]}) if call.path == "/embeddings" else None
        good = good or (stream("One ", "two.") if call.stream else unary())
        scripts = {
            "gated": Script(self.gate, *good.pieces, headers=good.headers),
            "500": error(500),
            "429": error(429, retry_after_ms="3"),
            "bare 429": error(429),
            "401": error(401, "invalid_api_key"),
            "402": error(402),
            "404": error(404),
            "stop": error(500, x_should_retry="false"),
            "go": error(400, x_should_retry="true"),
            "cut": Script(good.pieces[0][:9], cut(), headers=good.headers),  # type: ignore[index]
            "cut late": Script(*good.pieces[:2], self.gate, cut(), headers=good.headers),
            "refused": Script(refuses=cut("network_unavailable", "connect")),
            "junk": Script(b"junk", headers=good.headers),
            "window": error(400, "context_length_exceeded"),
        }
        return scripts.get(kind, good)

    async def play(self, todo: list[Any]) -> list[Recorded]:
        fakes = {name: ScriptedProvider(default=self.answer) for name in ("a", "b")}
        self.world = await World.make(config(), journal=self.journal, extra=fakes, clock=self.clock)
        for name in ("config:a", "bobs-first", "bobs-second"):
            self.world.secrets[name] = None  # type: ignore[assignment]
        await self.world.core.record(
            [
                Draft(f"credential-{name}", AuthProfileConnected(**_CONNECTED, profile_name=name))
                for name in ("bobs-first", "bobs-second")
            ]
        )
        for action, *arguments in todo:
            await getattr(self, f"do_{action}")(*arguments)
        self.plan.clear()
        self.gate.set()
        for run in self.runs:
            await asyncio.wait([run.task])
        self.journal.fail_next_commits(0)
        with contextlib.suppress(JournalUnwritable):
            await self.world.core.durable()
        await turn()  # a commit that has failed is only then known to have
        await self.world.core.wait_until_rebuilt()
        await self.world.core.durable()
        await self.world.close()
        return [to_recorded(row) for row in self.world.rows()]

    async def do_chat(self, first: str, second: str, name: str) -> None:
        self.plan += [first, second]
        text = "Say hi. " * (len(self.runs) % 4 * 100 + 1)
        self.runs.append(self.world.start_chat(text, model=name, changes={"session_id": "key:test/secret-name"}))

    async def do_stream(self, *answers: str) -> None:
        self.plan += answers
        self.runs.append(self.world.start_chat(client=Taker(leaves_after=len(self.runs) % 5 + 1), stream=True))

    async def do_embed(self, first: str, second: str, dimensions: int | None) -> None:
        self.plan += [first, second]
        size = {} if dimensions is None else {"dimensions": dimensions}
        self.runs.append(self.world.start({"model": "e", "input": ["a", "b"], **size}))

    async def do_leave(self, number: int) -> None:
        for run in self.runs[number : number + 1]:
            run.leave()

    async def do_cancel(self, number: int) -> None:
        for run in self.runs[number : number + 1]:
            run.cancel("operator", "key:boss")

    async def do_turn(self, count: int) -> None:
        await turn(count)

    async def do_open(self) -> None:
        self.gate.set()
        await turn(3)
        self.gate.clear()

    async def do_wait(self, duration_ms: int) -> None:
        self.clock.pass_ms(duration_ms)

    async def do_fail(self, is_kept: bool) -> None:
        self.journal.fail_next_commits(1, is_kept=is_kept)

    async def do_adopt(self, cooldown_ms: int) -> None:
        if self.world.core.is_writable and self.journal.failure is None:
            generation = self.world.state.config.generation + 1
            body = ConfigAdopted(generation=generation, digest="", effective={}, registry=config(cooldown_ms))
            with self.world.core.batch() as batch:
                batch.add([Draft("config", body)])

    async def do_step(self, step_us: int) -> None:
        """Set the clock, as the guard of the clock records it before anything else is stamped."""
        if self.world.core.is_writable and self.journal.failure is None:
            before_us, self.clock.us = self.clock.us, self.clock.us + step_us
            body = DaemonClockStepped(
                cause="step", wall_before_us=before_us, wall_after_us=self.clock.us, monotonic_elapsed_us=0
            )
            with self.world.core.batch() as batch:
                batch.add([Draft("daemon", body)])


async def play(todo: list[Any]) -> list[Recorded]:
    """Return what such a history leaves in the journal."""
    return await History().play(todo)


def capsules(history: list[Recorded]) -> list[Capsule]:
    """Return the capsule of every run, read back from its text."""
    streams: dict[str, list[Recorded]] = {}
    for one in history:
        if one.stream.startswith("run-"):
            streams.setdefault(one.stream, []).append(one)
    found = []
    for events in streams.values():
        view = view_of_run(events)
        assert view is not None
        state = State()
        for one in history[: view.first_position - 1]:
            evolve(state, one)
        capsule = make_capsule(view, state, history[view.first_position - 1 :], key="01TEST")
        found.append(decode_capsule(encode_capsule(capsule)))
    return found


def check(history: list[Recorded]) -> Counter[str]:
    """Every run is decided again the same; return how often each way of ending was seen."""
    ends: Counter[str] = Counter()
    for capsule in capsules(history):
        verdict = redecide(capsule)
        assert verdict.difference is None, (verdict.difference, capsule)
        assert verdict.decided_count + verdict.given_count == len(capsule.events)
        names = [event.name for event in capsule.events if event.stream == f"run-{capsule.run_id}"]
        ends[names[-1]] += 1
        text = encode_capsule(capsule)
        assert not [
            name for name in (b"key:test", b"secret-name", b"key:boss", b"KEY_OF_A", b"blue") if name in text
        ]
    return ends


@settings(max_examples=120)
@given(st.lists(actions, min_size=1, max_size=25))
def test_every_run_is_decided_again_the_same(todo: list[Any]) -> None:
    """Whatever requests, faults, hang-ups, cancels, failing commits and other configurations come in between."""
    check(asyncio.run(play(todo)))


BUSY = [
    *[
        ("chat", "500", "429", "m"),
        ("turn", 9),
        ("stream", "go", "good"),
        ("embed", "good", "good", 4),
        ("turn", 30),
    ],
    *[("chat", "good", "good", "nobody"), ("embed", "good", "good", 9), ("chat", "404", "good", "m"), ("turn", 30)],
    *[("stream", "cut late", "good"), ("turn", 9), ("leave", 6), ("open",), ("turn", 9)],
    *[("chat", "gated", "good", "m"), ("turn", 9), ("cancel", 7), ("turn", 9)],
    *[("chat", "refused", "junk", "b/m"), ("turn", 9), ("wait", 60), ("adopt", 10), ("chat", "500", "500", "m")],
    *[("turn", 40), ("wait", 60), ("chat", "good", "good", "m"), ("turn", 30), ("step", 700_000)],
    *[("chat", "gated", "good", "m"), ("stream", "gated", "good"), ("turn", 9), ("fail", False), ("open",)],
]


def test_runs_of_every_kind_are_decided_again() -> None:
    """A busy day has completed, failed, refused, cancelled and abandoned runs, trials and exclusions."""
    history = asyncio.run(play(list(BUSY)))
    ends = check(history)
    assert set(ends) == {"run.completed", "run.failed", "run.refused", "run.cancelled"}
    names = {event.name for capsule in capsules(history) for event in capsule.events}
    assert names >= {"attempt.abandoned", "routing.failed_over", "model.excluded", "health.changed"}


CAPSULES: list[Capsule] = []


def some_capsules() -> list[Capsule]:
    """Return the capsules of the busy day, made once."""
    if not CAPSULES:
        CAPSULES.extend(capsules(asyncio.run(play(list(BUSY)))))
    return CAPSULES


@settings(max_examples=200)
@given(st.data())
def test_no_capsule_makes_it_raise(data: st.DataObject) -> None:
    """Events that are missing, doubled, swapped or of another run differ or do not, but are never a bug."""
    capsule = data.draw(st.sampled_from(some_capsules()))
    events = list(capsule.events)
    places = st.integers(0, max(len(events) - 1, 0))
    for _ in range(data.draw(st.integers(1, 3))):
        at, other = data.draw(places) % len(events), data.draw(places) % len(events)
        match data.draw(st.sampled_from(["drop", "double", "swap", "borrow", "ground"])):
            case "drop" if len(events) > 1:
                del events[at]
            case "double":
                events.insert(other, events[at])
            case "swap":
                events[at], events[other] = events[other], events[at]
            case "borrow":
                donor = data.draw(st.sampled_from(some_capsules()))
                events[at] = msgspec.structs.replace(
                    donor.events[other % len(donor.events)], stream=events[at].stream
                )
            case _:
                capsule = msgspec.structs.replace(capsule, ground=capsule.ground[1:])
    verdict = redecide(msgspec.structs.replace(capsule, events=events))
    assert isinstance(verdict, Verdict)
    assert 0 <= verdict.decided_count + verdict.given_count <= len(events)


async def write(path: Path) -> World:
    """Write some runs into a journal file, with snapshots, the last of them open."""
    journal = await SqliteJournal.open(path, new_journal_id="01TEST", now_us=1)
    gate = asyncio.Event()
    fake = ScriptedProvider(error(500), error(500), error(500), unary(), Script(gate))
    # Without a cooldown each run after the opening is the trial, however long the snapshots took.
    world = await World.make(config(cooldown_ms=0), journal=journal, extra={"a": fake, "b": ScriptedProvider()})
    world.secrets["config:a"] = None  # type: ignore[assignment]
    for _ in range(3):
        await world.chat()
        await world.core.snapshot()
    world.start_chat(changes={"run_id": "01OPEN"}, model="a/m")
    while not world.facts(run_id="01OPEN"):
        await turn()
    return world


async def test_capsules_are_taken_from_the_file(tmp_path: Path) -> None:
    """Beside the writer, of ended runs and of one that is open; the file read back is the same capsule."""
    world = await write(tmp_path / "journal.db")
    for stream_name in dict.fromkeys(row.stream for row in world.rows() if row.stream.startswith("run-")):
        capsule = capture(tmp_path / "journal.db", stream_name[4:])
        assert redecide(capsule).difference is None
        (tmp_path / "capsule.json").write_bytes(encode_capsule(capsule))
        assert read_capsule(tmp_path / "capsule.json") == capsule
    assert capsule.run_id == "01OPEN"
    assert "attempt.started" in [event.name for event in capsule.events]
    with pytest.raises(PalyraError) as caught:
        capture(tmp_path / "journal.db", "01NONE")
    assert caught.value.code == "run_not_found"
    await world.close()


def test_a_capsule_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that would be too large is refused, and so is a file that is."""
    capsule = some_capsules()[0]
    text = encode_capsule(capsule)
    monkeypatch.setattr("palyra.engine.capture.CAPSULE_MAX_BYTES", len(text) - 1)
    for act in (lambda: encode_capsule(capsule), lambda: decode_capsule(text)):
        with pytest.raises(PalyraError) as caught:
            act()
        assert caught.value.code in ("capsule_too_large", "import_damaged")


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        (b"{", b"", "import_damaged"),
        (b"palyra.capsule", b"other", "import_damaged"),
        (b'"version": 1', b'"version": 2', "unsupported_version"),
        (b'"name": "run.admitted"', b'"name": "run.dreamt"', "unsupported_version"),
        (b'"output_max_tokens": ', b'"output_max_tokens": "one", "x": ', "import_damaged"),
        (
            b'"provider_id": "b",\n      "display_name"',
            b'"provider_id": "c",\n      "display_name"',
            "import_damaged",
        ),
        (b'"release"', b'"released"', "import_damaged"),
        (b'"tokens": {', b'"deep": ' + b"[" * 5_000 + b"]" * 5_000 + b', "tokens": {', "import_damaged"),
    ],
)
def test_what_is_no_capsule_is_refused(before: bytes, after: bytes, code: str) -> None:
    """Another format, another version, events of another release, bodies of another shape."""
    text = encode_capsule(some_capsules()[0])
    assert before in text
    with pytest.raises(PalyraError) as caught:
        decode_capsule(text.replace(before, after, 1))
    assert caught.value.code == code
