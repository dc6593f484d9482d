"""The simulation of one plan: requests arrive, accidents happen, and after each step everything is checked.

::

    simulate(plan_of(4711))         # raises `Violation` where something happened that must never happen
    explain(plan, error)            # what a person needs to understand it: seed, plan, journal
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import re
import traceback
from collections.abc import Sequence
from typing import Any

import msgspec
from sim_books import Books, Violation
from sim_journal import JOURNAL_ID, SimStore
from sim_life import UNWRITABLE, Life
from sim_loop import T0_US, Stuck, VirtualClock, VirtualLoop
from sim_outside import Outside, SimClient, body_of
from sim_plan import Accident, Arrival, Plan

from palyra.decisions.runs import AdmitRun, CacheAsk
from palyra.engine.budgets import Note, put_in_force, take_out_of_force
from palyra.engine.client import Reply
from palyra.engine.core import Batch, Core
from palyra.engine.run import RunTask
from palyra.engine.surfaces import EmbeddingsSurface
from palyra.engine.text_surface import ChatSurface
from palyra.errors import JournalUnwritable, Refusal
from palyra.events.auth import (
    AuthProfileCooldownCleared,
    AuthProfileDisabled,
    AuthProfileEnabled,
    AuthProfileRotated,
)
from palyra.events.base import Draft, Fact
from palyra.projections.auth import AuthProfile
from palyra.wire.request import decode_chat, decode_embeddings

#: More turns of the loop than any plan needs.
TURNS_MAX_COUNT = 200_000
#: From the end of one life to the next boot, where nothing says how long.
DOWN_MS = 100
#: Turns in which a dying program must be dead.
DEATH_TURNS_COUNT = 500

_UNRECORDED = ("journal_unwritable", "engine_stopped")
_END_OF_CODE = {"client_disconnected": "RunCancelled", "cancelled": "RunCancelled", "draining": "RunCancelled"}


class Simulation:
    """One plan on its way."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        order = random.Random(plan.seed) if plan.is_shuffled else None
        self.loop = VirtualLoop(order, turns_max_count=TURNS_MAX_COUNT)
        self.loop.after_turn = self._check_turn
        self.clock = VirtualClock(self.loop)
        self.books = Books(JOURNAL_ID)
        self.outside = Outside(self)
        self.arrivals = {arrival.number: arrival for arrival in plan.arrivals}
        self.store = SimStore()
        self.store.on_kept = self._enter_rows
        self.lives_count = 0
        #: What the checks found; the loop ends with the first of them at the end of its turn.
        self.violations: list[Violation] = []
        self._life: Life | None = None
        self._is_dying = False
        self._run_ids: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        #: What came of a run as its client was told it: status, and text or body.
        self._told: dict[str, tuple[int, str]] = {}
        self._sent: dict[tuple[str, int], None] = {}
        self._visits: list[asyncio.Task[None]] = []

    def run(self) -> None:
        """Play the plan to its end; raises `Violation`."""
        try:
            self.loop.run_until_complete(self._play())
        except Stuck as stuck:
            raise Violation(str(stuck)) from stuck

    async def _play(self) -> None:
        await self._begin_life(registry=0)
        events: list[Arrival | Accident] = [*self.plan.arrivals, *self.plan.accidents]
        for event in sorted(events, key=lambda event: event.at_ms):
            await asyncio.sleep(max(0, event.at_ms * 1_000 - self.loop.now_us) / 1_000_000)
            if isinstance(event, Arrival):
                self._arrive(event)
            else:
                await getattr(self, f"_do_{event.kind}")(event)
        await self._end()

    async def _end(self) -> None:
        """Let everything come to its end on a disk that works; one more life finds nothing to do."""
        store = self.store
        store.failures_count = store.reopen_failures_count = store.commit_ms = 0
        while self._visits:
            await asyncio.wait([self._visits.pop()])
        assert self._life is not None
        await self._life.core.wait_until_rebuilt()
        await self._end_life()
        await self._begin_life(registry=0)
        assert self._life is not None
        self.check(self._life.core.state.daemon.boots[-1].recovered == {}, "something was left for a recovery")
        await self._end_life()
        unended = [stream for stream, run in self.books.runs.items() if not run.end]
        self.check(not unended, f"runs without an end: {unended}")
        self.check(not self.loop.problems, f"asyncio says: {self.loop.problems}")

    # -- lives

    async def _begin_life(self, *, registry: int) -> None:
        """Boot, again and again where the disk fails meanwhile."""
        for _ in range(20):
            self.lives_count += 1
            self._life = Life(self, self.store, self.lives_count, registry)
            try:
                await self._life.boot()
            except JournalUnwritable:
                await self._die(Accident(at_ms=0, kind="crash"))
                await asyncio.sleep(DOWN_MS / 1_000)
            else:
                return
        raise Violation("no boot succeeds")

    async def _end_life(self) -> None:
        assert self._life is not None
        await self._life.stop()
        if self._visits:
            await asyncio.wait(self._visits)
            self._visits.clear()
        self._life.check_clean()
        left = [task.get_name() for task in self._tasks()]
        self.check(not left, f"tasks are left: {', '.join(left)}")
        self._check_tasks()
        self._life = None
        self.store = self.store.survivor(with_in_flight=False, with_snapshots=True)

    async def _die(self, accident: Accident) -> None:
        """Crash: keep what is on the disk, and let go of all else at once."""
        self._is_dying = True
        self.store = self.store.survivor(with_in_flight=accident.is_kept, with_snapshots=accident.with_snapshots)
        quiet_turns_count = 0
        for _ in range(DEATH_TURNS_COUNT):
            tasks = self._tasks()
            for task in tasks:
                task.cancel()
            await asyncio.sleep(0)
            # What ends may still tell others, who begin something.
            quiet_turns_count = 0 if tasks else quiet_turns_count + 1
            if quiet_turns_count == 4:
                break
        else:
            raise Violation(f"cannot be killed: {', '.join(task.get_name() for task in tasks)}")
        self._check_tasks()
        self._visits.clear()
        self.outside.answers.clear()
        self.loop.problems.clear()
        self._life = None
        self._is_dying = False
        self._enter_rows()

    def _tasks(self) -> list[asyncio.Task[Any]]:
        """Return what runs beside the simulation itself."""
        mine = asyncio.current_task()
        return [task for task in self.loop.tasks if task is not mine and not task.done()]

    def _check_tasks(self) -> None:
        """No task may end with an exception that nobody expected; then forget those that are done."""
        for task in self.loop.tasks:
            error = task.exception() if task.done() and not task.cancelled() else None
            if error is not None and not isinstance(error, UNWRITABLE) and not self._is_dying:
                where = "".join(traceback.format_exception(error))
                self.check(False, f"{task.get_name()} ended with {error!r}\n{where}")
        self.loop.tasks = [task for task in self.loop.tasks if not task.done()]

    # -- requests

    def _arrive(self, arrival: Arrival) -> None:
        if self._life is not None and self._life.is_up:
            self._visits.append(self.loop.create_task(self._visit(self._life, arrival)))

    async def _visit(self, life: Life, arrival: Arrival) -> None:
        """Do with a request what the web server does."""
        with contextlib.suppress(*UNWRITABLE):
            if arrival.kind == "served":
                life.runs.served(endpoint="models", principal_id="key:sim", http_status=200)
                return
            is_embedding = arrival.kind == "embed"
            raw = body_of(arrival)
            request = decode_embeddings(raw) if is_embedding else decode_chat(raw)
            command = AdmitRun(
                run_id=life.core.ids.ulid(self.clock.now_us()),
                principal_id=arrival.principal_id,
                session_id=arrival.session_id,
                endpoint="embeddings" if is_embedding else "chat",
                model=request.model,
                stream=request.stream,
                needs=request.needs,
                raw_tokens=request.raw_tokens,
                output_max_tokens=request.output_max_tokens,
                body_digest=arrival.body or hashlib.sha256(raw).hexdigest(),
                body_bytes=len(raw),
                timeout_ms=arrival.timeout_ms,
                failover=arrival.failover,
                command_name=f"{arrival.principal_id} {arrival.key}" if arrival.key else "",
                agent_id=arrival.agent_id,
                max_cost_nanousd=arrival.max_cost_nanousd,
            )
            if arrival.alike and life.core.state.catalog.registry.response_cache_enabled:
                ask = CacheAsk(body_digest=f"{arrival.alike} {arrival.inputs_count}", reads=arrival.reads_cache)
                command = msgspec.structs.replace(command, cache=ask)
            if life.is_draining or arrival.kind == "refused":
                code = "draining" if life.is_draining else "invalid_request"
                await life.runs.refuse(command, Refusal(code=code, message="Not now."))
                return
            surface = (EmbeddingsSurface if is_embedding else ChatSurface)(request, {})
            client = SimClient(self, arrival) if request.stream else None
            self._run_ids[arrival.number], self._numbers[command.run_id] = command.run_id, arrival.number
            run = life.runs.start(command, surface, client)
            if arrival.leaves_after_ms is not None:
                self.loop.call_later(arrival.leaves_after_ms / 1_000, self._leave, run, client)
            reply = await asyncio.shield(run.task)
            self._check_reply(arrival, reply, client)

    def _leave(self, run: RunTask, client: SimClient | None) -> None:
        if self._is_dying or run.task.done():
            return
        if client is not None:
            client.is_gone = True
        run.leave()

    # -- accidents

    async def _do_crash(self, accident: Accident) -> None:
        await self._die(accident)
        await asyncio.sleep(max(accident.duration_ms, 1) / 1_000)
        await self._begin_life(registry=accident.registry)

    async def _do_restart(self, accident: Accident) -> None:
        await self._end_life()
        await asyncio.sleep(max(accident.duration_ms, 1) / 1_000)
        await self._begin_life(registry=accident.registry)

    async def _do_commit_fails(self, accident: Accident) -> None:
        self.store.failures_count, self.store.is_kept_on_failure = accident.count, accident.is_kept

    async def _do_reopen_fails(self, accident: Accident) -> None:
        await self._do_commit_fails(accident)
        self.store.reopen_failures_count = accident.count

    async def _do_slow_disk(self, accident: Accident) -> None:
        self.store.commit_ms = min(accident.duration_ms, 300)
        store = self.store
        self.loop.call_later(1, lambda: setattr(store, "commit_ms", 0))

    async def _do_clock(self, accident: Accident) -> None:
        self.clock.step(accident.duration_ms)
        assert self._life is not None
        with contextlib.suppress(*UNWRITABLE):
            self._life.core.watch_clock()

    async def _do_suspend(self, accident: Accident) -> None:
        self.clock.suspend(accident.duration_ms)

    async def _do_snapshot(self, accident: Accident) -> None:
        assert self._life is not None
        self.loop.create_task(_snapshot(self._life), name="snapshot")

    async def _do_cancel(self, accident: Accident) -> None:
        assert self._life is not None
        runs = list(self._life.runs.open.values())
        if runs:
            runs[accident.count % len(runs)].cancel("operator", "operator:local")

    async def _do_outage(self, accident: Accident) -> None:
        until_us = self.loop.now_us + accident.duration_ms * 1_000
        self.outside.outages[accident.provider_id] = (until_us, accident.is_kept)

    async def _do_rotate(self, accident: Accident) -> None:
        profile = self._profile(accident.profile_id)
        if profile is not None:
            await self._change(accident.profile_id, AuthProfileRotated(vault_revision=profile.vault_revision + 1))

    async def _do_rest(self, accident: Accident) -> None:
        profile = self._profile(accident.profile_id)
        if profile is not None:
            is_active = profile.status == "active"
            await self._change(accident.profile_id, AuthProfileDisabled() if is_active else AuthProfileEnabled())

    async def _do_clear(self, accident: Accident) -> None:
        if self._profile(accident.profile_id) is not None:
            await self._change(accident.profile_id, AuthProfileCooldownCleared())

    async def _do_set_rule(self, accident: Accident) -> None:
        """Somebody changes a rule; meanwhile everything else goes on."""
        assert self._life is not None
        if self._life.is_up:
            self._visits.append(self.loop.create_task(self._change_rule(self._life.core, accident)))

    _do_retire_rule = _do_set_rule

    async def _change_rule(self, core: Core, accident: Accident) -> None:
        assert accident.policy is not None
        note, actor = _noting(core), "operator:local"
        with contextlib.suppress(*UNWRITABLE):
            if accident.kind == "set_rule":
                await put_in_force(core, accident.policy, actor=actor, note=note)
            else:
                await take_out_of_force(core, accident.policy.policy_id, actor=actor, note=note)

    def _profile(self, profile_id: str) -> AuthProfile | None:
        assert self._life is not None
        return self._life.core.state.auth.profiles.get(profile_id)

    async def _change(self, profile_id: str, fact: Fact) -> None:
        assert self._life is not None
        with contextlib.suppress(*UNWRITABLE):
            await self._life.core.record([Draft(f"credential-{profile_id}", fact)])

    # -- checks

    def check(self, holds: bool, otherwise: str) -> None:
        """Note a violation; it ends the simulation with this turn of the loop. The dying are not judged."""
        if not holds and not self._is_dying:
            self.violations.append(Violation(otherwise))

    def note_bug(self, run_id: str) -> None:
        """Note an exception that nobody expected; called inside its handler."""
        self.check(False, f"a bug in run {run_id}:\n{traceback.format_exc()}")

    def note_sent(self, number: int, provider_id: str, body: bytes) -> None:
        """Check a call to a provider against what is durable."""
        run_id = self._run_ids[number]
        run = self.books.run(run_id)
        self.check(run.open > 0, f"request {number} is sent, and no start of an attempt is durable")
        self.check(run.provider_id == provider_id, f"request {number} is sent to another provider")
        self.check((run_id, run.open) not in self._sent, f"attempt {run.open} of request {number} is sent twice")
        self._sent[run_id, run.open] = None
        bound = self.books.money.output_bound_tokens(f"run-{run_id}")
        if bound is not None and self.arrivals[number].kind != "embed":
            asked = json.loads(body)
            sent = asked.get("max_tokens", asked.get("max_completion_tokens"))
            self.check(sent is not None and sent <= bound, f"{sent} tokens are asked for, and {bound} held")

    def note_last_byte(self, number: int, *, has_error: bool) -> None:
        """Check the last byte of a stream against what is durable."""
        run_id = self._run_ids[number]
        run = self.books.run(run_id)
        if not has_error:
            is_paid = run.attempts_count in run.used or f"run-{run_id}" in self.books.money.hits
            self.check(
                run.end == "RunCompleted" and is_paid,
                f"the last byte of request {number} leaves, and its usage is not durable",
            )

    def _check_reply(self, arrival: Arrival, reply: Reply, client: SimClient | None) -> None:
        if "x-palyra-idempotent-replay" in reply.headers:
            self._check_repeat(arrival, reply, client)
            return
        run, source = self.books.run(reply.run_id), self.books.money.hits.get(f"run-{reply.run_id}", "")
        code = "" if reply.refusal is None else reply.refusal.code
        if not code:
            self.check(run.end == "RunCompleted", f"request {arrival.number} is answered, and its end not durable")
            is_paid = run.attempts_count in run.used or bool(source)
            self.check(is_paid, f"request {arrival.number} is answered without usage")
            self.check(reply.status == 200, f"an answer has status {reply.status}")
            self.check((reply.body is None) == (client is not None), "an answer has no body")
            made = self._numbers[source.removeprefix("run-")] if source else arrival.number
            self._check_content(arrival, reply, client, self.arrivals[made])
        elif code not in _UNRECORDED:
            ends = [_END_OF_CODE[code]] if code in _END_OF_CODE else ["RunFailed", "RunRefused"]
            self.check(run.end in ends, f"request {arrival.number} is told {code}, recorded is '{run.end}'")
        self.check(code != "internal", "a client is told of a bug")
        told = _told(reply, client)
        if told is not None and code not in (*_UNRECORDED, "client_disconnected"):
            self._told[reply.run_id] = told

    def _check_content(self, arrival: Arrival, reply: Reply, client: SimClient | None, made: Arrival) -> None:
        """What the client got is what a provider answered, to this request or to the one whose answer was kept."""
        if arrival.kind == "embed":
            assert reply.body is not None
            self.check(len(json.loads(reply.body)["data"]) == arrival.inputs_count, "vectors are missing")
            return
        text = self.outside.texts[made.number]
        if client is None:
            assert reply.body is not None
            got = "".join(one["message"]["content"] for one in json.loads(reply.body)["choices"])
            self.check(got == text, f"request {arrival.number} got {got!r} for {text!r}")
        elif not client.is_gone:
            self.check(client.is_complete, f"the stream of request {arrival.number} has no end")
            is_cut = made.words_count >= 200 and text.startswith(client.text)
            self.check(client.text == text or is_cut, f"request {arrival.number} got {client.text!r} for {text!r}")

    def _check_repeat(self, arrival: Arrival, reply: Reply, client: SimClient | None) -> None:
        """A repeat is no run; what it is told is what came of another one, word for word."""
        run_id = reply.headers["x-palyra-run-id"]
        made = self.books.run(run_id)
        self.check(bool(made.end), f"request {arrival.number} gets an answer that is not recorded")
        self.check(not self.books.run(reply.run_id).attempts_count, "a repeat has attempts of its own")
        first = self.arrivals[self._numbers[run_id]]
        is_same = (first.key, first.principal_id, first.body) == (arrival.key, arrival.principal_id, arrival.body)
        self.check(is_same, f"request {arrival.number} gets the answer to another request")
        told, before = _told(reply, client), self._told.get(run_id)
        if told is not None and before is not None:
            self.check(told == before, f"request {arrival.number} is told {told}, and before that {before}")

    def _enter_rows(self) -> None:
        """Enter what has become durable."""
        rows, links = self.store.rows, self.store.links
        start = self.books.position
        try:
            self.books.enter(rows[start:], links[start:])
        except Violation as violation:
            self.violations.append(violation)

    def _check_turn(self) -> None:
        if self._life is not None and not self._is_dying and not self.violations:
            self._life.check_state()
        if self.violations:
            raise self.violations[0]


def _told(reply: Reply, client: SimClient | None) -> tuple[int, str] | None:
    """Return what a client was told; None where it did not hear the end."""
    if reply.body is not None:
        return reply.status, reply.body.decode()
    assert client is not None
    return None if client.is_gone else (200, client.text)


def _noting(core: Core) -> Note:
    def note(drafts: Sequence[Draft]) -> Batch:
        with core.batch("operator:local") as batch:
            batch.add(drafts)
        return batch

    return note


async def _snapshot(life: Life) -> None:
    with contextlib.suppress(*UNWRITABLE):
        await life.core.snapshot()


def simulate(plan: Plan) -> Simulation:
    """Play a plan; raises `Violation`. Returns the simulation at its end."""
    simulation = Simulation(plan)
    simulation.run()
    return simulation


def smallest(plan: Plan, error: Exception) -> Plan:
    """Return a plan that fails in the same way, without the arrivals and accidents that it does not need."""
    is_smaller, kind = True, _kind_of(error)
    while is_smaller:
        is_smaller = False
        for name in ("accidents", "arrivals"):
            for event in getattr(plan, name):
                rest = [one for one in getattr(plan, name) if one is not event]
                candidate = msgspec.structs.replace(plan, **{name: rest})
                failure = failure_of(candidate)
                if failure is not None and _kind_of(failure[1]) == kind:
                    plan, is_smaller = candidate, True
    return plan


def failure_of(plan: Plan) -> tuple[Simulation, Exception] | None:
    """Return how a plan fails, or None."""
    simulation = Simulation(plan)
    try:
        simulation.run()
    except Exception as error:
        return simulation, error
    return None


def _kind_of(error: Exception) -> str:
    """Return what went wrong without the figures and names of this very case."""
    return re.sub(r"[\d.]+|'.*?'|run-\S+", "", f"{type(error).__name__} {error}")[:50]


def explain(plan: Plan) -> str:
    """Return what a person needs to understand why a plan fails."""
    failure = failure_of(plan)
    assert failure is not None, "the plan does not fail"
    plan = smallest(plan, failure[1])
    failure = failure_of(plan)
    assert failure is not None
    simulation, error = failure
    lines = [f"seed {plan.seed} fails: {error}", "", "plan, without what it does not need:"]
    for name in plan.__struct_fields__:
        value = getattr(plan, name)
        if isinstance(value, list):
            lines += [f"  {name}:", *(f"    {one}" for one in value)]
        else:
            lines.append(f"  {name}: {value}")
    lines += ["", "journal (milliseconds, position, stream version, event, body):"]
    for row in simulation.store.rows:
        at_ms = (row.recorded_at_us - T0_US) // 1_000
        lines.append(f"  {at_ms:>8} {row.position:>4} {row.stream} {row.version} {row.name} {row.body.decode()}")
    lines += ["", f"again: python tests/sim/run.py --from {plan.seed} --seeds 1"]
    return "\n".join(lines)
