"""The table of error classes: how an error answer is read, and what each class leads to."""

from __future__ import annotations

import pytest
from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st

from palyra.decisions.failures import FAILURES, classify, rule_of
from palyra.errors import CODES


def classified(
    status: int, *, error_type: str = "", code: str = "", message: str = "", has_retry_after: bool = False
) -> str:
    return classify(status, error_type=error_type, code=code, message=message, has_retry_after=has_retry_after)


@pytest.mark.parametrize(
    ("statuses", "failure_class"),
    [
        ([429], "rate_limited"),
        ([529], "overloaded"),
        ([500, 502, 503, 504, 520, 521, 522, 523, 524, 408, 425, 599], "transient_upstream"),
        ([409], "conflict"),
        ([401], "auth_invalid"),
        ([403], "permission_denied"),
        ([402], "quota_exceeded"),
        ([404], "model_unavailable"),
        ([413], "context_window_exceeded"),
        ([400, 405, 411, 415, 422, 451], "invalid_request"),
        ([301, 302, 307, 308], "redirect_refused"),
        ([200, 204, 101], "malformed_response"),
    ],
)
def test_a_bare_status_has_a_class(statuses: list[int], failure_class: str) -> None:
    """Without a telling code in the body the status alone decides."""
    assert {classified(status) for status in statuses} == {failure_class}


@pytest.mark.parametrize(
    ("status", "body", "failure_class"),
    [
        (400, {"error_type": "overloaded_error"}, "overloaded"),
        (200, {"error_type": "overloaded_error"}, "overloaded"),
        (503, {"has_retry_after": True}, "overloaded"),
        (502, {"has_retry_after": True}, "transient_upstream"),
        (429, {"code": "insufficient_quota"}, "quota_exceeded"),
        (429, {"error_type": "insufficient_quota"}, "quota_exceeded"),
        (429, {"code": "billing_not_active"}, "quota_exceeded"),
        (429, {"code": "rate_limit_exceeded", "message": "quota"}, "rate_limited"),
        (400, {"code": "insufficient_quota"}, "invalid_request"),
        (400, {"code": "context_length_exceeded"}, "context_window_exceeded"),
        (400, {"message": "Prompt is too long: 9 > 8"}, "context_window_exceeded"),
        (500, {"message": "prompt is too long"}, "transient_upstream"),
        (400, {"code": "content_filter"}, "content_policy_blocked"),
        (403, {"code": "content_policy_violation"}, "content_policy_blocked"),
        (400, {"code": "unsupported_parameter"}, "unsupported_feature"),
        (422, {"code": "unsupported_value"}, "unsupported_feature"),
        (200, {"error_type": "api_error"}, "transient_upstream"),
        (400, {"error_type": "invalid_request_error"}, "invalid_request"),
    ],
)
def test_a_code_of_the_body_says_more_than_the_status(
    status: int, body: dict[str, object], failure_class: str
) -> None:
    """Codes and types win over the status; the text of a message only where nothing else can tell."""
    assert classified(status, **body) == failure_class  # type: ignore[arg-type]


@pytest.mark.parametrize("word", ["quota", "blocked", "rate limit", "overloaded", "content_filter", "timeout"])
def test_a_word_in_a_message_is_not_a_code(word: str) -> None:
    """A 400 that happens to speak of quota or of something blocked is the caller's fault all the same."""
    assert classified(400, error_type="invalid_request_error", message=f"Your {word} field") == "invalid_request"


@settings(max_examples=200)
@generated(
    status=st.integers(0, 999),
    error_type=st.sampled_from(["", "api_error", "overloaded_error", "insufficient_quota"]) | st.text(max_size=8),
    code=st.sampled_from(["", "content_filter", "context_length_exceeded"]) | st.text(max_size=8),
    message=st.text(max_size=20),
    has_retry_after=st.booleans(),
)
def test_every_answer_has_a_class_with_a_row(
    status: int, error_type: str, code: str, message: str, has_retry_after: bool
) -> None:
    """Whatever a provider says, there is a rule for it."""
    failure_class = classify(
        status, error_type=error_type, code=code, message=message, has_retry_after=has_retry_after
    )
    assert rule_of(failure_class) is FAILURES[failure_class]


#: class, retry, failover, breaker, HTTP status of the answer.
TABLE = [
    ("rate_limited", "yes", "yes", False, 429),
    ("overloaded", "yes", "yes", True, 503),
    ("transient_upstream", "yes", "yes", True, 502),
    ("conflict", "yes", "no", False, 409),
    ("timeout_connect", "yes", "yes", True, 504),
    ("network_unavailable", "yes", "yes", True, 502),
    ("dns_failed", "yes", "yes", True, 502),
    ("tls_failed", "no", "yes", True, 502),
    ("timeout_first_byte", "once", "yes", True, 504),
    ("timeout_idle", "no", "yes", True, 504),
    ("timeout_total", "no", "yes", True, 504),
    ("malformed_response", "once", "yes", True, 502),
    ("stream_truncated", "once", "yes", True, 502),
    ("response_too_large", "once", "yes", True, 502),
    ("auth_invalid", "no", "yes", False, 502),
    ("permission_denied", "no", "yes", False, 502),
    ("quota_exceeded", "no", "yes", False, 502),
    ("model_unavailable", "no", "yes", False, 502),
    ("context_window_exceeded", "no", "larger", False, 400),
    ("content_policy_blocked", "no", "no", False, 400),
    ("unsupported_feature", "no", "yes", False, 400),
    ("invalid_request", "no", "no", False, 400),
    ("netguard_blocked", "no", "yes", False, 502),
    ("redirect_refused", "no", "yes", False, 502),
    ("missing_credential", "no", "yes", False, 503),
    ("vault_locked", "no", "yes", False, 503),
    ("no_credential", "no", "yes", False, 503),
    ("budget_excluded", "no", "yes", False, 429),
    ("circuit_open", "no", "yes", False, 503),
    ("model_excluded", "no", "yes", False, 503),
    ("provider_queue_full", "no", "yes", False, 503),
    ("concurrency_timeout", "no", "yes", False, 503),
    ("fixture_missing", "no", "no", False, 502),
    ("client_disconnected", "no", "no", False, 499),
    ("cancelled", "no", "no", False, 499),
    ("run_deadline", "no", "no", False, 504),
]


@pytest.mark.parametrize(("failure_class", "retry", "failover", "counted", "http_status"), TABLE)
def test_what_each_class_leads_to(
    failure_class: str, retry: str, failover: str, counted: bool, http_status: int
) -> None:
    """Retry, failover, breaker and the client's status of every class, as the specification lists them."""
    rule = rule_of(failure_class)
    assert (rule.retry, rule.failover, rule.counted) == (retry, failover, counted)
    assert CODES[rule.code].http_status == http_status


def test_the_list_above_is_the_whole_table() -> None:
    """A class that is added is added to the test as well."""
    assert [row[0] for row in TABLE] == list(FAILURES)
