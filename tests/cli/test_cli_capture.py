"""`palyra capture`: a run in a file, and the file decided again without journal, configuration or network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_world import Cli, build
from story import Outcome, Step, World, admit, cancel, complete, fail, given, go_on, start, succeed, wait

from palyra.decisions.health import transition

SERVED, FAILED_OVER, REFUSED, CANCELLED, OPEN = (f"01K{letter}" + "0" * 22 for letter in "ABCDE")


def note(run_id: str, provider_id: str, reason: str) -> Step:
    """Look at a provider's health, as every settlement ends."""

    def step(world: World) -> Outcome:
        drafts = transition(
            world.state, provider_id, reason=reason, now_us=world.now_us, correlation=f"run-{run_id}"
        )
        return Outcome(recorded=world.record(drafts))

    return step


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """Command lines over a journal as an engine writes it."""
    world = given(
        None,
        *(admit(SERVED, principal_id="key:alice"), start(SERVED), succeed(SERVED), complete(SERVED)),
        note(SERVED, "a", "success"),
        *(wait(ms=500), admit(FAILED_OVER, session_id="key:alice/diary"), start(FAILED_OVER)),
        *(fail(FAILED_OVER, "tls_failed", phase="connect", message="hush"), go_on(FAILED_OVER, "tls_failed")),
        *(note(FAILED_OVER, "a", "tls_failed"), start(FAILED_OVER, candidate=1), succeed(FAILED_OVER)),
        *(complete(FAILED_OVER, candidate=1), note(FAILED_OVER, "b", "success")),
        admit(REFUSED, "nobody"),
        *(admit(CANCELLED), cancel(CANCELLED, "operator"), admit(OPEN), start(OPEN)),
    )
    directory = tmp_path_factory.mktemp("runs") / "state"
    build(directory, world)
    return Cli(directory, world.now_us + 1_000_000, len(world.history))


@pytest.mark.parametrize("run_id", [SERVED, FAILED_OVER, REFUSED, CANCELLED, OPEN])
def test_a_run_goes_into_a_file_and_is_decided_again(run_id: str, runs: Cli, tmp_path: Path) -> None:
    """Succeeded, failed over, refused, cancelled or open: the replay says that nothing differs."""
    file = tmp_path / "run.json"
    ran = runs("capture", run_id, "-o", str(file))
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith(f"Run {run_id} is in {file}\n")
    assert "replay  decided again, the same\n" in ran.out
    assert ran.out.splitlines()[-1].startswith(f"position {runs.head} · ")
    replayed = Cli(tmp_path / "nowhere", 1)("capture", "replay", str(file))
    assert (replayed.status, replayed.err) == (0, "")
    assert replayed.out.startswith(f"Run {run_id} is decided again, the same\n")
    data = runs("capture", "replay", str(file), "--json").data
    assert data["events_count"] == data["decided_count"] + data["given_count"]
    assert data["difference"] is None
    assert not {"alice", "diary", "hush"} & set(file.read_text().replace("/", " ").replace(":", " ").split())


def test_without_a_file_the_capsule_is_printed(runs: Cli, tmp_path: Path) -> None:
    """As it is, so that it can be piped; with --json inside the document."""
    file = tmp_path / "run.json"
    runs("capture", "run", FAILED_OVER, "--out", str(file))
    printed = runs("capture", FAILED_OVER).out
    assert printed == file.read_text()
    document = runs("capture", FAILED_OVER, "--json").document
    assert document["command"] == "capture run"
    assert document["data"]["capsule"] == json.loads(printed)
    assert document["data"]["capsule_bytes"] == len(printed)
    written = runs("capture", "last", "-o", str(file), "--json").data
    assert (written["run_id"], written["file"], written["capsule"]) == (OPEN, str(file), None)


def test_the_first_difference_is_shown(runs: Cli, tmp_path: Path) -> None:
    """Event, field and both values, then exit 7."""
    file = tmp_path / "run.json"
    capsule = json.loads(runs("capture", FAILED_OVER).out)
    event = next(event for event in capsule["events"] if event["name"] == "attempt.started")
    event["body"]["input_max_tokens"] = 1
    file.write_text(json.dumps(capsule))
    ran = runs("capture", "replay", str(file), columns=80, environ={"NO_COLOR": "1"})
    assert ran.status == 7
    assert f"First difference, at position {event['position']}\n" in ran.out
    assert "  attempt.started input_max_tokens\n    recorded  1\n    decided   " in ran.out
    assert ran.err.startswith(
        f"error: At position {event['position']} attempt.started is decided otherwise: input_max"
    )
    assert ran.err.endswith("code: capsule_differs · exit 7\n")
    document = runs("capture", "replay", str(file), "--json").document
    assert (document["ok"], document["error"]["code"]) == (False, "capsule_differs")
    assert document["data"]["difference"]["fields"][0]["recorded"] == 1
    capsule["events"] = [event for event in capsule["events"] if event["name"] != "routing.failed_over"]
    file.write_text(json.dumps(capsule))
    event["body"]["input_max_tokens"] = 130
    file.write_text(json.dumps(capsule))
    ran = runs("capture", "replay", str(file))
    assert "  recorded  health.changed\n  decided   routing.failed_over\n" in ran.out


def test_a_run_that_is_decided_otherwise_is_captured_all_the_same(tmp_path: Path) -> None:
    """Then the capsule is what is worth sending, and a warning says where it differs."""
    world = given(None, admit(SERVED), start(SERVED), succeed(SERVED), complete(SERVED))
    build(tmp_path / "state", world)
    ran = Cli(tmp_path / "state", world.now_us)("capture", SERVED, "-o", str(tmp_path / "run.json"))
    assert ran.status == 0
    assert "replay  decided otherwise\n" in ran.out
    assert ran.err == "warning: At position 9 nothing was recorded, health.changed is decided.\n"


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("", 2, "import_damaged"),
        ("[]", 2, "import_damaged"),
        ('{"format": "palyra.capsule"}', 5, "unsupported_version"),
    ],
)
def test_what_is_no_capsule_is_refused(text: str, status: int, code: str, runs: Cli, tmp_path: Path) -> None:
    """Whatever stands in the file, the answer is an error with a code."""
    file = tmp_path / "run.json"
    file.write_text(text)
    ran = runs("capture", "replay", str(file))
    assert (ran.status, ran.out) == (status, "")
    assert f"code: {code}" in ran.err


def test_mistakes_are_answered(runs: Cli, tmp_path: Path) -> None:
    """No such run, no such file, no word at all."""
    assert runs("capture", "01NONE").status == 8
    assert "code: bad_path · exit 2" in runs("capture", "replay", str(tmp_path / "none.json")).err
    assert "code: bad_path · exit 2" in runs("capture", SERVED, "-o", str(tmp_path / "none" / "x.json")).err
    assert runs("capture").status == 2
    assert runs("capture", "run").status == 2
    assert runs("capture", "-h").out == runs("capture", "--help").out


@pytest.mark.parametrize("columns", [80, 120])
def test_a_page_fits_its_terminal(columns: int, runs: Cli, tmp_path: Path) -> None:
    """No line of either page is wider than the terminal."""
    file = tmp_path.with_name("r.json")
    pages = [
        runs("capture", FAILED_OVER, "-o", str(file), columns=columns),
        runs("capture", "replay", str(file), columns=columns),
    ]
    for page in pages:
        lines = [line for line in page.out.splitlines() if str(file) not in line]
        assert max(map(len, lines)) <= columns + len("\x1b[1m\x1b[0m\x1b[32m\x1b[0m")


def test_replay_needs_no_loop_and_no_database(runs: Cli, tmp_path: Path) -> None:
    """Deciding again imports neither a socket's world nor the journal's."""
    file = tmp_path / "run.json"
    runs("capture", FAILED_OVER, "-o", str(file))
    code = (
        "import sys\nfrom palyra.cli.main import main\n"
        f"status = main(['capture', 'replay', {str(file)!r}])\n"
        "found = [name for name in ('aiohttp', 'aiosqlite', 'trio', 'palyra.config') if name in sys.modules]\n"
        "assert (status, found) == (0, []), (status, found)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=Path(__file__).parents[2])
