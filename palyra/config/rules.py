"""Scripted answers of kind `deterministic` as they stand in configuration: inline, and in a file beside it."""

from __future__ import annotations

import os
from pathlib import Path as FilePath
from typing import Any

from palyra.config.document import Document, read_document
from palyra.config.problems import Findings, key_text
from palyra.config.schema import path_fault
from palyra.config.values import Reading, Setting, Sources, Values
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


def _read_script(reading: Reading, values: Values) -> Document | None:
    """Return the script as a document whose tree is `rules`, an array of tables, and nothing else."""
    written = values.get("script")
    source = values.source("script")
    fault = path_fault(written)
    if not fault and not written.startswith("/") and source.kind != "file":
        fault = "must be absolute, for it stands in no file"
    if fault:
        reading.refuse("bad_path", values, "script", fault)
        return None
    file = FilePath(source.file).parent / written
    if not os.path.exists(file):  # unlike Path.exists, false for a name that is too long
        reading.refuse("bad_path", values, "script", "there is no such file")
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
