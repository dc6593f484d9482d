"""Codes of the journal in words and colours. What is not here is shown as its code."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import tzinfo

from palyra.cli.page import Piece, Styled
from palyra.cli.render import ago, clock, count, duration

#: What models do, as options name it.
ROLES = ("chat", "embeddings", "audio_transcription")

_STYLES: Mapping[str, str] = {
    **dict.fromkeys(("healthy", "closed", "completed", "succeeded", "ready"), "good"),
    **dict.fromkeys(("degraded", "cooling_down", "half_open", "cancelled", "cancelling", "refused"), "warn"),
    **dict.fromkeys(("draining", "starting"), "warn"),
    **dict.fromkeys(("unavailable", "failed", "abandoned", "crashed", "danger", "critical"), "bad"),
    **dict.fromkeys(("open", "warning"), "accent"),
    **dict.fromkeys(("unknown", "static", "disabled", "stopped", "never", "info"), "dim"),
}


def state_word(code: str) -> Styled:
    """Return the word of a state in its colour."""
    return Styled(code.replace("_", "-"), _STYLES.get(code, ""))


def circuit_words(status: str, until_us: int | None, now_us: int) -> Piece:
    """Return a circuit: closed, open until its trial, or with its trial under way."""
    if status == "open" and until_us is not None:
        return Styled(f"open, trial {ago(until_us, now_us) if until_us > now_us else 'due'}", "bad")
    if status == "half_open":
        return Styled("half-open, trial under way", "warn")
    return state_word(status)


def where(provider_id: str, model_id: str) -> str:
    """Return `provider / model`, or what is known of it."""
    return " / ".join(part for part in (provider_id, model_id) if part)


RESOLVED = {
    "model_id": "the id of a model",
    "alias": "an alias in the model's entry",
    "model_alias": "a name in model_provider.model_aliases",
    "pinned": "provider/model, which pins the provider",
    "virtual": "left to Palyra, so the default model",
    "discovered": "a model that its provider lists",
    "default": "not known here, so the default model (unknown_model_policy)",
}
FAILOVER = {
    "compatible": "to compatible models of other providers",
    "same_model": "to other providers of the same model",
    "declared": "to the declared fallbacks",
    "pinned": "none, the request pinned its provider",
    "off": "off",
}
VIA = {
    "requested": "asked for",
    "fallback": "declared fallback",
    "compatible": "compatible",
}
READINESS = {0: "ready", 1: "cooling down", 2: "unavailable, so tried last"}
CANCELLED = {
    "client": "the client hung up",
    "operator": "an operator wanted it",
    "deadline": "its time was over",
    "stalled": "it gave no sign of life",
    "shutdown": "the daemon stopped",
    "restart": "the daemon died and was started again",
}


#: Bounds of the house that a start would pass.
_FULL = {
    "limit_applicable_policies": "more rules about usage apply than may",
    "limit_open_holds": "rules hold something for as many attempts as may be",
}


def exclusion_words(by: str, figures: Mapping[str, int], decided_us: int, zone: tzinfo | None) -> str:
    """Return why a candidate could not be tried, with its figures."""
    rule, _, need = by.partition(":")
    if rule == "capability_missing":
        return f"cannot do {need}, which the request needs"
    if rule == "approval":
        return f"over '{need}', unless somebody grants it"
    if rule == "budget_excluded":
        return f"over '{need}'"
    if rule in _FULL:
        return _FULL[rule]
    if rule == "unpriced":
        return "has no price, and a rule stops what has none"
    if rule == "disabled":
        return "disabled in the configuration"
    if rule == "model_unavailable":
        return "was taken out of the configuration meanwhile"
    if rule == "duplicate":
        return "has failed in this run already"
    if rule == "dimensions_differ" and "asked" in figures:
        return f"gives {count(figures['has'])} dimensions at most, {count(figures['asked'])} were asked"
    if rule == "event_limit" and "limit_tokens" in figures:
        limit, estimated = figures["limit_tokens"], figures["estimated_tokens"]
        return f"may carry {count(limit)} tokens in one request, the input has about {count(estimated)}"
    if rule == "context_too_small":
        if "window_tokens" not in figures:
            return "has no larger window than the one that was too small"
        needed, window = figures["needed_tokens"], figures["window_tokens"]
        return f"window holds {count(window)} tokens, input and answer need {count(needed)}"
    if rule in ("circuit_open", "model_excluded") and "until_us" in figures:
        what = "circuit is open" if rule == "circuit_open" else "model is left out after failures"
        until_us = figures["until_us"]
        left_us = until_us - decided_us
        if left_us <= 0:
            return f"{what}, its trial is under way"
        return f"{what} until {clock(until_us, zone)}, {duration(left_us)} after the decision"
    return rule.replace("_", " ")


def verdict_words(verdict: str, until_us: int | None, now_us: int) -> str:
    """Return why a credential may not be used, and for how much longer where time alone is missing."""
    words = verdict.replace("_", " ")
    return words if until_us is None else f"{words} for {duration(until_us - now_us)}"
