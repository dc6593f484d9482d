"""Usage: what an attempt consumed. Stream of the run; one row at most for an attempt."""

from __future__ import annotations

from typing import Literal

from palyra.events.base import Fact
from palyra.usage import TokenUsage


class UsageRecorded(Fact, tag="usage.recorded", frozen=True, kw_only=True):
    """Tokens were consumed, or may have been."""

    attempt: int
    provider_id: str
    model_id: str
    upstream_model: str
    usage: TokenUsage
    #: provider: final counts; partial: some counts, the rest estimated; estimated: no counts came.
    source: Literal["provider", "partial", "estimated"] = "provider"
    #: unknown: the call may not have been billed (it was cut, or abandoned by a crash).
    billed: Literal["yes", "unknown"] = "yes"
    #: The uncalibrated estimate of the input, which the calibration compares with what was billed.
    raw_input_tokens: int
    anomalies: list[str] = []
    provider_cost_nanousd: int | None = None
