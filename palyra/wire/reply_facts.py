"""What an answer amounts to, whichever dialect it came in: what is recorded of it, and none of its text."""

from __future__ import annotations

import msgspec

from palyra.usage import TokenUsage
from palyra.wire.known import told
from palyra.wire.neutral import Call, Foreign, Reasoning, Refused, Text
from palyra.wire.neutral_answer import Answer
from palyra.wire.tokens import TokenTally


class ReplyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer amounts to; none of its text."""

    #: A neutral word (`neutral_answer.Stop`): derived from what was emitted.
    stop: str
    #: The provider's own word, "" when it gave none.
    raw_stop: str
    usage: TokenUsage | None
    #: Codes of what was odd about the usage.
    anomalies: tuple[str, ...]
    #: The model as the provider names it, often a dated version.
    upstream_model: str
    response_id: str
    #: `chars-v1` over the text that was emitted.
    output_tokens_estimate: int
    #: What the provider says it cost.
    provider_cost_nanousd: int | None
    #: The service tier that the provider says it was served by, "" where it says nothing.
    service_tier: str = ""
    #: What stood in it and did not reach a client of another dialect, sorted.
    dropped: tuple[str, ...] = ()


def facts_of(answer: Answer, *, is_translated: bool = False) -> ReplyFacts:
    """Return the facts of a whole answer, for a client of its own dialect or of another one."""
    tally = TokenTally()
    dropped = set(answer.dropped)
    for part in answer.parts:
        match part:
            case Text(text=text) | Refused(text=text) | Reasoning(text=text):
                tally.add(text)
            case Call(name=name, arguments=arguments):
                tally.add(name)
                tally.add(arguments)
            case Foreign(label=label, raw=raw):
                dropped.add(label)
                tally.add(raw.decode("utf-8", "replace"))
    usage = answer.usage
    return ReplyFacts(
        stop=answer.stop,
        raw_stop=answer.raw_stop,
        usage=None if usage is None else usage.usage,
        anomalies=() if usage is None else usage.anomalies,
        upstream_model=answer.model,
        response_id=answer.response_id,
        output_tokens_estimate=tally.tokens,
        provider_cost_nanousd=None if usage is None else usage.cost_nanousd,
        service_tier="" if usage is None else usage.service_tier,
        dropped=told(sorted(dropped)) if is_translated else (),
    )


def estimated_usage(seen: TokenUsage | None, input_tokens: int, output_tokens: int) -> TokenUsage:
    """Return what a client is told of an answer whose provider has not counted all of it."""
    seen = seen or TokenUsage(input_tokens=input_tokens)
    return msgspec.structs.replace(seen, output_tokens=max(seen.output_tokens, output_tokens))
