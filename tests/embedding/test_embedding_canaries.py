"""Canaries: secrets and prompts are planted through each way in; every file, line, fact and answer is searched."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from embedding_host import Run
from upstream import Behaviour, Upstream

import palyra
from palyra.daemon.logs import Log
from palyra.decisions.vault import VaultRef
from palyra.errors import SecretInEvent
from palyra.events.base import Draft
from palyra.events.config import ConfigAdopted
from palyra.events.vault import VaultSecretDeleted
from palyra.projections.incidents import open_incidents
from palyra.redaction import Secret

#: Of no vendor's shape: it is found because it is known.
PLAIN = 'canary "with/odd+chars?" 7f3a9c'
PROMPT = "canary-prompt-5b1d"


def forms(value: str) -> Iterator[bytes]:
    data = value.encode()
    yield data
    yield base64.b64encode(data).rstrip(b"=")
    yield base64.urlsafe_b64encode(data).rstrip(b"=")
    yield urllib.parse.quote(value, safe="").encode()
    yield json.dumps(value)[1:-1].encode()


def leaks_in(data: bytes, *values: str) -> list[bytes]:
    return [form for value in values for form in forms(value) if form in data]


def config_of(upstream: Upstream, **credential: str) -> dict[str, Any]:
    provider = {
        "provider_id": "up",
        "kind": "openai_compatible",
        "base_url": upstream.url,
        "allow_private_base_url": True,
        "max_retries": 0,
        **credential,
    }
    return {"model_provider": {"providers": [provider], "models": [{"model_id": "gpt-x", "provider_id": "up"}]}}


async def say(daemon: palyra.Daemon, **changes: Any) -> tuple[int, bytes]:
    body = {"model": "gpt-x", "messages": [{"role": "user", "content": PROMPT}], **changes}
    headers = {"authorization": f"Bearer {daemon.client_key}"}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{daemon.base_url}/chat/completions", json=body, headers=headers) as response:
            told = json.dumps(dict(response.headers)).encode()
            return response.status, told + await response.read()


def echo(value: str) -> Behaviour:
    """A provider that says back what it was sent, in every way it can."""
    error = {
        "message": f"bad key {value} at https://api.example/?key={urllib.parse.quote(value, safe='')}",
        "type": "invalid_request_error",
        "code": f"code {value}"[:60],
    }
    return Behaviour.raw(json.dumps({"error": error}).encode(), status=400)


@pytest.mark.parametrize("way", ["vault", "env", "file"])
def test_an_echoed_credential_is_nowhere(run: Run, tmp_path: Path, way: str) -> None:
    """By each way in: not in a file but where it was put, no log, fact, or answer; nor is the prompt."""
    secret = "canary/with+odd?chars=7f3a9c-0001"
    key_file = tmp_path / "up.key"
    key_file.write_text(secret)
    key_file.chmod(0o600)
    credential = {
        "vault": {"api_key_vault_ref": "global/up"},
        "env": {"api_key_env": "UP_KEY"},
        "file": {"api_key_file": str(key_file)},
    }[way]

    async def main() -> None:
        log = Log(level="debug", log_format="json", file=tmp_path / "log.txt")
        async with Upstream() as upstream:
            upstream.reply_with(echo(secret), echo(secret))
            config = config_of(upstream, **credential)
            state = tmp_path / "state"
            async with palyra.Daemon(config, state_dir=state, environ={"UP_KEY": secret}, log=log) as daemon:
                if way == "vault":
                    await daemon.vault.put(VaultRef("global", "up"), Secret(secret), reason="put")
                for stream in (False, True):
                    status, told = await say(daemon, stream=stream)
                    assert status == 400
                    assert leaks_in(told, secret, PROMPT) == []
                log.error("something_failed", detail=f"it said {secret}", nested={"x": [secret]})
                assert upstream.requests[0].headers["authorization"] == f"Bearer {secret}"
        log.close()
        assert b"something_failed" in (tmp_path / "log.txt").read_bytes()
        for path in [*state.rglob("*"), tmp_path / "log.txt"]:
            assert path.is_dir() or leaks_in(path.read_bytes(), secret, PROMPT) == [], path

    run(main())


def test_a_fact_that_would_hold_a_secret_is_refused(run: Run) -> None:
    """Nothing of it is recorded, the daemon lives, and an incident tells which fact it was."""

    async def main() -> None:
        async with palyra.Daemon(journal=":memory:") as daemon:
            daemon.known.hold("test", Secret(PLAIN))
            before = daemon.core.state.position
            for value in (
                PLAIN,
                base64.b64encode(PLAIN.encode()).decode(),
                "sk-canary-0123456789",
                "AKIA" + "B" * 16,
            ):
                fact = VaultSecretDeleted(ref="global/x", revision=1, reason=value)
                with pytest.raises(SecretInEvent) as caught:
                    await daemon.core.record([Draft("vault", fact)])
                assert caught.value.http_status == 500
                assert leaks_in(str(caught.value).encode(), PLAIN) == []
            assert daemon.core.is_writable
            async for recorded in daemon.journal.follow(before):
                if recorded.name == "incident.opened":
                    break
            kinds = [(one.kind, one.subject_id) for one in open_incidents(daemon.core.state)]
            assert kinds == [("secret_in_event", "vault.secret_deleted")]
            assert (await say(daemon, model="palyra/default"))[0] == 200

    run(main())


def test_what_clients_write_is_cleaned_before_it_is_decided(run: Run, tmp_path: Path) -> None:
    """A key pasted where a model's name belongs is refused as an unknown model, and stands nowhere."""
    pasted = "sk-canary-0123456789abcdef"

    async def main() -> None:
        async with palyra.Daemon(state_dir=tmp_path / "state") as daemon:
            status, told = await say(daemon, model=pasted)
            assert (status, leaks_in(told, pasted)) == (404, [])
            assert [one.name async for one in daemon.journal if one.name.startswith("run.")] == ["run.refused"]
            assert open_incidents(daemon.core.state) == []
        for path in (tmp_path / "state").rglob("*"):
            assert path.is_dir() or leaks_in(path.read_bytes(), pasted) == [], path

    run(main())


def test_an_exported_configuration_names_no_credential(run: Run) -> None:
    """The adopted tree hides where credentials are, and what stands in a header that may be one."""

    async def main() -> None:
        async with Upstream() as upstream:
            config = config_of(upstream, api_key_env="UP_KEY")
            config["model_provider"]["providers"][0]["headers"] = {"x-team-token": "canary-header"}
            async with palyra.Daemon(config, journal=":memory:", environ={"UP_KEY": PLAIN}) as daemon:
                facts = [one.body async for one in daemon.journal if isinstance(one.body, ConfigAdopted)]
                assert facts[0].effective["model_provider"]["providers"][0]["credential_ref"] == "<redacted>"
                assert "canary" not in repr(facts)

    run(main())
