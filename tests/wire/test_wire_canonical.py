"""When two bodies ask the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palyra.wire.canonical import body_digest

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def digest(text: str) -> str:
    return body_digest(text.encode("utf-8", "surrogatepass"), without=("stream", "user"))


def turned(value: Any) -> Any:
    """Return the same value with its members in the reverse order."""
    if isinstance(value, dict):
        return {name: turned(item) for name, item in reversed(value.items())}
    return [turned(item) for item in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_order_and_spacing_do_not_count(value: dict[str, Any]) -> None:
    """However a program writes its JSON, at any depth."""
    spaced = json.dumps(turned(value), indent=3, ensure_ascii=False)
    assert digest(json.dumps(value)) == digest(spaced)


@pytest.mark.parametrize("odd", ['"b":1,"b":2', '"number":1', f'"b":1{"0" * 5_000}'])
def test_order_and_spacing_do_not_count_in_odd_bodies(odd: str) -> None:
    """A member that stands twice, a name that ours could be taken for, a number that is too long for one."""
    assert digest(f'{{"a":0.5,{odd}}}') == digest(f'{{ {odd}, "a": 0.5}}')
    assert digest(f'{{"a":0.5,{odd}}}') != digest('{"a":0.5}')


def test_members_that_do_not_change_the_answer_do_not_count() -> None:
    """At the top; inside they are as good as any other."""
    assert digest('{"a":1}') == digest('{"stream":true,"a":1,"user":"x"}')
    assert digest('{"a":{"stream":true}}') != digest('{"a":{}}')


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a":1}', '{"a":1.0}'),
        ('{"a":1}', '{"a":"1"}'),
        ('{"a":1}', '{"a":{"number":"1"}}'),
        ('{"a":0.1}', '{"a":0.10}'),
        ('{"a":1,"a":2}', '{"a":2}'),
        ('{"a":1,"a":2}', '{"a":2,"a":1}'),
        ('{"a":{"b":1}}', '{"a":[["b",1]]}'),
        ('{"a":null}', "{}"),
        ('{"a":99999999999999999999}', '{"a":99999999999999999998}'),
        (f'{{"a":1{"0" * 5_000}}}', f'{{"a":2{"0" * 5_000}}}'),
        ('{"a":0.5}', '{"a":{"number":"0.5"}}'),
        ('{"a":0.5,"b":[1,1]}', '{"a":0.5,"b":[1,1.0]}'),
    ],
)
def test_what_a_provider_may_read_differently_is_not_alike(one: str, other: str) -> None:
    """Spelling of numbers, twice the same member, an object and a list of pairs."""
    assert digest(one) != digest(other)
