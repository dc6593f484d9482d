"""A configuration that is read again: adopted between two commands, refused whole, or waiting for a start."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from console_house import Operator, open_console
from upstream import Behaviour, Upstream

from palyra.config.problems import ConfigProblems
from palyra.engine.replay import fold_file
from palyra.errors import PalyraError
from palyra.events.cache import CacheEvicted
from palyra.events.config import ConfigRejected
from palyra.redaction import hide_also, redact_text


def write(path: Path, text: str) -> Path:
    """Write a configuration file that only its owner can change."""
    path.write_text(text)
    path.chmod(0o600)
    return path


def says(text: str, more: str = "") -> str:
    """Return a configuration whose model says always the same."""
    return f"""
{more}
[[model_provider.providers]]
provider_id = "script"
kind = "deterministic"
[[model_provider.providers.rules]]
reply = {{ text = "{text}" }}

[[model_provider.models]]
model_id = "deterministic"
provider_id = "script"
"""


async def answer_of(ask: Operator, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await ask(f"runs/{run_id}")).json
    return found


async def test_the_next_run_has_the_new_configuration(tmp_path: Path) -> None:
    """Runs before have the generation of their admission; the reload is a fact with its changed keys."""
    file = write(tmp_path / "palyra.toml", says("one"))
    async with open_console(tmp_path / "state", file) as ask:
        first = await answer_of(ask, await ask.say())
        unchanged = await ask.post("config/reload")
        assert (unchanged.json["outcome"], unchanged.json["generation"]) == ("unchanged", 1)
        write(file, says("two words"))
        done = await ask.post("config/reload")
        assert (done.status, done.json["outcome"], done.json["generation"]) == (200, "adopted", 2)
        assert done.json["changed"] == ["model_provider.providers"]
        second = await answer_of(ask, await ask.say())
        assert (first["config_generation"], second["config_generation"]) == (1, 2)
        assert first["output_tokens"] < second["output_tokens"]
        history = (await ask("config/history")).json["items"]
        assert [one["generation"] for one in history] == [2, 1]
        diff = (await ask("config/diff", a=1, b=2)).json
        assert [one["key"] for one in diff["changed"]] == ["model_provider.providers"]
        assert (await ask("config/diff", a=1, b=9)).status == 404
    assert fold_file(tmp_path / "state" / "journal.db").state.counts["config.adopted"] == 2


async def test_what_is_hidden_beside_secrets_follows_the_configuration(tmp_path: Path) -> None:
    """A pattern holds from the reload on; one that could take long is refused, and those before stay."""
    file = write(tmp_path / "palyra.toml", says("one"))

    def hiding(pattern: str) -> None:
        write(file, says("one", f"[privacy]\nextra_patterns = ['{pattern}']"))

    async with open_console(tmp_path / "state", file) as ask:
        hiding("EMP-[0-9]{6}")
        done = await ask.post("config/reload")
        assert (done.json["changed"], done.json["pending_restart_keys"]) == (["privacy.extra_patterns"], [])
        assert redact_text("of EMP-123456") == "of <redacted>"
        hiding("(EMP-[0-9]+)+")
        assert (await ask.post("config/reload")).status == 422
        assert redact_text("of EMP-123456") == "of <redacted>"
        write(file, says("one"))
        assert (await ask.post("config/reload")).status == 200
        assert redact_text("of EMP-123456") == "of EMP-123456"
    hide_also(())


async def test_a_price_list_that_is_too_long_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration in force stays, and the fact says why; a daemon does not begin with it."""
    file = write(tmp_path / "palyra.toml", says("one"))
    async with open_console(tmp_path / "state", file) as ask:
        monkeypatch.setattr("palyra.engine.prices.PRICES_MAX_COUNT", 0)
        write(file, says("two"))
        refused = await ask.post("config/reload")
        assert (refused.status, refused.code) == (422, "config_invalid")
        status = (await ask("status")).json["config"]
        assert [one["code"] for one in status["rejected"]["problems"]] == ["limit_prices"]
        assert status["generation"] == 1
    with pytest.raises(ConfigProblems, match="limit_prices"):
        async with open_console(tmp_path / "state", file):
            pass


async def test_what_needs_a_start_waits_and_says_so(tmp_path: Path) -> None:
    """The old value stays in force and the key is named, until the next start or until it is taken back."""
    file = write(tmp_path / "palyra.toml", says("one", "[daemon]\nport = 0\ndrain_timeout_ms = 5\n"))
    async with open_console(tmp_path / "state", file) as ask:
        write(file, says("one", "[daemon]\nport = 0\ndrain_timeout_ms = 6\nmax_connections_count = 500\n"))
        done = (await ask.post("config/reload")).json
        assert (done["changed"], done["pending_restart_keys"]) == (
            ["daemon.drain_timeout_ms"],
            ["daemon.max_connections_count"],
        )
        assert ask.daemon.config.daemon.drain_timeout_ms == 6
        assert ask.daemon.config.daemon.max_connections_count == 1_024
        status = (await ask("status")).json["config"]
        assert status["pending_restart_keys"] == ["daemon.max_connections_count"]
        assert (await ask.post("config/reload")).json["outcome"] == "unchanged"
    async with open_console(tmp_path / "state", file) as ask:
        assert ask.daemon.config.daemon.max_connections_count == 500
        assert (await ask("status")).json["config"]["pending_restart_keys"] == []


#: What a daemon obeys without a start, by the tables of the file.
_OBEYED = """
[daemon]
port = 0
idle_timeout_ms = 5000
[journal]
commit_max_count = 7
lazy_append_ms = 11
snapshot_every_count = 123
snapshot_every_ms = 4000
wal_checkpoint_bytes = 65536
witness_every_ms = 1500
witness_copies = ["{copy}"]
min_free_bytes = 67108865
[model_provider]
sse_keepalive_ms = 2345
[self_healing.stalls_after_ms]
run = 30000
loop = 40000
"""


async def test_the_daemon_and_its_journal_obey_at_once(tmp_path: Path) -> None:
    """Chores have their new pace, the journal its new options, connections and streams their new patience."""
    file, copy = write(tmp_path / "palyra.toml", says("one", "[daemon]\nport = 0\n")), tmp_path / "copy.head"
    async with open_console(tmp_path / "state", file) as ask:
        write(file, says("one", _OBEYED.format(copy=copy)))
        done = (await ask.post("config/reload")).json
        assert (done["outcome"], done["pending_restart_keys"]) == ("adopted", [])
        home, daemon = ask.daemon._home, ask.daemon
        await home._witness.do()
        assert copy.read_bytes() == (tmp_path / "state" / "journal.head").read_bytes()
        assert (home._witness._every_us, home._snapshots._every_us) == (1_500_000, 4_000_000)
        assert (home._snapshots._every_count, home._room.min_free_bytes) == (123, 67_108_865)
        options = daemon.core.journal._options
        assert (options.commit_max_count, options.lazy_append_ms) == (7, 11)
        pages = await daemon.core.journal._file.connection.execute_fetchall("PRAGMA wal_autocheckpoint")
        assert list(pages) == [(16,)]
        assert daemon.runs.watch._keepalive_us == 2_345_000
        assert daemon._stalls.bases_ms == {"run": 30_000, "loop": 40_000}
        assert daemon.server._listener()._keepalive_timeout == 5.0
        assert (await answer_of(ask, await ask.say()))["config_generation"] == 2


async def test_a_file_that_changes_is_read_again_where_that_is_wanted(tmp_path: Path) -> None:
    """Once it stays as it is; a bad one is tried once, and one that comes back as it was is no news."""
    wanted = "[daemon]\nport = 0\nwatch_config = {}\n"
    file = write(tmp_path / "palyra.toml", says("one", wanted.format("true")))
    async with open_console(tmp_path / "state", file) as ask:
        watch, rejected, adopted = ask.daemon._config_watch(), "config.rejected", "config.adopted"
        counts = ask.daemon.core.state.counts

        async def look_twice() -> tuple[int, int]:
            await watch.do()
            assert watch.due_at_us() is not None
            await watch.do()
            return counts.get(adopted, 0), counts.get(rejected, 0)

        assert await look_twice() == (1, 0)
        write(file, says("two", wanted.format("true")))
        await watch.do()
        assert counts[adopted] == 1, "it may still be written"
        write(file, says("three", wanted.format("true")))
        assert await look_twice() == (2, 0)
        write(file, "[daemon\n")
        assert await look_twice() == (2, 1)
        assert await look_twice() == (2, 1)
        write(file, says("three", wanted.format("false")))
        assert await look_twice() == (3, 1)
        assert watch.due_at_us() is None


async def test_a_bad_one_is_refused_whole_and_told_once(tmp_path: Path) -> None:
    """The one in force stays; the problems are in the answer, in the status and once in the journal."""
    file = write(tmp_path / "palyra.toml", says("one"))
    async with open_console(tmp_path / "state", file) as ask:
        write(file, says("two", "[daemon]\nprt = 1\n"))
        for _ in range(2):
            refused = await ask.post("config/reload")
            assert (refused.status, refused.code) == (422, "config_invalid")
            assert "daemon.prt" in refused.error["message"]
        with pytest.raises(ConfigProblems):
            await ask.daemon.reload()
        rejected = (await ask("status")).json["config"]["rejected"]
        assert [one["key"] for one in rejected["problems"]] == ["daemon.prt"]
        recorded = [one.body async for one in ask.daemon.journal if isinstance(one.body, ConfigRejected)]
        assert [(one.kept_generation, one.problems[0].code) for one in recorded] == [(1, "unknown_key")]
        assert (await answer_of(ask, await ask.say()))["config_generation"] == 1
        file.unlink()
        assert (await ask.post("config/reload")).code == "config_not_found"
        write(file, says("one"))
        assert (await ask.post("config/reload")).json["outcome"] == "adopted"
        assert (await ask("status")).json["config"]["rejected"] is None


async def test_bad_prices_are_refused_together_and_the_list_in_force_stays(tmp_path: Path) -> None:
    """Each problem stands with its code and key in the fact; calls are priced as before."""

    def priced(input_rate: str, output_rate: str) -> str:
        rates = f'input_usd_per_mtok = "{input_rate}"\noutput_usd_per_mtok = "{output_rate}"\n'
        override = '[[pricing.overrides]]\nprovider_id = "script"\nmodel_id = "deterministic"\n'
        return says("one", override + rates)

    file = write(tmp_path / "palyra.toml", priced("1", "2"))
    async with open_console(tmp_path / "state", file) as ask:
        before = (await ask("pricing")).json["items"]
        write(file, priced("-1", "2000000"))
        refused = await ask.post("config/reload")
        assert (refused.status, refused.code) == (422, "config_invalid")
        (rejected,) = [one.body async for one in ask.daemon.journal if isinstance(one.body, ConfigRejected)]
        assert [(one.code, one.key) for one in rejected.problems] == [
            ("price_negative", "pricing.overrides[0].input_usd_per_mtok"),
            ("price_too_large", "pricing.overrides[0].output_usd_per_mtok"),
        ]
        assert (await ask("pricing")).json["items"] == before
        assert ask.daemon.core.state.counts["price_list.adopted"] == 1


async def test_a_provider_that_is_taken_out_ends_what_it_began(tmp_path: Path) -> None:
    """The attempt that is under way gets its answer; whoever comes later gets another provider."""
    async with Upstream() as up:
        gate = asyncio.Event()
        up.reply_with(Behaviour(head=gate))
        one = f"""
[[model_provider.providers]]
provider_id = "up"
kind = "openai_compatible"
base_url = "{up.url}"
allow_private_base_url = true
auth_scheme = "none"

[[model_provider.models]]
model_id = "deterministic"
provider_id = "up"
"""
        file = write(tmp_path / "palyra.toml", one)
        async with open_console(tmp_path / "state", file) as ask:
            running = asyncio.ensure_future(ask.say())
            await up.request_arrived()
            write(file, says("new"))
            assert (await ask.post("config/reload")).json["generation"] == 2
            later = await answer_of(ask, await ask.say())
            gate.set()
            first = await answer_of(ask, await running)
            assert (first["state"], first["attempts"][0]["provider_id"]) == ("completed", "up")
            assert later["attempts"][0]["provider_id"] == "script"


async def test_one_that_was_handed_over_cannot_be_read_again() -> None:
    """A program that gave its daemon a loaded configuration is told so."""
    from palyra import Daemon
    from palyra.config.load import load_config

    loaded = load_config({"HOME": "/nowhere"}, sets=["daemon.port=0"])
    async with Daemon(loaded, journal=":memory:") as daemon:
        with pytest.raises(PalyraError) as caught:
            await daemon.reload()
        assert caught.value.code == "conflict"


async def test_a_cache_that_is_turned_off_is_emptied(tmp_path: Path) -> None:
    """What it held is let go at once and counted; a smaller one holds what fits, and lets the rest go untold."""

    def cached(count: int) -> str:
        size = f"response_cache_max_entries = {count}\n" if count else ""
        return says("one", f"[model_provider]\nresponse_cache_enabled = {'true' if count else 'false'}\n{size}")

    file = write(tmp_path / "palyra.toml", cached(4))
    async with open_console(tmp_path / "state", file) as ask:
        for text in ("a", "b", "c"):
            await ask.say(text)
        write(file, cached(2))
        await ask.post("config/reload")
        write(file, cached(0))
        for _ in range(2):
            await ask.post("config/reload")
        evicted = [one.body async for one in ask.daemon.journal if isinstance(one.body, CacheEvicted)]
        assert [one.answers_count for one in evicted] == [2]
        assert evicted[0].size_bytes > 0
        write(file, cached(4))
        await ask.post("config/reload")
        hit = await answer_of(ask, await ask.say("c"))
        assert hit["hit"] is None
