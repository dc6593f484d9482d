"""One `[[model_provider.providers]]`: the rules across its keys, and the entry with everything filled in."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from palyra.config.document import Document
from palyra.config.flavors import FLAVORS, Flavor, flavor_of_host, traits_of
from palyra.config.problems import Path, quoted
from palyra.config.rules import resolve_fixtures, resolve_rules
from palyra.config.values import NOT_WRITTEN, Reading, Sources, Values
from palyra.events.registry import ProviderEntry, origin_of
from palyra.wire.netguard import BaseUrl, UrlProblem, validate_base_url_network_policy

Listeners = Sequence[tuple[str, int]]

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
#: Set by the transport, the credential or the client's own identity; a provider entry has no say in them.
_RESERVED_HEADERS = frozenset(
    "host cookie set-cookie authorization proxy-authorization proxy-authenticate x-api-key content-length"
    " content-type content-encoding accept-encoding transfer-encoding connection proxy-connection keep-alive te"
    " trailer upgrade idempotency-key".split()
)
_CREDENTIAL_KEYS = ("api_key_env", "api_key_file", "api_key_vault_ref", "auth_profile_id")
#: Providers whose profiles are known by their own address, whatever an entry is called.
_LABELS = {
    ("openai_compatible", "https://api.openai.com:443"): "openai",
    ("anthropic", "https://api.anthropic.com:443"): "anthropic",
}
WITHOUT_EFFECT = "setting_without_effect"


def resolve_provider(
    reading: Reading, values: Values, own: Listeners
) -> tuple[ProviderEntry, Document | None] | None:
    """Return the resolved entry and the script that it names; None where what it is cannot be told."""
    kind, name = values.get("kind"), values.get("provider_id")
    if kind is None:
        return None
    warn_without_effect(reading, values, kind, f"of kind {kind}")
    values.derive({"display_name": name or ""}, Sources.derived(values.key("provider_id")))
    flavor = "" if kind == "deterministic" else _resolve_url(reading, values, kind, own)
    values.derive({"flavor": flavor}, Sources.derived(values.key("base_url")) if flavor else NOT_WRITTEN)
    traits = traits_of(kind, flavor)
    if kind == "deterministic":
        values.derive({"pricing": "free"}, Sources.derived(values.key("kind")))
    vendor = traits.price_vendor
    values.derive({"price_vendor": vendor}, Sources.derived(values.key("flavor")) if vendor else NOT_WRITTEN)
    by_flavor = Sources.derived(values.key("flavor" if flavor else "kind"))
    by_traits = ("max_concurrency", "first_byte_timeout_ms", "on_client_disconnect", "discovery_mode")
    values.derive({name: getattr(traits, name) for name in by_traits}, by_flavor)
    _resolve_credential(reading, values, traits, by_flavor)
    _check_headers(reading, values)
    _check_pairs(reading, values)
    script = resolve_rules(reading, values)
    fixtures_digest = resolve_fixtures(reading, values) if kind == "deterministic" else ""
    values.fill()
    # From here on the entry has the names of what it was resolved to: `credential_ref`, not `api_key_env`.
    values.keep(ProviderEntry.__struct_fields__)
    fields: dict[str, Any] = {name: setting.value for name, setting in values.settings.items()}
    if name is None:  # refused already; the rest was judged all the same
        return None
    # A kind that goes nowhere has no URL.
    base_url, fixtures = fields["base_url"] or "", fields["fixtures"] or ""
    fields |= {"base_url": base_url, "fixtures": fixtures, "fixtures_digest": fixtures_digest}
    return ProviderEntry(**fields), script


def warn_without_effect(reading: Reading, values: Values, meant: str, owner: str) -> None:
    """Take out, with a warning, what means something for another kind of provider or role of model only."""
    for name, key in values.table.keys.items():
        if key.only and meant not in key.only.split() and values.is_written(name):
            reading.warn(WITHOUT_EFFECT, values, name, f"means nothing for an entry {owner}")
            del values.settings[name]


def _resolve_url(reading: Reading, values: Values, kind: str, own: Listeners) -> str:
    """Judge the base URL, put its one spelling in its place, and return the flavor, "" for a kind without."""
    has_flavor = kind == "openai_compatible"
    if "base_url" in values.faulty:
        return (values.get("flavor") or "generic") if has_flavor else ""
    allow_private = values.get("allow_private_base_url")
    written = values.get("base_url")
    verdict = validate_base_url_network_policy(written, allow_private=allow_private, own=own) if written else None
    flavor = ""
    if has_flavor:
        flavor = values.get("flavor") or flavor_of_host(verdict.host if isinstance(verdict, BaseUrl) else "")
    usual = traits_of(kind, flavor).base_url
    if verdict is None and usual:
        values.derive({"base_url": usual}, Sources.derived(values.key("flavor" if has_flavor else "kind")))
        verdict = validate_base_url_network_policy(values.get("base_url"), allow_private=allow_private, own=own)
    if verdict is None:
        having = ", ".join(name for name, row in FLAVORS.items() if row.base_url)
        reading.refuse("missing_key", values, "base_url", f"must be set, or a flavor that has one: {having}")
    elif isinstance(verdict, UrlProblem):
        reading.refuse(verdict.code, values, "base_url", verdict.message)
    else:
        # Anthropic's addresses are often written without the version that every path begins with.
        is_bare = kind == "anthropic" and not verdict.path.endswith("/v1")
        url = f"{verdict.url}/v1" if is_bare else verdict.url
        values.settings["base_url"] = values.settings["base_url"]._replace(value=url)
    return flavor


def _resolve_credential(reading: Reading, values: Values, traits: Flavor, by_flavor: Sources) -> None:
    """Fill `credential_ref` and `auth_scheme`; a secret itself is never looked at here."""
    named = [name for name in _CREDENTIAL_KEYS if values.is_written(name)]
    if len(named) > 1:
        first, second = sorted(named, key=lambda name: (values.source(name).line, name))
        message = f"a provider has one key, and {first} names one ({values.source(first).place})"
        reading.refuse("credential_conflict", values, second, message)
    if named and named[0] != "auth_profile_id":
        prefix = named[0].removeprefix("api_key_").removesuffix("_ref")
        values.put("credential_ref", f"{prefix}:{values.get(named[0])}", values.settings[named[0]].sources)
    else:
        values.put("credential_ref", "", NOT_WRITTEN)
    by_need = Sources.derived(values.key(named[0])) if named else by_flavor
    scheme = "x-api-key" if values.get("kind") == "anthropic" else "bearer"
    values.derive({"auth_scheme": scheme if named or traits.key == "required" else "none"}, by_need)
    if values.get("auth_scheme") == "none":
        for name in named:
            reading.warn(WITHOUT_EFFECT, values, name, 'means nothing with auth_scheme = "none"')
    kind, base_url = values.get("kind"), values.get("base_url") or ""
    label = provider_label(kind, base_url, values.get("provider_id") or "")
    values.derive({"auth_provider_kind": label}, Sources.derived(values.key("base_url" if base_url else "kind")))


def provider_label(kind: str, base_url: str, provider_id: str) -> str:
    """Return whose credentials an entry takes that does not say it itself."""
    return _LABELS.get((kind, origin_of(base_url)), provider_id if base_url else "")


def _check_headers(reading: Reading, values: Values) -> None:
    for name in ("headers", "forward_headers"):
        seen: set[str] = set()
        for index, header in enumerate(values.get(name)):
            if not _HEADER_NAME.fullmatch(header):
                fault = "is not the name of a header"
            elif header.lower() in _RESERVED_HEADERS or header.lower().startswith("x-palyra-"):
                fault = "is not for a provider entry to set"
            elif header.lower() in seen:
                fault = "is there twice"
            else:
                fault = ""
            seen.add(header.lower())
            if fault:
                place: Path = (header,) if name == "headers" else (index,)
                reading.refuse("bad_header", values, name, f"header {quoted(header)} {fault}", inside=place)


def _check_pairs(reading: Reading, values: Values) -> None:
    """Check what one key says about another."""
    ca_file = values.get("ca_file")
    if ca_file and not os.path.isfile(ca_file):
        reading.refuse("bad_path", values, "ca_file", "there is no such file")
    if values.get("on_client_disconnect") == "cancel":
        for name in ("drain_max_ms", "drain_max_tokens"):
            if values.is_written(name):
                reading.warn(WITHOUT_EFFECT, values, name, 'means nothing with on_client_disconnect = "cancel"')
    if values.get("max_queue") == 0 and values.is_written("queue_timeout_ms"):
        reading.warn(WITHOUT_EFFECT, values, "queue_timeout_ms", "means nothing with max_queue = 0")
