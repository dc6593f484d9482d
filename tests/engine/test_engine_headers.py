"""Which headers of a client reach a provider, and the one that counts gateways."""

from __future__ import annotations

import json

from engine_world import model, provider

from palyra.engine.surfaces import Part
from palyra.engine.text_surface import ChatSurface
from palyra.wire.request import decode_chat


def surface(**headers: str) -> ChatSurface:
    body = json.dumps({"messages": [{"role": "user", "content": "x"}]}).encode()
    came = ChatSurface(decode_chat(body), {name.replace("_", "-"): value for name, value in headers.items()})
    came.prepare(Part(), provider("a"), model("m", "a"), None)
    return came


def test_only_named_headers_pass() -> None:
    """The client's key and whatever else it sent stay here; `openai-beta` and what the entry names go on."""
    came = surface(authorization="Bearer palyra_client_x", openai_beta="b", x_mine="1", x_other="2", cookie="c")
    entry = provider("a", allow_private_base_url=False, forward_headers=["X-Mine"])
    assert came.headers_for(entry) == {"openai-beta": "b", "x-mine": "1"}


def test_calls_to_private_addresses_count_the_hop() -> None:
    """A loop of gateways is seen by the number that each of them raises."""
    assert surface().headers_for(provider("a")) == {"x-palyra-hop": "1"}
    assert surface(x_palyra_hop="1").headers_for(provider("a")) == {"x-palyra-hop": "2"}


def test_a_script_is_told_surface_and_session() -> None:
    """Only the deterministic kind, which never leaves the process, sees the session."""
    came = surface(x_palyra_session="s1")
    entry = provider("a", kind="deterministic", allow_private_base_url=False)
    assert came.headers_for(entry) == {"x-palyra-surface": "chat", "x-palyra-session": "s1"}
    assert came.headers_for(provider("b", allow_private_base_url=False)) == {}
