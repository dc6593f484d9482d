"""Scripted answers: what a rule can say, and that everything else is refused with its place."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET

from palyra.wire.script import (
    AfterChunks,
    Chunk,
    Fault,
    Match,
    Pace,
    Reply,
    Rule,
    ScriptError,
    ToolCall,
    parse_rule,
)


def test_a_rule_with_everything() -> None:
    """Plain data becomes exactly the Structs that it names."""
    raw = {
        "match": {
            "surface": "chat", "model": "m", "contains": "hi", "regex": "h.", "has_tools": True,
            "has_tool_result": False, "session": "s", "nth": 2,
        },
        "reply": {
            "text": "hello", "reasoning": "r", "refusal": "no", "stop_reason": "max_tokens",
            "tool_calls": [{"name": "f", "id": "1", "arguments": {"a": [1, 2.5]}}, {"name": "g", "arguments": "{"}],
            "usage": {"input_tokens": 3, "output_tokens": 4}, "embedding": [1, 0.5],
        },
        "pace": {"first_byte_ms": 1, "latency_ms": 2, "chunk": {"by": "char", "size": 3, "interval_ms": 4}},
        "error": {"status": 429, "code": "slow", "retry_after_ms": 5},
        "at": {"after_chunks": 2},
        "times": 3,
    }  # fmt: skip
    assert parse_rule(raw) == Rule(
        match=Match(
            surface="chat", model="m", contains="hi", regex="h.", has_tools=True, has_tool_result=False,
            session="s", nth=2,
        ),
        reply=Reply(
            text="hello", reasoning="r", refusal="no", stop_reason="max_tokens",
            tool_calls=[ToolCall(name="f", id="1", arguments={"a": [1, 2.5]}), ToolCall(name="g", arguments="{")],
            usage={"input_tokens": 3, "output_tokens": 4}, embedding=[1.0, 0.5],
        ),
        pace=Pace(first_byte_ms=1, latency_ms=2, chunk=Chunk(by="char", size=3, interval_ms=4)),
        error=Fault(status=429, code="slow", retry_after_ms=5),
        at=AfterChunks(after_chunks=2),
        times=3,
    )  # fmt: skip


@pytest.mark.parametrize(
    "raw",
    [
        {"reply": {}},
        {"reply": {"echo": True}},
        {"reply": {"json": None}},
        {"reply": {"json": {"a": [None, "x", 1.5, True]}}},
        {"pace": {}},
        {"error": {"hang": True}, "at": "connect"},
        {"error": {"status": 500}, "reply": {"text": "half"}, "at": "preamble"},
    ],
)
def test_small_rules_are_enough(raw: dict[str, Any]) -> None:
    """An answer, a pace or an error makes a rule; without a match it answers everything."""
    assert parse_rule(raw).match == Match()


def test_unsaid_json_is_not_null() -> None:
    """`json` of null is an answer, no `json` is none."""
    reply = parse_rule({"reply": {"text": "x"}}).reply
    assert reply is not None
    assert reply.json is UNSET


def test_all_wrong_shapes_are_told_at_once() -> None:
    """One problem for each key of a part, with its place; the data itself is left as it was."""
    raw = {
        "match": {"nth": "x", "foo": 1},
        "reply": {"tool_calls": [{"name": "f"}, {"arguments": {}}], "text": 1, "usage": {"input_tokens": -1}},
        "pace": 3,
        "at": "nowhere",
        "times": 0,
        "more": 1,
    }
    with pytest.raises(ScriptError) as caught:
        parse_rule(raw)
    assert {problem.path for problem in caught.value.problems} == {
        ("match", "nth"),
        ("match", "foo"),
        ("reply", "tool_calls", 1),
        ("reply", "text"),
        ("reply", "usage"),
        ("pace",),
        ("at",),
        ("times",),
        ("more",),
    }
    assert raw["match"] == {"nth": "x", "foo": 1}
    assert "match.foo: is no part of a rule" in str(caught.value)
    assert "reply.tool_calls[1]: object missing required field `name`" in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ({}, ()),
        ({"match": {"model": "m"}}, ()),
        ({"reply": {}, "at": "connect"}, ("at",)),
        ({"reply": {"text": "a", "echo": True}}, ("reply",)),
        ({"reply": {"text": "a", "json": 1}}, ("reply",)),
        ({"reply": {"json": {"a": [float("nan")]}}}, ("reply", "json")),
        ({"reply": {"json": object()}}, ("reply", "json")),
        ({"reply": {"tool_calls": [{"name": "f", "arguments": {"a": float("inf")}}]}},
         ("reply", "tool_calls", 0, "arguments")),
        ({"reply": {"embedding": []}}, ("reply", "embedding")),
        ({"reply": {"embedding": [float("nan")]}}, ("reply", "embedding")),
        ({"reply": {"usage": {"tokens": 1}}}, ("reply", "usage", "tokens")),
        ({"reply": {}, "match": {"regex": "("}}, ("match", "regex")),
        ({"reply": {}, "match": {"regex": "x" * 1_025}}, ("match", "regex")),
        ({"error": {}}, ("error",)),
        ({"error": {"status": 500, "hang": True}}, ("error",)),
        ({"error": {"hang": True, "reset": True}}, ("error",)),
        ({"error": {"hang": True, "code": "x"}}, ("error",)),
        ({"error": {"hang": True, "retry_after_ms": 0}}, ("error",)),
        ({"error": {"status": 399}}, ("error", "status")),
        ({"pace": {"chunk": {"by": "line"}}}, ("pace", "chunk", "by")),
    ],
)  # fmt: skip
def test_contradictions_are_told_with_their_place(raw: dict[str, Any], path: tuple[str | int, ...]) -> None:
    """What each field allows and the whole forbids."""
    with pytest.raises(ScriptError) as caught:
        parse_rule(raw)
    assert [problem.path for problem in caught.value.problems] == [path]
