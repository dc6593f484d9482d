"""The effective configuration as plain data: complete for its digest, redacted for everybody else.

Redaction goes by schema, never by the look of a value: where credentials are, and headers that may be one.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from palyra.config.tree import Config
from palyra.events.registry import Registry
from palyra.redaction import REDACTED

#: Keys that hold a secret, or say where one is.
_CREDENTIAL_KEYS = frozenset(
    (
        *("api_key", "api_key_vault_ref", "api_key_env", "api_key_file", "client_secret_vault_ref"),
        "webhook_secret_vault_ref",
    )
)
_USERINFO = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.\-]{0,15}://)[^/?#]{0,512}@")
_TELLING = ("key", "token", "secret", "auth", "cookie")


def effective_tree(config: Config) -> dict[str, Any]:
    """Return every effective value under its key, fit to be shown, logged and recorded."""
    tree: dict[str, Any] = _plain(config)
    # Keys of the registry are keys of [model_provider]; that they are one Struct is nobody's business.
    tree["model_provider"].update(tree["model_provider"].pop("registry"))
    del tree["model_provider"]["max_profiles_per_candidate"]  # a key of [auth]
    for provider in tree["model_provider"]["providers"]:
        del provider["discovers"], provider["fixtures_digest"]  # made of the other keys
        if provider["credential_ref"]:
            provider["credential_ref"] = REDACTED
    for model in tree["model_provider"]["models"]:
        del model["left_open"]
    redacted: dict[str, Any] = redact_provider_registry_secrets(tree)
    return redacted


def redact_provider_registry_secrets(tree: Any) -> Any:
    """Return a copy of a configuration's tree without what leads to a secret, by the keys of the schema.

    Where a credential is, headers that may be one, and what a URL holds beside its place become `<redacted>`, also
    when empty; what is absent stays absent, and no counter is touched.
    """
    if isinstance(tree, list):
        return [redact_provider_registry_secrets(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    return {name: _redacted(name, value) for name, value in tree.items()}


def _redacted(name: str, value: Any) -> Any:
    if name in _CREDENTIAL_KEYS:
        return REDACTED
    if name == "headers" and isinstance(value, dict):
        return _without_values(value)
    if name.endswith("_url") and isinstance(value, str):
        url = _USERINFO.sub(rf"\1{REDACTED}@", value)
        place, mark, _ = url.partition("?")
        return f"{place}?{REDACTED}" if mark else url
    return redact_provider_registry_secrets(value)


def recordable_tree(config: Config) -> dict[str, Any]:
    """Return the effective tree as facts may hold it: scripts, which may hold any JSON, by their digest.

    So that a file of recorded exchanges whose content is another one shows, its digest stands beside its place.
    """
    tree = effective_tree(config)
    for provider, entry in zip(
        tree["model_provider"]["providers"], config.model_provider.registry.providers, strict=True
    ):
        if entry.fixtures_digest:
            provider["fixtures_digest"] = entry.fixtures_digest
        rules = msgspec.json.Encoder(order="sorted").encode(provider["rules"])
        provider["rules"] = hashlib.sha256(rules).hexdigest() if provider["rules"] else ""
    return tree


def config_digest(config: Config) -> str:
    """Return the SHA-256 of the canonical effective tree, hex; equal for files that mean the same."""
    # With every field: a Struct leaves out a default, and not a value that was written and equals it.
    canonical = msgspec.json.Encoder(order="sorted").encode(_plain(config))
    return hashlib.sha256(canonical).hexdigest()


def recordable_registry(registry: Registry) -> Registry:
    """Return the registry as facts may hold it: references to credentials stay, which replay needs.

    The rules of a script answer requests; no decision looks at them. It is as it will be read back: a text that
    merely equals a default is written where the default itself is left out, so the two must not be told apart.
    """
    providers = [
        msgspec.structs.replace(provider, headers=_without_values(provider.headers), rules=[])
        for provider in registry.providers
    ]
    recorded = msgspec.structs.replace(registry, providers=providers)
    return msgspec.json.decode(msgspec.json.encode(recorded), type=Registry)


def _without_values(headers: dict[str, str]) -> dict[str, str]:
    return {
        name: REDACTED if any(word in name.lower() for word in _TELLING) else value
        for name, value in headers.items()
    }


def _plain(value: Any) -> Any:
    """Return Structs as dicts with every field, also those at their default, which encoding would leave out."""
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, dict) else value
