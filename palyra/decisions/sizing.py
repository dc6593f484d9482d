"""Sizing: what an attempt may consume at most, in tokens and in money, before it has started.

Input is taken at its calibrated bound, output at the maximum that is sent upstream, and both at the dearest way in
which they can be billed. Source: governance specification 3.3 and 5.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from palyra.decisions.pricing import cost_ceiling, usage_of_recording, variant_at
from palyra.events.budgets import UsageBudgetPolicyRecord
from palyra.events.pricing import PriceEntry
from palyra.events.registry import ModelEntry
from palyra.limits import FIT_OUTPUT_TOKENS
from palyra.projections.budgets import Where
from palyra.projections.catalog import model_entry
from palyra.projections.pricing import price_at
from palyra.projections.runs import Run
from palyra.projections.state import State
from palyra.projections.usage import calibrate
from palyra.usage import TokenUsage

#: The longest transcript of a recording: ten tokens a second and something for its form.
_TRANSCRIPT_TOKENS, _MS_PER_TRANSCRIPT_TOKEN = 256, 100


class Size(NamedTuple):
    """What an attempt may consume at most."""

    input_tokens: int
    #: The same by a token for each byte.
    strict_input_tokens: int
    #: Of all choices together.
    output_tokens: int
    choices_count: int
    price: PriceEntry | None
    #: Length of a recording.
    audio_ms: int = 0
    #: The service tier that is asked for.
    variant: str = "standard"

    def with_output(self, tokens: int) -> Size:
        """Return the size with another maximum of each choice."""
        return self._replace(output_tokens=tokens * self.choices_count)


def output_bound_tokens(run: Run, entry: ModelEntry | None, input_tokens: int, default_tokens: int) -> int:
    """Return the most output that one choice can have: the smallest maximum that anybody names.

    Where the client names none it also has to fit into the model's window beside the input, which is taken at its
    bound: providers refuse a maximum that does not. A client's own maximum is the provider's to judge.
    """
    if run.admitted.endpoint == "embeddings":
        return 0
    if run.admitted.audio_ms:
        default_tokens = _TRANSCRIPT_TOKENS + run.admitted.audio_ms // _MS_PER_TRANSCRIPT_TOKEN
    named = [run.output_requested_tokens, entry.max_output_tokens if entry is not None else None]
    bounds = [bound for bound in named if bound is not None] or [default_tokens]
    if entry is not None:
        bounds.append(entry.max_tokens_per_event)
        if run.output_requested_tokens is None and entry.max_context_tokens is not None:
            bounds.append(max(FIT_OUTPUT_TOKENS, entry.max_context_tokens - input_tokens))
    return min(bounds)


def size_of(state: State, run: Run, where: Where, upstream_model: str, at_us: int) -> Size:
    """Return what an attempt of a run at a candidate may consume at most."""
    entry = model_entry(state, run.admitted.endpoint, where.provider_id, where.model_id)
    _, _, upper = calibrate(state, where.provider_id, upstream_model, run.admitted.tokens.raw)
    output = output_bound_tokens(run, entry, upper, state.config.accounting.default_output_cap_tokens)
    variant = variant_at(run, entry)
    return Size(
        input_tokens=upper,
        # A token is at least a byte of the body; what a picture counts for is in the estimate alone.
        strict_input_tokens=upper + run.admitted.body_bytes,
        output_tokens=run.admitted.choices_count * output,
        choices_count=run.admitted.choices_count,
        price=price_at(state, where.provider_id, where.model_id, at_us, variant),
        audio_ms=run.admitted.audio_ms,
        variant=variant,
    )


def requested_of(record: UsageBudgetPolicyRecord, size: Size) -> int | None:
    """Return what a request asks of a rule, at its bound; None where its cost cannot be told."""
    tokens_in = size.strict_input_tokens if record.sizing == "strict" else size.input_tokens
    if record.meter == "output":
        return size.output_tokens
    if record.meter != "usd_cost":
        return tokens_in + size.output_tokens
    return worst_nanousd(size.price, tokens_in, size.output_tokens, size.audio_ms)


def worst_nanousd(price: PriceEntry | None, tokens_in: int, tokens_out: int, audio_ms: int = 0) -> int | None:
    """Return the dearest way in which so many tokens can be billed, rounded up; None where it is not known."""
    if price is None:
        return None
    dearest: int | None = None
    ways = [usage_of_recording(price, tokens_in, tokens_out, audio_ms)] if audio_ms else []
    for usage in ways or _ways(price, tokens_in, tokens_out):
        cost = cost_ceiling(usage, price).nanousd
        if cost is None:
            return None
        dearest = cost if dearest is None else max(dearest, cost)
    return dearest


def _ways(price: PriceEntry, tokens_in: int, tokens_out: int) -> list[TokenUsage]:
    """Return the mixes of classes that may be dearest: all input written to a cache, all output reasoning."""
    dear_output = price.reasoning_nanousd_per_mtok or 0
    thought = tokens_out if dear_output > (price.output_nanousd_per_mtok or 0) else 0
    ways = [TokenUsage(input_tokens=tokens_in, output_tokens=tokens_out, reasoning_tokens=thought)]
    if price.cache_write_1h_nanousd_per_mtok or price.cache_write_5m_nanousd_per_mtok:
        written = msgspec.structs.replace(ways[0], cache_write_1h_tokens=tokens_in)
        ways += [written, msgspec.structs.replace(ways[0], cache_write_5m_tokens=tokens_in)]
    return ways
