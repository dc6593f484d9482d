"""The straight way of one run: admit, wait for a slot, start, exchange, settle, and on to the next candidate.

Record before act: nothing that can cost money leaves before its reservation is durable, and the last byte of an
answer leaves after its usage is. Every run has a task of its own, because a client that hangs up does not end it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec

from palyra.decisions.attempts import (
    AnswerEnd,
    FailureEnd,
    StartAttempt,
    fail_attempt,
    reach_content,
    start_attempt,
    succeed_attempt,
)
from palyra.decisions.failures import Failure
from palyra.decisions.health import transition
from palyra.decisions.routing import output_cap, unready
from palyra.decisions.runs import AdmitRun, admit, after_failure, cancel_run, complete_run, fail_run
from palyra.engine.core import Batch
from palyra.engine.exchange import Client, ClientGone, Ended, Exchange
from palyra.engine.slots import SlotRefused
from palyra.engine.surfaces import Part, Surface
from palyra.errors import EngineStopped, JournalUnwritable, PalyraError, Refusal
from palyra.events.base import Draft
from palyra.events.registry import ModelEntry, ProviderEntry
from palyra.events.routing import PlanStep
from palyra.events.runs import CancelReason
from palyra.projections.catalog import model_entry, provider_entry
from palyra.projections.runs import Run
from palyra.providers.port import Call, Provider
from palyra.redaction import Secret
from palyra.units import ceil_div, ms_to_s, us_to_ms

if TYPE_CHECKING:
    from palyra.engine.runs import Runs


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What goes back to the client. `body` is None when the answer was streamed already."""

    run_id: str
    status: int
    headers: dict[str, str]
    body: bytes | None
    refusal: Refusal | None = None


class Outward(Protocol):
    """What a run needs of the outside: providers by id, and secrets by reference."""

    def provider(self, provider_id: str) -> Provider: ...

    def secret(self, credential_ref: str) -> Secret | None: ...


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Edges of a run that are not decisions."""

    sse_keepalive_ms: int = 15_000
    #: A run that lasts longer says that it advances, at most this often.
    beat_every_ms: int = 10_000


class _RunFailed(Exception):
    """The last candidate has failed; the run's end is recorded."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


class RunTask:
    """One run on its way. Made by `Runs.start`."""

    def __init__(self, runs: Runs, command: AdmitRun, surface: Surface, client: Client | None) -> None:
        self.run_id = command.run_id
        self._runs = runs
        self._core = runs.core
        self._command = command
        self._surface = surface
        self._client = client
        self._cancel_reason: CancelReason = "client"
        self._cancelled_by = ""
        self._client_gone = False
        self._slot_of = ""
        self._exchange: Exchange | None = None
        self._step: PlanStep | None = None
        self._candidate = 0
        self._retry = 0
        self._queue_wait_ms = 0
        self._is_started = False
        self._attempt_rows: list[dict[str, object]] = []
        self._failover_trace = ""
        self._begun = False
        self._begin_lock = asyncio.Lock()
        self._last_sent_us = 0
        self._trial_open = False
        self._beats_count = 0
        self._last_beat_us = self._core.clock.monotonic_us()
        self._progress_count = 0
        self._timers: list[asyncio.TimerHandle] = []
        self._pulse_task: asyncio.Task[None] | None = None
        self.task: asyncio.Task[Reply] = asyncio.get_running_loop().create_task(
            self._run(), name=f"run-{self.run_id}"
        )

    # -- what others may ask of it

    def leave(self) -> None:
        """The client has gone: drain or cancel, by the provider's rule; what was used is recorded either way."""
        if self.task.done() or self._client_gone:
            return
        self._client_gone = True
        provider = self._provider_now()
        if self._exchange is None or provider is None or provider.on_client_disconnect == "cancel":
            self.cancel("client")
        else:
            loop = asyncio.get_running_loop()
            self._timers.append(loop.call_later(ms_to_s(provider.drain_max_ms), self.cancel, "client"))

    def cancel(self, reason: CancelReason, by: str = "") -> None:
        """End the run now; it is settled before its task ends."""
        if not self.task.done():
            self._cancel_reason, self._cancelled_by = reason, by
            self.task.cancel()

    # -- the way

    async def _run(self) -> Reply:
        try:
            self._watch()
            return await self._serve()
        except _RunFailed as failed:
            return await self._fail_reply(failed.refusal)
        except asyncio.CancelledError:
            await self._settle_cancelled()
            return self._reply_cancelled()
        except (JournalUnwritable, EngineStopped) as error:
            refusal = Refusal(code=error.code, message=str(error), retry_after_ms=1_000)
            return await self._fail_reply(refusal)
        except Exception:
            self._runs.on_bug(self.run_id)
            await self._settle_bug()
            refusal = Refusal(code="internal", message=f"Something went wrong here; run {self.run_id}.")
            return await self._fail_reply(refusal)
        finally:
            await self._let_go()

    async def _serve(self) -> Reply:
        refusal = await self._admit()
        if refusal is not None:
            return await self._fail_reply(refusal)
        answers: list[Ended] = []
        parts = self._surface.parts(self._entry())
        for index, part in enumerate(parts):
            answers.append(await self._answer(part, is_last=index == len(parts) - 1))
        if self._surface.request.stream:
            if not self._client_gone:
                await self._finish_stream(answers[-1])
            return Reply(run_id=self.run_id, status=200, headers=self._headers(), body=None)
        body = self._surface.public_reply([one.body for one in answers], self._entry())
        headers = {**self._headers(answers[-1]), "content-type": "application/json"}
        return Reply(run_id=self.run_id, status=200, headers=headers, body=body)

    async def _admit(self) -> Refusal | None:
        """Record admission and plan, together with the first start when there is nothing to wait for."""
        with self._core.batch(self._command.principal_id) as batch:
            decision = admit(self._core.state, self._command, batch.now_us)
            batch.add(decision.drafts)
            if decision.refusal is None:
                self._point_at(0)
                if self._runs.slots.try_take(self._provider()):
                    self._slot_of = self._provider().provider_id
                    self._start(batch, self._surface.parts(self._entry())[0])
        await batch.durable()
        return decision.refusal

    async def _answer(self, part: Part, *, is_last: bool) -> Ended:
        """Try candidates until one gives a complete answer to this part of the request."""
        while True:
            if not self._is_started and not await self._take_slot_and_start(part):
                continue
            ended = await self._exchange_part(part)
            self._is_started = False
            self._note(ended)
            if ended.failure is None:
                await self._settle_success(ended, is_last=is_last)
                return ended
            wait_ms = await self._settle_failure(ended)
            if wait_ms is not None:
                self._retry += 1
                await asyncio.sleep(ms_to_s(wait_ms))

    async def _take_slot_and_start(self, part: Part) -> bool:
        """Wait for a slot and start; False when the candidate was not ready and the plan moved on."""
        provider = self._provider()
        waiting_since_us = self._core.clock.monotonic_us()
        try:
            await self._runs.slots.take(provider, time_left_ms=max(1, self._time_left_ms()))
        except SlotRefused as refused:
            await self._skip(refused.failure_class)
            return False
        self._slot_of = provider.provider_id
        self._queue_wait_ms = us_to_ms(self._core.clock.monotonic_us() - waiting_since_us)
        with self._core.batch(self._command.principal_id) as batch:
            step = self._step_now()
            exclusion = unready(self._core.state, step.provider_id, step.model_id, batch.now_us)
            if exclusion is None:
                self._start(batch, part)
        if exclusion is not None:
            self._release_slot()
            await self._skip(exclusion.excluded_by)
            return False
        await batch.durable()
        return True

    def _start(self, batch: Batch, part: Part) -> None:
        """Reserve and start the next attempt; called in the same breath as the question whether it may."""
        provider, entry = self._provider(), self._entry()
        self._surface.prepare(part, entry, self._cap(entry))
        command = StartAttempt(
            candidate=self._candidate,
            retry=self._retry,
            credential_ref=provider.credential_ref,
            edits=part.edits,
            queue_wait_ms=self._queue_wait_ms,
            deadline_ms=min(entry.request_timeout_ms, max(1, self._time_left_ms())),
        )
        batch.add(start_attempt(self._core.state, self._run_state(), command))
        attempt = self._run_state().attempt
        self._trial_open = attempt is not None and attempt.trial
        self._queue_wait_ms = 0
        self._is_started = True

    async def _exchange_part(self, part: Part) -> Ended:
        """Send one attempt and read its answer. Its start is durable."""
        provider, entry = self._provider(), self._entry()
        try:
            secret = self._runs.outward.secret(provider.credential_ref)
        except PalyraError as error:
            failure = Failure(failure_class="missing_credential", phase="connect", message=str(error))
            return Ended(failure=failure)
        call = Call(
            path=self._surface.path,
            headers=self._surface.forwarded_headers(provider.forward_headers),
            body=part.body,
            stream=self._surface.request.stream,
            connect_timeout_ms=provider.connect_timeout_ms,
            first_byte_timeout_ms=entry.first_byte_timeout_ms,
            idle_timeout_ms=provider.idle_timeout_ms,
            total_timeout_ms=min(entry.request_timeout_ms, max(1, self._time_left_ms())),
        )
        exchange = Exchange(self._runs.outward.provider(provider.provider_id), call, secret, self._core.clock)
        self._exchange = exchange
        if not self._surface.request.stream:
            ended = await exchange.unary(self._surface.reader(part, entry))
        else:
            ended = await self._exchange_stream(exchange, provider, entry)
        return self._at_deadline(ended)

    async def _exchange_stream(self, exchange: Exchange, provider: ProviderEntry, entry: ModelEntry) -> Ended:
        try:
            return await exchange.stream(self._surface.meter(entry, self._cap(entry)), self)
        except ClientGone:
            self._client_gone = True
            if provider.on_client_disconnect == "cancel":
                return exchange.cancelled("client_disconnected")
            try:
                async with asyncio.timeout(ms_to_s(provider.drain_max_ms)):
                    return await exchange.drain(provider.drain_max_tokens)
            except TimeoutError:
                return exchange.cancelled("client_disconnected")
        finally:
            await exchange.close()

    def _at_deadline(self, ended: Ended) -> Ended:
        """A time-out that is the run's own deadline is nobody's fault and is not tried again."""
        failure = ended.failure
        if failure is None or not failure.failure_class.startswith("timeout") or self._time_left_ms() > 0:
            return ended
        ended.failure = msgspec.structs.replace(failure, failure_class="run_deadline")
        return ended

    # -- settlement

    async def _settle_success(self, ended: Ended, *, is_last: bool) -> None:
        facts = ended.facts
        assert facts is not None
        end = AnswerEnd(
            stop="max_tokens" if ended.outgrown else facts.stop,
            raw_stop=facts.raw_stop,
            duration_us=ended.duration_us,
            first_byte_us=ended.first_byte_us,
            upstream_request_id=ended.upstream_request_id,
            upstream_response_id=facts.response_id[:128],
            upstream_model=facts.upstream_model[:256],
            output_bytes=ended.output_bytes,
            unparsed_count=ended.unparsed_count,
        )
        with self._core.batch(self._command.principal_id) as batch:
            state, run, step = self._core.state, self._run_state(), self._step_now()
            batch.add(succeed_attempt(state, run, end, ended.metered))
            if self._client_gone:
                batch.add(cancel_run(run, reason="client", policy="drain", drained=True, now_us=batch.now_us))
            elif is_last:
                batch.add(
                    complete_run(
                        run, stop=end.stop, step=step, first_byte_us=end.first_byte_us, now_us=batch.now_us
                    )
                )
            self._clear_beat(batch)
            batch.add(self._health(step.provider_id, "success", batch))
        self._release_slot()
        await batch.durable()

    async def _settle_failure(self, ended: Ended) -> int | None:
        """Record a failed attempt and what follows; return the wait before the same candidate is tried again."""
        failure = ended.failure
        assert failure is not None
        end = FailureEnd(
            failure=failure,
            metered=ended.metered,
            duration_us=ended.duration_us,
            output_bytes=ended.output_bytes,
            jitter_bp=self._core.ids.jitter_bp(),
        )
        may_retry = not self._client_gone and failure.phase != "content"
        refusal = None
        with self._core.batch(self._command.principal_id) as batch:
            state, run, step = self._core.state, self._run_state(), self._step_now()
            attempt = run.attempts_count
            drafts, wait_ms = fail_attempt(state, run, end, batch.now_us, may_retry=may_retry)
            batch.add(drafts)
            if self._client_gone:
                batch.add(cancel_run(run, reason="client", policy="cancel", now_us=batch.now_us))
                self._clear_beat(batch)
            elif wait_ms is None:
                refusal = self._move_on(batch, run, attempt, failure)
            batch.add(self._health(step.provider_id, failure.failure_class, batch))
        self._release_slot()
        await batch.durable()
        if self._client_gone:
            raise _RunFailed(Refusal(code="client_disconnected", message="The client has gone."))
        if refusal is not None:
            raise _RunFailed(refusal)
        return wait_ms

    def _move_on(self, batch: Batch, run: Run, attempt: int, failure: Failure) -> Refusal | None:
        """Record the failover or the run's end."""
        came_from = self._step_now()
        following = after_failure(
            self._core.state,
            run,
            candidate=self._candidate,
            attempt=attempt,
            failure=failure,
            now_us=batch.now_us,
        )
        batch.add(following.drafts)
        if following.candidate is None:
            self._clear_beat(batch)
            return following.refusal
        self._point_at(following.candidate)
        arrow = f"{came_from.provider_id}/{came_from.model_id}>{self._step_now().provider_id}"
        self._failover_trace = f"{arrow}/{self._step_now().model_id}"
        return None

    async def _skip(self, failure_class: str) -> None:
        """Leave a candidate that no attempt was started at."""
        failure = Failure(failure_class=failure_class, phase="connect")
        with self._core.batch(self._command.principal_id) as batch:
            run = self._run_state()
            refusal = self._move_on(batch, run, run.attempts_count, failure)
        await batch.durable()
        if refusal is not None:
            raise _RunFailed(refusal)

    async def _settle_cancelled(self) -> None:
        """Close what is open of a run that was cancelled, whatever it was doing."""
        ended = self._exchange.cancelled("cancelled") if self._exchange is not None and self._is_started else None
        await self._settle_open(
            ended,
            lambda run, now_us: cancel_run(
                run, reason=self._cancel_reason, by=self._cancelled_by, policy="cancel", now_us=now_us
            ),
        )

    async def _settle_bug(self) -> None:
        ended = self._exchange.cancelled("cancelled") if self._exchange is not None and self._is_started else None
        refusal = Refusal(code="internal", message="")
        await self._settle_open(ended, lambda run, now_us: [fail_run(run, refusal, "", now_us)])

    async def _settle_open(self, ended: Ended | None, end: Callable[[Run, int], list[Draft]]) -> None:
        run = self._core.state.runs.open.get(self.run_id)
        if run is None or run.ended or not self._core.is_writable:
            return
        with self._core.batch(self._command.principal_id) as batch:
            if run.attempt is not None:
                failure = Failure(failure_class="cancelled", phase="connect")
                settled = FailureEnd(failure=failure)
                if ended is not None and ended.failure is not None:
                    settled = FailureEnd(
                        failure=ended.failure,
                        metered=ended.metered,
                        duration_us=ended.duration_us,
                        output_bytes=ended.output_bytes,
                    )
                drafts, _ = fail_attempt(self._core.state, run, settled, batch.now_us, may_retry=False)
                batch.add(drafts)
            batch.add(end(run, batch.now_us))
            self._clear_beat(batch)
        await batch.durable()

    async def _let_go(self) -> None:
        for timer in self._timers:
            timer.cancel()
        if self._pulse_task is not None:
            self._pulse_task.cancel()
        self._release_slot()
        self._runs.open.pop(self.run_id, None)
        if self._exchange is not None:
            await self._exchange.close()

    # -- the client's side

    async def begin(self) -> None:
        """Send the head of the stream, once."""
        async with self._begin_lock:
            if not self._begun and self._client is not None:
                self._begun = True
                await self._client.begin(self._headers())

    async def send(self, data: bytes) -> None:
        """Relay bytes of the stream, and take note that the run advances."""
        exchange = self._exchange
        if self._trial_open and exchange is not None and exchange.reached_content:
            self._trial_open = False
            with self._core.batch(self._command.principal_id) as batch:
                batch.add(reach_content(self._core.state, self._run_state()))
        if self._client_gone or self._client is None:
            raise ClientGone
        self._last_sent_us = self._core.clock.monotonic_us()
        self._progress_count += 1
        self._beat_if_due(self._last_sent_us)
        await self._client.send(data)

    async def _finish_stream(self, ended: Ended) -> None:
        try:
            await self.begin()
            assert self._client is not None
            await self._client.send(self._surface.stream_end(ended, self._entry()))
        except ClientGone:
            self._client_gone = True

    async def _fail_reply(self, refusal: Refusal) -> Reply:
        body = self._surface.error_body(refusal, run_id=self.run_id, attempts=self._attempt_rows)
        headers = {**self._headers(), **refusal_headers(refusal), "content-type": "application/json"}
        reply = Reply(run_id=self.run_id, status=refusal.http_status, headers=headers, body=body, refusal=refusal)
        if not self._begun or self._client is None:
            return reply
        try:
            await self._client.send(self._surface.stream_error(body))
        except ClientGone:
            pass
        return msgspec.structs.replace(reply, body=None)

    def _reply_cancelled(self) -> Reply:
        code = "draining" if self._cancel_reason == "shutdown" else "cancelled"
        refusal = Refusal(code=code, message=f"The run was cancelled ({self._cancel_reason}).")
        body = self._surface.error_body(refusal, run_id=self.run_id, attempts=self._attempt_rows)
        return Reply(
            run_id=self.run_id,
            status=refusal.http_status,
            headers={**self._headers(), "content-type": "application/json"},
            body=None if self._begun else body,
            refusal=refusal,
        )

    def _headers(self, ended: Ended | None = None) -> dict[str, str]:
        headers = {"x-palyra-run-id": self.run_id, "request-id": self.run_id, "x-request-id": self.run_id}
        step = self._step
        if step is None:
            return headers
        headers["x-palyra-provider"] = step.provider_id
        headers["x-palyra-model"] = step.model_id
        headers["x-palyra-attempts"] = str(max(1, len(self._attempt_rows) + self._is_started))
        if self._command.model and self._command.model != step.model_id:
            headers["x-palyra-requested-model"] = self._command.model
        if self._failover_trace:
            headers["x-palyra-failover"] = self._failover_trace
        asked = self._command.output_max_tokens
        cap = self._cap(self._entry())
        if asked is not None and cap is not None and cap < asked:
            headers["x-palyra-adjusted"] = f"max_tokens={cap}"
        if ended is not None and ended.upstream_request_id:
            headers["x-palyra-upstream-request-id"] = ended.upstream_request_id
        if ended is not None and ended.facts is not None and ended.facts.usage is None:
            headers["x-palyra-estimated"] = "true"
        return headers

    # -- watching itself

    def _watch(self) -> None:
        """Set the timers of a run that lasts: a beat for the watchdog, a sign of life for the client."""
        loop = asyncio.get_running_loop()
        settings = self._runs.settings
        self._timers = [loop.call_later(ms_to_s(settings.beat_every_ms), self._beat)]
        if self._surface.request.stream:
            self._timers.append(loop.call_later(ms_to_s(settings.sse_keepalive_ms), self._pulse))

    def _pulse(self) -> None:
        loop = asyncio.get_running_loop()
        keepalive_ms = self._runs.settings.sse_keepalive_ms
        silent_ms = us_to_ms(self._core.clock.monotonic_us() - self._last_sent_us)
        if silent_ms >= keepalive_ms and self._is_started and not self._client_gone:
            self._pulse_task = loop.create_task(self._send_comment())
        self._timers[-1] = loop.call_later(ms_to_s(keepalive_ms), self._pulse)

    async def _send_comment(self) -> None:
        try:
            await self.begin()
            if self._client is not None:
                await self._client.send(self._surface.keepalive)
        except ClientGone:
            self.leave()

    def _beat(self) -> None:
        """Record the first beat of a run that has lasted a while; later ones come with its progress."""
        if self._core.is_writable and self.run_id in self._core.state.runs.open:
            self._record_beat()

    def _beat_if_due(self, now_us: int) -> None:
        if self._beats_count and us_to_ms(now_us - self._last_beat_us) >= self._runs.settings.beat_every_ms:
            self._record_beat()

    def _record_beat(self) -> None:
        self._beats_count += 1
        self._last_beat_us = self._core.clock.monotonic_us()
        self._runs.record_beat(self._run_state(), beat_no=self._beats_count, progress_count=self._progress_count)

    def _clear_beat(self, batch: Batch) -> None:
        batch.add(self._runs.clear_beat(self.run_id))

    # -- where it stands

    def _point_at(self, candidate: int) -> None:
        self._candidate, self._retry = candidate, 0
        self._step = self._run_state().plan[candidate]

    def _run_state(self) -> Run:
        return self._core.state.runs.open[self.run_id]

    def _step_now(self) -> PlanStep:
        assert self._step is not None
        return self._step

    def _provider(self) -> ProviderEntry:
        provider = provider_entry(self._core.state, self._step_now().provider_id)
        assert provider is not None
        return provider

    def _provider_now(self) -> ProviderEntry | None:
        return None if self._step is None else provider_entry(self._core.state, self._step.provider_id)

    def _entry(self) -> ModelEntry:
        step = self._step_now()
        entry = model_entry(self._core.state, self._command.endpoint, step.provider_id, step.model_id)
        assert entry is not None
        return entry

    def _cap(self, entry: ModelEntry) -> int | None:
        return output_cap(
            self._core.state, self._step_now(), self._command.endpoint, self._command.output_max_tokens
        )

    def _time_left_ms(self) -> int:
        return us_to_ms(self._run_state().deadline_us - self._core.clock.now_us())

    def _release_slot(self) -> None:
        if self._slot_of:
            self._runs.slots.release(self._slot_of)
            self._slot_of = ""

    def _note(self, ended: Ended) -> None:
        """Remember a failed attempt for the error body."""
        failure, step = ended.failure, self._step_now()
        self._attempt_rows.append(
            {
                "provider_id": step.provider_id,
                "model_id": step.model_id,
                "class": failure.failure_class if failure is not None else "",
                "status": failure.status if failure is not None else 200,
                "phase": failure.phase if failure is not None else "",
                "duration_ms": us_to_ms(ended.duration_us),
            }
        )

    def _health(self, provider_id: str, reason: str, batch: Batch) -> list[Draft]:
        return transition(
            self._core.state,
            provider_id,
            reason=reason,
            now_us=batch.now_us,
            correlation=f"run-{self.run_id}",
        )


def refusal_headers(refusal: Refusal) -> Mapping[str, str]:
    """Return the headers that go with a refusal."""
    if refusal.retry_after_ms is None:
        return {}
    return {"retry-after": str(max(1, ceil_div(refusal.retry_after_ms, 1_000)))}
