"""The layers of a configuration, each read into a `Reading`: the file, the environment, then the flags."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from palyra.config.document import Document
from palyra.config.key import fold_env
from palyra.config.keys import ENTRY_TABLES, KEYS, OTHER_VARIABLES, PROVIDERS, ROOT, SHORT_FLAGS, Table
from palyra.config.problems import Source, key_text, nearest, quoted
from palyra.config.schema import decode
from palyra.config.values import Reading, Sources, Values
from palyra.redaction import is_sensitive_key


def read_file(reading: Reading, document: Document) -> None:
    """Read every table of the file; what no key takes is reported with what was probably meant."""
    _read_table(reading, reading.root, document, document.tree, "")


def _read_table(reading: Reading, values: Values, document: Document, tree: Mapping[str, Any], branch: str) -> None:
    """Read a table of the file or of an entry; `branch` is its name inside `values`."""
    inside = tuple(branch.split(".")) if branch else ()
    for name, value in tree.items():
        inner = f"{branch}.{name}" if branch else name
        sources = Sources(document, (*values.path, *inside, name))
        if values.table is ROOT and inner in ENTRY_TABLES:
            _read_entries(reading, inner, value, document, sources)
        elif inner in values.table.keys:
            reading.accept(values, inner, value, sources)
        elif inner not in values.table.branches:
            _unknown_key(reading, values, branch, name, value, sources)
        elif isinstance(value, dict):
            _read_table(reading, values, document, value, inner)
        elif not reading.refuse_secrets(value, key_text(sources.path), sources):
            reading.findings.error("wrong_type", key_text(sources.path), "must be a table", sources.at())


def _read_entries(reading: Reading, name: str, value: Any, document: Document, sources: Sources) -> None:
    table, _ = ENTRY_TABLES[name]
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        reading.root.faulty.add(name)
        if not reading.refuse_secrets(value, name, sources):
            reading.findings.error("wrong_type", name, f"must be an array of tables: [[{name}]]", sources.at())
        return
    for index, entry in enumerate(value):
        path = (*sources.path, index)
        values = Values(table, path, Sources(document, path))
        reading.entries[name].append(values)
        _read_table(reading, values, document, entry, "")


def _unknown_key(reading: Reading, values: Values, branch: str, name: str, value: Any, sources: Sources) -> None:
    outside = sources.outside()
    if reading.refuse_secrets({name: value}, key_text(outside.path), outside):
        return
    full = key_text(sources.path)
    near = nearest(name, _siblings(values.table, branch))
    if near is None and _holds_secret(name):
        reading.refuse_secret(full, sources.at())
        return
    suggestion = f'did you mean "{near}"?' if near else _elsewhere(name)
    reading.findings.error("unknown_key", full, "unknown key", sources.at(), suggestion)


def _siblings(table: Table, branch: str) -> list[str]:
    """Return everything that may be written beside an unknown key."""
    entries = (path.rpartition(".") for path in ENTRY_TABLES if table is ROOT)
    return [*table.names_below(branch), *(name for place, _, name in entries if place == branch)]


def _holds_secret(name: str) -> bool:
    """Return whether a key of this name would hold a secret itself rather than say where one is."""
    return is_sensitive_key(name) and not name.endswith(("_env", "_file", "_ref", "_id"))


def _elsewhere(name: str) -> str:
    """Return where a name that is unknown here is known."""
    for key in KEYS:
        place, _, last = key.path.rpartition(".")
        if last == name and place:
            header = f"[[{place[:-2]}]]" if place.endswith("[]") else f"[{place}]"
            return f"{quoted(name)} belongs to {header}"
    return ""


def read_environment(reading: Reading, environ: Mapping[str, str]) -> None:
    """Read the variables of all keys. Others that begin like ours are warned about, except those that hold keys."""
    known = {key.env: name for name, key in ROOT.keys.items() if key.env}
    unknown = []
    for variable, text in sorted(environ.items()):
        if not variable.startswith("PALYRA_") or variable in OTHER_VARIABLES or not text.strip():
            continue
        if variable in known:
            _read_variable(reading, reading.root, known[variable], variable, text)
        elif not any(_read_entry_variable(reading, path, variable, text) for path in ENTRY_TABLES):
            unknown.append(variable)
    holding_keys = {values.get("api_key_env") for values in reading.entries[PROVIDERS.path]}
    for variable in unknown:
        if variable not in holding_keys:
            _unknown_variable(reading, variable, known)


def _read_variable(reading: Reading, values: Values, name: str, variable: str, text: str) -> None:
    reading.names.append(("env", variable))
    value = decode(values.table.keys[name], text.strip())
    reading.accept(values, name, value, Sources.fixed(Source(kind="env", name=variable)))


def _read_entry_variable(reading: Reading, path: str, variable: str, text: str) -> bool:
    """Read `PALYRA_MODEL_PROVIDER_PROVIDERS__OPENAI_MAIN__BASE_URL`; return whether it names a key of an entry."""
    table, _ = ENTRY_TABLES[path]
    prefix = f"PALYRA_{fold_env(path)}__"
    folded_id, _, folded_name = variable.removeprefix(prefix).rpartition("__")
    pattern = f"{prefix}{{}}__{folded_name}"
    name = next((name for name, key in table.keys.items() if key.env == pattern), None)
    entries = [values for values in reading.entries[path] if _folded_id(values) == folded_id]
    if not variable.startswith(prefix) or name is None or not entries:
        return False
    if len(entries) == 1:
        _read_variable(reading, entries[0], name, variable, text)
    else:
        both = " and ".join(values.key(name) for values in entries[:2])
        message = f"is the variable of {both}; only the file can tell them apart"
        reading.findings.error("bad_env", entries[0].key(name), message, Source(kind="env", name=variable))
    return True


def _folded_id(values: Values) -> str:
    """Return an entry's id as its variables name it; ids are texts by now, or missing."""
    return fold_env(values.get(ENTRY_TABLES[values.table.path][1]) or "")


def _unknown_variable(reading: Reading, variable: str, known: Iterable[str]) -> None:
    of_entries = (
        key.env.format(_folded_id(values))
        for values in reading.all_entries()
        for key in values.table.keys.values()
        if key.env
    )
    near = nearest(variable, (*known, *OTHER_VARIABLES, *of_entries))
    suggestion = f"did you mean {near}?" if near else ""
    source = Source(kind="env", name=variable)
    reading.findings.warning("unknown_env", "", "is the variable of no key", source, suggestion)


def read_flags(reading: Reading, short: Mapping[str, str], sets: Sequence[str]) -> None:
    """Read short flags (`{"--port": "8080"}`), then `KEY=TOML` texts; a later one wins."""
    for flag, text in short.items():
        name = SHORT_FLAGS[flag]
        reading.names.append(("flag", flag))
        sources = Sources.fixed(Source(kind="flag", name=flag))
        reading.accept(reading.root, name, decode(ROOT.keys[name], text), sources)
    for text in sets:
        _read_set(reading, text)


def _read_set(reading: Reading, text: str) -> None:
    full, equals, literal = text.partition("=")
    full = full.strip()
    if reading.refuse_secrets(full, "", Sources.fixed(Source(kind="flag", name="--set"))):
        return
    source = Source(kind="flag", name=f"--set {full}")
    values, name = _target(reading, full)
    value = _literal(literal)
    error = reading.findings.error
    if not equals:
        error("toml_syntax", full, "must be written KEY=VALUE", source)
    elif values is None or name not in values.table.keys:
        near = nearest(full, ROOT.keys)
        error("unknown_key", full, "unknown key", source, f'did you mean "{near}"?' if near else "")
    elif value is None:
        error("toml_syntax", full, "is no TOML value", source, f"a text is quoted: --set '{full}=\"...\"'")
    else:
        reading.names.append(("flag", source.name))
        reading.accept(values, name, value[0], Sources.fixed(source))


_ENTRY_KEY = re.compile(r"(?P<table>[a-z_.]+)\[(?P<index>[0-9]{1,6})\]\.(?P<name>.+)")


def _target(reading: Reading, full: str) -> tuple[Values | None, str]:
    """Return the table and the name that a full key means; entries are named as in messages, by their index."""
    match = _ENTRY_KEY.fullmatch(full)
    if match is None:
        return reading.root, full
    entries = reading.entries.get(match["table"], [])
    index = int(match["index"])
    return (entries[index] if index < len(entries) else None), match["name"]


def _literal(text: str) -> tuple[Any] | None:
    """Return the one TOML value that a text is, in a tuple; None if it is none, or more than one."""
    try:
        tree = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return None
    return (tree["value"],) if len(tree) == 1 else None
