"""Errors in both directions, and the model list."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palyra.errors import CODES, Refusal
from palyra.limits import ERROR_TEXT_MAX_BYTES
from palyra.wire.openai_errors import error_body, error_envelope, openai_error_type
from palyra.wire.openai_models import model_object, models_list, single_model
from palyra.wire.upstream_errors import UpstreamError, UpstreamErrorInBody, read_upstream_error


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {"error": {"message": "no such model", "type": "t", "param": "model", "code": "model_not_found"}},
            {"message": "no such model", "type": "t", "param": "model", "code": "model_not_found"},
        ),
        ({"error": "model 'x' not found"}, {"message": "model 'x' not found"}),
        (
            {"error": "invalid_grant", "error_description": "expired"},
            {"message": "expired", "code": "invalid_grant"},
        ),
        ({"message": "m", "type": "t", "code": 400}, {"message": "m", "type": "t", "code": "400"}),
        ({"detail": "m"}, {"message": "m"}),
        ({"detail": [{"msg": "m", "loc": ["body"]}]}, {"message": "m"}),
        ({"detail": [], "title": "m"}, {"message": "m"}),
        ({"errors": [{"message": "m"}]}, {"message": "m"}),
        ({"error": {"error": {"message": "m"}}}, {"message": "m"}),
        (
            [{"error": {"message": "m", "status": "RESOURCE_EXHAUSTED"}}],
            {"message": "m", "type": "RESOURCE_EXHAUSTED"},
        ),
        ({"error": {"message": {"message": "m"}, "code": True}}, {"message": "m"}),
        ({"error": {"message": "m", "code": 10**12}}, {"message": "m"}),
        ("m", {"message": "m"}),
        ([], {"message": "The provider answered HTTP 418 without a message."}),
        (7, {"message": "The provider answered HTTP 418 without a message."}),
        ({"error": {"message": " "}}, {"message": "The provider answered HTTP 418 without a message."}),
    ],
)
def test_any_shape_of_json_is_read(body: Any, expected: dict[str, str]) -> None:
    """Envelopes, strings, lists and nests give message, type, code and param."""
    assert read_upstream_error(418, json.dumps(body).encode()) == UpstreamError(status=418, **expected)


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"<html><title>502 Bad\r\nGateway</title></html>", "text/html", "502 Bad Gateway"),
        (b"<h1>oops</h1>", "", "oops"),
        (b"upstream  connect error", "text/plain", "upstream connect error"),
        (b"\xff\xfe", "", "\ufffd\ufffd"),
        (b"", "", "The provider answered HTTP 502 without a message."),
        (b"[" * 5000, "application/json", "[" * 2_000),
    ],
)
def test_what_is_no_json_is_read_as_text(body: bytes, content_type: str, message: str) -> None:
    """HTML loses its tags, text its breaks, and nothing gets a sentence."""
    assert read_upstream_error(502, body, content_type).message == message


@pytest.mark.parametrize(
    ("code", "word"), [(999_999, "999999"), (-999_999, "-999999"), (1_000_000, ""), (True, "")]
)
def test_a_code_may_be_a_small_number(code: Any, word: str) -> None:
    """Many servers say a status; what is larger is no code that anybody looks up."""
    assert read_upstream_error(400, json.dumps({"error": {"code": code}}).encode()).code == word


def test_foreign_words_are_cleaned_and_cut() -> None:
    """No secret, no line break and no flood gets through."""
    key = "sk-" + "a" * 40
    error = read_upstream_error(
        401, json.dumps({"error": {"message": f"bad key\n{key} " + "x" * 5_000, "type": key}}).encode()
    )
    assert key not in error.message + error.type
    assert "\n" not in error.message
    assert len(error.message) == ERROR_TEXT_MAX_BYTES


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"code": 429}, 429),
        ({"code": "503"}, 503),
        ({"status": 400}, 400),
        ({"status_code": 500}, 500),
        ({"code": 42, "type": "overloaded_error"}, 529),
        ({"type": "invalid_request_error", "code": "model_not_found"}, 404),
        ({"code": "rate_limit_exceeded"}, 429),
        ({"code": "²"}, 502),
        ({}, 502),
    ],
)
def test_an_error_inside_a_200_has_the_status_it_stands_for(error: dict[str, Any], status: int) -> None:
    """A number it names, else its words, else a bad gateway."""
    found = read_upstream_error(200, json.dumps({"error": {"message": "m", **error}}).encode())
    assert found.status == status
    raised = UpstreamErrorInBody(found)
    assert (raised.error, raised.code, raised.message) == (found, "upstream_failed", "m")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from("error errors message detail msg code status type param".split()), inner)
    ),
)


@given(
    st.sampled_from([200, 400, 500]), st.binary(max_size=50) | _JSON.map(lambda value: json.dumps(value).encode())
)
def test_no_error_body_raises(status: int, body: bytes) -> None:
    """Whatever a provider says, it can be told."""
    assert read_upstream_error(status, body).message


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("invalid_request", "invalid_request_error"),
        ("missing_client_key", "authentication_error"),
        ("missing_scope", "permission_error"),
        ("budget_request_too_large", "insufficient_quota"),
        ("budget_blocked", "insufficient_quota"),
        ("model_not_found", "invalid_request_error"),
        ("method_not_allowed", "invalid_request_error"),
        ("body_too_large", "invalid_request_error"),
        ("unsupported_media_type", "invalid_request_error"),
        ("conflict", "invalid_request_error"),
        ("idempotency_key_reused", "invalid_request_error"),
        ("rate_limited", "rate_limit_error"),
        ("client_rate_limited", "rate_limit_error"),
        ("internal", "server_error"),
        ("upstream_failed", "server_error"),
        ("all_circuits_open", "server_error"),
        ("run_deadline", "server_error"),
        ("gateway_loop", "server_error"),
    ],
)
def test_the_type_of_an_error(code: str, kind: str) -> None:
    """The type follows the HTTP status; a budget is a quota."""
    assert openai_error_type(code, CODES[code].http_status) == kind


def test_the_envelope_of_an_error() -> None:
    """OpenAI's error object, and Palyra's beside it."""
    refusal = Refusal(code="all_circuits_open", message="m", param="model", retry_after_ms=5, details={"a": 1})
    attempt = {"provider_id": "p", "status": 503}
    assert json.loads(error_body(refusal, run_id="run-1", failure_class="overloaded", attempts=[attempt])) == {
        "error": {"message": "m", "type": "server_error", "param": "model", "code": "all_circuits_open"},
        "palyra": {"a": 1, "run_id": "run-1", "class": "overloaded", "attempts": [attempt], "retry_after_ms": 5},
    }


def test_an_internal_error_tells_the_run_and_nothing_else() -> None:
    """What broke inside stays inside."""
    envelope = error_envelope(Refusal(code="internal", message="KeyError: 'x'", details={"x": 1}), run_id="run-1")
    assert envelope["error"]["message"] == "Internal error in run-1."
    assert envelope["palyra"] == {"run_id": "run-1", "attempts": [], "retry_after_ms": None}


def test_the_model_list() -> None:
    """A model is shown with what a caller may know, alone and in the list."""
    model = model_object(
        model_id="a/b",
        created_s=7,
        owned_by="p",
        role="chat",
        provider_ids=("p", "q"),
        capabilities={"tools": True},
        max_context_tokens=8192,
        max_output_tokens=None,
        cost_tier="low",
        latency_tier="low",
        health="healthy",
        metadata_source="static",
        aliases=(),
    )
    assert json.loads(single_model(model)) == model
    assert (model["id"], model["object"], model["created"], model["owned_by"]) == ("a/b", "model", 7, "p")
    assert json.loads(models_list([model])) == {"object": "list", "data": [model]}
