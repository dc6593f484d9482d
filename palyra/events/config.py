"""Configuration as it was adopted. Stream `config`."""

from __future__ import annotations

from typing import Any

import msgspec

from palyra.events.accounting import Accounting
from palyra.events.base import Fact
from palyra.events.registry import Registry
from palyra.events.smart_routing import SmartRouting


class ConfigSource(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Where a part of the configuration came from, and the digest of its bytes."""

    kind: str
    name: str
    digest: str = ""
    #: The format that it is written in, where that is an older one; 0 for a file without `version`.
    migrated_from: int | None = None


class ConfigAdopted(Fact, tag="config.adopted", frozen=True, kw_only=True):
    """From here on decisions use this configuration."""

    generation: int
    #: SHA-256 of the canonical effective tree, hex.
    digest: str
    sources: list[ConfigSource] = []
    #: The effective tree, redacted by schema.
    effective: dict[str, Any]
    #: Keys whose value differs from the generation before.
    changed: list[str] = []
    #: What decisions choose from, every default resolved.
    registry: Registry
    accounting: Accounting = Accounting()
    routing: SmartRouting = SmartRouting()
    #: Keys whose new value waits for the next start; `effective` has the old one.
    pending_restart_keys: list[str] = []


class ConfigProblem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One thing that is wrong in a configuration that was not adopted."""

    code: str
    key: str = ""
    #: `palyra.toml:4:1`.
    place: str = ""
    message: str


class ConfigRejected(Fact, tag="config.rejected", frozen=True, kw_only=True):
    """A configuration that was to be adopted has problems; the one in force stays."""

    #: SHA-256 of what is wrong with it, hex: the same problems are told once.
    digest: str
    kept_generation: int
    problems: list[ConfigProblem] = []
    #: Problems beyond those that are listed.
    omitted_count: int = 0
