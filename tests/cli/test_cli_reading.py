"""What the reading commands answer, for people and for programs, from a journal file alone."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from cli_world import (
    ABANDONED,
    CANCELLED,
    EXHAUSTED,
    FAILED_OVER,
    HOSTILE,
    JOURNAL_ID,
    OPEN,
    REFUSED,
    SERVED,
    Cli,
    build,
)
from story import World, admit, given, record, serve

from palyra.cli.frame import print_line_object
from palyra.engine.codec import to_row
from palyra.engine.status_questions import daemon_answer
from palyra.events.daemon import DaemonDraining, DaemonReady, DaemonStarted, DaemonStopped
from palyra.journal.lock import Holder, JournalLock, LockState, read_lock, this_process
from palyra.journal.sqlite import SqliteJournal
from palyra.projections.state import State
from palyra.units import NANOUSD_PER_USD, US_PER_S

READING = [
    "status",
    "models list",
    "models status",
    "runs list",
    "runs list --open",
    "runs show last",
    *(f"explain {run}" for run in (SERVED, FAILED_OVER, EXHAUSTED, CANCELLED, REFUSED, ABANDONED, OPEN)),
    *(f"runs show {run}" for run in (SERVED, CANCELLED, REFUSED)),
    "journal status",
    "journal tail",
    "journal tail -n 0",
    "journal show 1",
    "journal show provider-openai",
    "journal verify --replay",
    "journal verify --quick",
]
LOCAL = ["config path", "config check", "config show", "config get daemon.port", "config keys", "version", "help"]
_ESCAPES = re.compile("\x1b\\[[0-9]+m")


def _digests(directory: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in directory.iterdir()}


@pytest.mark.parametrize("line", READING)
def test_an_answer_has_its_origin_at_the_foot(line: str, day: Cli) -> None:
    """People get the position, the instant and who answered; standard error stays empty."""
    ran = day(*line.split())
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.splitlines()[-1] == f"position {day.head} · 08:01:20Z · journal file, daemon not running"


@pytest.mark.parametrize("line", [*READING, *LOCAL])
def test_a_document_has_one_frame(line: str, day: Cli) -> None:
    """Programs get one document with sorted keys, whole numbers only, and an empty standard error."""
    ran = day(*line.split(), "--json")
    assert (ran.status, ran.err) == (0, "")
    document = json.loads(ran.out, parse_float=pytest.fail)
    assert list(document) == ["at", "command", "data", "error", "ok", "schema", "warnings"]
    assert (document["schema"], document["ok"], document["error"]) == ("palyra.cli/1", True, None)
    assert line.startswith(document["command"])
    assert ran.out.isascii()
    if line in LOCAL:
        assert document["at"] is None
    else:
        at = document["at"]
        assert sorted(at) == ["as_of_us", "journal_id", "position", "source"]
        assert (at["journal_id"], at["source"]) == (JOURNAL_ID, "journal_file")


def _amounts(plain: object) -> Iterator[tuple[object, object]]:
    if isinstance(plain, list):
        for one in plain:
            yield from _amounts(one)
    if isinstance(plain, dict):
        for name, value in plain.items():
            if name.endswith("_nanousd") and not isinstance(value, dict | list):
                yield value, plain[name.removesuffix("nanousd") + "usd"]
            yield from _amounts(value)


@pytest.mark.parametrize("line", [*READING, *LOCAL, "usage summary", "usage insights"])
def test_money_is_told_twice(line: str, day: Cli) -> None:
    """Beside each amount in nano-USD, however deep, stands the same as an exact decimal; null beside null."""
    found = list(_amounts(day(*line.split(), "--json").document))
    assert found or not line.startswith("usage")
    for nanousd, usd in found:
        assert nanousd is usd is None or Decimal(str(usd)) * NANOUSD_PER_USD == nanousd


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"cost_nanousd": 21_300_000}, {"cost_nanousd": 21_300_000, "cost_usd": "0.0213"}),
        ({"cost_nanousd": -1, "n": 1}, {"cost_nanousd": -1, "cost_usd": "-0.000000001", "n": 1}),
        ({"cost_nanousd": None}, {"cost_nanousd": None, "cost_usd": None}),
        ({"cost_nanousd": 5, "cost_usd": "its own"}, {"cost_nanousd": 5, "cost_usd": "its own"}),
        ([{"a": {"x_nanousd": 0}}], [{"a": {"x_nanousd": 0, "x_usd": "0.00"}}]),
        ({"spent_nanousd": {"day": 1}}, {"spent_nanousd": {"day": 1}}),
    ],
)
def test_a_line_has_its_money_twice_too(value: object, told: object, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands that go on printing follow the same rule; what already says it in USD is left as it is."""
    print_line_object(value)
    assert json.loads(capsys.readouterr().out) == told


@pytest.mark.parametrize("mode", [[], ["--json"]])
def test_reading_changes_no_byte(day: Cli, mode: list[str]) -> None:
    """Offline reading leaves every file as it was and makes none."""
    before = _digests(day.state_dir)
    for line in READING:
        day(*line.split(), *mode)
    assert _digests(day.state_dir) == before


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("line", [line for line in READING if "show" not in line or "runs" in line])
def test_a_page_fits_its_terminal(line: str, columns: int, day: Cli) -> None:
    """On a terminal no line is wider than it, and without its colours a page has the same words."""
    coloured = day(*line.split(), columns=columns)
    plain = day(*line.split(), columns=columns, environ={"NO_COLOR": "1"})
    assert "\x1b[" in coloured.out
    assert _ESCAPES.sub("", coloured.out) == plain.out
    assert max(map(len, plain.out.splitlines())) <= columns


@pytest.mark.parametrize("line", READING)
@pytest.mark.parametrize("columns", [None, 80])
def test_hostile_text_stays_text(line: str, columns: int | None, day: Cli) -> None:
    """What somebody put into a model's name cannot command the terminal."""
    ran = day(*line.split(), columns=columns)
    shown = _ESCAPES.sub("", ran.out)
    assert not set(shown) & set("\x1b\x07\x9b\u202e\r")


def test_hostile_text_is_written_out(day: Cli) -> None:
    """It is shown, written out, and programs get it as it was."""
    assert "evil\\x1b]0;owned\\x07\\u202e\\x9b31m\\x0aline" in day("explain", REFUSED).out
    assert day("explain", REFUSED, "--json").data["model_requested"] == HOSTILE


def test_a_stream_without_unicode_gets_ascii(day: Cli) -> None:
    """An encoding that is not UTF-8 gets ASCII and no error."""
    ran = day("explain", FAILED_OVER, encoding="ascii")
    assert ran.status == 0
    assert f"position {day.head} - 08:01" in ran.out
    assert "->  overloaded" in ran.out


def test_status(day: Cli) -> None:
    """Status says what runs, what is open, what fails and what was used today."""
    ran = day("status")
    assert ran.out.startswith("Palyra 0.1.0 has crashed")
    for line in (
        "runs       1 open · 2 completed · 2 failed · 1 cancelled · 1 refused",
        "refused    model_not_found 1",
        "held       180 tokens for open attempts",
        "incidents  1 open",
        "danger    provider.down  provider openai  11 s ago",
        "openai    unavailable  open, trial in 11 s         3  33 %  1 min ago    overloaded, 18 s ago",
    ):
        assert line in ran.out
    data = day("status", "--json").data
    assert data["daemon"] == {
        "is_running": False,
        "phase": "crashed",
        "pid": 2,
        "http": None,
        "release": "0.1.0",
        "boot_id": "boot-2",
        "started_us": data["daemon"]["started_us"],
        "stopped_us": None,
    }
    assert [run["run_id"] for run in data["open_runs"]] == [OPEN]
    assert data["usage_today"]["rows_count"] == 5
    assert data["usage_total"]["since_us"] is None
    assert (data["usage_today"]["cost_nanousd"], data["usage_today"]["unpriced_count"]) == (0, 5)
    shown = day("status").out
    assert shown.startswith("Palyra 0.1.0 has crashed · palyra serve settles what it left open\n")
    assert "today      unknown · " in shown


def test_usage_of_today_begins_at_midnight(day: Cli) -> None:
    """What was used yesterday is not of today."""
    tomorrow = Cli(day.state_dir, day.now_us + 86_400 * US_PER_S)
    assert "today      nothing used" in tomorrow("status").out


def test_models_and_their_problems(day: Cli, tmp_path: Path) -> None:
    """The list shows what can be asked for, the status what keeps it from being served."""
    listed = day("models", "list").out
    assert re.search(
        r"^gpt +openai +chat +default +128,000 +16,384 +unknown +TJVDA +gpt-openai +fast$", listed, re.MULTILINE
    )
    assert re.search(r"^embed +local +embed +default +128,000 .*64 dimensions", listed, re.MULTILINE)
    assert "\nT tools · J JSON schema · V pictures · D documents · A sound\n" in listed
    status = day("models", "status")
    assert "openai  It failed 2 times in a row and is left alone for a while." in status.out
    codes = [problem["code"] for problem in day("models", "status", "--json").data["problems"]]
    assert codes == ["circuit_open"]


def test_runs_are_listed_newest_first(day: Cli) -> None:
    """The list starts with the newest run and ends with the oldest, or shows only open ones."""
    listed = [run["run_id"] for run in day("runs", "list", "--json").data["items"]]
    assert listed == [OPEN, ABANDONED, REFUSED, CANCELLED, EXHAUSTED, FAILED_OVER, SERVED]
    assert [run["run_id"] for run in day("runs", "list", "--limit", "2", "--json").data["items"]] == listed[:2]
    assert [run["state"] for run in day("runs", "list", "--open", "--json").data["items"]] == ["open"]


def test_a_run_is_shown_with_its_attempts(day: Cli) -> None:
    """One run's page has what was asked, how it ended, and a line for each attempt."""
    shown = day("runs", "show", FAILED_OVER).out
    assert "end     completed · stop reason stop · first byte after 200 ms" in shown
    assert "usage   90 tokens in · 20 out · 540 were held" in shown
    assert re.search(
        r"^3  2027-01-15 08:01:01.150Z  groq / gpt +succeeded  stop +200 ms +700 ms  90   20$", shown, re.M
    )
    assert "for     01KSESSION" in day("runs", "show", SERVED).out


EXPLAINED = """\
Run 01KB0000000000000000000002 completed after 1.1 s

asked  chat · gpt
when   2027-01-15 08:01:01Z · 19 s ago
by     key:0123456789AB
input  about 100 tokens, 130 at most

Name
  means     gpt · the id of a model
  failover  to compatible models of other providers

Plan
     PROVIDER / MODEL  HEALTH   READINESS  IN THE PLAN AS
  1  openai / gpt      healthy  ready      asked for
  2  groq / gpt        unknown  ready      asked for
  output maximum 50 tokens

Left out
  local / tiny  window holds 64 tokens, input and answer need 150

Attempts
  1  openai / gpt failed after 300 ms
     cause  overloaded · phase headers · HTTP 503 · counted by the circuit
     said   Overloaded, try later.
     then   tried again after 75 ms
     held   130 tokens in · 50 out · no budget applied
  2  openai / gpt failed after 300 ms
     cause  overloaded · phase headers · HTTP 503 · counted by the circuit
     held   130 tokens in · 50 out · no budget applied
  →  overloaded: on to groq / gpt, 0 candidates left behind it
  3  groq / gpt succeeded after 700 ms
     held  130 tokens in · 50 out · no budget applied
     used  90 tokens in · 20 out

End
  completed · stop reason stop · first byte after 200 ms
  90 tokens in · 20 out · 540 were held

Choice
  mode        suggest · interactive
  does        what was asked for is served
  looks for   the cheapest model
  complexity  125 of 10,000 · length 125
  because     context filter applied, mode suggest only, score simple, strategy cheapest, task class interactive

Models
     PROVIDER / MODEL  EXPECTED  QUALITY  LATENCY  LEFT OUT
  1  openai / gpt       unknown       60   750 ms
  2  groq / gpt         unknown       60      2 s
     local / tiny       unknown       60      2 s  window holds 64 tokens, input and answer need 150

What would flip it
  size  an input of about 127,951 tokens instead of 100 → refused with context_window_exceeded
  price: groq/gpt has no price, and one could change the decision
  budget: had no part in it
  time, complexity: no value alone changes the decision

Cost
     PROVIDER / MODEL  TIER      PRICE     COST
  1  openai / gpt      standard  none
  2  openai / gpt      standard  none
  3  groq / gpt        standard  none   unknown
  1 attempt without a price

position {head} · 08:01:20Z · journal file, daemon not running
"""


def test_explain_tells_the_whole_story(day: Cli) -> None:
    """Name, plan, what was left out, every attempt with its figures, and the end: one page from one stream."""
    assert day("explain", FAILED_OVER).out == EXPLAINED.format(head=day.head)


def test_explain_of_other_ends(day: Cli) -> None:
    """A refused, a cancelled and an abandoned run say what became of them."""
    refused = day("explain", REFUSED).out
    assert "refused · model_not_found · HTTP 404\n  Nothing was sent to a provider." in refused
    assert "cancelled · the client hung up" in day("explain", CANCELLED).out
    abandoned = day("explain", ABANDONED).out
    assert "cause  the daemon died while the call was open" in abandoned
    assert "used   130 tokens in · 50 out · estimated · may not have been billed" in abandoned
    assert "openai / gpt  circuit is open until 08:01:31Z, 28 s after the decision" in abandoned
    assert "needs  tools" in day("explain", OPEN).out


def test_a_run_is_named_by_its_beginning(day: Cli) -> None:
    """An id, a beginning that only one run has, and `last` lead to a run; anything else is not found."""
    assert day("runs", "show", "01KB", "--json").data["run_id"] == FAILED_OVER
    assert day("runs", "show", "last", "--json").data["run_id"] == OPEN
    for name, said in (
        ("01K", f"'01K' is the beginning of {SERVED}, {FAILED_OVER}, {EXHAUSTED}, {CANCELLED} and more."),
        ("01Z", "There is no run '01Z'."),
        ("*", "There is no run '*'."),
    ):
        ran = day("runs", "show", name)
        assert (ran.status, ran.out) == (8, "")
        assert ran.err.startswith(f"error: {said}\nhint: ")
        assert ran.err.endswith("code: run_not_found · exit 8\n")
    assert day("explain", "01Z", "--json").document["error"]["code"] == "run_not_found"


@pytest.mark.parametrize("line", ["status", "runs list", "explain last", "journal tail", "journal verify"])
def test_without_a_journal(line: str, tmp_path: Path) -> None:
    """Where nothing was served yet a command says so, and what to do."""
    nowhere = Cli(tmp_path / "nothing", 1)
    ran = nowhere(*line.split())
    assert (ran.status, ran.out) == (7, "")
    assert ran.err == (
        f"error: There is no journal at {tmp_path}/nothing/journal.db.\n"
        "hint: palyra serve makes one; --state-dir names another place\n"
        "code: journal_unreadable · exit 7\n"
    )
    document = nowhere(*line.split(), "--json").document
    assert (document["ok"], document["data"], document["error"]["exit"]) == (False, None, 7)
    assert not (tmp_path / "nothing").exists()


def test_before_the_first_request(tmp_path: Path) -> None:
    """A journal without runs answers too."""
    build(tmp_path / "state", given())
    early = Cli(tmp_path / "state", 1_800_000_000 * US_PER_S)
    assert "No request was made yet." in early("runs", "list").out
    assert "No run is open." in early("runs", "list", "--open").out
    ran = early("explain", "last")
    assert (ran.status, ran.err.splitlines()[0]) == (8, "error: No request was made yet.")


@pytest.mark.parametrize("line", ["status", "env", "config show", "serve"])
def test_a_wrong_configuration_is_refused(line: str, day: Cli, tmp_path: Path) -> None:
    """A command that loads configuration names every problem of it and exits 2."""
    file = tmp_path / "palyra.toml"
    file.write_text("[daemon]\nprt = 1\nhost = 5\n")
    ran = day(*line.split(), "--config", str(file))
    assert (ran.status, ran.out) == (2, "")
    assert f"{file}:2:1 daemon.prt: unknown key" in ran.err
    assert f"{file}:3:" in ran.err
    assert ran.err.endswith("code: config_invalid · exit 2\n")
    error = day(*line.split(), "--config", str(file), "--json").document["error"]
    assert (error["code"], error["exit"]) == ("config_invalid", 2)


def test_a_warning_does_not_spoil_an_answer(day: Cli) -> None:
    """A variable that no key has is warned about, beside the answer."""
    ran = day("status", environ={"PALYRA_DAEMON_PRT": "1"})
    assert ran.status == 0
    assert ran.err.startswith("warning: PALYRA_DAEMON_PRT: is the variable of no key")
    assert ran.out
    document = day("status", "--json", environ={"PALYRA_DAEMON_PRT": "1"}).document
    assert [warning["code"] for warning in document["warnings"]] == ["unknown_env"]


async def test_reading_beside_a_live_writer(tmp_path: Path) -> None:
    """What is durable is seen at once while a daemon writes, and the answer says that one does."""
    world = given()
    journal = await SqliteJournal.open(tmp_path / "journal.db", new_journal_id=JOURNAL_ID, now_us=world.now_us)
    await journal.append([to_row(recorded) for recorded in world.history])
    holder = this_process(release="0.1.0", started_at_us=world.now_us)
    with JournalLock.acquire(tmp_path / "journal.lock", holder):
        cli = Cli(tmp_path, world.now_us)
        before = cli("runs", "list", "--json").document
        known = len(world.history)
        world.do(serve("01KLIVE"))
        await journal.append([to_row(recorded) for recorded in world.history[known:]])
        after = cli("runs", "list", "--json").document
        assert f"journal file, daemon running (pid {holder.pid})" in cli("status").out
    assert before["data"]["items"] == []
    assert [run["run_id"] for run in after["data"]["items"]] == ["01KLIVE"]
    assert after["at"]["position"] == len(world.history) > before["at"]["position"]
    await journal.close()


def test_events_of_a_newer_release_are_not_folded(tmp_path: Path) -> None:
    """State that would leave events out is refused with 5; showing and checking rows works."""
    from palyra.events.base import UnknownEvent

    world = given()
    build(tmp_path / "state", world)
    newer = tmp_path / "newer"
    last = world.history[-1]
    body = UnknownEvent(name="comet.seen", schema=1, body={"tail": 2})
    strange = type(last)(last.position + 1, "sky", 1, last.recorded_at_us, "system", "", 0, "", body)
    world.history.append(strange)
    build(newer, world)
    cli = Cli(newer, world.now_us)
    ran = cli("status")
    assert (ran.status, ran.out) == (5, "")
    assert "comet.seen" in ran.err
    assert cli("status", "--json").document["error"]["code"] == "journal_newer"
    assert "comet.seen" in cli("journal", "tail").out
    assert '"tail": 2' in cli("journal", "show", "sky").out
    verified = cli("journal", "verify")
    assert verified.status == 0
    assert "info: unknown_name" in verified.out
    assert "not known" in cli("journal", "status").out


def _phase(*facts: object, holder_pid: int | None = None) -> str:
    world = World()
    world.do(*(record("daemon", fact) for fact in facts))  # type: ignore[arg-type]
    holder = Holder(pid=holder_pid, release="9", started_at_us=1) if holder_pid is not None else None
    return daemon_answer(world.state, LockState(holder_pid is not None, holder)).phase


def test_phases_of_a_daemon() -> None:
    """The lock says whether a daemon lives, the journal how far it came or how it ended."""
    ready = DaemonReady(boot_id="boot-1")
    draining = DaemonDraining(boot_id="boot-1", reason="signal", deadline_us=1)
    stopped = DaemonStopped(boot_id="boot-1")
    assert _phase(holder_pid=1) == "starting"
    assert _phase(ready, holder_pid=1) == "ready"
    assert _phase(ready, draining, holder_pid=1) == "draining"
    assert _phase(ready, draining, stopped) == "stopped"
    assert _phase(ready) == "crashed"
    assert _phase(ready, stopped, holder_pid=7) == "starting"
    assert daemon_answer(State(), LockState(False, None)).phase == "never"
    assert daemon_answer(State(), LockState(True, None)).is_running


def test_problems_of_models(tmp_path: Path) -> None:
    """No default, a default that nobody serves, a refused address and an idle provider are problems."""
    from registries import model, provider, registry
    from story import adopt, fail, start

    from palyra.engine.model_questions import models_answer

    def codes(world: World) -> list[str]:
        return [problem.code for problem in models_answer(world.state, world.now_us).problems]

    nothing = given(registry(provider("idle"), default_chat_model_id=""))
    assert codes(nothing) == ["no_default_model", "provider_unused"]
    blocked = given(
        registry(provider("a"), model("gpt", "a")),
        admit("r1"),
        start("r1"),
        fail("r1", "netguard_blocked", may_retry=False),
    )
    assert codes(blocked) == ["default_unservable", "provider_blocked"]
    left_out = given(registry(provider("a"), provider("b"), model("gpt", "a"), model("gpt", "b")))
    left_out.do(admit("r1"), start("r1"), fail("r1", "model_unavailable", may_retry=False))
    assert codes(left_out) == ["model_excluded"]
    assert codes(given(registry(provider("a", enabled=False), model("gpt", "a")))) == ["default_unservable"]
    build(tmp_path / "state", left_out)
    shown = Cli(tmp_path / "state", left_out.now_us)
    assert "Left out for a while" in shown("models", "status").out
    assert "left out" in shown("models", "list").out
    build(tmp_path / "off", nothing.do(adopt(registry(provider("a", enabled=False), model("gpt", "a")))))
    assert "disabled" in Cli(tmp_path / "off", left_out.now_us)("models", "list").out


def test_the_lock_of_nobody() -> None:
    """A lock file that is not there means that nobody writes."""
    assert read_lock(Path("/nonexistent/journal.lock")) == LockState(False, None)
    assert DaemonStarted.__struct_config__.tag == "daemon.started"
