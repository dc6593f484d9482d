"""All problems at once: every one told, in order, at its exact place, with what was probably meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palyra.config.load import load_config
from palyra.config.problems import ConfigProblems, Findings, Problem, Source, key_text, nearest
from palyra.limits import CONFIG_PROBLEMS_SHOWN_COUNT

FAULTY = """\
version = 1
color = "never"

[daemon]
prt = 8080
drain_timeout_ms = -1
max_connections_count = "many"
host = "0.0.0.0"

[jurnal]
durability = "full"

[journal]
  durability = "ful"
  witness_copies = ["/a", "b/c"]

[model_provider]
default_chat_model_id = "gpt-4"

[[model_provider.providers]]
provider_id = "openai"
kind = "opnai"

[[model_provider.providers]]
provider_id = "local"
kind = "openai_compatible"
base_url = "http://127.0.0.1:11434/v1"
headers = { Host = "x", X-Ok = "y" }

[[model_provider.providers]]
provider_id = "local"
kind = "deterministic"

[[model_provider.models]]
provider_id = "local"

[[model_provider.models]]
model_id = "gpt-4o"
provider_id = "locl"

[[model_provider.models]]
model_id = "gpt-5"
provider_id = "local"
aliases = ["a", "gpt-5"]
fallbacks = ["gpt5"]
"""

EXPECTED = """\
2:1 color: unknown key; "color" belongs to [cli] [unknown_key]
5:1 daemon.prt: unknown key; did you mean "port"? [unknown_key]
6:1 daemon.drain_timeout_ms: must be 0 to 600,000 [out_of_range]
7:1 daemon.max_connections_count: must be a whole number [wrong_type]
8:1 daemon.host: is open to other machines: that takes daemon.allow_remote and daemon.tls_cert_file with its key, or daemon.allow_plain_remote behind a proxy that has TLS [unsafe_bind]
10:1 jurnal: unknown key; did you mean "journal"? [unknown_key]
14:3 journal.durability: must be one of full, relaxed; did you mean "full"? [bad_enum]
15:27 journal.witness_copies[1]: must be absolute, or below the home directory with ~/ [bad_path]
18:1 model_provider.default_chat_model_id: unknown model "gpt-4"; did you mean "gpt-5"? [unknown_model]
22:1 model_provider.providers[0].kind: must be one of deterministic, openai_compatible, anthropic; did you mean "openai"? [bad_enum]
27:1 model_provider.providers[1].base_url: 127.0.0.1 is a loopback address; add allow_private_base_url = true to this provider [private_address_refused]
28:13 model_provider.providers[1].headers.Host: header "Host" is not for a provider entry to set [bad_header]
31:1 model_provider.providers[2].provider_id: "local" is another provider's name already (palyra.toml:25:1) [duplicate_provider]
34:1 model_provider.models[0].model_id: must be set [missing_key]
39:1 model_provider.models[1].provider_id: unknown provider "locl"; did you mean "local"? [unknown_provider]
44:17 model_provider.models[2].aliases[1]: "gpt-5" means another model already [alias_conflict]
45:14 model_provider.models[2].fallbacks[0]: unknown model "gpt5"; did you mean "gpt-5"? [unknown_model]
"""  # noqa: E501


def test_every_mistake_is_told_with_its_place(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Seventeen different mistakes give seventeen lines, in the file's order, with exact places and suggestions."""
    monkeypatch.chdir(write(FAULTY).parent)
    with pytest.raises(ConfigProblems) as caught:
        load_config({"HOME": "/nowhere"}, config_file="palyra.toml")
    assert str(caught.value).splitlines() == [f"palyra.toml:{line}" for line in EXPECTED.splitlines()]
    assert caught.value.exit_code == 2


def test_problems_are_sorted_by_layer_then_place(problems: Callable[..., list[Problem]]) -> None:
    """The file's come first, by line and column; then variables by name, then flags."""
    found = problems(
        "[daemon]\nport = -1\nhost = 1\n",
        env={"PALYRA_DAEMON_PORT": "x", "PALYRA_CLI_COLOR": "y"},
        sets=["daemon.port='z'"],
    )
    assert [(p.source.kind, p.source.line, p.source.name) for p in found] == [
        ("file", 2, ""),
        ("file", 3, ""),
        ("env", 0, "PALYRA_CLI_COLOR"),
        ("env", 0, "PALYRA_DAEMON_PORT"),
        ("flag", 0, "--set daemon.port"),
    ]
    assert str(found[3]) == "PALYRA_DAEMON_PORT daemon.port: must be a whole number [wrong_type]"


def test_a_hundred_problems_are_shown_and_the_rest_is_counted(load: Any) -> None:
    """The message ends; the list that programs read is whole."""
    with pytest.raises(ConfigProblems) as caught:
        load("\n".join(f"nonsense{i} = 1" for i in range(CONFIG_PROBLEMS_SHOWN_COUNT + 7)))
    lines = str(caught.value).splitlines()
    assert len(lines) == CONFIG_PROBLEMS_SHOWN_COUNT + 1
    assert lines[-1] == "... and 7 more"
    assert len(caught.value.problems) == CONFIG_PROBLEMS_SHOWN_COUNT + 7


@pytest.mark.parametrize(
    ("name", "candidates", "expected"),
    [
        ("prot", ["port", "host"], "port"),
        ("prt", ["port", "host"], "port"),
        ("pxyt", ["port", "host"], None),
        ("durabiltiy", ["durability"], "durability"),
        ("durablty", ["durability"], "durability"),
        ("durable", ["durability"], None),
        ("ab", ["ac", "ad"], "ac"),
        ("x" * 500, ["x" * 500], None),
        ("same", ["same"], "same"),
        ("", ["a"], "a"),
    ],
)
def test_nearest_name(name: str, candidates: list[str], expected: str | None) -> None:
    """Two slips (a swap is one) in a long name, one in a short one; ties go to the first in order."""
    assert nearest(name, candidates) == expected


def test_keys_are_written_as_in_toml() -> None:
    """Names that are not bare are quoted, indexes stand in brackets."""
    assert key_text(("a", "b c", 0, "d")) == 'a."b c"[0].d'
    assert key_text((2, "x"), "list") == "list[2].x"


def test_no_problem_shows_a_secret() -> None:
    """Whatever a message, key or suggestion is made of passes the redactor."""
    secret = "sk-canary0123456789"
    findings = Findings()
    findings.error("unknown_key", f"a.{secret}", f"b {secret}", Source(kind="file", file="f"), f"c {secret}")
    assert secret not in repr(findings.sorted())


def test_sources_print_as_origins() -> None:
    """The spelling of `config show --origin`."""
    assert str(Source(kind="file", file="p.toml", line=3, column=1)) == "file:p.toml:3"
    assert str(Source(kind="env", name="X")) == "env:X"
    assert str(Source(kind="default")) == "default"
    assert Source(kind="file", file="p.toml").place == "p.toml"
