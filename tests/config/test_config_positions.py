"""The scanner of places agrees with tomllib about what is in a file, and its places are exact."""

from __future__ import annotations

import json
import string
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra.config.positions import find_positions, place_of

TRICKY = r'''# comment with = and [brackets]
title = "a # no comment" # a comment
'quoted.key' = 1
"esc\u0061ped \" key" = 2
a.b.c = 3
a . "b" . d = 4
empty = ""
date = 1979-05-27 07:32:00
long = """
first "quoted" line
# no comment, [no.table]
ends with quotes"""""
raw = """"starts with a quote\\"""
literal = \'\'\'
it's ''fine'' \'\'\'
none = """"""
array = [ 1, # one
  [2, 3], "]", \'}\', { x = 1, "y z" = [ 4 ] },
  { deep = { er = "}" } },
]
inline = { one = 1, two.three = "," }
[plain] # table
k = 1
[plain.inner."dotted.name"]
k = 2
[[list]]
k = 3
[list.below]
k = 4
[[list.more]]
k = 5
[[list.more]]
[list.more.last]
k = 6
[[list]]
k = 7
[[list.more]]
k = 8
[ spaced . header ]
k = 9'''.replace("\\'", "'")


def paths_of(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every key and every element of a parsed document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield (*path, name)
        yield from paths_of(item, (*path, name))


def test_paths_of_a_tricky_file_are_those_of_the_parser() -> None:
    """Strings of all four kinds, comments, dotted and quoted keys, nested arrays and arrays of tables."""
    assert set(find_positions(TRICKY)) == set(paths_of(tomllib.loads(TRICKY)))


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("title",), (2, 1)),
        (("quoted.key",), (3, 1)),
        (('escaped " key',), (4, 1)),
        (("a",), (5, 1)),
        (("a", "b", "c"), (5, 5)),
        (("a", "b", "d"), (6, 11)),
        (("array", 0), (17, 11)),
        (("array", 1, 1), (18, 7)),
        (("array", 4, "y z", 0), (18, 40)),
        (("inline", "two", "three"), (21, 25)),
        (("plain",), (22, 1)),
        (("plain", "inner"), (24, 1)),
        (("list",), (26, 1)),
        (("list", 0, "more", 1, "last", "k"), (34, 1)),
        (("list", 1), (35, 1)),
        (("list", 1, "more", 0, "k"), (38, 1)),
        (("spaced", "header", "k"), (40, 1)),
    ],
)
def test_places_are_exact(path: tuple[str | int, ...], place: tuple[int, int]) -> None:
    """Line and column count from 1 and point at the name, the element, or the bracket of the header."""
    assert find_positions(TRICKY)[path] == place


def test_line_ends_of_windows_do_not_move_columns() -> None:
    """A carriage return belongs to the line end."""
    text = "[a]\r\n  b = 1 # x\r\n\r\n  c = [\r\n 2]\r\n"
    places = find_positions(text)
    assert places == {("a",): (1, 1), ("a", "b"): (2, 3), ("a", "c"): (4, 3), ("a", "c", 0): (5, 2)}


def test_what_is_not_written_stands_where_its_table_stands() -> None:
    """A missing key is reported at the table that lacks it; without any table there is no place."""
    places = find_positions("x = 1\n[[m]]\n")
    assert place_of(places, ("m", 0, "id", "deeper")) == (2, 1)
    assert place_of(places, ("nothing",)) == (0, 0)


names = st.text(st.sampled_from(string.ascii_letters + string.digits + '-_ ."#=[]é'), min_size=1, max_size=6)
texts = st.text(st.sampled_from("ab #=[]{},.'\"\\\né"), max_size=8)
scalars = st.one_of(st.integers(-9, 99), st.booleans(), texts)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=8
)
documents = st.dictionaries(names, values, max_size=4)


def key_toml(name: str) -> str:
    return name if name.isascii() and name.replace("-", "").replace("_", "").isalnum() else json.dumps(name)


def value_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key_toml(name)} = {value_toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[ # [\n" + "".join(f" {value_toml(item)}, # ]\n" for item in value) + "]"
    if isinstance(value, str) and "\n" in value:
        body = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"""\n{body}"""'
    return json.dumps(value)


def table_toml(value: dict[str, Any], prefix: str = "") -> str:
    """Write tables with headers, arrays of tables as such, all else inline."""
    lines = []
    below = []
    for name, item in value.items():
        here = f"{prefix}{key_toml(name)}"
        if isinstance(item, dict):
            below.append(f"[{here}] # table\n" + table_toml(item, f"{here}."))
        elif isinstance(item, list) and item and all(isinstance(entry, dict) for entry in item):
            below.extend(f"[[ {here} ]]\n" + table_toml(entry, f"{here}.") for entry in item)
        else:
            lines.append(f"{key_toml(name)} = {value_toml(item)}")
    return "\n".join([*lines, *below, ""])


@given(documents)
@settings(max_examples=150)
def test_scanner_and_parser_agree_on_any_document(document: dict[str, Any]) -> None:
    """Whatever is written, in whatever style, the scanner finds exactly the parser's keys."""
    text = table_toml(document)
    assert tomllib.loads(text) == document
    assert set(find_positions(text)) == set(paths_of(document))
