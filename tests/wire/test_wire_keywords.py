"""Keywords of a text: whole words in any spelling, stems, and what the last thing the user said is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from palyra.wire.keywords import count_keywords
from palyra.wire.read_surfaces import decode_messages, decode_responses
from palyra.wire.request import decode_chat

WORDS = ["prove", "security", "migrat*"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("Prove it.", 1),
        ("prove PROVE prove", 1),
        ("I improve and approved it", 0),
        ("proven", 0),
        ("Migrations, migrating: migrate", 1),
        ("emigration", 0),
        ("Prove the security of the migration", 3),
        ("ＰＲＯＶＥ it", 1),
        ("x" * 16_384 + " prove", 0),
        ("x" * 16_378 + " prove", 1),
    ],
)
def test_a_keyword_is_a_word_and_counts_once(text: str, count: int) -> None:
    """Not inside another word, not beyond the first 16,384 characters; a star takes any ending."""
    assert count_keywords(text, WORDS) == count


def test_a_configured_list_replaces_ours() -> None:
    """Other words, other languages."""
    assert count_keywords("Beweise die Straße", ["beweise", "STRASSE"]) == 2
    assert count_keywords("prove it", []) == 0


def image() -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": "https://example.test/a.png"}}


def test_a_chat_request_tells_what_its_score_is_made_of() -> None:
    """Tools and functions, pictures of all messages, and the text of the user's last one."""
    body = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "first"}, image(), image()]},
            {"role": "assistant", "content": "answer"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "prove"}, image(), {"type": "text", "text": "it"}],
            },
            {"role": "assistant", "content": "well"},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }
    request = decode_chat(json.dumps(body).encode())
    assert (request.tools_count, request.images_count, request.last_text) == (1, 3, "prove\nit")
    assert decode_chat(b'{"messages":[{"role":"user","content":"hi"}]}').last_text == "hi"
    assert decode_chat(b'{"messages":[{"role":"user"}]}').last_text == ""
    assert decode_chat(b'{"messages":[{"role":"system","content":"hi"}]}').last_text == ""


def test_the_other_dialects_tell_the_same() -> None:
    """What a tool has answered is not what the user said."""
    result = {"type": "tool_result", "tool_use_id": "t", "content": "prove"}
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    body = {
        "model": "m",
        "max_tokens": 5,
        "messages": [
            {"role": "user", "content": "migrate"},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    }
    request = decode_messages(json.dumps(body).encode())
    assert (request.tools_count, request.images_count, request.last_text) == (1, 0, "migrate")
    responses = decode_responses(b'{"model":"m","input":"hello"}')
    assert (responses.tools_count, responses.last_text) == (0, "hello")
    silent = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": [result]}]}
    assert decode_messages(json.dumps(silent).encode()).last_text == ""
