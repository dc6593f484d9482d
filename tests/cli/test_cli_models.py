"""`palyra models` without a daemon: what is read from the journal, what is written into the file."""

from __future__ import annotations

import io
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cli_world import Cli, Ran
from json_shapes import broken
from story import T0_US

from palyra.config.load import load_config
from palyra.config.problems import ConfigProblems
from palyra.engine.codec import to_recorded
from palyra.events.base import Recorded
from palyra.events.health import HealthChanged, ProbeCompleted
from palyra.events.models import DefaultModelSet
from palyra.events.registry import Registry
from palyra.journal.reader import JournalReader


class _Ollama(BaseHTTPRequestHandler):
    """A server on this machine that lists two models."""

    status = 200

    def do_GET(self) -> None:
        self.server.keys.append(self.headers.get("authorization"))  # type: ignore[attr-defined]
        body = json.dumps({"object": "list", "data": [{"id": "llama3.2:latest"}, {"id": "nomic-embed-text"}]})
        self.send_response(self.server.status if self.path == "/v1/models" else 500)  # type: ignore[attr-defined]
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def ollama() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), _Ollama)
    server.status, server.keys = 200, []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Writer:
    """Runs commands of `palyra models` with a configuration file of its own."""

    def __init__(self, day: Cli, file: Path) -> None:
        self.day = day
        self.journal = day.state_dir / "journal.db"
        self.file = file

    def __call__(self, *arguments: str) -> Ran:
        return self.day("models", *arguments, "--json", environ={"PALYRA_CONFIG": str(self.file)})

    def people(self, *arguments: str) -> Ran:
        """Run one on a terminal of 80 columns."""
        return self.day("models", *arguments, columns=80, environ={"PALYRA_CONFIG": str(self.file)})

    def registry(self) -> Registry:
        return load_config({"PALYRA_CONFIG": str(self.file)}).config.model_provider.registry


def url_of(server: HTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1"


@pytest.fixture
def write(day: Cli, tmp_path: Path) -> Writer:
    """A file with a comment of its owner, and the day's state to be changed."""
    file = tmp_path / "palyra.toml"
    file.write_text("# mine\nversion = 1\n")
    file.chmod(0o600)
    shutil.copytree(day.state_dir, tmp_path / "state")
    return Writer(Cli(tmp_path / "state", day.now_us, day.head), file)


def test_ollama_is_connected_by_one_command(write: Writer, ollama: HTTPServer) -> None:
    """It is asked first; then its entry stands in the file: private, and free of charge."""
    ran = write("connect", "ollama", "--base-url", url_of(ollama))
    assert ran.status == 0
    assert ran.data["models"] == ["llama3.2:latest", "nomic-embed-text"]
    assert ran.data["is_live"] is False
    assert write.file.read_text().startswith("# mine\nversion = 1\n")
    (entry,) = write.registry().providers
    assert (entry.provider_id, entry.flavor, entry.allow_private_base_url) == ("ollama", "ollama", True)
    assert entry.pricing == "free"
    assert (entry.discovery_mode, entry.auth_scheme) == ("serve", "none")
    again = write("connect", "ollama", "--base-url", url_of(ollama))
    assert (again.status, again.document["error"]["code"]) == (7, "conflict")


def test_a_key_is_sent_where_its_entry_leads_and_nowhere_else(
    write: Writer, ollama: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider elsewhere is asked there before its key is kept, which is bound to that place."""
    monkeypatch.setenv("WORK_KEY", "sk-work-1234567890")
    options = ("--id", "work", "--base-url", url_of(ollama), "--key-env", "WORK_KEY")
    ollama.status = 401  # type: ignore[attr-defined]
    refused = write("connect", "openai", *options)
    assert (refused.status, refused.document["error"]["code"]) == (3, "credential_refused")
    assert refused.document["error"]["hint"] == "nothing was kept; try it with another key"
    assert write.registry().providers[0].kind == "deterministic"
    ollama.status = 200  # type: ignore[attr-defined]
    ran = write("connect", "openai", *options)
    assert (ran.status, ran.data["models"]) == (0, ["llama3.2:latest", "nomic-embed-text"])
    (entry,) = write.registry().providers
    assert (entry.flavor, entry.credential_ref, entry.allow_private_base_url) == (
        "openai",
        "vault:global/work",
        True,
    )
    assert set(ollama.keys) == {"Bearer sk-work-1234567890"}  # type: ignore[attr-defined]
    assert b"sk-work" not in write.file.read_bytes() + write.journal.read_bytes()
    (tested,) = write("test").data["items"]
    assert (tested["result"], tested["health"]) == ("ok", "healthy")


def test_any_other_server_is_connected_by_its_address(
    write: Writer, ollama: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a key where none is given, never without an address; a key that is piped in ends with its line."""
    assert write("connect", "generic").status == 2
    assert write("connect", "generic", "--id", "vllm", "--base-url", url_of(ollama)).status == 0
    options = ("--id", "theirs", "--base-url", url_of(ollama), "--key-stdin")
    monkeypatch.setattr("sys.stdin", io.StringIO("two words\n"))
    assert write("connect", "generic", *options).document["error"]["code"] == "invalid_api_key_format"
    monkeypatch.setattr("sys.stdin", io.StringIO("sk-their-1234567890\n"))
    assert write("connect", "generic", *options).status == 0
    bare, keyed = write.registry().providers
    assert (bare.flavor, bare.auth_scheme, bare.discovery_mode) == ("generic", "none", "serve")
    assert (keyed.credential_ref, keyed.auth_scheme) == ("vault:global/theirs", "bearer")
    assert {one["result"] for one in write("test").data["items"]} == {"ok"}
    assert set(ollama.keys) == {None, "Bearer sk-their-1234567890"}  # type: ignore[attr-defined]


def recorded(write: Writer, stream: str) -> list[Recorded]:
    with JournalReader(write.journal) as reader:
        return [to_recorded(row) for rows in reader.stream(stream) for row in rows]


def test_providers_are_asked_without_a_daemon(write: Writer, ollama: HTTPServer) -> None:
    """What connecting, a test and a list tell is recorded under the journal's lock, by whoever asked."""
    connected = write("connect", "ollama", "--base-url", url_of(ollama), "--id", "lab")
    assert connected.data["models"] == ["llama3.2:latest", "nomic-embed-text"]
    assert [one.provider_id for one in write.registry().providers] == ["lab"]
    (listed,) = recorded(write, "provider-lab")
    assert [one.upstream_model for one in listed.body.added] == connected.data["models"]
    assert listed.actor == "operator:local"

    (tested,) = write("test", "lab").data["items"]
    assert (tested["result"], tested["models_count"], tested["health"]) == ("ok", 2, "healthy")
    told = [type(one.body) for one in recorded(write, "provider-lab")[1:]]
    assert told == [ProbeCompleted, HealthChanged]

    (same,) = write("discover").data["items"]
    assert (same["result"], same["mode"], same["added"], same["gone"]) == ("ok", "serve", [], [])
    assert len(recorded(write, "provider-lab")) == 3, "a list that says the same is no news"
    models = write("list", "--offline").data["models"]
    assert {one["model_id"]: one["metadata_source"] for one in models} == dict.fromkeys(
        connected.data["models"], "discovery"
    )

    ollama.status = 503  # type: ignore[attr-defined]
    ran = write("test", "--fail-on", "degraded")
    assert (ran.status, ran.document["error"]["code"]) == (4, "upstream_failed")
    assert recorded(write, "provider-lab")[3].body.result == "failed"
    missing = write("test", "nobody")
    assert (missing.status, missing.document["error"]["code"]) == (8, "provider_not_found")


def test_tables_of_models_fit_a_terminal(write: Writer, ollama: HTTPServer) -> None:
    """At 80 columns names and what sets models apart are there; what providers said is told whole below."""
    write.file.write_text(WIDE.format(url=url_of(ollama)))
    discovered = write.people("discover")
    assert discovered.status == 4
    assert "What they said" in discovered.out
    listed = write.people("list")
    for ran in (discovered, listed, write.people("status"), write.people("test")):
        lines = [re.sub("\x1b\\[[0-9;]*m", "", line) for line in ran.out.splitlines()]
        assert max(map(len, lines)) <= 80
    plain = re.sub("\x1b\\[[0-9;]*m", "", listed.out)
    assert re.search(r"^gpt-5-mini +openai +chat +default +128,000 +\$0\.25 / \$2\.00 +TJV$", plain, re.MULTILINE)
    assert re.search(r"^meta-llama/Llama-\S*… +company-\S*… +chat +128,000 +unknown +TJV$", plain, re.MULTILINE)


WIDE = """
[[model_provider.providers]]
provider_id = "openai"
kind = "openai"
flavor = "openai"
base_url = "{url}"
allow_private_base_url = true
auth_scheme = "none"
[[model_provider.providers]]
provider_id = "company-gateway-frankfurt"
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
allow_private_base_url = true
auth_scheme = "none"
[[model_provider.models]]
model_id = "gpt-5-mini"
provider_id = "openai"
aliases = ["mini"]
[[model_provider.models]]
model_id = "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8"
provider_id = "company-gateway-frankfurt"
"""


def test_a_machine_without_a_journal_is_told_too(tmp_path: Path, ollama: HTTPServer) -> None:
    """Nothing is recorded, and no state is made."""
    file = tmp_path / "palyra.toml"
    environ = {"PALYRA_CONFIG": str(file)}
    file.write_text("version = 1\n")
    file.chmod(0o600)
    alone = Cli(tmp_path / "nowhere", T0_US)
    assert alone("models", "connect", "ollama", "--base-url", url_of(ollama), environ=environ).status == 0
    ran = alone("models", "test", environ=environ)
    assert ran.status == 0
    assert "no journal yet, so nothing was recorded" in ran.out
    (found,) = alone("models", "discover", "--json", environ=environ).data["items"]
    assert found["added"] == ["llama3.2:latest", "nomic-embed-text"]
    assert not (tmp_path / "nowhere").exists()


def test_the_entry_without_its_line_is_refused(write: Writer) -> None:
    """By the rule's name."""
    write.file.write_text('[[model_provider.providers]]\nprovider_id = "o"\nkind = "openai"\nflavor = "ollama"\n')
    with pytest.raises(ConfigProblems) as caught:
        write.registry()
    assert [problem.code for problem in caught.value.problems] == ["private_address_refused"]


@pytest.mark.parametrize(("status", "exit_", "code"), [(401, 3, "credential_refused"), (503, 4, "upstream_failed")])
def test_what_fails_its_check_is_not_written(
    write: Writer, ollama: HTTPServer, status: int, exit_: int, code: str
) -> None:
    """Neither a refusal, nor a server that is ill."""
    ollama.status = status  # type: ignore[attr-defined]
    before = write.file.read_text()
    ran = write("connect", "ollama", "--base-url", url_of(ollama))
    assert (ran.status, ran.document["error"]["code"]) == (exit_, code)
    assert write.file.read_text() == before


def test_who_has_no_list_cannot_be_served_by_it(write: Writer, ollama: HTTPServer) -> None:
    """Exit 5; nothing is written."""
    ollama.status = 404  # type: ignore[attr-defined]
    ran = write("connect", "localai", "--base-url", url_of(ollama))
    assert (ran.status, ran.document["error"]["code"]) == (5, "no_model_list")
    assert "localai" not in write.file.read_text()


def test_a_default_is_written(write: Writer) -> None:
    """Comments stay; who chose it is recorded without a daemon too; what cannot be the default is refused."""
    write.file.write_text('# mine\n[[model_provider.providers]]\nprovider_id = "d"\nkind = "deterministic"\n')
    with write.file.open("a") as file:
        for name, more in (("one", ""), ("two", ""), ("e", 'role = "embeddings"\n'), ("off", "enabled = false\n")):
            file.write(f'[[model_provider.models]]\nmodel_id = "{name}"\nprovider_id = "d"\n{more}')
    assert write("set", "two").data["is_changed"]
    assert not write("set", "two").data["is_changed"]
    with JournalReader(write.journal) as reader:
        chosen = [to_recorded(row) for rows in reader.stream("config") for row in rows][-2:]
    assert [one.body for one in chosen] == [DefaultModelSet(role="chat", model="two")] * 2
    assert {one.actor for one in chosen} == {"operator:local"}
    assert "# mine\n" in write.file.read_text()
    assert write.registry().default_chat_model_id == "two"
    for name, exit_, code in (
        ("nobody", 8, "model_not_found"),
        ("e", 2, "model_role_mismatch"),
        ("off", 8, "model_disabled"),
    ):
        ran = write("set", name)
        assert (ran.status, ran.document["error"]["code"]) == (exit_, code)
    assert write("set", "--role", "embeddings", "e").status == 0


def test_a_plan_is_explained_from_the_file(day: Cli) -> None:
    """Candidates in order with their figures; the text is counted and goes nowhere."""
    ran = day("models", "explain", "--model", "gpt", "--prompt", "Whisper-secret", "--json")
    assert ran.status == 0
    assert ran.data["plan"][0]["provider_id"] == "groq"
    assert "Whisper" not in ran.out
    people = day("models", "explain", "--model", "gpt").out
    assert "Would be tried in this order" in people
    refused = day("models", "explain", "--model", "tiny", "--tokens", "5000").out
    assert "Left out" in refused
    assert "window holds 64 tokens" in refused


@pytest.mark.parametrize(
    "command",
    [("circuit", "openai", "open"), ("circuit", "openai", "close", "--for", "1h")],
)
def test_what_needs_a_daemon_says_so(day: Cli, command: tuple[str, ...]) -> None:
    """Nothing starts one."""
    ran = day("models", *command, "--json")
    assert (ran.status, ran.document["error"]["code"]) == (4, "daemon_not_running")


def test_a_time_is_checked(day: Cli) -> None:
    """Before anybody is asked."""
    assert day("models", "circuit", "openai", "open", "--for", "soon").status == 2


def test_before_the_first_start_nobody_knows_what_is_listed(day: Cli, tmp_path: Path, ollama: HTTPServer) -> None:
    """A model that was just shown is not unknown, only not read yet; the way out is named."""
    file = tmp_path / "palyra.toml"
    file.write_text("version = 1\n")
    file.chmod(0o600)
    fresh = Writer(Cli(tmp_path / "state", day.now_us, 0), file)
    assert fresh("connect", "ollama", "--base-url", url_of(ollama)).status == 0
    ran = fresh("set", "llama3.2:latest")
    assert (ran.status, ran.document["error"]["code"]) == (8, "model_not_found")
    assert ran.document["error"]["hint"].endswith(": palyra serve")


def test_a_default_that_is_listed_is_no_news(write: Writer, ollama: HTTPServer) -> None:
    """Every command reads the file, which cannot tell; who checks the file hears of it, and who asks for models."""
    write("connect", "ollama", "--base-url", url_of(ollama))
    assert write("set", "llama3.2:latest").status == 0
    listed = write("list")
    assert [one["code"] for one in listed.document["warnings"]] == []
    checked = write.day("config", "check", "--json", environ={"PALYRA_CONFIG": str(write.file)})
    assert [one["code"] for one in checked.data["problems"]] == ["model_not_listed"]


def test_documents_keep_their_shape(day: Cli, write: Writer, ollama: HTTPServer) -> None:
    """What programs read may grow, but no place is renamed and none gets another kind of value."""
    answers = {
        "models list": day("models", "list", "--json").data,
        "models status": day("models", "status", "--json").data,
        "models explain": day("models", "explain", "--prompt", "hi", "--json").data,
        "models connect": write("connect", "ollama", "--base-url", url_of(ollama), "--id", "lab").data,
        "models test": write("test").data,
        "models discover": write("discover").data,
        "models set": write("set", "llama3.2:latest").data,
    }
    assert [(command, place) for command, data in answers.items() for place in broken(command, data)] == []
