"""A gateway before one upstream for each dialect, and the official clients in front of it."""

from __future__ import annotations

from typing import Any

from anthropic import AsyncAnthropic
from daemon_house import House
from registries import model, provider, registry

#: `gpt` speaks chat completions, `claude` messages, `oai` responses; all are asked at the same upstream.
DIALECTS = registry(
    provider("up", max_retries=0, credential_ref="", auth_scheme="none"),
    provider("ant", kind="anthropic", flavor="", max_retries=0, credential_ref="", auth_scheme="none"),
    model("gpt", "up", upstream_model="gpt-x", reasoning="effort", fallbacks=[]),
    model("claude", "ant", upstream_model="claude-x", upstream_apis=["messages"], reasoning="effort", fallbacks=[]),
    model("oai", "up", upstream_model="oai-x", upstream_apis=["responses"], reasoning="effort", fallbacks=[]),
)
MODELS = ["gpt", "claude", "oai"]
#: Where each is asked, and in which dialect.
PATHS = {"gpt": "/v1/chat/completions", "claude": "/v1/messages", "oai": "/v1/responses"}
APIS = {"gpt": "chat", "claude": "messages", "oai": "responses"}


def anthropic_of(house: House, **settings: Any) -> AsyncAnthropic:
    """Return the official client; it does not try again."""
    root = house.server.url
    return AsyncAnthropic(base_url=root, api_key=house.client_key, max_retries=0, **settings)


def asked(text: str = "Say hi.", **changes: Any) -> dict[str, Any]:
    """Return the arguments of a message."""
    return {"model": "claude", "max_tokens": 100, "messages": [{"role": "user", "content": text}], **changes}
