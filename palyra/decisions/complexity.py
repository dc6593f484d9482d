"""How demanding a request is, as one integer: `palyra-complexity-1`. Source: governance specification 9.3.

It sees sizes and counts, never a text. A changed formula gets a new name, so that old decisions keep theirs.
"""

from __future__ import annotations

from typing import Literal

from palyra.events.routing import Features
from palyra.events.smart_routing import SmartRouting
from palyra.units import BP_PER_UNIT

Band = Literal["simple", "balanced", "premium"]

_SHORT_TOKENS, _LONG_TOKENS = 2_000, 14_000
_HALF_LENGTH_BP = 2_500
_TOOL_BP, _TOOLS_MAX_BP = 150, 1_500
_JSON_BP = {0: 0, 1: 1_000, 2: 1_500}
_IMAGE_BP, _IMAGES_MAX_BP = 1_000, 2_000
_KEYWORD_BP, _KEYWORDS_MAX_BP = 500, 2_500


def score_parts(tokens: int, features: Features, rules: SmartRouting) -> dict[str, int]:
    """Return what each part adds, in basis points; `tokens` is the estimated input."""
    length = _HALF_LENGTH_BP * min(tokens, _SHORT_TOKENS) // _SHORT_TOKENS
    if tokens > _SHORT_TOKENS:
        length += _HALF_LENGTH_BP * min(tokens - _SHORT_TOKENS, _LONG_TOKENS) // _LONG_TOKENS
    parts = {
        "length": length,
        "tools": min(_TOOLS_MAX_BP, _TOOL_BP * features.tools),
        "json": _JSON_BP[features.json],
        "images": min(_IMAGES_MAX_BP, _IMAGE_BP * features.images),
        "keywords": min(_KEYWORDS_MAX_BP, _KEYWORD_BP * features.keywords),
    }
    return {name: part * getattr(rules.weights, f"{name}_bp") // BP_PER_UNIT for name, part in parts.items()}


def complexity_bp(tokens: int, features: Features, rules: SmartRouting) -> int:
    """Return the score, 0 to 10,000."""
    return min(BP_PER_UNIT, sum(score_parts(tokens, features, rules).values()))


def band_of(score_bp: int, rules: SmartRouting) -> Band:
    """Return the band that a score lies in."""
    if score_bp >= rules.premium_at_bp:
        return "premium"
    return "simple" if score_bp <= rules.simple_at_bp else "balanced"
