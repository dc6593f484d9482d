"""What a request may cost at a model before anybody was asked: lower <= expected <= upper <= worst.

The input lies between its estimate and the calibrated bound. The output is taken to be as long as recorded answers
were, of the agent at the model or else of the model; where they are too few it is expected to be half of the input.
It is never longer than the maximum that is sent. Source: governance 3.3.
"""

from __future__ import annotations

import msgspec

from palyra.decisions.pricing import cost_of, usage_of_recording, variant_at
from palyra.decisions.sizing import output_bound_tokens, worst_nanousd
from palyra.events.pricing import PriceEntry
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


def expected_usage(state: State, run: Run, entry: ModelEntry, price: PriceEntry | None) -> TokenUsage:
    """Return what a request is expected to use at a model; a recording its length, where that is what costs."""
    _, tokens_in, _ = calibrate(state, entry.provider_id, entry.upstream_model, run.admitted.tokens.raw)
    return _used(run, price, tokens_in, _lengths(state, run, entry, tokens_in).p50_tokens)


def expected_nanousd(state: State, run: Run, entry: ModelEntry, at_us: int) -> int | None:
    """Return what a request is expected to cost at a model; None where its price is not known."""
    price = price_for(state, run, entry, at_us)
    return None if price is None else cost_of(expected_usage(state, run, entry, price), price).nanousd


def price_for(state: State, run: Run, entry: ModelEntry, at_us: int) -> PriceEntry | None:
    """Return the price of a request at a model, in the tier in which it is served there."""
    return price_at(state, entry.provider_id, entry.model_id, at_us, variant_at(run, entry))


def estimate_of(state: State, run: Run, entry: ModelEntry, at_us: int) -> PricingEstimate:
    """Return all four figures, and what they are made of."""
    variant, price = variant_at(run, entry), price_for(state, run, entry, at_us)
    if price is None:
        return PricingEstimate(variant=variant)
    _, tokens_in, upper_in = calibrate(state, entry.provider_id, entry.upstream_model, run.admitted.tokens.raw)
    lengths = _lengths(state, run, entry, tokens_in)
    middle = cost_of(_used(run, price, tokens_in, lengths.p50_tokens), price).nanousd
    upper = worst_nanousd(price, upper_in, lengths.p95_tokens, run.admitted.audio_ms)
    worst = worst_nanousd(price, upper_in, _output_cap(state, run, entry), run.admitted.audio_ms)
    if middle is None or upper is None or worst is None:
        return PricingEstimate(price_id=price.price_id, variant=variant)
    shortest = _used(run, price, tokens_in, lengths.p10_tokens)
    cached = msgspec.structs.replace(shortest, cached_input_tokens=shortest.text_input_tokens)
    upper = max(upper, middle)
    return PricingEstimate(
        state=price.state,
        price_id=price.price_id,
        variant=variant,
        lower_nanousd=min(middle, *(cost_of(usage, price).known_nanousd for usage in (shortest, cached))),
        expected_nanousd=middle,
        upper_nanousd=upper,
        worst_nanousd=max(worst, upper),
        basis=lengths.basis,
        samples_count=lengths.samples_count,
        estimate_only=price.precision != "exact" or not lengths.samples_count or _is_a_guess(run, price, variant),
    )


def _used(run: Run, price: PriceEntry | None, tokens_in: int, tokens_out: int) -> TokenUsage:
    if run.admitted.audio_ms:
        return usage_of_recording(price, tokens_in, tokens_out, run.admitted.audio_ms)
    return TokenUsage(input_tokens=tokens_in, output_tokens=tokens_out)


def _is_a_guess(run: Run, price: PriceEntry, variant: str) -> bool:
    """Return whether a length is guessed, or an entry stands in for that of a tier which has none of its own."""
    return price.state != "free" and (run.admitted.audio_guessed or price.variant != variant)


def _lengths(state: State, run: Run, entry: ModelEntry, tokens_in: int) -> Quantiles:
    """Return how long all choices together are taken to be, cut to the longest that they can be."""
    cap = _output_cap(state, run, entry)
    found = quantiles_of(state, run.admitted.agent_id, entry.provider_id, entry.model_id)
    if found is None:
        short = run.admitted.choices_count * max(_SHORT_ANSWER_TOKENS, tokens_in // 2)
        found = Quantiles(1, short, cap, "guess", 0)
    return found._replace(
        p10_tokens=min(found.p10_tokens, cap),
        p50_tokens=min(found.p50_tokens, cap),
        p95_tokens=min(found.p95_tokens, cap),
    )


def _output_cap(state: State, run: Run, entry: ModelEntry) -> int:
    """Return the longest that all choices together can be."""
    _, _, upper = calibrate(state, entry.provider_id, entry.upstream_model, run.admitted.tokens.raw)
    each = output_bound_tokens(run, entry, upper, state.config.accounting.default_output_cap_tokens)
    return run.admitted.choices_count * each
