"""How an attempt and its run end: the facts of commit (c), each end in one batch that nothing can interrupt.

Nobody is told before the batch is durable. Where one is returned there is something to let go of before that wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from palyra.decisions.attempts import AnswerEnd, FailureEnd, fail_attempt, succeed_attempt
from palyra.decisions.cache import Cached
from palyra.decisions.failures import Failure
from palyra.decisions.health import transition
from palyra.decisions.runs import after_failure, cancel_run, complete_run, fail_run
from palyra.engine.beats import clear_beat
from palyra.engine.cache import CachedAnswer
from palyra.engine.core import Batch, Core
from palyra.engine.exchange import Ended, Exchange
from palyra.errors import Refusal
from palyra.events.attempts import AttemptStarted
from palyra.events.base import Draft
from palyra.events.cache import CacheStored
from palyra.events.registry import ModelEntry
from palyra.events.runs import CancelReason
from palyra.projections.runs import Run
from palyra.units import ms_to_us, us_to_ms

#: Decides the end of a run: (run, now).
RunEnd = Callable[[Run, int], Sequence[Draft]]

_GONE = Refusal(code="client_disconnected", message="The client has gone.")


class Following(NamedTuple):
    """What comes next: the same candidate after a wait or with another credential, the next one, or the end."""

    wait_ms: int | None = None
    credential_ref: str = ""
    candidate: int | None = None
    refusal: Refusal | None = None


class Storing:
    """An answer on its way into the response cache; what it used is known once its attempt is settled."""

    def __init__(self, key_digest: str, entry: ModelEntry, stop: str, body: bytes) -> None:
        #: The answer as it is kept; None until that is recorded.
        self.kept: CachedAnswer | None = None
        self._key_digest = key_digest
        self._entry = entry
        self._stop = stop
        self._body = body

    def record(self, core: Core, batch: Batch, run: Run) -> None:
        """Record that the answer is kept, right before its run ends."""
        stored = CacheStored(
            key_digest=self._key_digest,
            size_bytes=len(self._body),
            until_us=batch.now_us + ms_to_us(core.state.catalog.registry.response_cache_ttl_ms),
        )
        batch.add([Draft(f"run-{run.run_id}", stored)])
        known = Cached(
            key_digest=self._key_digest,
            run_id=run.run_id,
            provider_id=self._entry.provider_id,
            model_id=self._entry.model_id,
            stop=self._stop,
            stored_us=batch.now_us,
            input_tokens=run.input_tokens,
            output_tokens=run.output_tokens,
            known_nanousd=run.known_nanousd,
        )
        self.kept = CachedAnswer(known=known, body=self._body)


class Settlement:
    """Records the ends of one run's attempts, and its own."""

    def __init__(self, core: Core, run_id: str, principal_id: str) -> None:
        self._core = core
        self._run_id = run_id
        self._principal_id = principal_id

    def settle(
        self, ended: Ended, *, is_last: bool, is_client_gone: bool, stored: Storing | None = None
    ) -> tuple[Batch, Following]:
        """Settle the open attempt, and the run where it ends with it; an answer that is kept is recorded."""
        with self._core.batch(self._principal_id) as batch:
            run = self._core.state.runs.open[self._run_id]
            attempt = run.attempt
            assert attempt is not None
            if ended.failure is None:
                following = self._succeed(batch, run, attempt, ended, is_last and not is_client_gone, stored)
            else:
                ended.failure = _at_deadline(ended.failure, run, batch.now_us)
                following = self._fail(batch, run, attempt, ended, may_go_on=not is_client_gone)
            if is_client_gone:
                # An answer that nobody took was drained; what remains of the request is not asked for.
                is_drained = ended.failure is None and is_last
                self._end_run(
                    batch,
                    cancel_run(run, reason="client", policy="drain", drained=is_drained, now_us=batch.now_us),
                )
                following = Following(refusal=_GONE)
            reason = "success" if ended.failure is None else ended.failure.failure_class
            self._note_health(batch, attempt.provider_id, reason)
        return batch, following

    def skip(self, failure_class: str, *, candidate: int, until_us: int) -> tuple[Batch, Following]:
        """Leave a candidate at which no attempt was started, because it is not ready before `until_us`."""
        with self._core.batch(self._principal_id) as batch:
            run = self._core.state.runs.open[self._run_id]
            wait_ms = us_to_ms(until_us - batch.now_us)
            failure = Failure(
                failure_class="run_deadline" if _is_over(run, batch.now_us) else failure_class,
                phase="connect",
                retry_after_ms=wait_ms if wait_ms > 0 else None,
            )
            following = self._move_on(batch, run, candidate, failure)
        return batch, following

    async def cancel(self, exchange: Exchange | None, *, reason: CancelReason, by: str, drains: bool) -> None:
        """End a run that was cancelled, with the attempt that is on the wire or has not left yet."""
        policy = "" if exchange is None else "drain" if reason == "client" and drains else "cancel"
        await self._close(
            exchange,
            "client_disconnected" if reason == "client" else "cancelled",
            lambda run, now_us: cancel_run(run, reason=reason, by=by, policy=policy, now_us=now_us),
        )

    async def fail(self, exchange: Exchange | None, refusal: Refusal) -> None:
        """End a run that cannot go on because of a mistake of ours."""
        await self._close(exchange, "cancelled", lambda run, now_us: [fail_run(run, refusal, "", now_us)])

    async def _close(self, exchange: Exchange | None, failure_class: str, end: RunEnd) -> None:
        """Settle the open attempt, end the run and wait; a run that has ended, or never began, is left alone."""
        run = self._core.state.runs.open.get(self._run_id)
        if run is None:
            return
        ended = Ended(failure=Failure(failure_class=failure_class, phase="connect"))
        if exchange is not None:
            ended = exchange.given_up(failure_class)
        with self._core.batch(self._principal_id) as batch:
            if run.attempt is not None:
                settled = _failure_end(ended)
                failed = fail_attempt(self._core.state, run, settled, batch.now_us, may_retry=False)
                batch.add(failed.drafts)
            self._end_run(batch, end(run, batch.now_us))
        await batch.durable()

    def _succeed(
        self, batch: Batch, run: Run, attempt: AttemptStarted, ended: Ended, completes: bool, stored: Storing | None
    ) -> Following:
        end = _answer_end(ended)
        batch.add(succeed_attempt(self._core.state, run, end, ended.metered, batch.now_us))
        if completes:
            if stored is not None:
                stored.record(self._core, batch, run)
            step = run.plan[attempt.candidate]
            self._end_run(batch, complete_run(run, stop=end.stop, step=step, now_us=batch.now_us))
        return Following()

    def _fail(self, batch: Batch, run: Run, attempt: AttemptStarted, ended: Ended, *, may_go_on: bool) -> Following:
        end = _failure_end(ended, self._core.ids.jitter_bp())
        failed = fail_attempt(self._core.state, run, end, batch.now_us, may_retry=may_go_on)
        batch.add(failed.drafts)
        if failed.wait_ms is not None or failed.credential_ref or not may_go_on:
            return Following(wait_ms=failed.wait_ms, credential_ref=failed.credential_ref)
        return self._move_on(batch, run, attempt.candidate, end.failure)

    def _move_on(self, batch: Batch, run: Run, candidate: int, failure: Failure) -> Following:
        """Record the failover or the run's end."""
        following = after_failure(
            self._core.state,
            run,
            candidate=candidate,
            attempt=run.attempts_count,
            failure=failure,
            now_us=batch.now_us,
        )
        batch.add(following.drafts)
        if following.candidate is None:
            batch.add(clear_beat(self._core.state, self._run_id))
        return Following(candidate=following.candidate, refusal=following.refusal)

    def _end_run(self, batch: Batch, drafts: Sequence[Draft]) -> None:
        batch.add(drafts)
        batch.add(clear_beat(self._core.state, self._run_id))

    def _note_health(self, batch: Batch, provider_id: str, reason: str) -> None:
        stream = f"run-{self._run_id}"
        batch.add(transition(self._core.state, provider_id, reason=reason, now_us=batch.now_us, correlation=stream))


def _is_over(run: Run, now_us: int) -> bool:
    return us_to_ms(run.deadline_us - now_us) <= 0


def _at_deadline(failure: Failure, run: Run, now_us: int) -> Failure:
    """A time-out that is the run's own deadline is nobody's fault and is not tried again."""
    if failure.failure_class.startswith("timeout") and _is_over(run, now_us):
        return msgspec.structs.replace(failure, failure_class="run_deadline")
    return failure


def _answer_end(ended: Ended) -> AnswerEnd:
    facts = ended.facts
    assert facts is not None
    return AnswerEnd(
        stop="max_tokens" if ended.outgrown else facts.stop,
        raw_stop=facts.raw_stop,
        duration_us=ended.duration_us,
        first_byte_us=ended.first_byte_us,
        upstream_request_id=ended.upstream_request_id,
        upstream_response_id=facts.response_id[:128],
        upstream_model=facts.upstream_model[:256],
        output_bytes=ended.output_bytes,
        unparsed_count=ended.unparsed_count,
        dropped=facts.dropped,
    )


def _failure_end(ended: Ended, jitter_bp: int = 0) -> FailureEnd:
    assert ended.failure is not None
    return FailureEnd(
        failure=ended.failure,
        metered=ended.metered,
        duration_us=ended.duration_us,
        output_bytes=ended.output_bytes,
        jitter_bp=jitter_bp,
    )
