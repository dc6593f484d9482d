"""`palyra vault` and the commands that change the configuration file, without a daemon: secrets in, none out."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_world import Cli, build

from palyra.auth.keyfiles import witness_key
from palyra.auth.vault import Vault, VaultFiles
from palyra.auth.vaultlock import VaultLock
from palyra.config.state import StatePaths
from palyra.decisions.vault import VaultRef
from palyra.engine.offline import take_lock
from palyra.redaction import Secret
from palyra.units import US_PER_S

VALUE = "sk-canary-0123456789abcdef"


@pytest.fixture
def day(tmp_path: Path) -> Cli:
    """Command lines over a day's journal of their own."""
    world = build(tmp_path / "home" / "state")
    return Cli(tmp_path / "home" / "state", world.now_us + 10 * US_PER_S, len(world.history))


@pytest.fixture
def config(day: Cli) -> Path:
    """A configuration file of the user, with a comment here and there."""
    path = day.state_dir.parent / ".config" / "palyra" / "palyra.toml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "# mine\n[daemon]\nport = 8080 # free\n\n# the one\n[[model_provider.providers]]\n"
        'provider_id = "groq"\nkind = "openai"\nbase_url = "https://api.groq.example"\n'
        f'api_key = "{VALUE}" # pasted\n\n[[model_provider.models]]\nmodel_id = "m"\nprovider_id = "groq"\n'
    )
    path.chmod(0o600)
    return path


def held(day: Cli, ref: VaultRef) -> Secret | None:
    at = day.state_dir
    vault = Vault.open(VaultFiles(at / "vault.db", at / "vault.key", at / "vault.lock"))
    opened = vault.get(ref)
    vault.close()
    return opened.secret


def test_a_secret_goes_in_and_is_not_shown(day: Cli, tmp_path: Path) -> None:
    """From a variable or a file; the list has its size, and nothing that is printed has its value."""
    file = tmp_path / "key.txt"
    file.write_text(f"{VALUE}\n")
    ran = day(
        "vault", "put", "global/openai", "--env", "K", "--for", "https://api.openai.com", environ={"K": VALUE}
    )
    assert (ran.status, ran.err) == (0, "")
    again = day("vault", "put", "global/openai", "--file", str(file), "--json")
    assert (again.data["revision"], again.data["value_bytes"]) == (2, len(VALUE))
    shown = [day("vault", "list"), day("vault", "list", "--json"), day("vault", "status"), ran, again]
    assert all(VALUE not in one.out + one.err for one in shown)
    assert "global/openai" in shown[0].out
    assert day("vault", "status", "--json").data["state"] == "open"
    assert held(day, VaultRef("global", "openai")) == Secret(VALUE)


def test_standard_input_is_a_source(day: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """For other programs that keep secrets."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(VALUE.encode())))
    assert day("vault", "put", "global/x", "--stdin").status == 0
    assert held(day, VaultRef("global", "x")) == Secret(VALUE)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff" + VALUE.encode())))
    ran = day("vault", "put", "global/x", "--stdin")
    assert ran.status == 2
    assert "canary" not in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("global/x", "hunter2-canary"),
        ("global/x", "hunter2-canary", "--env", "A"),
        ("global/x", "--env", "UNSET"),
        ("global/x", "--env", "A", "--stdin"),
        ("global/x",),
        ("hunter2-canary",),
    ],
)
def test_a_secret_is_never_an_argument(day: Cli, arguments: tuple[str, ...]) -> None:
    """What is too much is refused without an echo; so is a source that is none, and nobody waits for a terminal."""
    ran = day("vault", "put", *arguments, environ={"A": "a secret"})
    assert ran.status == 2
    assert "canary" not in ran.out + ran.err
    assert day("vault", "list", "--json").data["items"] == []


def test_a_secret_is_deleted_and_the_vault_sealed_anew(day: Cli) -> None:
    """Facts in the journal, in the operator's name."""
    day("vault", "put", "global/a", "--env", "K", environ={"K": VALUE})
    day("vault", "put", "global/b", "--env", "K", environ={"K": VALUE})
    assert "is gone" in day("vault", "delete", "global/a", "--yes").out
    assert "was not there" in day("vault", "delete", "global/a", "--yes").out
    key = (day.state_dir / "vault.key").read_bytes()
    assert day("vault", "rekey").status == 0
    assert (day.state_dir / "vault.key").read_bytes() != key
    assert held(day, VaultRef("global", "b")) == Secret(VALUE)
    assert day("vault", "verify").status == 0
    assert day("journal", "verify").status == 0


def test_damage_is_found_and_told(day: Cli) -> None:
    """With what to do about it, and an exit status for scripts."""
    day("vault", "put", "global/a", "--env", "K", environ={"K": VALUE})
    (day.state_dir / "vault.key").unlink()
    ran = day("vault", "verify")
    assert ran.status == 7
    assert "put vault.key back" in ran.out
    assert day("vault", "status", "--json").data["state"] == "locked"


@pytest.mark.parametrize(
    ("loss", "code", "state"),
    [
        ("key", "vault_locked", "locked"),
        ("other", "vault_key_mismatch", "locked"),
        ("db", "vault_missing", "missing"),
        ("text", "vault_unreadable", "unreadable"),
    ],
)
def test_a_loss_shows_before_anybody_recorded_it(day: Cli, loss: str, code: str, state: str) -> None:
    """Without a daemon status looks at what is there, changes nothing by it, and says what verify finds then."""
    day("vault", "put", "global/a", "--env", "K", environ={"K": VALUE})
    head = day("journal", "status", "--json").document["at"]["position"]
    whole = day("vault", "status", "--json")
    assert (whole.data["state"], whole.document["warnings"]) == ("open", [])
    match loss:
        case "key":
            (day.state_dir / "vault.key").unlink()
        case "other":
            (day.state_dir / "vault.key").write_text("0" * 64 + "\n")
        case "db":
            (day.state_dir / "vault.db").unlink()
        case _:
            (day.state_dir / "vault.db").write_bytes(b"no database")
    before = sorted(path.name for path in day.state_dir.iterdir())
    ran = day("vault", "status", "--json")
    assert (ran.status, ran.data["state"]) == (0, state)
    assert [one["code"] for one in ran.document["warnings"]] == [code]
    shown = day("vault", "status")
    assert shown.err.startswith("warning: ")
    assert re.search(rf"^vault +{state}$", shown.out, re.M)
    listed = day("vault", "list", "--json")
    presence = "locked" if state == "locked" else "missing"
    assert [one["presence"] for one in listed.data["items"]] == [presence]
    assert [one["code"] for one in listed.document["warnings"]] == [code]
    assert day("auth", "health", "--json").data["vault"]["state"] == state
    assert sorted(path.name for path in day.state_dir.iterdir()) == before
    assert day("vault", "status", "--as-of", str(head), "--json").data["state"] == "open"
    assert day("vault", "verify").status == 7
    known = day("vault", "status", "--json").data
    assert (known["state"], [one["code"] for one in known["findings"]]) == (state, [code])


def test_what_is_well_again_shows_before_anybody_recorded_it(day: Cli) -> None:
    """The journal says that the vault is locked until somebody looks; whoever asks is told what is so now."""
    day("vault", "put", "global/a", "--env", "K", environ={"K": VALUE})
    key = day.state_dir / "vault.key"
    key.rename(day.state_dir / "elsewhere")
    assert day("vault", "verify").status == 7
    locked = day("vault", "status", "--json")
    assert (locked.data["state"], locked.document["warnings"]) == ("locked", [])
    (day.state_dir / "elsewhere").rename(key)
    mended = day("vault", "status", "--json")
    assert (mended.data["state"], mended.data["findings"]) == ("open", [])
    assert [one["code"] for one in mended.document["warnings"]] == ["vault_mended"]
    assert [one["presence"] for one in day("vault", "list", "--json").data["items"]] == ["present"]
    assert day("vault", "verify").status == 0
    assert day("vault", "status", "--json").document["warnings"] == []


def test_a_key_file_that_others_can_read_is_told_by_reading_commands(day: Cli) -> None:
    """Nobody opens the vault with it, so it is locked; what helps is in the message."""
    day("vault", "put", "global/a", "--env", "K", environ={"K": VALUE})
    (day.state_dir / "vault.key").chmod(0o640)
    ran = day("vault", "list")
    assert (ran.status, "locked" in ran.out, "0640" in ran.err) == (0, True, True)


def test_a_secret_that_the_vault_has_lost_shows_as_missing(day: Cli) -> None:
    """A vault from a copy lacks what was put since, and holds what was deleted: the list says what can be had."""
    day("vault", "put", "global/a", "--env", "K", environ={"K": VALUE})
    old = (day.state_dir / "vault.db").read_bytes()
    day("vault", "put", "global/b", "--env", "K", environ={"K": VALUE})
    (day.state_dir / "vault.db").write_bytes(old)
    listed = day("vault", "list", "--json")
    assert {one["ref"]: one["presence"] for one in listed.data["items"]} == {
        "global/a": "present",
        "global/b": "missing",
    }
    assert [one["code"] for one in listed.document["warnings"]] == ["dangling_ref"]
    assert "global/b" in day("vault", "list").err
    assert day("vault", "verify").status == 7
    known = day("vault", "list", "--json")
    assert (known.data["items"], known.document["warnings"]) == (listed.data["items"], [])


def test_a_key_that_a_crash_left_to_come_fits(day: Cli) -> None:
    """Whoever opens the vault next finishes what was begun; nothing is lost, and nothing is said before."""
    day("vault", "put", "global/a", "--env", "K", environ={"K": VALUE})
    (day.state_dir / "vault.key").rename(day.state_dir / "vault.key.next")
    ran = day("vault", "status", "--json")
    assert (ran.data["state"], ran.document["warnings"]) == ("open", [])
    (day.state_dir / "vault.db-journal").write_bytes(b"half a write")
    assert day("vault", "status", "--json").data["state"] == "open"


def test_inline_keys_are_moved_into_the_vault(day: Cli, config: Path) -> None:
    """The file was refused with this command; comments stay, twice is once, and no copy of the key is left."""
    refused = day("config", "check")
    assert (refused.status, "vault absorb" in refused.out + refused.err) == (2, True)
    before = config.read_text()
    planned = day("config", "move-secrets", "--dry-run")
    assert (planned.status, config.read_text()) == (0, before)
    moved = day("vault", "absorb")
    assert moved.status == 0
    assert config.read_text() == before.replace(f'api_key = "{VALUE}"', 'api_key_vault_ref = "global/groq"')
    assert held(day, VaultRef("global", "groq")) == Secret(VALUE)
    assert day("config", "check").status == 0
    again = day("vault", "absorb", "--json")
    assert (again.status, again.data["moved"]) == (0, [])
    for ran in (refused, planned, moved, again):
        assert VALUE not in ran.out + ran.err
    for path in day.state_dir.parent.rglob("*"):
        assert not path.is_file() or VALUE.encode() not in path.read_bytes()


TABLES = {
    "an array of tables": "[[model_provider.providers]] # c\n{entry}\napi_key = {value} # mine\n",
    "inline tables": "[model_provider]\nproviders = [\n  {{ {inline}, api_key = {value} }}, # c\n]\n",
    "a dotted key": 'model_provider.providers = [{{ {inline}, "api_key" = {value} }}] # c\n',
    "a quoted key": "[['model_provider'.providers]] # c\n{entry}\n'api_key' = {value}\n",
}
_ENTRY = ('provider_id = "groq"', 'kind = "openai_compatible"', 'base_url = "https://api.groq.example/v1"')


@pytest.mark.parametrize("spelled", [f"'{VALUE}'", '""'])
@pytest.mark.parametrize("form", TABLES)
def test_an_inline_key_is_found_in_every_form_of_table(day: Cli, config: Path, form: str, spelled: str) -> None:
    """It is refused at its line, nothing of it is repeated, and it moves into the vault with comments kept."""
    text = TABLES[form].format(entry="\n".join(_ENTRY), inline=", ".join(_ENTRY), value=spelled)
    config.write_text(f'{text}\n[[model_provider.models]]\nmodel_id = "m"\nprovider_id = "groq"\n')
    line = next(number for number, one in enumerate(text.splitlines(), 1) if "api_key" in one)
    refused = day("config", "check")
    assert refused.status == 2
    assert f"palyra.toml:{line}:" in refused.out
    assert "model_provider.providers[0].api_key: " in refused.out
    assert "palyra vault absorb" in refused.out
    moved = day("vault", "absorb")
    assert (moved.status, day("config", "check").status) == (0, 0)
    assert VALUE not in refused.out + refused.err + moved.out + moved.err + config.read_text()
    assert "# c" in config.read_text()
    assert ("global/groq" in config.read_text()) == (spelled != '""')
    assert day("vault", "absorb", "--json").data["moved"] == []


def test_other_secrets_that_have_a_reference_are_moved_too(day: Cli, config: Path) -> None:
    """Those of a login and of a webhook; what has none is not said to be moved by this command."""
    config.write_text(
        f'[auth.oauth.openai]\nclient_id = "c"\nclient_secret = "{VALUE}" # mine\n\n[alerts]\n'
        f'webhook_url = "https://h.example/x"\nwebhook_secret = "{VALUE}"\n'
    )
    refused = day("config", "check")
    assert (refused.status, refused.out.count("palyra vault absorb")) == (2, 2)
    moved = day("vault", "absorb", "--json")
    assert moved.data["moved"] == [
        {"key": "auth.oauth.openai.client_secret", "ref": "global/openai-client-secret"},
        {"key": "alerts.webhook_secret", "ref": "global/webhook-secret"},
    ]
    assert 'client_secret_vault_ref = "global/openai-client-secret" # mine' in config.read_text()
    assert day("config", "check").status == 0
    assert held(day, VaultRef("global", "webhook-secret")) == Secret(VALUE)
    config.write_text(f'[[model_provider.providers]]\nprovider_id = "groq"\ntoken = "{VALUE}"\n')
    assert "palyra vault absorb" not in day("config", "check").out
    config.write_text('[alerts]\nwebhook_secret = "x"\nwebhook_secret_vault_ref = "global/x"\n')
    assert (day("vault", "absorb").status, "webhook_secret" in config.read_text()) == (2, True)


def test_keys_are_moved_before_anything_was_started(day: Cli, config: Path, tmp_path: Path) -> None:
    """A daemon does not start with a key in its file, so that the command which moves it cannot wait for one."""
    fresh = Cli(tmp_path / "fresh" / "state", day.now_us)
    ran = fresh("vault", "absorb", "--config", str(config))
    assert (ran.status, ran.err) == (0, "")
    assert 'api_key_vault_ref = "global/groq"' in config.read_text()
    assert held(fresh, VaultRef("global", "groq")) == Secret(VALUE)
    assert fresh("config", "check", "--config", str(config)).status == 0
    assert fresh("journal", "verify", "--replay").status == 0
    assert fresh("keys", "issue", "ci", "--config", str(config)).status == 0


def test_an_empty_key_is_taken_out(day: Cli, config: Path) -> None:
    """It is refused as well, and there is nothing to keep."""
    config.write_text(config.read_text().replace(VALUE, ""))
    assert day("config", "check").status == 2
    assert day("vault", "absorb", "--json").data["moved"] == []
    assert "api_key" not in config.read_text()


def test_a_vault_that_does_not_open_leaves_the_file_alone(day: Cli, config: Path) -> None:
    """First the secret, then the reference."""
    before = config.read_text()
    (day.state_dir / "vault.db").write_bytes(b"no database " * 100)
    (day.state_dir / "vault.db").chmod(0o600)
    assert day("vault", "absorb").status == 7
    assert config.read_text() == before


def test_values_are_set_and_taken_out(day: Cli, config: Path) -> None:
    """In the file that is in use, and nothing else of it is touched; what would not be taken is not written."""
    day("vault", "absorb")
    text = config.read_text()
    assert day("config", "set", "daemon.port", "9090").status == 0
    assert config.read_text() == text.replace("8080", "9090")
    assert day("config", "set", "model_provider.providers[0].enabled", "false", "--json").data["is_changed"]
    assert day("config", "get", "model_provider.providers[0].enabled").out.strip() == "false"
    text = config.read_text()
    for arguments in (["daemon.port", "x"], ["daemon.prt", "1"], ["daemon.host", VALUE], ["a..b", "1"]):
        ran = day("config", "set", *arguments)
        assert ran.status == 2
        assert VALUE not in ran.out + ran.err
    assert day("config", "set", "daemon.port", "1", "--dry-run").status == 0
    assert config.read_text() == text
    assert day("config", "unset", "daemon.port").status == 0
    assert day("config", "get", "daemon.port").out.strip() == "7142"
    assert day("config", "unset", "daemon.port").status == 2
    backups = sorted(config.parent.glob("palyra.toml.bak.*"))
    assert [path.stat().st_mode & 0o777 for path in backups] == [0o600] * len(backups)
    assert backups[0].read_text() == text


def test_a_first_value_makes_the_file(day: Cli) -> None:
    """For its owner alone, where the user's is looked for."""
    assert day("config", "set", "journal.witness_copies", "/a,/b").status == 0
    file = day.state_dir.parent / ".config" / "palyra" / "palyra.toml"
    assert file.read_text() == '[journal]\nwitness_copies = ["/a", "/b"]\n'
    assert file.stat().st_mode & 0o777 == 0o600


def test_ten_megabytes_are_no_secret(day: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not read whole, not cut to something shorter, and not kept."""
    file = tmp_path / "huge"
    file.write_bytes(b"canary " * 1_500_000)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    for source in (["--file", str(file)], ["--stdin"], ["--env", "HUGE"]):
        ran = day("vault", "put", "global/x", *source, environ={"HUGE": "canary " * 10_000})
        assert (ran.status, "65,536 bytes" in ran.err, "canary" in ran.err) == (2, True, False)
    assert day("vault", "list", "--json").data["items"] == []


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("no key", "vault_locked"),
        ("another vault's key", "vault_locked"),
        ("a truncated vault", "vault_unreadable"),
        ("no vault", "vault_unreadable"),
    ],
)
def test_what_does_not_open_is_left_as_it_is(day: Cli, tmp_path: Path, fault: str, code: str) -> None:
    """It is said what is wrong and what helps; nothing is put in its place, and everything else works."""
    assert day("vault", "put", "global/x", "--env", "K", environ={"K": VALUE}).status == 0
    database, key = day.state_dir / "vault.db", day.state_dir / "vault.key"
    sealed, master = database.read_bytes(), key.read_bytes()
    if fault == "no key":
        key.unlink()
    elif fault == "another vault's key":
        (tmp_path / "other").mkdir()
        witness_key(tmp_path / "other" / "vault.key", create=True)
        key.write_bytes((tmp_path / "other" / "vault.key").read_bytes())
    elif fault == "a truncated vault":
        database.write_bytes(sealed[: len(sealed) // 2])
    else:
        database.unlink()
    before = {path.name: path.read_bytes() for path in (database, key) if path.exists()}
    verified = day("vault", "verify")
    assert verified.status == 7
    refused = day("vault", "put", "global/y", "--env", "K", environ={"K": VALUE})
    assert (refused.status, f"code: {code}" in refused.err) == (7, True)
    assert VALUE not in verified.out + verified.err + refused.err
    assert {path.name: path.read_bytes() for path in (database, key) if path.exists()} == before
    assert day("status").status == day("journal", "verify").status == 0
    for path, data in ((database, sealed), (key, master)):
        path.write_bytes(data)
        path.chmod(0o600)
    assert day("vault", "verify").status == 0
    assert held(day, VaultRef("global", "x")) == Secret(VALUE)


def test_two_at_once(day: Cli) -> None:
    """Whoever comes second waits as long as configuration says, and is told who has it."""
    lock = VaultLock.acquire(day.state_dir / "vault.lock", timeout_ms=0)
    busy = day(
        *("vault", "put", "global/x", "--env", "K", "--set", "vault.lock_timeout_ms=0"), environ={"K": VALUE}
    )
    lock.release()
    assert (busy.status, "code: vault_busy" in busy.err) == (7, True)
    assert day("vault", "put", "global/x", "--env", "K", environ={"K": VALUE}).status == 0


def test_commands_at_once_wait_for_each_other(day: Cli) -> None:
    """Each gets its turn; one that is kept waiting for too long is told by whom, and nothing of a daemon."""
    put = [sys.executable, "-m", "palyra", "vault", "put", "--stdin", "--state-dir", str(day.state_dir)]
    environ = {**os.environ, "HOME": str(day.state_dir.parent)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environ}
    under_way = [subprocess.Popen([*put, f"global/at-once-{number}"], **pipes) for number in range(4)]
    ended = [(process.communicate(VALUE.encode())[1], process.returncode) for process in under_way]
    assert [status for _, status in ended] == [0] * 4, ended
    assert len(day("vault", "list", "--json").data["items"]) == 4
    with take_lock(StatePaths(day.state_dir)):
        busy = day(
            *("vault", "put", "global/x", "--env", "K", "--set", "vault.lock_timeout_ms=40"), environ={"K": VALUE}
        )
    assert (busy.status, "code: journal_locked" in busy.err) == (7, True)
    assert f"Process {os.getpid()}" in busy.err
