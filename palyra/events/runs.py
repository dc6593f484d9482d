"""Runs: one request through the gateway, from admission to its one end. Stream `run-<ULID>`."""

from __future__ import annotations

from typing import Literal

import msgspec

from palyra.events.base import Fact
from palyra.units import BP_PER_UNIT, ceil_div

CancelReason = Literal["client", "operator", "deadline", "stalled", "shutdown", "restart"]


class TokenEstimate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The input's size as it was estimated: raw count, calibration ratio, and the upper bound of what is billed."""

    estimator: str = "chars-v1"
    raw: int
    ratio_bp: int = BP_PER_UNIT
    upper: int

    @property
    def estimated(self) -> int:
        """The calibrated count."""
        return ceil_div(self.raw * self.ratio_bp, BP_PER_UNIT)


class RunAdmitted(Fact, tag="run.admitted", frozen=True, kw_only=True):
    """A request was let in."""

    principal_id: str
    key_id: str = ""
    session_id: str = ""
    agent_id: str = ""
    tags: dict[str, str] = {}
    endpoint: str
    #: How the client spoke: chat, messages or responses; "" where there is no choice.
    dialect: str = ""
    origin: str = "http"
    model_requested: str = ""
    needs: list[str] = []
    stream: bool = False
    choices_count: int = 1
    config_generation: int
    #: SHA-256 of the body as received, hex.
    body_digest: str
    body_bytes: int
    #: Length of a recording; by its size alone where its header tells none.
    audio_ms: int = 0
    audio_guessed: bool = False
    #: The service tier that the client asks for, as prices name it.
    variant: str = "standard"
    deadline_us: int
    tokens: TokenEstimate
    #: What the client allows all attempts of the run to cost together.
    max_cost_nanousd: int | None = None


class RunRefused(Fact, tag="run.refused", frozen=True, kw_only=True):
    """An authenticated request was refused; nothing was spent. May be the only event of its stream."""

    code: str
    http_status: int
    principal_id: str = ""
    key_id: str = ""
    endpoint: str = ""
    dialect: str = ""
    model_requested: str = ""
    param: str = ""
    retry_after_ms: int | None = None
    #: What it needed of a model, and the uncalibrated estimate of its input; empty where it was not read so far.
    needs: list[str] = []
    raw_tokens: int = 0
    #: The rest of what budgets look at.
    origin: str = "http"
    session_id: str = ""
    agent_id: str = ""
    choices_count: int = 1
    body_bytes: int = 0
    audio_ms: int = 0
    audio_guessed: bool = False
    variant: str = "standard"
    max_cost_nanousd: int | None = None


class RunHeld(Fact, tag="run.held", frozen=True, kw_only=True):
    """A request waits for somebody to let it pass a limit; it is admitted or refused after that."""

    #: What it waits for: all of them.
    approval_ids: list[str]
    held_until_us: int


class RunResumed(Fact, tag="run.resumed", frozen=True, kw_only=True):
    """What a held request waited for was granted; it is planned anew from here, and counts for this instant."""

    waited_ms: int


class RunCancelRequested(Fact, tag="run.cancel_requested", frozen=True, kw_only=True):
    """Somebody wants the run to end; it ends with `run.cancelled`."""

    reason: CancelReason
    by: str


class RunCancelled(Fact, tag="run.cancelled", frozen=True, kw_only=True):
    """The run ended before its answer was delivered."""

    reason: CancelReason
    by: str = ""
    #: What was done with the provider's stream: drain or cancel.
    policy: str = ""
    #: The answer was read to its end although nobody took it.
    drained: bool = False
    attempts_count: int = 0
    duration_us: int = 0


class RunCompleted(Fact, tag="run.completed", frozen=True, kw_only=True):
    """The answer was complete; its last byte may now leave."""

    stop: str
    provider_id: str
    model_id: str
    attempts_count: int = 1
    duration_us: int


class RunFailed(Fact, tag="run.failed", frozen=True, kw_only=True):
    """The run ended without a complete answer."""

    code: str
    failure_class: str = ""
    http_status: int = 0
    attempts_count: int = 0
    duration_us: int = 0


class RequestServed(Fact, tag="request.served", frozen=True, kw_only=True):
    """A request that spends nothing was answered (`/v1/models`). Stream `requests`."""

    endpoint: str
    principal_id: str
    http_status: int
