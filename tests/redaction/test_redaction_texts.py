"""The redactor: what is hidden and what survives, by key, by shape and by being known."""

from __future__ import annotations

import json
import pickle
import traceback
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra.redaction import KnownSecrets, Secret, clean_message, forms_of, is_sensitive_key, redact, redact_text

R = "<redacted>"
LONG = "Zz9" * 12
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----"

#: Data -> what is left of it.
BY_KEY: list[tuple[Any, Any]] = [
    ({"max_tokens": 5}, {"max_tokens": 5}),
    ({"prompt_tokens": 5, "total_tokens": "7"}, {"prompt_tokens": 5, "total_tokens": "7"}),
    ({"design": "x", "sessions": "y"}, {"design": "x", "sessions": "y"}),
    ({"token": "x"}, {"token": R}),
    ({"token": 5, "secret": None, "password": True}, {"token": 5, "secret": None, "password": True}),
    ({"otp": 123456, "pin": 1}, {"otp": R, "pin": R}),
    (
        {"apiKey": "x", "APIKey": "x", "api-key": "x", "api_key": ""},
        dict.fromkeys(["apiKey", "APIKey", "api-key", "api_key"], R),
    ),
    ({"Set-Cookie": "a=b"}, {"Set-Cookie": R}),
    ({"accessKey": "x", "privateKey": "x", "vaultRef": "x"}, {"accessKey": R, "privateKey": R, "vaultRef": R}),
    ({"credentials": ["a", {"b": "c", "n": 1}]}, {"credentials": [R, {"b": R, "n": 1}]}),
    ({"client_secret": b"x", "x": b"y"}, {"client_secret": R, "x": R}),
    (
        {"token_type": "bearer", "token_url": "u", "max_token": "3"},
        {"token_type": "bearer", "token_url": "u", "max_token": "3"},
    ),
    ({"credential_ref": "env:X", "credential_revision": 3}, {"credential_ref": "env:X", "credential_revision": 3}),
    ({"cookie_name": "c", "token_estimate_text": "t"}, {"cookie_name": "c", "token_estimate_text": "t"}),
    ({"pinned": "x", "tokenizer": "y", "author": "z"}, {"pinned": "x", "tokenizer": "y", "author": "z"}),
    ({"deep": [{"jwt": "x"}]}, {"deep": [{"jwt": R}]}),
    (
        {"codeVerifier": "x", "bearer": "y", "credential": None},
        {"codeVerifier": R, "bearer": R, "credential": None},
    ),
    ({"otp": [1, "x"], "cookie": {"n": 1.5}}, {"otp": [R, R], "cookie": {"n": R}}),
    (Secret("x"), R),
    (("a", 1, None, True), ["a", 1, None, True]),
]
#: Text -> what is left of it.
BY_SHAPE = [
    ("sk-abcdefgh", R),
    ("sk-short", "sk-short"),
    ("desk-lampshade-stand", "desk-lampshade-stand"),
    *((f"{prefix}{LONG[:16]}", R) for prefix in "gsk_ xai- pplx- hf_ r8_ ghp_ github_pat_ xoxb-".split()),
    ("hf_short", "hf_short"),
    ("AIza" + "a" * 35, R),
    ("AKIA" + "A" * 16, R),
    ("ASIA" + "A" * 16, R),
    *((f"{prefix}{LONG[:16]}", R) for prefix in "gho_ ghu_ ghs_ ghr_ xoxa- xoxp-".split()),
    (f"key {JWT} end", f"key {R} end"),
    (PEM, R),
    ("palyra_client_x palyra_admin_y", f"{R} {R}"),
    ("Authorization: Bearer abcdefgh.ijk", f"Authorization: Bearer {R}"),
    ("Basic dXNlcjpwYXNz", f"Basic {R}"),
    ("https://user:pass@host/x", f"https://{R}@host/x"),
    ("postgres://:pass@host", f"postgres://{R}@host"),
    ("https://only-a-token@host/x", f"https://{R}@host/x"),
    ("https://host/a@b?mail=c@d https://host?mail=c@d", "https://host/a@b?mail=c@d https://host?mail=c@d"),
    ("https://h/cb?code=abc&x=1&state=de#token=f", f"https://h/cb?code={R}&x=1&state={R}#token={R}"),
    ("https://h/o?X-Amz-Signature=ab&x-goog-credential=cd&key=ef", f"https://h/o?X-Amz-Signature={R}&x-goog-credential={R}&key={R}"),
    ("password=hunter2, x", f"password={R}, x"),
    ("password: hunter2", f"password: {R}"),
    ('{"api_key":"abc","n":1}', f'{{"api_key":"{R}","n":1}}'),
    ('{"body":"{\\"token\\":\\"abc\\"}"}', f'{{"body":"{{\\"token\\":\\"{R}\\"}}"}}'),
    ("{'secret': 'a b c'}", f"{{'secret': '{R}'}}"),
    ('{"token":"a\\"b c"}', f'{{"token":"{R}"}}'),
    ("max_tokens=5 prompt_tokens: 7 tokens=x", "max_tokens=5 prompt_tokens: 7 tokens=x"),
    ("token=5 secret: null pin=1234", f"token=5 secret: null pin={R}"),
    ("Set-Cookie: a=b; c=d\nnext", f"Set-Cookie: {R}\nnext"),
    ("clientSecret=abc", f"clientSecret={R}"),
    ("a design of sessions: good", "a design of sessions: good"),
    ("tokenizer=o200k", "tokenizer=o200k"),
    ("nothing here", "nothing here"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "left"), BY_KEY, ids=lambda value: str(value)[:30])
def test_data_is_redacted_by_whole_words_of_its_keys(value: Any, left: Any) -> None:
    """Counters and look-alikes survive; doing it twice changes nothing."""
    assert redact(value) == left
    assert redact(redact(value)) == left


@pytest.mark.parametrize(("text", "left"), BY_SHAPE, ids=lambda value: str(value)[:30])
def test_texts_are_redacted_by_shape(text: str, left: str) -> None:
    """Doing it twice changes nothing."""
    assert redact_text(text) == left
    assert redact_text(left) == left


def test_a_long_text_is_left_out() -> None:
    """A mebibyte is not looked through; 65,536 characters are, in linear time whatever they are."""
    assert redact_text("sk-" * 400_000) == "<omitted 1200000 chars>"
    for piece in ("a=", "a: '", '"\\"', "-----BEGIN ", "eyJ.", "?code=", "://a:", "sk-", 'token="', "cookie:"):
        redact_text((piece * 65_536)[:65_536])


@settings(max_examples=200)
@given(st.text(alphabet="abk=:\"\\'{}, -_?&Bearertoknsxpy<>0\n", max_size=80))
def test_redacting_twice_is_redacting_once(text: str) -> None:
    """Whatever the text is."""
    once = redact_text(text)
    assert redact_text(once) == once


@settings(max_examples=200)
@given(st.text(min_size=8, max_size=40), st.text(max_size=20), st.text(max_size=20))
def test_a_known_secret_is_found_in_every_form(value: str, before: str, after: str) -> None:
    """As it is, in base64, percent-encoded, escaped in JSON; and none of it is left."""
    known = KnownSecrets()
    known.hold("x", Secret(value))
    for form in forms_of(Secret(value)):
        assert form not in redact_text(f"{before}{form}{after}".replace(R, ""), known.forms) or form in R


@pytest.mark.parametrize("value", ['p"ss wörd/+?&é', "plain-value-0123"])
def test_forms_are_those_in_which_it_turns_up(value: str) -> None:
    """A URL, a JSON text, a header of basic authentication."""
    import base64
    import urllib.parse

    forms = forms_of(Secret(value))
    assert {value, urllib.parse.quote(value, safe=""), json.dumps(value)[1:-1]} <= set(forms)
    assert base64.b64encode(value.encode()).decode() in forms
    assert base64.urlsafe_b64encode(value.encode()).decode().rstrip("=") in forms
    assert forms_of(Secret("short")) == ()


def test_what_is_known_can_change() -> None:
    """A place has the newest of its secrets; a fact is searched for long ones and for vendors' shapes."""
    known = KnownSecrets()
    known.hold("a", Secret("first-secret-0123456789"))
    known.hold("a", Secret("first-secret-0123456789"))
    known.hold("b", Secret("short-one"))
    assert known.are_in(b'{"x":"first-secret-0123456789"}')
    assert not known.are_in(b'{"x":"short-one"}')
    assert known.are_in(b'{"x":"sk-abcdefghijkl"}')
    assert not known.are_in(b'{"x":"task-force"}')
    known.hold("a", Secret("second-secret-0123456789"))
    assert not known.are_in(b'{"x":"first-secret-0123456789"}')
    assert redact_text("short-one", known.forms) == R


@settings(max_examples=100)
@given(st.integers(0, 59), st.binary(max_size=40), st.binary(max_size=40))
def test_any_number_of_known_secrets_is_found_in_one_pass(number: int, before: bytes, after: bytes) -> None:
    """Wherever one begins, also where all of them begin alike; what is let go of is not looked for."""
    known = KnownSecrets()
    for each in range(60):
        known.hold(f"p{each}@1", Secret(f"same-beginning-{each:02}"))
    data = before + f"same-beginning-{number:02}".encode() + after
    assert known.are_in(data)
    assert not known.are_in(before + b"same-beginning-zz" + after)
    known.let_go(f"p{number}@")
    assert not known.are_in(data)
    assert not known.are_in(b"")


def test_a_message_is_one_line_and_cut() -> None:
    """Redacted before it is cut, so that no half of a secret is left."""
    assert clean_message("a\r\n\tb\x00c") == "a   bc"
    assert clean_message("x" * 10 + " sk-" + "a" * 50, max_chars=20) == "x" * 10 + f" {R}"[:10]
    assert is_sensitive_key("x-api-key")


def test_a_secret_says_nothing_about_itself() -> None:
    """Shown, formatted, pickled, encoded, or in a traceback of a frame that holds it."""
    secret = Secret("sk-canary-0123456789")
    assert {repr(secret), str(secret), f"{secret}", f"{secret:>40}", "%s" % secret} == {R}  # noqa: UP031
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        msgspec.json.encode({"x": secret})

    def fail(held: Secret) -> None:
        raise RuntimeError(f"cannot use {held}")

    with pytest.raises(RuntimeError) as caught:
        fail(secret)
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert secret.matches("sk-canary-0123456789")
    assert not secret.matches("other")
    assert secret != "sk-canary-0123456789"
