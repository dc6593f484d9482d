"""`palyra usage reconcile`, `verify` and `correct`, from the command line to the journal and back."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from budget_kit import price, put, rule
from cli_world import Cli, build
from story import World, admit, complete, given, start, succeed

from palyra.events.usage import UsageRecorded
from palyra.units import US_PER_S


def world() -> World:
    """Two requests whose provider gave them names, under a rule."""
    made = given(None, price(), put(rule("each-day", metric_kind="usd_cost", hard_limit=10**9)))
    for number in (1, 2):
        run_id = f"01KRUN{number}"
        made.do(
            admit(run_id), start(run_id), succeed(run_id, upstream_request_id=f"req-{number}"), complete(run_id)
        )
    return made


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    made = world()
    build(tmp_path / "state", made)
    return Cli(tmp_path / "state", made.now_us + 10 * US_PER_S, len(made.history))


def costs(cli: Cli) -> list[int]:
    return [
        row["cost_nanousd"] for row in cli("usage", "report", "--dataset", "attempts", "--json").document["rows"]
    ]


def account(tmp_path: Path, *amounts: str) -> str:
    path = tmp_path / "account.csv"
    lines = [f"2027-01-15,gpt,req-{number},{amount}" for number, amount in enumerate(amounts, 1)]
    path.write_text("\n".join(["day,model,id,usd", *lines]) + "\n")
    return str(path)


def test_an_account_is_put_beside_the_journal_and_written_once(cli: Cli, tmp_path: Path) -> None:
    """A drift exits 7 with its causes; applied, the rows agree, and a second time nothing is left to write."""
    first, second = costs(cli)
    provider = cli("usage", "providers", "--json").data["items"][0]["id"]
    asked = ["usage", "reconcile", account(tmp_path, "0.001", f"{second / 10**9:.9f}")]
    asked += ["--provider", provider, "--map", "day=start,usd=cost_usd"]
    ran = cli(*asked, "--json")
    assert ran.status == 7
    assert [one["kind"] for one in ran.data["classes"]] == ["price_mismatch"]
    assert ran.data["drift_nanousd"] == 10**6 - first == ran.data["classes"][0]["amount_nanousd"]
    page = cli(*asked, columns=100)
    assert (page.status, "price_mismatch" in page.out, "--apply" in page.out) == (7, True, True)
    assert costs(cli) == [first, second]
    assert cli(*asked, "--apply", "--json").data["applied_count"] == 1
    assert costs(cli) == [10**6, second]
    again = cli(*asked, "--apply", "--json")
    assert (again.status, again.data["applied_count"], again.data["drift_nanousd"]) == (0, 0, 0)
    assert cli("usage", "summary", "--json").data["totals"]["cost_nanousd"] == 10**6 + second
    status = cli("budgets", "show", "each-day", "--json").data["status"][0]
    assert status["consumed"] == 10**6 + second
    assert cli("usage", "verify").status == 0


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--provider", "nobody", "--map", "day=start,usd=cost_usd"], "provider_not_found"),
        (["--provider", "openai"], "invalid_export"),
        (["--provider", "openai", "--map", "day=when"], "usage_error"),
        (["--provider", "openai", "--timezone", "Middle/Earth"], "usage_error"),
        (["--provider", "openai", "--format", "openai"], "invalid_export"),
        (["--provider", "openai", "--apply", "--as-of", "1"], "usage_error"),
    ],
)
def test_what_cannot_be_reconciled_is_refused(cli: Cli, tmp_path: Path, more: list[str], code: str) -> None:
    """Each with its code, and nothing is written."""
    ran = cli("usage", "reconcile", account(tmp_path, "1"), *more, "--json")
    assert ran.document["error"]["code"] == code


def test_a_row_is_corrected_by_hand(cli: Cli) -> None:
    """By run or by position; shown first, asked before, and what it is already is left alone."""
    asked = ["usage", "correct", "01KRUN1", "--cost-usd", "0.5", "--reason", "invoice"]
    assert cli(*asked).status == 2
    done = cli(*asked, "--yes")
    assert (done.status, "$0.50" in done.out) == (0, True)
    assert costs(cli)[0] == 500_000_000
    assert "already" in cli(*asked, "--yes").out
    rows = cli("usage", "report", "--dataset", "usage", "--json").document["rows"]
    assert [row["kind"] for row in rows] == ["recorded", "recorded", "operator"]
    by_position = ["usage", "correct", str(rows[1]["position"]), "--cost-usd", "unknown", "--reason", "x", "--yes"]
    assert cli(*by_position).status == 0
    assert costs(cli)[1] is None
    assert "≥" in cli("usage", "summary").out
    for name, cost, code in (
        ("nothing", "1", "usage_not_found"),
        ("1", "much", "usage_error"),
        ("a/b", "1", "usage_error"),
    ):
        ran = cli("usage", "correct", name, "--cost-usd", cost, "--reason", "x", "--yes", "--json")
        assert ran.document["error"]["code"] == code


def test_usage_verifies_itself(cli: Cli, tmp_path: Path) -> None:
    """Every row and window of a sound journal holds; a row that costs something else is named, with exit 7."""
    sound = cli("usage", "verify", "--json")
    assert (sound.status, sound.data["finding"], sound.data["rows_count"]) == (0, None, 2)
    assert sound.data["windows_count"] == 1
    made = world()
    row = next(one for one in made.history if isinstance(one.body, UsageRecorded))

    wrong = msgspec.structs.replace(row.body, cost_nanousd=7)
    made.history[made.history.index(row)] = msgspec.structs.replace(row, body=wrong)
    build(tmp_path / "other", made)
    other = Cli(tmp_path / "other", made.now_us + US_PER_S)
    ran = other("usage", "verify", "--json")
    assert (ran.status, ran.data["finding"]["code"]) == (7, "cost_differs")
    assert ran.data["finding"]["position"] == row.position
    assert "position" in other("usage", "verify").err
