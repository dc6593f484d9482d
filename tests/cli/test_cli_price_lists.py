"""`palyra pricing diff` and `import`: recorded lists side by side, and prices out of a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_world import Cli, Ran, build
from story import Outcome, Step, World, given, wait

from palyra.config.load import load_config
from palyra.decisions.pricing import adopt_prices, with_id
from palyra.events.pricing import PriceEntry


def listed(*entries: PriceEntry) -> Step:
    """Adopt a list."""

    def step(world: World) -> Outcome:
        drafts = adopt_prices(world.state, list(entries), catalogue_name="prices", catalogue_version="7")
        return Outcome(recorded=world.record(drafts))

    return step


def entry(model_id: str, usd: int, **changes: object) -> PriceEntry:
    rates = {"input_nanousd_per_mtok": usd * 10**9, "output_nanousd_per_mtok": usd * 10**9}
    return with_id(PriceEntry(price_id="", provider_id="a", model_id=model_id, **{**rates, **changes}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """Two lists, a second apart: a dearer model, one that is gone, one that is new and free, one the same."""
    world = given(
        None,
        listed(entry("gpt", 1), entry("old", 2), entry("same", 3)),
        wait(ms=1_000),
        listed(
            entry("gpt", 4),
            entry("same", 3),
            with_id(PriceEntry(price_id="", provider_id="a", model_id="new", state="free", variant="flex")),
        ),
    )
    folder = tmp_path_factory.mktemp("lists")
    build(folder / "state", world)
    return Cli(folder / "state", world.now_us, len(world.history))


def test_two_lists_side_by_side(lists: Cli) -> None:
    """What 1,000 and 1,000 tokens cost now and before, and how many entries are the same."""
    data = lists("pricing", "diff", "1", "2", "--json").data
    changes = {one["model_id"]: one for one in data["changes"]}
    assert list(changes) == ["gpt", "new", "old"]
    assert (changes["gpt"]["sample_before_nanousd"], changes["gpt"]["sample_after_nanousd"]) == (
        2 * 10**6,
        8 * 10**6,
    )
    assert (changes["new"]["before"], changes["new"]["after"]["state"]) == (None, "free")
    assert (changes["old"]["after"], data["same_count"]) == (None, 1)
    assert (data["before"]["price_version"], data["after"]["catalogue_version"]) == (1, "7")
    told = lists("pricing", "diff", "1", "2").out
    assert "changed   $0.008  $0.002" in told
    assert "gone" in told
    assert "1 entry the same" in told
    back = lists("pricing", "diff", "2", "1", "--json").data
    assert [one["model_id"] for one in back["changes"] if one["before"] is None] == ["old"]


def test_a_list_that_is_not_there(lists: Cli) -> None:
    """Neither now nor at a moment before it was adopted; the newest one is named."""
    ran = lists("pricing", "diff", "1", "3")
    assert (ran.status, "the newest is version 2" in ran.err) == (8, True)
    before = lists("pricing", "diff", "1", "2", "--as-of", str(lists.head - 1), "--json")
    assert (before.status, before.document["error"]["code"]) == (8, "price_list_not_found")
    assert lists("pricing", "diff", "1", "1", "--json").data["changes"] == []


CONFIG = """\
version = 1
# mine
[[model_provider.providers]]
provider_id = "d"
kind = "deterministic"

[[pricing.overrides]]
provider_id = "d"
model_id = "one"   # by contract
input_usd_per_mtok = "1"
request_usd_each = "0.5"
"""
PRICES = """\
[[pricing.overrides]]
provider_id = "d"
model_id = "one"
input_usd_per_mtok = "2"
output_usd_per_mtok = "3"

[[pricing.overrides]]
provider_id = "d"
model_id = "two"
effective_from = 2026-01-01
input_usd_per_mtok = 0.59
tiers = [{ above_input_tokens = 1000, input_usd_per_mtok = "0.2" }]
"""


class Importer:
    """Imports into a configuration of its own."""

    def __init__(self, day: Cli, folder: Path) -> None:
        self._day = day
        self.folder = folder
        self.config = folder / "palyra.toml"
        self.config.write_text(CONFIG)

    def __call__(self, text: str, *options: str, name: str = "prices.toml", is_json: bool = True) -> Ran:
        (self.folder / name).write_text(text)
        line = ("pricing", "import", str(self.folder / name), *options, *(["--json"] if is_json else []))
        return self._day(*line, environ={"PALYRA_CONFIG": str(self.config)})

    def overrides(self) -> list[PriceEntry]:
        return list(load_config({"PALYRA_CONFIG": str(self.config)}).config.pricing.overrides)


@pytest.fixture
def imported(day: Cli, tmp_path: Path) -> Importer:
    return Importer(day, tmp_path)


def test_nothing_is_written_before_it_is_asked_for(imported: Importer) -> None:
    """The preview says what becomes of each row, and what it costs."""
    data = imported(PRICES).data
    assert [(one["change"], one["sample_nanousd"]) for one in data["items"]] == [
        ("changed", 5 * 10**6),
        ("new", None),
    ]
    assert (data["is_applied"], imported.config.read_text()) == (False, CONFIG)
    assert "--apply writes it" in imported(PRICES, is_json=False).out


def test_prices_are_written_beside_what_is_there(imported: Importer) -> None:
    """A row takes the place of the same one, comments stay, and the same again changes nothing."""
    data = imported(PRICES, "--apply").data
    assert (data["is_applied"], data["is_live"]) == (True, False)
    text = imported.config.read_text()
    assert "# mine" in text
    assert 'model_id = "one"   # by contract' in text
    one, two = imported.overrides()
    assert (one.input_nanousd_per_mtok, one.output_nanousd_per_mtok) == (2 * 10**9, 3 * 10**9)
    assert one.request_nanousd_each is None
    assert (two.input_nanousd_per_mtok, two.tiers[0].above_input_tokens) == (590_000_000, 1_000)
    again = imported(PRICES, "--apply").data
    assert [one["change"] for one in again["items"]] == ["same", "same"]
    assert (again["is_applied"], imported.config.read_text()) == (False, text)
    assert "nothing to change" in imported(PRICES, is_json=False).out


def test_json_will_do(imported: Importer) -> None:
    """The same rows, as programs write them."""
    rows = {"pricing": {"overrides": [{"provider_id": "d", "model_id": "two", "free": True}]}}
    told = imported(json.dumps(rows), "--apply", name="prices.json", is_json=False).out
    assert "free" in told
    assert "acts at the next start" in told
    assert [one.state for one in imported.overrides()] == ["priced", "free"]


def test_everything_wrong_is_told_at_once_and_nothing_written(imported: Importer) -> None:
    """Each with its place in the file; one good row among them is not written either."""
    bad = PRICES.replace('"2"', '"-2"').replace('"d"\nmodel_id = "two"', '"nobody"\nmodel_id = "two"')
    ran = imported(bad, "--apply")
    assert (ran.status, imported.config.read_text()) == (2, CONFIG)
    told = imported(bad, "--apply", is_json=False).err
    assert "pricing.overrides[0].input_usd_per_mtok" in told
    assert "price_negative" in told
    assert "pricing.overrides[1].provider_id" in told
    assert "prices.toml" in told


def test_what_does_not_fit_what_is_there_is_refused(imported: Importer) -> None:
    """Another beginning of the same model overlaps the row that has none."""
    late = (
        '[[pricing.overrides]]\nprovider_id = "d"\nmodel_id = "one"\neffective_from = "2026-01-01"\nfree = true\n'
    )
    ran = imported(late, "--apply", is_json=False)
    assert (ran.status, "price_overlap" in ran.err) == (2, True)
    assert imported.config.read_text() == CONFIG


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prices.toml", "pricing = "),
        ("prices.json", "{"),
        ("prices.json", "[" * 100_000),
        ("prices.json", "[1]"),
        ("prices.toml", "pricing = 1"),
        ("prices.toml", "[pricing]\noverrides = [1]"),
        ("prices.toml", ""),
        ("prices.toml", "#" * 1_100_000),
    ],
)
def test_a_file_without_prices_is_refused(imported: Importer, name: str, text: str) -> None:
    """What is no TOML, no JSON, too long or something else."""
    assert imported(text, name=name).status == 2


def test_a_file_that_is_not_there_is_refused(imported: Importer) -> None:
    """Exit 2, with the reason."""
    ran = imported._day("pricing", "import", str(imported.folder / "none.toml"))
    assert (ran.status, "cannot be read" in ran.err) == (2, True)
