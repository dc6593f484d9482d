"""Keys that mean nothing in a rule or a price: what was probably meant, or what says it here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType

_LIMIT = "hard_limit, whose unit is that of metric_kind"
#: Words that other gateways, and drafts of this one, have for what a rule says.
OF_RULES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("limit", "limit_usd", "limit_tokens", "max_usd", "max_tokens", "max_budget"), _LIMIT),
        **dict.fromkeys(("budget", "budget_usd", "hard_limit_usd", "hard_limit_tokens", "token_limit"), _LIMIT),
        **dict.fromkeys(("soft_limit_usd", "soft_limit_tokens", "soft_budget", "warn_at"), "soft_limit"),
        **dict.fromkeys(("window", "period", "interval", "duration", "budget_duration"), "interval_kind"),
        **dict.fromkeys(("scope", "subject_kind"), "scope_kind, with scope_id"),
        **dict.fromkeys(("subject", "subject_id", "principal", "user", "key"), "scope_kind and scope_id"),
        **dict.fromkeys(("id", "name"), "policy_id"),
        **dict.fromkeys(("metric", "unit", "currency"), "metric_kind: tokens or usd_cost"),
        **dict.fromkeys(("action", "on_limit", "on_exceed", "on_exceeded"), "on_hard"),
        **dict.fromkeys(("zone", "tz"), "timezone"),
        "hours": "rolling_hours",
        "fallback": "downgrade_to",
        "dry_run": 'mode = "dry_run"',
    }
)
_PER_MTOK = "per million tokens"
_MONEY, _SIZES = ("cost", "usd", "price"), ("token", "1k", "ktok", "1m", "million")
#: The same for prices; most price lists count by the thousand or by the token.
OF_PRICES: Mapping[str, str] = MappingProxyType(
    {
        f"{theirs}{unit}": f"{ours}_usd_per_mtok, {_PER_MTOK}"
        for ours, names in (("input", ("input", "prompt")), ("output", ("output", "completion")))
        for theirs in names
        for unit in (
            "",
            "_usd",
            "_price",
            "_cost",
            "_cost_per_token",
            "_usd_per_token",
            "_usd_per_1k",
            "_usd_per_ktok",
        )
    }
    | {
        **dict.fromkeys(("model", "name"), "model_id"),
        "provider": "provider_id",
        **dict.fromkeys(("from", "valid_from", "since"), "effective_from"),
        **dict.fromkeys(("to", "valid_to", "until"), "effective_to"),
    }
)


def unknown_key(name: str, known: Iterable[str], others: Mapping[str, str]) -> str:
    """Return the sentence about a key that there is not, with the way out where one is known."""
    if name in others:
        return f"unknown key; here it is {others[name]}"
    near = get_close_matches(name, list(known), n=1, cutoff=0.75)
    return f'unknown key; did you mean "{near[0]}"?' if near else "unknown key"
