"""Loading the configuration: one call, one result, or every problem at once.

Locate, read, parse (the only step that ends the search for problems), then file, environment and flags through
one table of keys, then what the keys say about each other. Nothing here reads the process's own environment, and
nothing keeps state: the same arguments and files give the same result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import Any

import msgspec

from palyra.config.document import (
    SYSTEM_FILE,
    Document,
    given_document,
    home_of,
    locate,
    read_document,
    text_document,
)
from palyra.config.effective import config_digest
from palyra.config.layers import read_environment, read_file, read_flags
from palyra.config.listening import check_listening
from palyra.config.logins import check_logins
from palyra.config.migrate import UNVERSIONED, VERSION, find_moves, migrated
from palyra.config.money import resolve_money
from palyra.config.problems import ConfigProblems, Findings, Problem, Source, key_text
from palyra.config.registry import resolve_registry
from palyra.config.tree import Config, ModelProviderConfig
from palyra.config.values import NOT_WRITTEN, Reading, Sources
from palyra.errors import ConfigInvalid
from palyra.events.config import ConfigSource
from palyra.events.registry import Registry


class LoadedConfig:
    """A configuration without errors, and where everything in it comes from."""

    def __init__(self, config: Config, reading: Reading, files: Sequence[Document]) -> None:
        self.config = config
        #: SHA-256 of the canonical effective tree, hex.
        self.digest = config_digest(config)
        self.warnings: tuple[Problem, ...] = reading.findings.sorted()
        #: Files (scripts too) with the digest of their bytes; variables and flags without one.
        self.sources = [
            *(
                ConfigSource(kind=file.kind, name=file.file, digest=file.digest, migrated_from=file.migrated_from)
                for file in files
            ),
            *(ConfigSource(kind=kind, name=name) for kind, name in reading.names),
        ]
        self._tables = (reading.root, *reading.all_entries())

    @cached_property
    def origins(self) -> dict[str, Source]:
        """Full key -> where its effective value was set. The keys are those of `effective_tree`."""
        return {
            table.key(name): setting.sources.at()
            for table in self._tables
            for name, setting in table.settings.items()
        }

    @cached_property
    def hidden(self) -> dict[str, list[Source]]:
        """Full key -> what the effective value hides, nearest first."""
        return {
            table.key(name): [sources.at() for sources in hidden]
            for table in self._tables
            for name, hidden in table.hidden.items()
        }


def load_config(
    environ: Mapping[str, str],
    *,
    config_file: str | None = None,
    short_flags: Mapping[str, str] = MappingProxyType({}),
    sets: Sequence[str] = (),
    system_file: FilePath = SYSTEM_FILE,
) -> LoadedConfig:
    """Return the effective configuration: default < file < environment < flag.

    `config_file` is the value of `--config`, `short_flags` holds `{"--port": "8080"}`, `sets` the values of `--set`
    (`daemon.port=8080`). Raises `ConfigProblems` with everything that is wrong, and `ConfigInvalid`
    (`config_not_found`) if a file that was named does not exist.
    """
    findings = Findings()
    file = locate(environ, config_file, system_file)
    document = _read(file, findings) if file else None
    reading = Reading(findings, home_of(environ))
    if document is not None:
        _read_version(reading, document)
        read_file(reading, document)
    read_environment(reading, environ)
    read_flags(reading, short_flags, sets)
    return _resolve(reading, document)


def load_given(
    given: Mapping[str, Any] | FilePath | None, environ: Mapping[str, str], defaults: Mapping[str, Any]
) -> LoadedConfig:
    """Return the configuration that a program gives: a tree, a file, or nothing but defaults.

    The environment is the program's own: of `environ` only the home directory is looked up, no variable and no
    other file is read. `defaults` holds keys (`daemon.port`) with what stands for them where nothing is written.
    Raises as `load_config` does, and `TypeError` for a tree that is no data.
    """
    findings = Findings()
    document = given_document(given) if isinstance(given, Mapping) else None
    if isinstance(given, FilePath):
        if not given.exists():
            raise ConfigInvalid(f"there is no file {given}", code="config_not_found")
        document = _read(given, findings)
    reading = Reading(findings, home_of(environ))
    if document is not None:
        _read_version(reading, document)
        read_file(reading, document)
    reading.root.derive(defaults, NOT_WRITTEN)
    return _resolve(reading, document)


def load_text(text: str, name: str, environ: Mapping[str, str]) -> LoadedConfig:
    """Return the configuration that a text gives, by this name in what is said of it; raises as `load_config` does.

    Of `environ` only the home directory is looked up.
    """
    findings = Findings()
    document = text_document(text, name, findings)
    if document is None:
        raise ConfigProblems(findings.sorted())
    reading = Reading(findings, home_of(environ))
    _read_version(reading, document)
    read_file(reading, document)
    return _resolve(reading, document)


def _read(file: FilePath, findings: Findings) -> Document:
    document = read_document(file, findings)
    if document is None:
        raise ConfigProblems(findings.sorted())
    return document


def _resolve(reading: Reading, document: Document | None) -> LoadedConfig:
    """Check what the keys say about each other, and return the whole; raises `ConfigProblems`."""
    reading.require()
    _check_sizes(reading)
    check_listening(reading)
    check_logins(reading)
    registry, scripts = resolve_registry(reading, _own_listeners(reading))
    resolve_money(reading)
    _check_bands(reading)
    _check_webhook(reading)
    if reading.findings.has_errors:
        raise ConfigProblems(reading.findings.sorted())
    return LoadedConfig(_build(reading, registry), reading, [document, *scripts] if document else scripts)


def _read_version(reading: Reading, document: Document) -> None:
    """Take `version` out of the file. A newer file ends the search: what its keys mean is not known here."""
    if "version" not in document.tree:
        _migrate(reading, document)
        return
    version = document.tree.pop("version")
    sources = Sources(document, ("version",))
    findings = reading.findings
    if type(version) is int and version > VERSION:
        message = f"is of a newer release; this one reads version {VERSION}"
        findings.error("unsupported_version", "version", message, sources.at())
        raise ConfigProblems(findings.sorted())
    if type(version) is int and version == VERSION:
        reading.root.put("version", version, sources)
    else:
        findings.error("wrong_type", "version", f"must be {VERSION}", sources.at())


def _migrate(reading: Reading, document: Document) -> None:
    """Take a file of an older format as what it would be by now, and say where its keys have gone."""
    moves = find_moves(document.tree)
    if not moves:
        return
    tree = migrated(document.tree, moves)
    tree.pop("version")
    document.migrate(tree, {after: before for before, after in moves}, UNVERSIONED)
    for before, after in moves:
        message = f"is called {key_text(after)} by now"
        way = "palyra config migrate --apply writes it so"
        reading.findings.warning("retired_key", key_text(before), message, document.source(after), way)


def _check_sizes(reading: Reading) -> None:
    together, root = "model_provider.max_inflight_bytes", reading.root
    for one in ("model_provider.max_request_bytes", "model_provider.max_audio_bytes"):
        if root.get(one) > root.get(together):
            name = one if root.is_written(one) else together
            message = f"one request may not be larger than {together} allows for all"
            reading.refuse("conflicting_keys", root, name, message)
            return


def _check_bands(reading: Reading) -> None:
    simple, premium = "routing.simple_at_bp", "routing.premium_at_bp"
    root = reading.root
    if root.get(simple) >= root.get(premium):
        name = simple if root.is_written(simple) else premium
        reading.refuse("conflicting_keys", root, name, f"{simple} must lie below {premium}")


def _check_webhook(reading: Reading) -> None:
    url, secret = "alerts.webhook_url", "alerts.webhook_secret_vault_ref"
    if reading.root.get(secret) and not reading.root.get(url):
        reading.refuse("conflicting_keys", reading.root, secret, f"signs nothing without {url}")


def _own_listeners(reading: Reading) -> list[tuple[str, int]]:
    host, port = reading.root.get("daemon.host"), reading.root.get("daemon.port")
    return [(host, port)] if port else []


def _build(reading: Reading, registry: Registry) -> Config:
    """Return the typed tree; every value was checked, so that a failure here is a bug."""
    tree: dict[str, Any] = {}
    for name, setting in reading.root.settings.items():
        *tables, last = name.split(".")
        table = tree
        for part in tables:
            table = table.setdefault(part, {})
        table[last] = setting.value
    fields = tree["model_provider"]
    own = {name: fields[name] for name in ModelProviderConfig.__struct_fields__ if name != "registry"}
    tree["model_provider"] = ModelProviderConfig(registry=registry, **own)
    return msgspec.convert(tree, Config)
