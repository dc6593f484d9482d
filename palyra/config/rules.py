"""Scripted answers of kind `deterministic` as they stand in configuration: inline, and in a file beside it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path as FilePath
from typing import Any

from palyra.config.document import Document, read_document
from palyra.config.problems import Findings, key_text
from palyra.config.schema import path_fault
from palyra.config.values import Reading, Setting, Sources, Values
from palyra.wire.fixtures import BadFixture, read_lines
from palyra.wire.script import ScriptError, parse_rule

_SCRIPT_KEY = "rules"


def resolve_rules(reading: Reading, values: Values) -> Document | None:
    """Check a provider's rules and put those of its script behind the inline ones; return the script."""
    inline = values.get("rules")
    written = values.settings.get("rules")
    if written is not None:
        _check(reading.findings, inline, values.key("rules"), written.sources)
    script = _read_script(reading, values) if values.is_written("script") else None
    if script is not None:
        sources = (written or values.settings["script"]).sources
        values.settings["rules"] = Setting([*inline, *script.tree[_SCRIPT_KEY]], sources)
    return script


def resolve_fixtures(reading: Reading, values: Values) -> str:
    """Find a provider's recorded exchanges and check that each is one; return the digest of their file."""
    if not values.is_written("fixtures"):
        for name in ("fixture_mode", "fixture_timing"):
            if values.is_written(name):
                reading.warn("setting_without_effect", values, name, "means nothing without fixtures")
        return ""
    file = _file_of(reading, values, "fixtures")
    if file is None:
        return ""
    try:
        text = file.read_bytes()
        read_lines(text)
    except (OSError, BadFixture) as exc:
        reading.refuse("bad_path", values, "fixtures", f"cannot be replayed: {exc}")
        return ""
    values.settings["fixtures"] = Setting(str(file), values.settings["fixtures"].sources)
    return hashlib.sha256(text).hexdigest()


def _file_of(reading: Reading, values: Values, name: str) -> FilePath | None:
    """Return the file that a key names, beside the one that it stands in; None where there is none."""
    written: str = values.get(name)
    source = values.source(name)
    fault = path_fault(written)
    if not fault and not written.startswith("/") and source.kind != "file":
        fault = "must be absolute, for it stands in no file"
    if fault:
        reading.refuse("bad_path", values, name, fault)
        return None
    file: FilePath = FilePath(source.file).parent / written
    if not os.path.exists(file):  # unlike Path.exists, false for a name that is too long
        reading.refuse("bad_path", values, name, "there is no such file")
        return None
    return file


def _read_script(reading: Reading, values: Values) -> Document | None:
    """Return the script as a document whose tree is `rules`, an array of tables, and nothing else."""
    file = _file_of(reading, values, "script")
    if file is None:
        return None
    script = read_document(file, reading.findings)
    if script is None:
        return None
    rules = script.tree.get(_SCRIPT_KEY)
    is_list = isinstance(rules, list) and all(isinstance(rule, dict) for rule in rules)
    if not is_list or len(script.tree) != 1:
        message = "a script holds [[rules]] and nothing else"
        reading.findings.error("bad_script", "", message, script.source(()))
        return None
    where = Sources(script, (_SCRIPT_KEY,))
    if not reading.refuse_secrets(rules, _SCRIPT_KEY, where):
        _check(reading.findings, script.tree[_SCRIPT_KEY], _SCRIPT_KEY, where)
    return script


def _check(findings: Findings, rules: list[dict[str, Any]], full: str, where: Sources) -> None:
    for index, rule in enumerate(rules):
        try:
            parse_rule(rule)
        except ScriptError as exc:
            for problem in exc.problems:
                place = (index, *problem.path)
                findings.error("bad_script", key_text(place, full), problem.message, where.at(place))
