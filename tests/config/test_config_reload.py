"""What of a configuration that is read again acts at once, and what waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from palyra.config.keys import KEYS
from palyra.config.load import load_config
from palyra.config.reload import merge
from palyra.config.tree import Config


def loaded(home: Path, *sets: str) -> Config:
    return load_config({"HOME": str(home)}, sets=sets).config


def test_live_keys_act_and_others_wait(tmp_path: Path) -> None:
    """A live key has its new value, any other the one that runs, and is named."""
    running = loaded(tmp_path)
    wanted = loaded(
        tmp_path,
        "daemon.drain_timeout_ms=7",
        "daemon.port=7777",
        "self_healing.stalls_after_ms.run=20000",
        'journal.durability="relaxed"',
        "model_provider.failover_enabled=false",
        "model_provider.sse_keepalive_ms=2000",
    )
    merged = merge(running, wanted)
    assert merged.pending == ["daemon.port", "journal.durability"]
    assert merged.config.daemon.drain_timeout_ms == 7
    assert merged.config.daemon.port == running.daemon.port
    assert merged.config.journal == running.journal
    assert merged.config.self_healing.stalls_after_ms.run == 20_000
    assert merged.config.model_provider.sse_keepalive_ms == 2_000
    assert not merged.config.model_provider.registry.failover_enabled


def test_nothing_waits_where_nothing_differs(tmp_path: Path) -> None:
    """The same configuration merges to itself."""
    running = loaded(tmp_path)
    assert merge(running, loaded(tmp_path)) == (running, [])


@pytest.mark.parametrize(
    ("path", "is_live"),
    [
        ("daemon.port", False),
        ("journal.durability", False),
        ("model_provider.providers[].base_url", True),
        ("model_provider.models[].aliases", True),
        ("model_provider.default_chat_model_id", True),
        ("model_provider.sse_keepalive_ms", True),
        ("journal.witness_every_ms", True),
        ("observability.log_level", True),
        ("vault.key_source", False),
        ("pricing.overrides", True),
    ],
)
def test_each_key_says_whether_it_is_live(path: str, is_live: bool) -> None:
    """Everything that decisions choose from is; where something listens or is kept is not."""
    assert next(key for key in KEYS if key.path == path).is_live is is_live
