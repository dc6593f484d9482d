"""Attempts: one call to a provider, with exactly one end. Stream of the run.

`attempt` says which of the run's attempts it is, in all facts about one: 1 is the first, and mostly the only one.
"""

from __future__ import annotations

from palyra.events.base import Fact


class AttemptStarted(Fact, tag="attempt.started", frozen=True, kw_only=True):
    """A call that can cost money is about to leave; recorded durably before its first byte."""

    attempt: int = 1
    #: Index in the plan, and which try at this candidate.
    candidate: int = 0
    retry: int = 0
    provider_id: str
    model_id: str
    upstream_model: str
    #: Id of the credential, "" for none, and the revision of its secret; 0 where it has no revisions.
    credential_ref: str = ""
    credential_revision: int = 0
    api: str
    passthrough: bool = True
    #: What was changed in the client's body: `model`, `stream_options.include_usage`, `max_tokens`.
    edits: list[str] = []
    #: What the provider's dialect has no place for, by name: `seed`, `reasoning`.
    dropped: list[str] = []
    queue_wait_ms: int = 0
    deadline_ms: int
    #: What it may use at most: input at its calibrated upper bound, output at the maximum that is sent upstream.
    input_max_tokens: int
    output_max_tokens: int
    #: The circuit's one trial call.
    trial: bool = False
    #: Entry of the price list that held when it started; "" where there was none.
    price_id: str = ""
    #: The service tier that is asked for.
    variant: str = "standard"

    @property
    def max_tokens(self) -> int:
        """What it may use at most."""
        return self.input_max_tokens + self.output_max_tokens


class AttemptSucceeded(Fact, tag="attempt.succeeded", frozen=True, kw_only=True):
    """A complete answer arrived."""

    attempt: int = 1
    stop: str
    raw_stop: str = ""
    first_byte_us: int | None = None
    duration_us: int
    upstream_request_id: str = ""
    upstream_response_id: str = ""
    upstream_model: str = ""
    output_bytes: int = 0
    #: Events of a stream that could not be read and were passed on.
    unparsed_count: int = 0
    #: What stood in the answer and has no place in the client's dialect: `citations`, a kind of content.
    dropped: list[str] = []


class AttemptFailed(Fact, tag="attempt.failed", frozen=True, kw_only=True):
    """The call ended without a complete answer."""

    attempt: int = 1
    #: Class by which retries, failover and the breaker are decided (`decisions/failures.py`).
    failure_class: str
    #: connect, headers, body (before content), content (after the first content was relayed).
    phase: str
    status: int = 0
    code: str = ""
    message: str = ""
    #: Whether the breaker counts it: the policy's result, so that replay need not know the table.
    counted: bool = False
    #: The pause that the provider asked for, and `wait_ms`: how long the next try at this candidate waits.
    retry_after_ms: int | None = None
    #: The provider's `x-should-retry`, which overrides the table.
    should_retry: bool | None = None
    wait_ms: int | None = None
    #: The credential with which the candidate is tried next, instead of a wait.
    next_credential_ref: str = ""
    duration_us: int = 0
    output_bytes: int = 0


class AttemptAbandoned(Fact, tag="attempt.abandoned", frozen=True, kw_only=True):
    """The program died while the call was open; its outcome is not known."""

    attempt: int = 1
    #: Boot that found it.
    boot_id: str
