"""Changes to the text of a configuration file: only the bytes of what is changed are touched. Pure.

An edit is a splice at the place that the scanner of `positions.py` names, so comments, order, spacing and line ends
of everything else are what they were. What comes out is parsed and compared with the tree that was wanted: a text
that cannot be edited this way is refused and never guessed at.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from palyra.config.positions import Header, Layout, Pair, find_layout
from palyra.config.problems import Path, key_text
from palyra.errors import PalyraError

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_KEY_PART = re.compile(r"\[(\d+)\]|([A-Za-z0-9_-]+)|\"((?:[^\"\\]|\\.)*)\"")


class Put(msgspec.Struct, frozen=True, kw_only=True):
    """Set a value: `("daemon", "port")`, `("model_provider", "providers", 0, "api_key_env")`."""

    path: Path
    value: Any


class Remove(msgspec.Struct, frozen=True, kw_only=True):
    """Take a key out, so that what it hid holds again."""

    path: Path


class Rename(msgspec.Struct, frozen=True, kw_only=True):
    """Put another key with its own value in the place of one; comments around it stay."""

    path: Path
    name: str
    value: Any


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """Add an entry to an array of tables: `("model_provider", "providers")`."""

    path: Path
    entry: Mapping[str, Any]


class MoveInto(msgspec.Struct, frozen=True, kw_only=True):
    """Make a new entry of an array of tables of keys that stand elsewhere; the comments above them go along."""

    path: Path
    #: What the entry has beside.
    entry: Mapping[str, Any]
    #: Where a key stands -> how it is called in the entry.
    moved: Mapping[Path, str]


Edit = Put | Remove | Rename | Append | MoveInto


def entry_edits(place: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Edit]:
    """Return what makes an entry that says one thing say another."""
    edits: list[Edit] = [Remove(path=(*place, name)) for name in old if name not in new]
    edits += [
        Put(path=(*place, name), value=value)
        for name, value in new.items()
        if name not in old or old[name] != value
    ]
    return edits


class CannotEdit(PalyraError):
    """This file cannot be edited by itself."""

    code = "config_not_editable"


def read_path(key: str) -> Path:
    """Return the path of a key as people write it: `model_provider.providers[0].base_url`; raises `CannotEdit`."""
    path: list[str | int] = []
    at = 0
    while at < len(key):
        if path and key[at] == ".":
            at += 1
        match = _KEY_PART.match(key, at)
        if match is None:
            raise CannotEdit("This is no key; one is written like daemon.port.", code="unknown_field")
        index, bare, quoted = match.groups()
        path.append(int(index) if index else bare if bare is not None else json.loads(f'"{quoted}"'))
        at = match.end()
    if not path or isinstance(path[0], int):
        raise CannotEdit("This is no key; one is written like daemon.port.", code="unknown_field")
    return tuple(path)


def edit_text(text: str, edits: Sequence[Edit]) -> str:
    """Return the text with all changes; raises `CannotEdit`."""
    wanted = tomllib.loads(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    for edit in edits:
        wanted = _changed(wanted, edit)
        text = _spliced(text, edit, newline)
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise CannotEdit("The change does not fit the way this file is written; make it by hand.") from exc
    if _without_empty(found) != _without_empty(wanted):
        raise CannotEdit("The change does not fit the way this file is written; make it by hand.")
    return text


def render(value: Any) -> str:
    """Return a value as TOML."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{render_key(name)} = {render(item)}" for name, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(render, value))}]"
    # A JSON text is a TOML text as well, but for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def render_key(name: str) -> str:
    return name if _BARE.fullmatch(name) else render(name)


# -- the tree


def _changed(tree: dict[str, Any], edit: Edit) -> dict[str, Any]:
    tree = copy.deepcopy(tree)
    try:
        if isinstance(edit, MoveInto):
            found = {name: _inside(tree, path[:-1]).pop(path[-1]) for path, name in edit.moved.items()}
            edit = Append(path=edit.path, entry={**edit.entry, **found})
        if isinstance(edit, Append):
            _inside(tree, edit.path[:-1]).setdefault(edit.path[-1], []).append(dict(edit.entry))
            return tree
        table, name = _inside(tree, edit.path[:-1]), edit.path[-1]
        if isinstance(edit, Put):
            table[name] = edit.value
        else:
            del table[name]
        if isinstance(edit, Rename):
            table[edit.name] = edit.value
    except (KeyError, IndexError, TypeError, AttributeError):
        raise CannotEdit(f"The file has no {key_text(edit.path)}.", code="unknown_field") from None
    return tree


def _inside(tree: Any, path: Path) -> Any:
    for part in path:
        tree = tree[part] if isinstance(part, int) else tree.setdefault(part, {})
    return tree


def _without_empty(tree: Any) -> Any:
    """Return a tree without empty tables: a header that is left alone says as much as one that is not there."""
    if isinstance(tree, dict):
        pruned = {name: _without_empty(value) for name, value in tree.items()}
        return {name: value for name, value in pruned.items() if value != {}}
    return [_without_empty(item) for item in tree] if isinstance(tree, list) else tree


# -- the text


def _spliced(text: str, edit: Edit, newline: str) -> str:
    layout = find_layout(text)
    if isinstance(edit, MoveInto):
        return _move_into(text, layout, edit, newline)
    if isinstance(edit, Append):
        return _append(text, layout, edit.path, _lines(edit.entry), newline)
    pair = layout.pairs.get(edit.path)
    if isinstance(edit, Put):
        if pair is None:
            return _insert(text, layout, edit, newline)
        return text[: pair.value_start] + render(edit.value) + text[pair.value_end :]
    if pair is None:
        raise CannotEdit(f"{key_text(edit.path)} is a table; take out its keys one by one, or do it by hand.")
    if isinstance(edit, Rename):
        between = text[pair.key_end : pair.value_start]
        renamed = f"{render_key(edit.name)}{between}{render(edit.value)}"
        return text[: pair.name_start] + renamed + text[pair.value_end :]
    return _remove(text, pair)


def _remove(text: str, pair: Pair) -> str:
    start, end = pair.key_start, pair.value_end
    if pair.is_inline:
        after = re.compile(r"[ \t]*,[ \t]*").match(text, end)
        if after is not None:
            return text[:start] + text[after.end() :]
        before = re.compile(r"[ \t]*,?[ \t]*$").search(text[:start])
        return text[: before.start() if before else start] + text[end:]
    line_end = text.find("\n", end)
    start = text.rfind("\n", 0, start) + 1
    return text[:start] + (text[line_end + 1 :] if line_end >= 0 else "")


def _insert(text: str, layout: Layout, edit: Put, newline: str) -> str:
    table, name = edit.path[:-1], edit.path[-1]
    if isinstance(name, int):
        raise CannotEdit(f"{key_text(edit.path)} is an item of a list; set the whole list.")
    holder = layout.pairs.get(table)
    if holder is not None:
        return _insert_inline(text, holder, f"{render_key(name)} = {render(edit.value)}")
    header = next((one for one in layout.headers if one.path == table), None)
    if header is not None or not table:
        line = f"{render_key(name)} = {render(edit.value)}"
        return _insert_line(text, _end_of_body(text, layout, header), line, newline)
    sibling = next((pair for path, pair in layout.pairs.items() if path[: len(table)] == table), None)
    if sibling is not None and not sibling.is_inline and len(sibling.table) < len(table):
        dotted = ".".join(render_key(str(part)) for part in edit.path[len(sibling.table) :])
        return _insert_line(text, _line_end(text, sibling.value_end), f"{dotted} = {render(edit.value)}", newline)
    return _insert_table(text, layout, table, f"{render_key(name)} = {render(edit.value)}", newline)


def _insert_inline(text: str, holder: Pair, pair: str) -> str:
    """Put a pair at the end of an inline table."""
    end = holder.value_end - 1
    if text[end] != "}":
        raise CannotEdit("The change does not fit the way this file is written; make it by hand.")
    inside = text[holder.value_start + 1 : end]
    kept = inside.rstrip()
    space = inside[len(kept) :] or " "
    return text[: holder.value_start + 1] + (f"{kept}, {pair}{space}" if kept else f" {pair} ") + text[end:]


def _insert_line(text: str, at: int, line: str, newline: str) -> str:
    before = "" if at == 0 or text[at - 1] == "\n" else newline
    return f"{text[:at]}{before}{line}{newline}{text[at:]}"


def _insert_table(text: str, layout: Layout, table: Path, line: str, newline: str) -> str:
    """Write a table that has no header yet: above the first header inside it, with its comments, or at the end."""
    if any(isinstance(part, int) for part in table):
        owner = table[: max(index for index, part in enumerate(table) if isinstance(part, int)) + 1]
        header = next((one for one in layout.headers if one.path == owner), None)
        if header is None:
            raise CannotEdit(f"The file has no {key_text(owner)}.", code="unknown_field")
        dotted = ".".join(render_key(str(part)) for part in table[len(owner) :])
        return _insert_line(text, _end_of_body(text, layout, header), f"{dotted}.{line}", newline)
    name = ".".join(render_key(str(part)) for part in table)
    block = f"[{name}]{newline}{line}{newline}"
    inner = next((one for one in layout.headers if one.path[: len(table)] == table), None)
    if inner is None:
        return _at_end(text, block, newline)
    at = _above_comments(text, inner.start)
    return f"{text[:at]}{block}{newline}{text[at:]}"


def _move_into(text: str, layout: Layout, edit: MoveInto, newline: str) -> str:
    lines, cuts = _lines(edit.entry), []
    for path, name in edit.moved.items():
        pair = layout.pairs.get(path)
        if pair is None:
            raise CannotEdit(f"{key_text(path)} is a table; move it by hand.")
        if pair.is_inline:
            raise CannotEdit("The change does not fit the way this file is written; make it by hand.")
        start, end = text.rfind("\n", 0, pair.key_start) + 1, _line_end(text, pair.value_end)
        first = _above_comments(text, start)
        lines += [line.strip() for line in text[first:start].splitlines()]
        lines.append(f"{render_key(name)} = {text[pair.value_start : end].rstrip()}")
        cuts.append((first, end))
    for first, end in sorted(cuts, reverse=True):
        text = text[:first] + text[end:]
    return _append(text, find_layout(text), edit.path, lines, newline)


def _lines(entry: Mapping[str, Any]) -> list[str]:
    return [f"{render_key(key)} = {render(value)}" for key, value in entry.items()]


def _append(text: str, layout: Layout, path: Path, lines: Sequence[str], newline: str) -> str:
    name = ".".join(render_key(str(part)) for part in path)
    if layout.pairs.get(path) is not None:
        raise CannotEdit(f"{name} is written as a list in brackets; add the entry by hand.")
    block = newline.join([f"[[{name}]]", *lines]) + newline
    inner = [one for one in layout.headers if one.path[: len(path)] == path]
    if not inner:
        return _at_end(text, block, newline)
    at = _end_of_body(text, layout, inner[-1])
    before = newline if text[:at].endswith("\n") else newline * 2
    return f"{text[:at]}{before}{block}{text[at:]}"


def _at_end(text: str, block: str, newline: str) -> str:
    if not text.strip():
        return text + block
    return f"{text.rstrip()}{newline}{newline}{block}" if not text.endswith("\n") else f"{text}{newline}{block}"


def _end_of_body(text: str, layout: Layout, header: Header | None) -> int:
    """Return where a line can be added to what a header begins (None: the top): behind its last pair."""
    start = 0 if header is None else header.end
    following = [one.start for one in layout.headers if one.start >= start]
    stop = min(following, default=len(text))
    ends = [pair.value_end for pair in layout.pairs.values() if start <= pair.key_start < stop]
    if ends:
        return _line_end(text, max(ends))
    if header is not None:
        return _line_end(text, header.end)
    return _above_comments(text, layout.headers[0].start) if layout.headers else len(text)


def _line_end(text: str, at: int) -> int:
    found = text.find("\n", at)
    return len(text) if found < 0 else found + 1


def _above_comments(text: str, at: int) -> int:
    """Return where the comment lines begin that stand right above a header."""
    lines = text[:at].splitlines(keepends=True)
    while lines and lines[-1].lstrip().startswith("#"):
        at -= len(lines.pop())
    return at
