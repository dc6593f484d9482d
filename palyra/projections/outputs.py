"""How long answers were: a histogram of each model, and of each model as one agent asks it.

Integers alone, so that the same rows end in the same buckets for ever. Only counts of providers teach, and what is
old weighs half with each 2,048 samples. Source: governance specification 3.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from palyra.events import usage
from palyra.events.base import Recorded
from palyra.projections.base import Chapter
from palyra.units import ceil_div

if TYPE_CHECKING:
    from palyra.projections.state import State

#: Histograms of models, and of agents at them, that are kept; the one that was taught longest ago goes first.
#: Agents are named by clients: whoever names many pushes out agents, but no model.
KEEP_COUNT = 1_024
#: Fewer samples than this say nothing yet.
SAMPLES_NEEDED = 20
#: At so many samples each count is halved.
_HALVED_COUNT = 2_048
#: Lengths below this have a bucket each, a power of two above it has eight.
_EXACT_TOKENS, _EXACT_BITS = 16, 4
_SHIFT, _PER_POWER = 3, 8


class Outputs(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Output tokens of attempts, all choices of one together."""

    samples_count: int = 0
    #: By number of the bucket, up to the last that was filled.
    counts: list[int] = []


class OutputsState(msgspec.Struct, kw_only=True):
    """Histograms, those that were taught last at the end."""

    #: By `provider_id/model_id`.
    by_model: dict[str, Outputs] = {}
    #: By `agent_id|provider_id/model_id`.
    by_agent: dict[str, Outputs] = {}


class Quantiles(NamedTuple):
    """A tenth of the answers was no longer than the first figure, half than the second, 95 % than the third."""

    p10_tokens: int
    p50_tokens: int
    p95_tokens: int
    #: What they are of.
    basis: Literal["agent", "model", "guess"]
    samples_count: int


CHAPTER = Chapter()


def quantiles_of(state: State, agent_id: str, provider_id: str, model_id: str) -> Quantiles | None:
    """Return the quantiles of the most specific histogram that has samples enough; None where none has."""
    model = f"{provider_id}/{model_id}"
    if agent_id:
        found = state.outputs.by_agent.get(agent_key(agent_id, model))
        if found is not None and found.samples_count >= SAMPLES_NEEDED:
            return _quantiles(found, "agent")
    found = state.outputs.by_model.get(model)
    return None if found is None or found.samples_count < SAMPLES_NEEDED else _quantiles(found, "model")


def agent_key(agent_id: str, model: str) -> str:
    """Return the key of an agent's histogram at a `provider/model`."""
    return f"{agent_id}|{model}"


def bucket_of(tokens: int) -> int:
    """Return the number of the bucket that a length falls into."""
    if tokens < _EXACT_TOKENS:
        return tokens if tokens > 0 else 0
    power = tokens.bit_length() - 1
    eighth = (tokens >> (power - _SHIFT)) - _PER_POWER
    return _EXACT_TOKENS + (power - _EXACT_BITS) * _PER_POWER + eighth


def upper_edge(bucket: int) -> int:
    """Return the greatest length that falls into a bucket."""
    if bucket < _EXACT_TOKENS:
        return bucket
    power, eighth = divmod(bucket - _EXACT_TOKENS, _PER_POWER)
    return ((_PER_POWER + eighth + 1) << (power + _EXACT_BITS - _SHIFT)) - 1


@CHAPTER.on(usage.UsageRecorded)
def _recorded(state: State, recorded: Recorded, body: usage.UsageRecorded) -> None:
    if body.source != "provider":
        return
    model = f"{body.provider_id}/{body.model_id}"
    bucket = bucket_of(body.usage.output_tokens)
    _teach(state.outputs.by_model, model, bucket)
    if body.agent_id:
        _teach(state.outputs.by_agent, agent_key(body.agent_id, model), bucket)


def _teach(histograms: dict[str, Outputs], key: str, bucket: int) -> None:
    outputs = histograms.pop(key, None)
    if outputs is None:
        outputs = Outputs()
        if len(histograms) >= KEEP_COUNT:
            del histograms[next(iter(histograms))]
    histograms[key] = outputs
    counts = outputs.counts
    if bucket >= len(counts):
        counts += [0] * (bucket + 1 - len(counts))
    counts[bucket] += 1
    outputs.samples_count += 1
    if outputs.samples_count >= _HALVED_COUNT:
        outputs.counts = [count // 2 for count in outputs.counts]
        outputs.samples_count = sum(outputs.counts)


def _quantiles(outputs: Outputs, basis: Literal["agent", "model"]) -> Quantiles:
    """Return the upper edges of the buckets that hold the ranks asked for."""
    ranks = [ceil_div(outputs.samples_count * share, 100) for share in (10, 50, 95)]
    edges: list[int] = []
    below = 0
    for bucket, count in enumerate(outputs.counts):
        below += count
        while len(edges) < len(ranks) and ranks[len(edges)] <= below:
            edges.append(upper_edge(bucket))
    p10, p50, p95 = edges
    return Quantiles(p10, p50, p95, basis, outputs.samples_count)
