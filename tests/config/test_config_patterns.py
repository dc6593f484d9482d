"""Patterns of an operator: which may run on every line, and that what they match is shown nowhere."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palyra.config.load import load_given
from palyra.config.patterns import is_linear
from palyra.config.problems import ConfigProblems
from palyra.redaction import clean_message, hidden_also, hide_also, hide_keys, redact, redact_text

R = "<redacted>"


@pytest.fixture(autouse=True)
def hide_nothing_after() -> Iterator[None]:
    yield
    hide_also(())


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            r"EMP-[0-9]{6,8}",
            r"\bproject-(?:apollo|gemini)\b",
            r"[\w.]{1,64}@[a-z.]{1,64}",
            r"a?b?c",
            r"[]a\]]{2}x",
        ),
        *(r"(?i:iban) [A-Z]{2}\d{2}", r"\{x\}", "é{3}", "^x$", "(a)(b)"),
    ],
)
def test_a_bounded_pattern_is_taken(pattern: str) -> None:
    assert is_linear(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "a" * 201, "a*", "a+", "a{2,}", "a{,3}", "a{257}", "a{3,2}", "{", "a??", "a{1,2}?", "a?+"),
        *("(a|b)?", "(a?){3}", r"(a)\1", "(?P<n>a)(?P=n)", "(?=a)b", "(?<!a)b", "(?i)a", "(?#x)a"),
        *(
            "[a",
            "a)(b",
            "(a",
            "a)",
            "[z-a]",
            r"\q",
            "?",
            "a|?",
            "a?|",
            "(|a)",
            r"\N{DASH}",
            "[[a]",
            "[a--b]",
            "[&&]",
        ),
        *("a{0,255}a{0,255}b", "a?" * 13, "(a|b)" * 13 + "c"),
    ],
)
def test_a_pattern_that_could_take_long_or_is_none_is_refused(pattern: str) -> None:
    assert not is_linear(pattern)


def test_the_slowest_pattern_that_is_taken_is_bounded_on_the_longest_text() -> None:
    hide_also(["a{1,64}a{1,64}b"])
    began = time.process_time()
    assert redact_text("a" * 65_536) == "a" * 65_536
    assert time.process_time() - began < 10


@given(st.text("ab()|?{}[]\\,12:i", max_size=20))
def test_whatever_is_taken_can_be_run(pattern: str) -> None:
    if is_linear(pattern):
        re.compile(pattern)
        hide_also([pattern])
        text = redact_text("aabb(12)")
        assert redact_text(R) == R
        assert isinstance(text, str)


def test_the_problem_names_the_field_and_not_the_pattern() -> None:
    with pytest.raises(ConfigProblems) as caught:
        load_given({"privacy": {"extra_patterns": ["fine", "(secret)+"]}}, {}, {})
    (problem,) = caught.value.problems
    assert (problem.key, problem.code) == ("privacy.extra_patterns[1]", "out_of_range")
    assert "linear time" in problem.message
    assert "secret" not in str(problem)
    with pytest.raises(ConfigProblems) as caught:
        load_given({"privacy": {"extra_patterns": ["x"] * 33}}, {}, {})
    assert caught.value.problems[0].key == "privacy.extra_patterns"


def test_what_a_pattern_matches_is_hidden_wherever_a_text_is_shown() -> None:
    hide_also([r"EMP-[0-9]{6}", r"\bx?\b"])
    assert hidden_also() == (r"EMP-[0-9]{6}", r"\bx?\b")
    assert redact_text("of EMP-123456.") == f"of {R}."
    assert redact_text(redact_text("of EMP-123456.")) == f"of {R}."
    assert redact({"who": ["EMP-123456"], "EMP-654321": 1}) == {"who": [R], R: 1}
    assert clean_message("EMP-123456\nis unknown") == f"{R} is unknown"
    assert hide_keys("EMP-123456") == R
    assert hide_keys("") == ""
    hide_also(())
    assert redact_text("of EMP-123456.") == "of EMP-123456."
