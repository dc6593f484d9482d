"""Usage: what an attempt consumed and cost. Stream of the run; one row at most for an attempt.

A row says by itself who used what, where and when, so that it can be summed without reading anything else.
"""

from __future__ import annotations

from typing import Literal

from palyra.events.base import Fact
from palyra.usage import TokenUsage

#: unknown: there is no price for it, or not for all of it. Unknown is never zero.
CostState = Literal["priced", "free", "unknown"]


class UsageRecorded(Fact, tag="usage.recorded", frozen=True, kw_only=True):
    """Tokens were consumed, or may have been."""

    attempt: int = 1
    provider_id: str
    model_id: str
    upstream_model: str
    principal_id: str
    key_id: str = ""
    session_id: str = ""
    agent_id: str = ""
    endpoint: str
    origin: str = "http"
    #: The run's admission: the run belongs to the windows that hold this instant.
    effective_at_us: int
    usage: TokenUsage
    #: Tokens beyond what the attempt could use at most; 0 while the provider keeps the cap and the input its bound.
    overshoot_tokens: int = 0
    #: provider: final counts; partial: some counts, the rest estimated; estimated: no counts came.
    source: Literal["provider", "partial", "estimated"] = "provider"
    #: unknown: the call may not have been billed (it was cut, or abandoned by a crash).
    billed: Literal["yes", "unknown"] = "yes"
    #: The uncalibrated estimate of the input, which the calibration compares with what was billed.
    raw_input_tokens: int
    #: Entry that it was priced by; "" where there was none.
    price_id: str = ""
    #: The service tier that it was billed by.
    variant: str = "standard"
    #: The tier that held, if one did.
    tier_above_tokens: int | None = None
    cost_state: CostState = "unknown"
    #: None: not known.
    cost_nanousd: int | None = None
    #: Of an unknown cost, the part that is known.
    known_nanousd: int = 0
    anomalies: list[str] = []
    #: What the provider itself said that it cost.
    provider_cost_nanousd: int | None = None


class UsageCorrected(Fact, tag="usage.corrected", frozen=True, kw_only=True):
    """A row cost something else than it says; the row itself stays as it is. Stream `corrections`."""

    run_id: str
    attempt: int
    corrects_position: int
    provider_id: str
    model_id: str
    principal_id: str
    key_id: str = ""
    session_id: str = ""
    agent_id: str = ""
    endpoint: str
    origin: str = "http"
    effective_at_us: int
    #: Tokens of the row as it was counted so far, and what it has more or less than that.
    tokens_before: int = 0
    deltas: TokenUsage = TokenUsage()
    #: None: not known, but for the part that was.
    cost_before_nanousd: int | None = None
    known_before_nanousd: int = 0
    cost_after_nanousd: int | None = None
    price_id: str = ""
    #: recost: by a corrected price; reconciled: by the provider's own account; operator: by hand.
    reason: Literal["recost", "reconciled", "operator"] = "recost"
    by: str = ""
    note_code: str = ""

    @property
    def change_nanousd(self) -> int:
        """What sums of known costs change by."""
        before = self.known_before_nanousd if self.cost_before_nanousd is None else self.cost_before_nanousd
        return (before if self.cost_after_nanousd is None else self.cost_after_nanousd) - before

    @property
    def is_unpriced_before(self) -> bool:
        return self.cost_before_nanousd is None

    @property
    def is_unpriced_after(self) -> bool:
        return self.cost_after_nanousd is None
