"""Bodies that pass through between equals: what is spliced, what is opened or taken out, and pages of models."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dialect_cases import answer, channel

from palyra.wire.cargo import pack, seal
from palyra.wire.dialects import pass_through
from palyra.wire.errors import WireError
from palyra.wire.messages_models import messages_models_page
from palyra.wire.neutral import Dialect, Text
from palyra.wire.neutral_answer import Delta, Fold, PartStart
from palyra.wire.read_surfaces import decode_messages, decode_responses
from palyra.wire.request import decode_chat
from palyra.wire.target import Prepared, Target, Ways
from palyra.wire.turns import strict_turns

DECODE = {"chat": decode_chat, "messages": decode_messages, "responses": decode_responses}
OWN = b'{"type":"thinking","thinking":"Hm.","signature":"c2ln"}'


def passed(dialect: Dialect, body: bytes, **more: Any) -> Prepared:
    target = Target(dialect=dialect, **{"model": "m", "vendor": "up", "stream": True, **more})
    return pass_through(DECODE[dialect](body), target)


@pytest.mark.parametrize(
    ("dialect", "field", "body"),
    [
        ("messages", "max_tokens", b'{"model":"m","messages":[{"role":"user","content":"x"}]%s}'),
        ("responses", "max_output_tokens", b'{"model":"m","input":"x"%s}'),
    ],
)
def test_a_maximum_is_lowered_or_set(dialect: Dialect, field: str, body: bytes) -> None:
    """A higher one becomes the cap, a lower one stays, none becomes the cap; without a cap nothing changes."""
    name = f',"{field}":'.encode()
    assert passed(dialect, body % (name + b"90"), output_cap_tokens=50).body == body % (name + b"50")
    assert passed(dialect, body % (name + b"20"), output_cap_tokens=50).edits == ()
    assert passed(dialect, body % b"", output_cap_tokens=50).body == body % (name + b"50")
    assert passed(dialect, body % b"").body == body % b""


@pytest.mark.parametrize("dialect", ["chat", "messages", "responses"])
def test_a_model_that_does_not_stream_is_not_asked_to(dialect: Dialect) -> None:
    """The stream is made here, from the whole answer."""
    said = b'"input":"x"' if dialect == "responses" else b'"messages":[{"role":"user","content":"x"}]'
    body = b'{"model":"m",' + said + b',"stream":true}'
    prepared = passed(dialect, body, stream=False)
    assert prepared.body == body.replace(b"true", b"false")
    assert prepared.edits == ("stream",)
    if dialect == "chat":
        asked = body[:-1] + b',"stream_options":{"include_usage":true}}'
        assert passed("chat", asked, stream=False).body.endswith(b'"stream":false,"stream_options":null}')


def test_messages_open_their_own_seals_and_drop_others() -> None:
    """A message without cargo keeps its bytes; one of nothing but another's thoughts goes."""
    own, other = seal("up", OWN), seal("other", b"{}")
    plain = b'{"role":"user", "content":[ {"type":"text","text":"x"} ]}'

    def message(*signatures: str) -> bytes:
        blocks = [{"type": "thinking", "thinking": "Hm.", "signature": one} for one in signatures]
        return json.dumps({"role": "assistant", "content": blocks}).encode()

    body = (
        b'{"model":"m","messages":['
        + b",".join([plain, message(own, other, "c2ln"), message(other), plain])
        + b"]}"
    )
    prepared = passed("messages", body)
    assert prepared.body.count(plain) == 2
    kept = json.loads(prepared.body)["messages"]
    assert [one["role"] for one in kept] == ["user", "assistant", "user"]
    assert [block["signature"] for block in kept[1]["content"]] == ["c2ln", "c2ln"]
    assert (prepared.dropped, prepared.edits) == (("reasoning",), ("messages",))
    text = b'{"model":"m","messages":[{"role":"user","content":"\\"palyra1.x"}, {"role":"user","content":"y"}]}'
    assert passed("messages", text).body == text


def test_responses_open_their_own_seals_and_drop_others() -> None:
    """Items of reasoning are the vendor's own, or not there."""
    items = [
        {"role": "user", "content": "x"},
        {"type": "reasoning", "encrypted_content": seal("up", b'{"type":"reasoning","id":"r"}')},
        {"type": "reasoning", "encrypted_content": seal("other", b"{}")},
    ]
    prepared = passed("responses", json.dumps({"model": "m", "input": items}).encode())
    assert json.loads(prepared.body)["input"] == [items[0], {"type": "reasoning", "id": "r"}]
    assert prepared.dropped == ("reasoning",)
    text = b'{"model":"m","input":"\\"palyra1.x"}'
    assert passed("responses", text).body == text
    assert passed("responses", b'{"model":"m"}').body == b'{"model":"m"}'


def test_chat_details_are_opened_or_taken_out() -> None:
    """Our details are no business of a provider: its own become its own words again, others go."""

    def body(vendor: str) -> bytes:
        details = [{"type": "palyra.opaque", "vendor": vendor, "data": pack(b'{"reasoning_content":"Hm."}')}]
        message = {"role": "assistant", "content": "y", "reasoning_content": "seen", "reasoning_details": details}
        return json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}, message]}).encode()

    own, other = passed("chat", body("up")), passed("chat", body("other"))
    assert json.loads(own.body)["messages"][1] == {"role": "assistant", "content": "y", "reasoning_content": "Hm."}
    assert json.loads(other.body)["messages"][1] == {"role": "assistant", "content": "y"}
    assert (own.dropped, other.dropped) == ((), ("reasoning",))


def test_a_server_that_knows_no_developer_gets_a_system() -> None:
    """And one that takes no names of speakers gets none; what is not concerned keeps its bytes."""
    user = b'{"role" : "user","content":"developer"}'
    body = b'{"model":"m","messages":[{"role":"developer","content":"a"},' + user + b"]}"
    assert passed("chat", body).body == body.replace(b'"role":"developer"', b'"role":"system"')
    assert passed("chat", body, ways=Ways(takes_developer=True)).body == body
    strange = b'{"model":"m","messages":[{"role":"developer","content":"a"},"developer"]}'
    with pytest.raises(WireError):
        passed("chat", strange)
    named = b'{"model":"m","messages":[{"role":"user","content":"x","name":"ada"},' + user + b"]}"
    prepared = passed("chat", named, ways=Ways(drops_in_messages=("name",)))
    assert prepared.body == named.replace(b',"name":"ada"', b"")
    assert prepared.dropped == ("messages.name",)


def page(**query: str) -> dict[str, Any]:
    models = [{"id": name, "created": 1_700_000_000, "palyra": {}} for name in "abcde"]
    found: dict[str, Any] = json.loads(messages_models_page(models, query))
    return {"ids": "".join(one["id"] for one in found["data"]), **found}


def test_pages_of_models() -> None:
    """Forward from a model, backward from one, and how many at once."""
    assert (page()["ids"], page()["has_more"], page()["last_id"]) == ("abcde", False, "e")
    assert page()["data"][0]["created_at"] == "2023-11-14T22:13:20Z"
    assert (page(limit="2")["ids"], page(limit="2")["has_more"]) == ("ab", True)
    assert (page(limit="2", after_id="b")["ids"], page(limit="9", after_id="b")["has_more"]) == ("cd", False)
    before = page(limit="2", before_id="d")
    assert (before["ids"], before["has_more"]) == ("bc", True)
    assert page(limit="9", before_id="c")["has_more"] is False
    assert page(after_id="e")["first_id"] is None
    for wrong in ("0", "x", "1001", "-1"):
        with pytest.raises(WireError):
            page(limit=wrong)


def test_a_fold_tells_what_is_open() -> None:
    """At any time, in order; an answer that has not ended has no stop."""
    folded = Fold()
    for index in (1, 0):
        folded.add(PartStart(index=index, kind="text"))
    folded.add(Delta(index=1, text="x"))
    assert [one.index for one in folded.open_parts] == [0, 1]
    assert (folded.answer().parts, folded.answer().stop) == ((), "unknown")
    assert answer(Text(text="x")).stop == "end_turn"
    assert strict_turns(()) == []


def test_items_of_a_response_keep_their_place() -> None:
    """An end that is ours to tell has the items that were whole."""
    meter = channel("responses", "responses").meter(None)
    item = {"type": "message", "content": []}
    data = json.dumps({"type": "response.output_item.done", "sequence_number": 4, "item": item})
    meter.feed(f"data: {data}\n\n".encode())
    told = json.loads(meter.closing(is_cut=True).split(b"data: ")[1])
    assert (told["sequence_number"], told["response"]["output"], told["response"]["model"]) == (5, [item], "public")
