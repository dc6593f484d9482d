"""The straight way of one run: admit, wait for a slot, start, exchange, settle, and on to the next candidate.

Record before act: nothing that can cost money leaves before its reservation is durable, and the last byte of an
answer leaves after its usage is. Every run has a task of its own, because a client that hangs up does not end it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from palyra.decisions.approvals import hold, resume
from palyra.decisions.attempts import StartAttempt, reach_content, start_attempt
from palyra.decisions.base import Decision
from palyra.decisions.budget_refusals import warnings_of
from palyra.decisions.budgets import Start, plan_start
from palyra.decisions.failures import Failure
from palyra.decisions.routing import ready_at
from palyra.decisions.runs import AdmitRun, admit, refusal_draft
from palyra.engine.answered import Answered
from palyra.engine.candidate import Candidate, candidate_of
from palyra.engine.client import ClientSide, Reply, refusal_headers
from palyra.engine.core import Batch
from palyra.engine.exchange import Client, ClientGone, Ended, Exchange
from palyra.engine.holding import Ear
from palyra.engine.settlement import Following, Settlement
from palyra.engine.slots import SlotRefused
from palyra.engine.surfaces import Part, Surface
from palyra.errors import EngineStopped, JournalUnwritable, PalyraError, Refusal, SecretInEvent
from palyra.events.base import Draft
from palyra.events.routing import Exclusion, PlannedCredential, RoutingDecided
from palyra.events.runs import CancelReason
from palyra.limits import FOREIGN_MESSAGE_MAX_CHARS
from palyra.projections.budgets import Where
from palyra.projections.runs import Run
from palyra.units import ms_to_s, ms_to_us, us_to_ms

if TYPE_CHECKING:
    from palyra.engine.content import Taken
    from palyra.engine.runs import Runs

__all__ = ["Reply", "RunSettings", "RunTask", "refusal_headers"]


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Edges of a run that are not decisions."""

    #: Silence after which the client of a stream gets a comment.
    sse_keepalive_ms: int = 15_000
    #: A run that lasts longer says that it advances, at most this often.
    beat_every_ms: int = 10_000
    #: Of what a provider says of an error, so much is stored and shown.
    error_text_bytes: int = FOREIGN_MESSAGE_MAX_CHARS


class RunTask:
    """One run on its way. Made by `Runs.start`."""

    def __init__(self, runs: Runs, command: AdmitRun, surface: Surface, client: Client | None) -> None:
        self.run_id = command.run_id
        self.client = ClientSide(command, surface, client)
        self._runs = runs
        self._core = runs.core
        self._command = command
        self._surface = surface
        self._settlement = Settlement(runs.core, command.run_id, command.principal_id)
        #: The one at hand; there is none before the run is admitted.
        self._candidate: Candidate
        self._retry = 0
        #: That of the attempt, or the one from which on the next attempt looks for one; "" for the plan's first.
        self._credential = PlannedCredential(credential_ref="")
        #: The next attempt has been waited for.
        self._has_waited = False
        self._slot_of = ""
        #: An attempt is reserved and started, and not settled.
        self._is_started = False
        #: The attempt on the wire.
        self._exchange: Exchange | None = None
        self._drain_timer: asyncio.TimerHandle | None = None
        #: Of a run that is cancelled.
        self._settled: asyncio.Future[None] | None = None
        self._cancel_reason: CancelReason | None = None
        self._cancelled_by = ""
        self._is_under_way = False
        #: It waits for somebody to let it pass a limit, and is no run yet.
        self.is_held = False
        self._held_us = 0
        #: The answer was read to its end although its client had gone.
        self._is_drained = False
        self._answered = Answered(runs, command, surface, self.client)
        #: What is kept of its content, where somebody has turned that on.
        self._taken: Taken | None = None
        if runs.contents is not None and runs.contents.rules.is_on:
            self._taken = runs.contents.begin(command, surface.request, surface.request_type)
        #: Told when it has ended, before whoever waits for the reply.
        self.on_end: list[Callable[[], object]] = []
        self._waiter: asyncio.Future[None] | None = None
        self.task: asyncio.Task[Reply] = asyncio.get_running_loop().create_task(self._run())
        self.task.add_done_callback(self._ended)

    # -- what others may ask of it

    async def reply(self) -> Reply:
        """Wait for the end, as its one client does; a client that waits no more ends nothing."""
        if not self.task.done():
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self.task.result()

    def leave(self) -> None:
        """The client has gone: drain or cancel, by the provider's rule; what was used is recorded either way."""
        if self.client.is_gone:
            return
        self.client.is_gone = True
        provider = self._candidate.provider if self._exchange is not None else None
        if provider is not None and provider.on_client_disconnect == "drain":
            loop = asyncio.get_running_loop()
            self._drain_timer = loop.call_later(ms_to_s(provider.drain_max_ms), self.cancel, "client")
        else:
            self.cancel("client")

    def cancel(self, reason: CancelReason, by: str = "") -> asyncio.Future[None] | None:
        """End the run now; return what is done once it is settled, which may be before its client has been told.

        None where there is nothing to end: a run whose end is recorded has only its last bytes to hand over, and is
        left to it.
        """
        if self._is_under_way and self.run_id not in self._core.state.runs.open:
            return None
        if self._settled is None:
            self._settled = asyncio.get_running_loop().create_future()
            self._cancel_reason, self._cancelled_by = reason, by
            if self._is_under_way or self.is_held:
                self.task.cancel()
        return self._settled

    def let_go(self) -> None:
        """Free what an ended run still has, and tell those who cancelled it."""
        self._release_slot()
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    def _ended(self, task: asyncio.Task[Reply]) -> None:
        for tell in self.on_end:
            tell()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- the way

    async def _run(self) -> Reply:
        try:
            refusal = await self._serve_or_settle()
        finally:
            self.let_go()
        has_name, at_hand = bool(self._command.command_name), self._answered.answer
        if at_hand is not None:
            if has_name:
                self._answered.keep_for_repeats(at_hand)
            return await self.client.tell(at_hand)
        answer = await self.client.would_be_told() if self._is_drained and has_name else None
        reply = await (self.client.finish() if refusal is None else self.client.refuse(refusal))
        if has_name and self._core.is_writable:
            self._answered.keep_for_repeats(answer or self.client.told(reply))
        if self._taken is not None and self._runs.contents is not None:
            self._runs.contents.keep(self._taken, refusal.code if refusal else "completed", reply)
        return reply

    async def _serve_or_settle(self) -> Refusal | None:
        """Serve; whatever stops it on the way is settled. Return what the client is told instead of an answer."""
        try:
            try:
                return await self._serve()
            except asyncio.CancelledError:
                return await self._settle_cancelled()
            except (JournalUnwritable, EngineStopped):
                raise
            except Exception as error:
                self._runs.on_bug(self.run_id)
                code = "secret_in_event" if isinstance(error, SecretInEvent) else "internal"
                refusal = Refusal(code=code, message="Something went wrong here.")
                await self._settlement.fail(self._exchange, refusal)
                return refusal
        except (JournalUnwritable, EngineStopped) as error:
            # An answer at hand is not told either: its request has left no fact.
            self._answered.answer = None
            return Refusal(code=error.code, message=str(error), retry_after_ms=1_000)

    async def _serve(self) -> Refusal | None:
        """Be admitted and have every part of the request answered; return why not."""
        ending = [name for name in self._core.state.auth.profiles if self._runs.tokens.is_about_to_end(name)]
        if ending:
            await self._renew_first(ending)
        refusal = await (self._admit_patiently() if self._command.wait_approval_ms else self._admit())
        if refusal is not None or self._answered.answer is not None:
            return refusal
        for part in self._surface.parts(self._candidate.entry):  # which may grow on the way
            refusal = await self._answer(part)
            if refusal is not None:
                break
        return refusal

    async def _renew_first(self, ending: Sequence[str]) -> None:
        """Renew the token that the plan would begin with, if it is one that ends."""
        command = msgspec.structs.replace(self._command, absent=self._runs.outward.absent)
        decided = admit(self._core.state, command, self._core.clock.now_us())
        for draft in decided.drafts:
            if isinstance(draft.body, RoutingDecided) and draft.body.plan:
                first = [one.credential_ref for one in draft.body.plan[0].credentials[:1]]
                await self._runs.tokens.renew_in_time([ref for ref in first if ref in ending])

    async def _admit_patiently(self) -> Refusal | None:
        """Be admitted, after somebody has decided where that is needed; it is decided anew each time."""
        clock = self._core.clock
        self._held_us = clock.now_us()
        deadline_us = clock.monotonic_us() + ms_to_us(self._command.wait_approval_ms)
        ear = Ear()
        with self._core.heard_by(ear):
            refusal = await self._admit(until_us=self._held_us + ms_to_us(self._command.wait_approval_ms))
            while self.is_held:
                left_us = deadline_us - clock.monotonic_us()
                await ear.wait(max(0, us_to_ms(left_us)))
                # Nobody goes on because of what may still be lost.
                await self._core.durable()
                left_us = deadline_us - clock.monotonic_us()
                refusal = await self._admit(until_us=clock.now_us() + left_us)
        return refusal

    async def _admit(self, until_us: int = 0) -> Refusal | None:
        """Record admission and plan, together with the first start when there is nothing to wait for.

        A request that may wait for approvals until then is held instead of refused.
        """
        command = self._command
        with self._core.batch(command.principal_id) as batch:
            decision = self._decide(batch.now_us)
            held = hold(self._core.state, self.run_id, decision, batch.now_us, until_us) if until_us else None
            if held is not None and self._cancel_reason is None:
                self.is_held = True
                batch.add(held)
            else:
                batch.add(self._unheld(decision, batch.now_us))
                self._is_under_way = True
                for draft in decision.drafts[:2]:
                    if isinstance(draft.body, RoutingDecided):
                        self.client.note_routing(draft.body)
            if self._is_under_way and decision.refusal is None and self._answered.answer is None:
                self._come_to(0)
                candidate = self._candidate
                may_start = self._cancel_reason is None and not self._surface.is_heavy(candidate.entry)
                if may_start and self._runs.slots.try_take(candidate.provider):
                    self._slot_of = candidate.provider.provider_id
                    part = self._surface.parts(candidate.entry)[0]
                    if candidate.step.credentials:
                        self._credential = candidate.step.credentials[0]
                    self._start(batch, part, queue_wait_ms=0)
                    if not self._is_started:
                        self._release_slot()
        if self._cancel_reason is not None and (decision.refusal is None or self.is_held):
            raise asyncio.CancelledError
        if self._answered.answer is not None and not decision.drafts:
            served = self._answered.answer.status
            self._runs.served(endpoint=command.endpoint, principal_id=command.principal_id, http_status=served)
        await batch.durable()
        return decision.refusal

    def _unheld(self, decision: Decision, now_us: int) -> list[Draft]:
        if not self.is_held:
            return decision.drafts
        self.is_held = False
        return resume(self.run_id, decision, now_us - self._held_us)

    def _decide(self, now_us: int) -> Decision:
        """Decide whether the request becomes a run; one that was made before, or is like one, has its answer."""
        shortage = self._core.shortage
        if shortage is not None:
            return Decision([refusal_draft(self._command, shortage)], shortage)
        found = self._answered.look(now_us)
        if found is not None:
            return found
        absent = self._runs.outward.absent
        command = msgspec.structs.replace(self._command, absent=absent) if absent else self._command
        return admit(self._core.state, command, now_us)

    async def _answer(self, part: Part) -> Refusal | None:
        """Try candidates until one gives a complete answer to this part of the request."""
        self._retry, self._has_waited = 0, False
        while True:
            while not self._is_started:
                refusal = await self._take_slot_and_start(part)
                if refusal is not None:
                    return refusal
            ended = await self._exchange_part(part)
            ended.is_part = part.items is not None
            is_last = part is self._surface.parts(self._candidate.entry)[-1]
            following = await self._settle(ended, is_last=is_last)
            if ended.failure is None or following.refusal is not None:
                return following.refusal
            self._has_waited = following.wait_ms is not None
            if following.credential_ref:
                if following.credential_ref == self._credential.credential_ref:
                    await self._runs.tokens.renew_after_401(following.credential_ref, self._credential.revision)
                self._credential = PlannedCredential(credential_ref=following.credential_ref)
            if following.wait_ms is not None:
                self._retry += 1
                await asyncio.sleep(ms_to_s(following.wait_ms))

    async def _take_slot_and_start(self, part: Part) -> Refusal | None:
        """Wait for a slot and start, or move on along the plan where the candidate is not ready."""
        provider, step = self._candidate.provider, self._candidate.step
        wanted = self._credential.credential_ref or next((one.credential_ref for one in step.credentials), "")
        if wanted and self._runs.tokens.is_about_to_end(wanted):
            await self._runs.tokens.renew_in_time([wanted])
        waiting_since_us = self._core.clock.monotonic_us()
        try:
            await self._runs.slots.take(provider, time_left_ms=self._time_left_ms())
        except SlotRefused as refused:
            return await self._skip(refused.failure_class)
        self._slot_of = provider.provider_id
        waited_ms = us_to_ms(self._core.clock.monotonic_us() - waiting_since_us)
        is_heavy = self._surface.is_heavy(self._candidate.entry)
        if is_heavy:  # made once, with the maximum that a budget will leave as far as can be foreseen
            self._lower(self._plan_start(self._run_state(), self._core.clock.now_us()))
        is_stale = True
        while is_stale:
            if is_heavy:
                await self._runs.apart.do(len(self._surface.request.body), self._prepare, part)
            with self._core.batch(self._command.principal_id) as batch:
                ready = ready_at(
                    self._core.state,
                    step,
                    wanted=self._credential.credential_ref,
                    agent_id=self._command.agent_id,
                    has_waited=self._has_waited,
                    now_us=batch.now_us,
                )
                is_stale = False
                if not isinstance(ready, Exclusion):
                    self._credential = ready
                    is_stale = self._start(batch, part, queue_wait_ms=waited_ms, is_prepared=is_heavy)
        if isinstance(ready, Exclusion):
            self._release_slot()
            return await self._skip(ready.excluded_by, until_us=ready.figures["until_us"])
        if not self._is_started:
            self._release_slot()
            return await self._skip("budget_excluded")
        await batch.durable()
        return None

    def _prepare(self, part: Part) -> None:
        candidate = self._candidate
        self._surface.prepare(part, candidate.provider, candidate.entry, candidate.cap_tokens)

    def _plan_start(self, run: Run, now_us: int) -> Start:
        step = self._candidate.step
        where = Where(step.provider_id, step.model_id)
        return plan_start(self._core.state, run, where, step.upstream_model, now_us)

    def _lower(self, start: Start) -> bool:
        """Take the maximum of output that a budget leaves; return whether that is less than what was at hand."""
        before = self._candidate
        if start.cap_tokens is not None:
            self._candidate = before.capped(start.cap_tokens)
        return self._candidate.cap_tokens != before.cap_tokens

    def _start(self, batch: Batch, part: Part, *, queue_wait_ms: int, is_prepared: bool = False) -> bool:
        """Reserve and start the next attempt, unless a budget stops it, or its part has to be prepared anew first.

        Called in the same breath as the question whether the candidate is ready. Returns whether the part, which
        was prepared elsewhere, asks for more than a budget leaves by now.
        """
        run = self._run_state()
        start = self._plan_start(run, batch.now_us)
        if start.judgement.stops:
            return False
        if self._lower(start) and is_prepared:
            return True
        if not is_prepared:
            self._prepare(part)
        candidate = self._candidate
        self.client.note_limits(candidate, warnings_of(start.judgement))
        command = StartAttempt(
            candidate=candidate.index,
            retry=self._retry,
            credential_ref=self._credential.credential_ref,
            credential_revision=self._credential.revision,
            api=part.api,
            passthrough=part.passthrough,
            edits=part.edits,
            dropped=part.dropped,
            queue_wait_ms=queue_wait_ms,
            deadline_ms=min(candidate.entry.request_timeout_ms, self._time_left_ms()),
        )
        batch.add(start_attempt(self._core.state, run, command, batch.now_us, start))
        self._is_started = True
        self.client.note_start()
        return False

    async def _exchange_part(self, part: Part) -> Ended:
        """Send one attempt and read its answer. Its start is durable."""
        candidate, outward = self._candidate, self._runs.outward
        try:
            credential = self._credential
            secret = outward.secret(candidate.provider.provider_id, credential.credential_ref, credential.revision)
        except PalyraError as error:
            failure_class = "vault_locked" if error.code == "vault_locked" else "missing_credential"
            failure = Failure(failure_class=failure_class, phase="connect", message=str(error))
            return Ended(failure=failure)
        call = candidate.call(self._surface, part, self._time_left_ms())
        provider = outward.provider(candidate.provider.provider_id)
        if self._taken is not None:
            provider = self._taken.listen(provider, candidate.entry, part)
        exchange = Exchange(
            provider,
            call,
            secret,
            self._core.clock,
            on_refusal=self._surface.note_refusal,
            error_text_bytes=self._runs.error_text_bytes,
        )
        self._exchange = exchange
        if call.stream:
            return await self._exchange_stream(exchange, candidate)
        return await exchange.unary(lambda body: self._surface.read(part, candidate.entry, body), self._runs.apart)

    async def _exchange_stream(self, exchange: Exchange, candidate: Candidate) -> Ended:
        meter = self._surface.meter(candidate.entry, candidate.cap_tokens)
        try:
            return await exchange.stream(meter, self.client, self._note_content)
        except ClientGone:
            self.leave()
            await asyncio.sleep(0)  # a provider whose rule is to cancel is left here
            return await exchange.drain(candidate.provider.drain_max_tokens, self.client.note_drained)
        finally:
            await exchange.close()

    def _note_content(self) -> None:
        """Close the circuit whose trial has reached content; others need not wait for its end."""
        with self._core.batch(self._command.principal_id) as batch:
            batch.add(reach_content(self._core.state, self._run_state()))

    # -- settlement

    async def _settle(self, ended: Ended, *, is_last: bool) -> Following:
        """Record how an attempt ended. Its slot is free at once; the way goes on when the facts are durable."""
        stored = await self._answered.storable(ended, self._candidate) if is_last else None
        batch, following = self._settlement.settle(
            ended, is_last=is_last, is_client_gone=self.client.is_gone, stored=stored
        )
        self._is_started, self._exchange = False, None
        self._is_drained = self.client.is_gone and is_last and ended.failure is None
        self._release_slot()
        self.client.note_end(ended)
        if self._taken is not None:
            self._taken.note_end(ended)
        following = await self._follow(batch, following)
        self._answered.store(stored)
        return following

    async def _skip(self, failure_class: str, *, until_us: int = 0) -> Refusal | None:
        """Leave a candidate that no attempt was started at."""
        batch, following = self._settlement.skip(failure_class, candidate=self._candidate.index, until_us=until_us)
        return (await self._follow(batch, following)).refusal

    async def _follow(self, batch: Batch, following: Following) -> Following:
        if following.candidate is not None:
            self._come_to(following.candidate)
        await batch.durable()
        return following

    async def _settle_cancelled(self) -> Refusal:
        """Close what is open of a run that was cancelled, whatever it was doing."""
        reason = self._cancel_reason or "client"
        code = {"client": "client_disconnected", "shutdown": "draining"}.get(reason, "cancelled")
        refusal = Refusal(code=code, message=f"The run was cancelled ({reason}).")
        if self.is_held:
            self.is_held = False
            await self._core.record([refusal_draft(self._command, refusal)], self._command.principal_id)
            return refusal
        drains = self._exchange is not None and self._candidate.provider.on_client_disconnect == "drain"
        await self._settlement.cancel(self._exchange, reason=reason, by=self._cancelled_by, drains=drains)
        return refusal

    # -- where it stands

    def _come_to(self, index: int) -> None:
        """Go to a candidate of the plan."""
        self._candidate = candidate_of(self._core.state, self._run_state(), index)
        self._retry, self._has_waited = 0, False
        self._credential = PlannedCredential(credential_ref="")
        self.client.come_to(self._candidate)

    def _run_state(self) -> Run:
        return self._core.state.runs.open[self.run_id]

    def _time_left_ms(self) -> int:
        return max(1, us_to_ms(self._run_state().deadline_us - self._core.clock.now_us()))

    def _release_slot(self) -> None:
        if self._slot_of:
            self._runs.slots.release(self._slot_of)
            self._slot_of = ""
