"""`palyra keys` without a daemon: what is issued is shown once, and the journal is changed as a daemon would."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import pytest
from cli_world import Cli

from palyra.auth.keyfiles import read_key_file
from palyra.decisions.key_text import read_key


@pytest.fixture
def copied(day: Cli, tmp_path: Path) -> Cli:
    """The day's state, to be changed."""
    shutil.copytree(day.state_dir, tmp_path / "state")
    return Cli(tmp_path / "state", day.now_us, day.head)


def test_a_key_is_issued_and_shown_once(copied: Cli) -> None:
    """The secret is in the answer to the command that made it and in no other."""
    made = copied("keys", "issue", "ci", "--scope", "v1:chat", "--rpm", "60", "--expires", "30d", "--json")
    assert made.status == 0
    secret = made.data["secret"]
    text = read_key(secret)
    assert text is not None
    assert (text.kind, text.key_id) == ("client", made.data["key"]["key_id"])
    assert made.data["key"]["expires_us"] > copied.now_us
    listed, shown = copied("keys", "list"), copied("keys", "show", "ci")
    assert "60 requests/min" in shown.out
    assert "ci" in listed.out
    for ran in (listed, shown, copied("journal", "tail", "--json")):
        assert secret not in ran.out
        assert secret[-49:] not in ran.out
    people = copied("keys", "issue", "b")
    assert "It is shown this once" in people.out


def test_a_key_goes_to_a_file_for_its_owner_alone(copied: Cli, tmp_path: Path) -> None:
    """With --out it is printed nowhere; with --sk-form it is written as some SDKs want it, and means the same."""
    path = tmp_path / "bot.key"
    made = copied("keys", "issue", "bot", "--out", str(path), "--sk-form", "--json")
    written = read_key_file(path)
    assert written is not None
    assert written.reveal().startswith("sk-palyra_client_")
    assert path.stat().st_mode & 0o777 == 0o600
    assert (made.data["secret"], made.data["file"]) == (None, str(path))
    assert written.reveal() not in made.out
    who = copied("keys", "whoami", "--json", environ={"OPENAI_API_KEY": written.reveal()})
    assert who.data["name"] == "bot"


def test_a_key_that_could_not_be_handed_over_is_not_made(copied: Cli, tmp_path: Path) -> None:
    """Where nothing can be written, or something else would be replaced; another key of ours may be."""
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    for place in (notes, tmp_path, tmp_path / "nowhere" / "bot.key"):
        refused = copied("keys", "issue", "bot", "--out", str(place))
        assert (refused.status, "code: bad_path" in refused.err) == (2, True)
    assert notes.read_text() == "mine"
    assert copied("keys", "show", "bot").status == 8
    path = tmp_path / "bot.key"
    assert copied("keys", "issue", "bot", "--out", str(path)).status == 0
    before = path.read_text()
    assert copied("keys", "rotate", "bot", "--out", str(path)).status == 0
    assert path.read_text() != before


def test_a_budget_of_a_key_is_told_with_it(copied: Cli) -> None:
    """By the command that shows what it has used."""
    shown = copied("keys", "issue", "guest", "--budget", "usd=5/daily").out
    command = re.search(r"palyra (budgets show key-\w+)", shown)
    assert command is not None
    assert copied(*command[1].split()).status == 0


def test_whoami_says_why_a_key_opens_nothing(copied: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mistyped, unknown, revoked and expired are told apart; no key is an error of the command line."""
    secret = copied("keys", "issue", "ci", "--expires", "2m", "--json").data["secret"]
    other = copied("keys", "issue", "other", "--json").data["secret"]
    mistyped = secret[:-1] + ("0" if secret[-1] != "0" else "1")

    def told(key: str) -> tuple[int, str]:
        ran = copied("keys", "whoami", environ={"OPENAI_API_KEY": key})
        return ran.status, ran.out + ran.err

    assert told(secret)[0] == 0
    assert "mistyped" in told(mistyped)[1]
    assert "no client key of Palyra" in told("hunter2")[1]
    copied("keys", "revoke", "--yes", "other", "--reason", "gone")
    assert "revoked" in told(other)[1]
    copied.now_us += 180 * 1_000_000
    assert "expired" in told(secret)[1]
    assert {told(key)[0] for key in (mistyped, "hunter2", other, secret)} == {3}
    assert told("")[0] == 2
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{mistyped}\n"))
    assert "mistyped" in copied("keys", "whoami", "--key-stdin").err


def test_a_key_is_limited_rotated_and_revoked(copied: Cli, tmp_path: Path) -> None:
    """Each step is refused where its rule says so, with the code of the rule."""
    copied("keys", "issue", "ci", "--scope", "v1:chat", "--agent", "coder", "--expires", "1h")
    limited = copied("keys", "limits", "ci", "--tpm", "1000", "--never-expires", "--json")
    assert (limited.data["tokens_per_minute"], limited.data["expires_us"]) == (1_000, None)
    for arguments, status, code in (
        (("limits", "ci", "--scope", "v1:*"), 6, "scope_escalation"),
        (("limits", "ci", "--expires", "1h", "--never-expires"), 2, "usage_error"),
        (("limits", "ci", "--expires", "soon"), 2, "usage_error"),
        (("limits", "ci", "--burst", "1"), 2, "invalid_request"),
        (("rotate", "ci", "--grace", "2d"), 2, "invalid_request"),
        (("revoke", "nobody", "--yes"), 8, "key_not_found"),
        (("issue", "ci"), 7, "conflict"),
        (("issue", "x", "--principal", "system:daemon"), 2, "principal_reserved"),
    ):
        ran = copied("keys", *arguments)
        assert ran.status == status, ran.err
        assert code in ran.err
    rotated = copied("keys", "rotate", "ci", "--grace", "1h", "--out", str(tmp_path / "ci.key"), "--json")
    assert rotated.data["key"]["agents"] == ["coder"]
    statuses = [row["status"] for row in copied("keys", "list", "--all", "--json").data["items"]]
    assert statuses == ["rotating", "active"]
    assert copied("keys", "revoke", "--yes", "ci", "--now").status == 0
    assert copied("keys", "show", "ci").status == 8


class _Typed(io.StringIO):
    """Standard input with somebody at it."""

    def isatty(self) -> bool:
        return True


def test_what_cannot_be_taken_back_is_asked_for(copied: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody at a terminal is asked, a script says --yes; without either nothing is done."""
    copied("keys", "issue", "ci")
    refused = copied("keys", "revoke", "ci", "--json")
    assert (refused.status, json.loads(refused.out)["error"]["code"]) == (2, "usage_error")
    assert "--yes" in refused.out
    for typed in ("n\n", "\n", ""):
        monkeypatch.setattr("sys.stdin", _Typed(typed))
        declined = copied("keys", "revoke", "ci")
        assert (declined.status, "cannot be given back" in declined.err) == (2, True)
        assert "Nothing was done." in declined.err
    assert copied("keys", "show", "ci").status == 0
    monkeypatch.setattr("sys.stdin", _Typed("y\n"))
    assert copied("keys", "revoke", "ci").status == 0
    assert copied("keys", "show", "ci").status == 8


def test_the_past_of_keys_is_told(copied: Cli) -> None:
    """As of a position before it was issued there was no such key."""
    copied("keys", "issue", "ci")
    assert copied("keys", "list", "--as-of", str(copied.head), "--json").data["items"] == []


@pytest.mark.parametrize("command", ["console", "sessions list", "sessions end x"])
def test_logins_are_the_daemon_s(day: Cli, command: str) -> None:
    """Without one there is nothing to log in to."""
    ran = day(*command.split())
    assert ran.status == 4
    assert "daemon_not_running" in ran.err
