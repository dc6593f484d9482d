"""`palyra replay --what-if` and `palyra budgets backtest`: what would have been, from the journal's file alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_world import Cli, build
from story import Step, admit, complete, given, start, succeed, wait

from palyra.config.effective import config_digest, recordable_registry, recordable_tree
from palyra.config.load import load_given
from palyra.decisions.pricing import adopt_prices
from palyra.engine.prices import resolve_list
from palyra.events.base import Draft
from palyra.events.config import ConfigAdopted
from palyra.events.routing import RoutingDecided

RUNS = [f"01K{letter}" + "0" * 22 for letter in "ABCDE"]
CONFIG = """version = 1
[[model_provider.providers]]
provider_id = "up"
kind = "openai_compatible"
flavor = "generic"
base_url = "https://up.example/v1"
auth_scheme = "none"
[[model_provider.models]]
model_id = "gpt"
provider_id = "up"
[[model_provider.models]]
model_id = "small"
provider_id = "up"
cost_tier = "low"
[[pricing.overrides]]
provider_id = "up"
model_id = "gpt"
input_usd_per_mtok = "10"
output_usd_per_mtok = "10"
[[pricing.overrides]]
provider_id = "up"
model_id = "small"
input_usd_per_mtok = "1"
output_usd_per_mtok = "1"
"""
STRICT = """policy_id = "all"
scope_kind = "global"
metric_kind = "tokens"
interval_kind = "daily"
hard_limit = 300
"""


def adopted(text: str, path: Path) -> Step:
    """Put a configuration and its prices in force, as a daemon does."""
    path.write_text(text)

    def step(world):  # type: ignore[no-untyped-def]
        config = load_given(path, {}, {}).config
        registry = recordable_registry(config.model_provider.registry)
        fact = ConfigAdopted(
            generation=2, digest=config_digest(config), effective=recordable_tree(config), registry=registry
        )
        world.record([Draft("config", fact)])
        entries = resolve_list(registry, config.pricing.overrides, lambda model: ())
        return world.record(adopt_prices(world.state, entries, catalogue_name="", catalogue_version=""))

    return step


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """Five runs of gpt, a second apart, under a configuration that lies beside them."""
    folder = tmp_path_factory.mktemp("what-if")
    world = given(None, adopted(CONFIG, folder / "palyra.toml"))
    for run_id in RUNS:
        world.do(admit(run_id), start(run_id), succeed(run_id), complete(run_id), wait(ms=1_000))
    assert world.facts(RoutingDecided)[0].recommended == "up/small"
    build(folder / "state", world)
    (folder / "strict.toml").write_text(STRICT)
    (folder / "enforced.toml").write_text(CONFIG + '[routing]\nmode = "enforced"\n')
    return Cli(folder / "state", world.now_us, len(world.history))


def file(journal: Cli, name: str) -> str:
    return str(journal.state_dir.parent / name)


def test_the_recorded_configuration_changes_nothing(journal: Cli) -> None:
    """Five requests, all as they were; the file is not written to."""
    before = (journal.state_dir / "journal.db").read_bytes()
    ran = journal("replay", "--what-if", file(journal, "palyra.toml"))
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("Nothing would have been different of 5 decided again\n")
    data = journal("replay", "--what-if", file(journal, "palyra.toml"), "--json").data
    assert data["counts"]["same"] == data["runs"] == 5
    assert data["delta_nanousd"] == 0
    assert (journal.state_dir / "journal.db").read_bytes() == before


def test_another_mode_reroutes_and_saves(journal: Cli) -> None:
    """The same tokens at a tenth of the price; each run with both ends."""
    data = journal("replay", "--what-if", file(journal, "enforced.toml"), "--json").data
    assert data["counts"]["rerouted"] == 5
    assert (data["cost_before_nanousd"], data["cost_after_nanousd"]) == (5 * 1_100_000, 5 * 110_000)
    assert {(one["before"], one["after"]) for one in data["differing"]} == {("up/gpt", "up/small")}
    told = journal("replay", "--what-if", file(journal, "enforced.toml"), columns=110).out
    assert "5 requests would differ" in told
    assert "-$0.00495" in told


def test_other_rules_and_a_backtest_say_who_is_stopped(journal: Cli) -> None:
    """300 tokens a day for everybody: two runs fit, three do not; `backtest` adds the rule to those there are."""
    for line in (("replay", "--policies"), ("budgets", "backtest")):
        data = journal(*line, file(journal, "strict.toml"), "--json").data
        assert data["counts"]["newly_blocked"] == 3
        assert [one["run_id"] for one in data["differing"]] == RUNS[2:]
        assert data["by_policy"]["all"]["before_nanousd"] == 3 * 1_100_000
        assert [(one["policy_id"], one["kind"]) for one in data["limits"]] == [("all", "hard")]
    later = journal("budgets", "backtest", file(journal, "strict.toml"), "--from", "2999-01-01", "--json").data
    assert later["runs"] == 0
    assert "Limits that would have been passed" in journal("budgets", "backtest", file(journal, "strict.toml")).out


def test_other_prices_cost_otherwise(journal: Cli) -> None:
    """The same runs at twice the price."""
    dear = CONFIG.replace('"10"', '"20"')
    Path(file(journal, "dear.toml")).write_text(dear)
    for option in ("--prices", "--what-if"):
        data = journal("replay", option, file(journal, "dear.toml"), "--json").data
        assert (data["counts"]["same"], data["delta_nanousd"]) == (5, 5 * 1_100_000)


def test_bad_input_is_refused_with_the_way_out(journal: Cli) -> None:
    """Nothing named, files that are not there, wrong or empty, and moments that are none."""
    assert journal("replay").status == 2
    texts = {"bad.toml": "policy_id = ", "empty.toml": "", "odd.toml": 'policy_id = "a"'}
    for name, text in texts.items():
        Path(file(journal, name)).write_text(text)
        options = ("--policies", "--prices") if name == "empty.toml" else ("--policies", "--prices", "--what-if")
        assert [journal("replay", option, file(journal, name)).status for option in options] == [2] * len(options)
    assert journal("replay", "--policies", file(journal, "none.toml")).status == 2
    assert journal("replay", "--what-if", file(journal, "none.toml")).status == 8
    assert journal("replay", "--policies", file(journal, "strict.toml"), "--from", "soon").status == 2


def test_a_journal_that_was_decided_otherwise_fails(tmp_path: Path) -> None:
    """Exit 7, with the position of the first decision that does not come out again."""
    import msgspec

    from palyra.events.runs import RunAdmitted

    world = given()
    world.do(admit(RUNS[0]), start(RUNS[0]), succeed(RUNS[0]), complete(RUNS[0]))
    for index, one in enumerate(world.history):
        if isinstance(one.body, RunAdmitted):
            changed = msgspec.structs.replace(one.body, config_generation=99)
            world.history[index] = msgspec.structs.replace(one, body=changed)
            position = one.position
    build(tmp_path / "state", world)
    (tmp_path / "strict.toml").write_text(STRICT)
    ran = Cli(tmp_path / "state", world.now_us)("replay", "--policies", str(tmp_path / "strict.toml"))
    assert ran.status == 7
    assert f"position {position}" in ran.err
    assert "replay_not_faithful" in ran.err
