"""What a request may cost at a model before anybody was asked: lower <= expected <= upper <= worst.

The input lies between its estimate and the calibrated bound; of the output nothing is known beforehand, so that it
is expected to be half of the input, and to be no longer than the maximum that is sent. Source: governance 3.3.
"""

from __future__ import annotations

from palyra.decisions.budgets import output_bound_tokens, worst_nanousd
from palyra.decisions.pricing import cost_of
from palyra.events.registry import ModelEntry
from palyra.events.routing import PricingEstimate
from palyra.projections.pricing import price_at
from palyra.projections.runs import Run
from palyra.projections.state import State
from palyra.projections.usage import calibrate
from palyra.usage import TokenUsage

#: A short question gets an answer of this length.
_SHORT_ANSWER_TOKENS = 64


def expected_usage(state: State, run: Run, entry: ModelEntry) -> TokenUsage:
    """Return what a request is expected to use at a model."""
    _, tokens_in, _ = calibrate(state, entry.provider_id, entry.upstream_model, run.tokens.raw)
    each = min(_output_cap(state, run, entry), max(_SHORT_ANSWER_TOKENS, tokens_in // 2))
    return TokenUsage(input_tokens=tokens_in, output_tokens=run.choices_count * each)


def expected_nanousd(state: State, run: Run, entry: ModelEntry, at_us: int) -> int | None:
    """Return what a request is expected to cost at a model; None where its price is not known."""
    price = price_at(state, entry.provider_id, entry.model_id, at_us)
    return None if price is None else cost_of(expected_usage(state, run, entry), price).nanousd


def estimate_of(state: State, run: Run, entry: ModelEntry, at_us: int) -> PricingEstimate:
    """Return all four figures; of the output no quantile is known, so that upper and worst are one."""
    price = price_at(state, entry.provider_id, entry.model_id, at_us)
    if price is None:
        return PricingEstimate()
    _, tokens_in, upper_in = calibrate(state, entry.provider_id, entry.upstream_model, run.tokens.raw)
    middle = cost_of(expected_usage(state, run, entry), price).nanousd
    worst = worst_nanousd(price, upper_in, run.choices_count * _output_cap(state, run, entry))
    if middle is None or worst is None:
        return PricingEstimate(price_id=price.price_id)
    least_out = min(1, _output_cap(state, run, entry))
    least = [
        cost_of(TokenUsage(input_tokens=tokens_in, cached_input_tokens=cached, output_tokens=least_out), price)
        for cached in (0, tokens_in)
    ]
    return PricingEstimate(
        state=price.state,
        price_id=price.price_id,
        lower_nanousd=min(middle, *(cost.known_nanousd for cost in least)),
        expected_nanousd=middle,
        upper_nanousd=max(worst, middle),
        worst_nanousd=max(worst, middle),
    )


def _output_cap(state: State, run: Run, entry: ModelEntry) -> int:
    """Return the longest that one choice can be."""
    return output_bound_tokens(run, entry, state.config.accounting.default_output_cap_tokens)
