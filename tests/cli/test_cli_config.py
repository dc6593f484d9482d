"""`palyra config`: what is in force, where it comes from, what is wrong with it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cli_world import Cli

from palyra.config.keys import KEYS

_FILE = """\
[daemon]
port = 8080

[[model_provider.providers]]
provider_id = "openai"
kind = "openai_compatible"
base_url = "https://api.openai.com/v1"
api_key_env = "UPSTREAM_KEY"
headers = { "x-tag" = "one" }

[[model_provider.models]]
model_id = "gpt"
provider_id = "openai"
aliases = ["fast"]

[model_provider.model_aliases]
"gpt-4*" = "gpt"
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A configuration file of one provider."""
    path = tmp_path / "palyra.toml"
    path.write_text(_FILE)
    return str(path)


def test_where_it_is(day: Cli, file: str) -> None:
    """The file that is read and the state directory, or that there is no file."""
    assert day("config", "path").out == f"file   none, so defaults\nstate  {day.state_dir}\n"
    assert day("config", "path", "--config", file, "--json").data == {
        "file": file,
        "state_dir": str(day.state_dir),
    }
    ran = day("config", "path", "--config", "/nonexistent.toml")
    assert (ran.status, ran.err.splitlines()[-1]) == (8, "code: config_not_found · exit 8")
    assert day("config", "check", "--config", "/nonexistent.toml").status == 8


def test_a_good_file(day: Cli, file: str) -> None:
    """A check that finds nothing says so."""
    ran = day("config", "check", "--config", file)
    assert (ran.status, ran.out, ran.err) == (0, f"good · {file}\n", "")
    assert day("config", "check").out == "good · no file, so defaults\n"


def test_every_problem_at_once(day: Cli, tmp_path: Path) -> None:
    """Problems are printed whole, each with its place, and then decide the exit."""
    path = tmp_path / "wrong.toml"
    path.write_text('[daemon]\nprt = 1\nhost = "0.0.0.0"\n[cli]\ncolor = "red"\n')
    ran = day("config", "check", "--config", str(path))
    assert ran.status == 2
    assert [line.partition(" ")[0] for line in ran.out.splitlines()] == ["error:"] * 3
    assert f'{path}:2:1 daemon.prt: unknown key; did you mean "port"? [unknown_key]' in ran.out
    assert ran.err.startswith("error: The configuration has 3 errors.\n")
    document = day("config", "check", "--config", str(path), "--json").document
    assert (document["ok"], document["error"]["exit"]) == (False, 2)
    assert [problem["code"] for problem in document["data"]["problems"]] == [
        *("unknown_key", "unsafe_bind", "bad_enum")
    ]
    path.write_text("version = 99\n")
    assert day("config", "check", "--config", str(path)).status == 5


def test_strict_takes_warnings_for_errors(day: Cli) -> None:
    """A warning is shown and is no error, unless that was asked for."""
    environ = {"PALYRA_DAEMON_PRT": "1"}
    ran = day("config", "check", environ=environ)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("warning: PALYRA_DAEMON_PRT")
    ran = day("config", "check", "--strict", environ=environ)
    assert (ran.status, ran.err.splitlines()[0]) == (2, "error: The configuration has 1 warning.")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def test_what_is_shown_is_toml(day: Cli, file: str) -> None:
    """The page is TOML that means what is in force; secrets' places are not in it."""
    shown = day("config", "show", "--config", file, "--origin").out
    data = day("config", "show", "--config", file, "--json").data
    assert tomllib.loads(shown) == _without_none(data["effective"])
    assert "UPSTREAM_KEY" not in shown
    assert '[[model_provider.models]]\nmodel_id = "gpt"' in shown


def test_the_schema_is_json_on_the_page_too(day: Cli) -> None:
    """It can be sent to a file as it is; with --json it is in the envelope."""
    ran = day("config", "schema")
    assert (ran.status, ran.err) == (0, "")
    assert json.loads(ran.out) == day("config", "schema", "--json").data
    assert json.loads(ran.out)["properties"]["daemon"]["properties"]["port"]["default"] == 7142


def test_every_value_names_its_origin(day: Cli, file: str) -> None:
    """Default, file and line, variable or flag, and what it hides."""
    arguments = ("config", "show", "--config", file, "--origin", "--set", "daemon.port=1234")
    shown = day(*arguments, environ={"PALYRA_CLI_COLOR": "never"}).out
    assert f"port = 1234{' ' * 45}# flag:--set daemon.port, hides file:{file}:2" in shown
    assert f'color = "never"{" " * 41}# env:PALYRA_CLI_COLOR\n' in shown
    assert f'host = "127.0.0.1"{" " * 38}# default\n' in shown
    origins = day(*arguments, "--json").data["origins"]
    assert origins["daemon.port"] == {"source": "flag:--set daemon.port", "hides": [f"file:{file}:2"]}
    assert origins["model_provider.providers[0].base_url"]["source"] == f"file:{file}:7"


def test_one_value(day: Cli, file: str) -> None:
    """A text is bare, other values are TOML, what is not set prints nothing."""
    for key, text in (
        ("daemon.host", "127.0.0.1\n"),
        ("daemon.port", "8080\n"),
        ("model_provider.failover_enabled", "true\n"),
        ("model_provider.providers[0].headers", '{ x-tag = "one" }\n'),
        ("model_provider.models[0].aliases", '["fast"]\n'),
        ("model_provider.models[0].dimensions", ""),
        ("auth.extra_hosts", "[]\n"),
    ):
        ran = day("config", "get", key, "--config", file)
        assert (ran.status, ran.out) == (0, text)
    assert day("config", "get", "daemon.port", "--config", file, "--json").data == {
        "key": "daemon.port",
        "value": 8080,
        "source": f"file:{file}:2",
    }


@pytest.mark.parametrize("key", ["daemon.prt", "daemon.port.x", "model_provider.providers[9].kind", "nothing"])
def test_a_key_that_is_not_there(key: str, day: Cli) -> None:
    """An unknown key is a mistake, with the nearest one if there is one."""
    ran = day("config", "get", key)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(f"error: There is no key '{key}'.\nhint: ")
    if key == "daemon.prt":
        assert "did you mean daemon.port?" in ran.err


def test_all_keys(day: Cli) -> None:
    """Every key is listed with what it means, takes and is without being written."""
    shown = day("config", "keys").out
    assert "port to listen on; 0 takes any free one · int · 0 to 65,535 · default 7142" in shown
    assert "[[model_provider.providers]]" in shown
    assert [key["key"] for key in day("config", "keys", "--json").data["keys"]] == [key.path for key in KEYS]


def test_a_slip_of_the_unit_is_seen_at_once(day: Cli, tmp_path: Path) -> None:
    """A thousand tokens in and out: a price for one token, taken for one for a million, is next to nothing."""
    file = tmp_path / "palyra.toml"
    file.write_text(PRICED)
    file.chmod(0o600)
    ran = day("config", "check", "--config", str(file))
    assert ran.status == 0, ran.err
    assert [line.split() for line in ran.out.splitlines()[2:]] == [
        ["MODEL", "PROVIDER", "1K", "+", "1K"],
        ["right", "up", "$0.0125"],
        ["slipped", "up", "$0.000000013"],
        ["other", "up", "unknown"],
        ["deterministic", "own", "free"],
    ]
    assert day("config", "check", "--config", str(file), "--json").data["prices"][0] == {
        "provider_id": "up",
        "model_id": "right",
        "sample_nanousd": 12_500_000,
        "sample_usd": "0.0125",
    }


PRICED = """
[[model_provider.providers]]
provider_id = "up"
kind = "openai_compatible"
base_url = "https://up.example/v1"
api_key_env = "UP_KEY"

[[model_provider.providers]]
provider_id = "own"
kind = "deterministic"

[[model_provider.models]]
model_id = "right"
provider_id = "up"

[[model_provider.models]]
model_id = "slipped"
provider_id = "up"

[[model_provider.models]]
model_id = "other"
provider_id = "up"

[[model_provider.models]]
model_id = "deterministic"
provider_id = "own"

[[pricing.overrides]]
provider_id = "up"
model_id = "right"
input_usd_per_mtok = "2.5"
output_usd_per_mtok = "10"

[[pricing.overrides]]
provider_id = "up"
model_id = "slipped"
input_usd_per_mtok = "0.0000025"
output_usd_per_mtok = "0.00001"
"""
