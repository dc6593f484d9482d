"""What a request may cost at a model before anybody was asked: lower <= expected <= upper <= worst.

The input lies between its estimate and the calibrated bound. The output is taken to be as long as recorded answers
were, of the agent at the model or else of the model; where they are too few it is expected to be half of the input.
It is never longer than the maximum that is sent. Source: governance 3.3.
"""

from __future__ import annotations

from palyra.decisions.budgets import output_bound_tokens, worst_nanousd
from palyra.decisions.pricing import cost_of
from palyra.events.registry import ModelEntry
from palyra.events.routing import PricingEstimate
from palyra.projections.outputs import Quantiles, quantiles_of
from palyra.projections.pricing import price_at
from palyra.projections.runs import Run
from palyra.projections.state import State
from palyra.projections.usage import calibrate
from palyra.usage import TokenUsage

#: Without samples a short question is taken to get an answer of this length.
_SHORT_ANSWER_TOKENS = 64


def expected_usage(state: State, run: Run, entry: ModelEntry) -> TokenUsage:
    """Return what a request is expected to use at a model."""
    _, tokens_in, _ = calibrate(state, entry.provider_id, entry.upstream_model, run.tokens.raw)
    return TokenUsage(input_tokens=tokens_in, output_tokens=_lengths(state, run, entry, tokens_in).p50_tokens)


def expected_nanousd(state: State, run: Run, entry: ModelEntry, at_us: int) -> int | None:
    """Return what a request is expected to cost at a model; None where its price is not known."""
    price = price_at(state, entry.provider_id, entry.model_id, at_us)
    return None if price is None else cost_of(expected_usage(state, run, entry), price).nanousd


def estimate_of(state: State, run: Run, entry: ModelEntry, at_us: int) -> PricingEstimate:
    """Return all four figures, and what they are made of."""
    price = price_at(state, entry.provider_id, entry.model_id, at_us)
    if price is None:
        return PricingEstimate()
    _, tokens_in, upper_in = calibrate(state, entry.provider_id, entry.upstream_model, run.tokens.raw)
    lengths = _lengths(state, run, entry, tokens_in)
    middle = cost_of(TokenUsage(input_tokens=tokens_in, output_tokens=lengths.p50_tokens), price).nanousd
    upper = worst_nanousd(price, upper_in, lengths.p95_tokens)
    worst = worst_nanousd(price, upper_in, _output_cap(state, run, entry))
    if middle is None or upper is None or worst is None:
        return PricingEstimate(price_id=price.price_id)
    least = [
        cost_of(
            TokenUsage(input_tokens=tokens_in, cached_input_tokens=cached, output_tokens=lengths.p10_tokens), price
        )
        for cached in (0, tokens_in)
    ]
    upper = max(upper, middle)
    return PricingEstimate(
        state=price.state,
        price_id=price.price_id,
        lower_nanousd=min(middle, *(cost.known_nanousd for cost in least)),
        expected_nanousd=middle,
        upper_nanousd=upper,
        worst_nanousd=max(worst, upper),
        basis=lengths.basis,
        samples_count=lengths.samples_count,
        estimate_only=price.precision != "exact" or not lengths.samples_count,
    )


def _lengths(state: State, run: Run, entry: ModelEntry, tokens_in: int) -> Quantiles:
    """Return how long all choices together are taken to be, cut to the longest that they can be."""
    cap = _output_cap(state, run, entry)
    found = quantiles_of(state, run.agent_id, entry.provider_id, entry.model_id)
    if found is None:
        short = run.choices_count * max(_SHORT_ANSWER_TOKENS, tokens_in // 2)
        found = Quantiles(1, short, cap, "guess", 0)
    return found._replace(
        p10_tokens=min(found.p10_tokens, cap),
        p50_tokens=min(found.p50_tokens, cap),
        p95_tokens=min(found.p95_tokens, cap),
    )


def _output_cap(state: State, run: Run, entry: ModelEntry) -> int:
    """Return the longest that all choices together can be."""
    each = output_bound_tokens(run, entry, state.config.accounting.default_output_cap_tokens)
    return run.choices_count * each
