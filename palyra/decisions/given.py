"""What recorded facts tell of the world outside, in the form in which decisions take it.

The request, the consumption that was seen and the jitter were given to a decision; here they are read back out of
the facts that came of it. What cannot be read back changed nothing.
"""

from __future__ import annotations

from bisect import bisect_left

import msgspec

from palyra.decisions.credential_failures import jitter_behind
from palyra.decisions.retries import backoff_ms
from palyra.decisions.runs import AdmitRun
from palyra.decisions.usage import Metered
from palyra.events.attempts import AttemptFailed, AttemptStarted
from palyra.events.auth import AuthProfileCooledDown
from palyra.events.registry import ProviderEntry
from palyra.events.routing import RoutingDecided
from palyra.events.runs import RunAdmitted, RunRefused
from palyra.events.usage import UsageRecorded
from palyra.units import US_PER_MS

_JITTER_END_BP = 10_000


def request_of(
    run_id: str, asked: RunAdmitted | RunRefused, decided: RoutingDecided | None, now_us: int
) -> AdmitRun:
    """Return the request as far as a decision reads it."""
    command = AdmitRun(
        run_id=run_id,
        principal_id=asked.principal_id,
        key_id=asked.key_id,
        endpoint=asked.endpoint,
        origin=asked.origin,
        dialect=asked.dialect,
        model=asked.model_requested,
        needs=asked.needs,
        raw_tokens=asked.tokens.raw if isinstance(asked, RunAdmitted) else asked.raw_tokens,
        session_id=asked.session_id,
        agent_id=asked.agent_id,
        choices_count=asked.choices_count,
        max_cost_nanousd=asked.max_cost_nanousd,
        body_digest="",
        body_bytes=asked.body_bytes,
        audio_ms=asked.audio_ms,
        audio_guessed=asked.audio_guessed,
        variant=asked.variant,
    )
    if decided is not None:
        absent = dict.fromkeys(one.credential_ref for one in decided.verdicts if one.verdict == "missing")
        figures = (one.figures.get("asked") for one in decided.excluded if one.excluded_by == "dimensions_differ")
        command = msgspec.structs.replace(
            command,
            output_max_tokens=decided.output_requested_tokens,
            # A size that no candidate was left out for changes nothing.
            dimensions=next(figures, None),
            failover=decided.failover != "off",
            models=decided.models_permitted,
            losses=decided.losses,
            absent=tuple(absent),
            routing_mode=decided.mode_requested,
            task_class=decided.task_class,
            may_pin=decided.may_pin,
            features=decided.features,
        )
    if isinstance(asked, RunAdmitted):
        names = "tags stream body_digest".split()
        timeout_ms = (asked.deadline_us - now_us) // US_PER_MS
        given = {name: getattr(asked, name) for name in names}
        command = msgspec.structs.replace(command, **given, timeout_ms=timeout_ms)
    return command


def metered_of(row: UsageRecorded | None) -> Metered:
    """Return what was seen of an attempt's consumption, from the row that came of it."""
    if row is None:
        return Metered()
    if row.billed == "unknown":
        return Metered(is_part=not row.raw_input_tokens)
    is_estimated = row.source == "estimated"
    return Metered(
        reported=None if is_estimated else row.usage,
        output_estimate_tokens=row.usage.output_tokens,
        anomalies=tuple(row.anomalies),
        provider_cost_nanousd=row.provider_cost_nanousd,
        variant=row.variant,
        is_part=not row.raw_input_tokens,
    )


def jitter_of(
    body: AttemptFailed,
    attempt: AttemptStarted,
    provider: ProviderEntry | None,
    cooled: AuthProfileCooledDown | None,
    now_us: int,
) -> int:
    """Return the jitter that gave the credential its pause, else the least one that gives the recorded wait.

    Where there is neither it is one that waits longest.
    """
    if cooled is not None and cooled.kind == "rate_limit" and body.retry_after_ms is None:
        return jitter_behind(cooled, now_us)
    if body.wait_ms is None or provider is None:
        return _JITTER_END_BP - 1

    def wait_ms(jitter_bp: int) -> int:
        return backoff_ms(attempt.retry, provider.retry_backoff_ms, body.retry_after_ms, jitter_bp)

    return bisect_left(range(_JITTER_END_BP - 1), body.wait_ms, key=wait_ms)
