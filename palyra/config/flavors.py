"""What sets one server apart from another, as data; no code path asks for a flavor's name.

How their wire formats differ stands in `wire/target.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec


class Flavor(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults of a provider with these ways."""

    #: "": there is none, the entry must name it.
    base_url: str = ""
    #: Host of a base URL by which the flavor is recognised.
    host: str = ""
    #: Whether a request without a key can be answered.
    key: Literal["required", "optional", "none"]
    max_concurrency: int = 32
    first_byte_timeout_ms: int = 120_000
    on_client_disconnect: Literal["drain", "cancel"] = "drain"
    discovery_mode: Literal["off", "list", "serve"] = "list"
    #: Texts in one embeddings request.
    max_batch: int = 2_048
    #: Its name in the price catalogue; "": it is not in there.
    price_vendor: str = ""
    #: Dialects that its chat models are asked in, the preferred one first.
    upstream_apis: tuple[str, ...] = ("chat",)


FLAVORS: Mapping[str, Flavor] = MappingProxyType(
    {
        "openai": Flavor(
            base_url="https://api.openai.com/v1",
            host="api.openai.com",
            key="required",
            upstream_apis=("responses", "chat"),
            price_vendor="openai",
        ),
        "groq": Flavor(
            base_url="https://api.groq.com/openai/v1",
            host="api.groq.com",
            key="required",
            upstream_apis=("chat", "responses"),
            price_vendor="groq",
        ),
        "together": Flavor(
            base_url="https://api.together.xyz/v1",
            host="api.together.xyz",
            key="required",
            price_vendor="together",
        ),
        "ollama": Flavor(
            base_url="http://127.0.0.1:11434/v1",
            key="none",
            max_concurrency=4,
            # A local server loads the model before its first byte.
            first_byte_timeout_ms=300_000,
            on_client_disconnect="cancel",
            discovery_mode="serve",
            max_batch=64,
        ),
        "localai": Flavor(
            base_url="http://127.0.0.1:8080/v1",
            key="optional",
            max_concurrency=4,
            on_client_disconnect="cancel",
            discovery_mode="serve",
            max_batch=64,
        ),
        "generic": Flavor(key="optional"),
    }
)

#: Kinds without flavors have the same traits; the first one never leaves the process.
KINDS: Mapping[str, Flavor] = MappingProxyType(
    {
        "deterministic": Flavor(key="none", on_client_disconnect="cancel", discovery_mode="off"),
        "anthropic": Flavor(
            base_url="https://api.anthropic.com/v1",
            key="required",
            price_vendor="anthropic",
            upstream_apis=("messages",),
        ),
    }
)


def flavor_of_host(host: str) -> str:
    """Return the flavor that is recognised by a base URL's host, else `generic`."""
    return next((name for name, flavor in FLAVORS.items() if host and flavor.host == host), "generic")


def traits_of(kind: str, flavor: str) -> Flavor:
    """Return the row for a resolved entry; kinds without flavors have a row of their own."""
    return FLAVORS[flavor] if kind == "openai_compatible" else KINDS[kind]
