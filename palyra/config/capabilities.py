"""What a model is taken to be able to do when its entry does not say: one row for each flavor and role."""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal

import msgspec

from palyra.events.registry import Capabilities


class CapabilityRow(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults of a model entry."""

    capabilities: Capabilities
    max_context_tokens: int | None
    cost_tier: Literal["low", "standard", "premium"]
    latency_tier: Literal["low", "standard", "high"]
    reasoning: Literal["none", "effort", "budget"] = "none"


def _can(names: str) -> Capabilities:
    return Capabilities(**dict.fromkeys(names.split(), True))


_EMBEDDINGS = CapabilityRow(
    capabilities=Capabilities(), max_context_tokens=8_192, cost_tier="low", latency_tier="low"
)
#: No window: a recording is measured in time.
_TRANSCRIPTION = msgspec.structs.replace(_EMBEDDINGS, max_context_tokens=None)
_SCRIPTED_TRANSCRIPTION = msgspec.structs.replace(_TRANSCRIPTION, capabilities=_can("streaming"))
_HOSTED = CapabilityRow(
    capabilities=_can(
        "tools parallel_tools tool_choice json_mode json_schema vision logprobs multi_choice streaming"
    ),
    max_context_tokens=128_000,
    cost_tier="standard",
    latency_tier="standard",
)
_OPENAI = msgspec.structs.replace(_HOSTED, reasoning="effort")
_ANTHROPIC = CapabilityRow(
    capabilities=_can("tools parallel_tools tool_choice json_schema vision documents streaming"),
    max_context_tokens=200_000,
    cost_tier="premium",
    latency_tier="standard",
    reasoning="effort",
)
_FAST_HOSTED = CapabilityRow(
    capabilities=_can("tools parallel_tools tool_choice json_mode json_schema streaming"),
    max_context_tokens=128_000,
    cost_tier="standard",
    latency_tier="low",
)
#: A local server cuts a prompt past its window silently, so the window is assumed to be small.
_LOCALAI = CapabilityRow(
    capabilities=_can("tools tool_choice json_mode json_schema streaming"),
    max_context_tokens=8_192,
    cost_tier="low",
    latency_tier="standard",
)
#: Takes `tool_choice` and does not obey it.
_OLLAMA = msgspec.structs.replace(_LOCALAI, capabilities=_can("tools json_mode json_schema streaming"))

#: Chat rows by flavor, or by kind where a kind has none.
_CHAT = MappingProxyType(
    {
        "deterministic": CapabilityRow(
            capabilities=_can(
                "tools parallel_tools tool_choice json_mode json_schema vision documents multi_choice streaming"
            ),
            max_context_tokens=128_000,
            cost_tier="low",
            latency_tier="low",
        ),
        "anthropic": _ANTHROPIC,
        "openai": _OPENAI,
        "generic": _HOSTED,
        "groq": _FAST_HOSTED,
        "together": _FAST_HOSTED,
        "ollama": _OLLAMA,
        "localai": _LOCALAI,
    }
)


def row_of(flavor: str, role: str) -> CapabilityRow:
    """Return the defaults of a model with this role at a provider of this flavor, or kind where it has none."""
    if role == "chat":
        return _CHAT[flavor]
    if role == "embeddings":
        return _EMBEDDINGS
    return _SCRIPTED_TRANSCRIPTION if flavor == "deterministic" else _TRANSCRIPTION
