"""A daemon with a vault: its secrets go where they belong, change between two attempts, and survive every crash."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from embedding_host import Run, ask
from upstream import Upstream

import palyra
from palyra.auth.sealing import SealingKey
from palyra.auth.vault import Vault
from palyra.auth.vaultdb import VaultDb
from palyra.decisions.vault import VaultRef
from palyra.engine.core import Core
from palyra.errors import JournalUnwritable, VaultError
from palyra.projections.vault import presence_of
from palyra.redaction import Secret

REF = VaultRef("global", "up")
FIRST, SECOND = "sk-canary-first-0123456789", "sk-canary-second-0123456789"


def calls(upstream: Upstream) -> dict[str, Any]:
    """Return a configuration with one provider, whose key is in the vault."""
    provider = {
        "provider_id": "up",
        "kind": "openai_compatible",
        "base_url": upstream.url,
        "allow_private_base_url": True,
        "api_key_vault_ref": str(REF),
        "max_retries": 0,
    }
    model = {"model_id": "gpt-x", "provider_id": "up"}
    return {"model_provider": {"providers": [provider], "models": [model]}}


def bearer(upstream: Upstream) -> list[str]:
    return [request.headers["authorization"].removeprefix("Bearer ") for request in upstream.requests]


async def names(daemon: palyra.Daemon, prefix: str) -> list[str]:
    return [recorded.name async for recorded in daemon.journal if recorded.name.startswith(prefix)]


def test_a_changed_secret_is_used_by_the_next_attempt(run: Run, tmp_path: Path) -> None:
    """The attempt names reference and revision; the journal holds no value, nor does any other file."""

    async def main() -> None:
        async with Upstream() as upstream, palyra.Daemon(calls(upstream), state_dir=tmp_path / "s") as daemon:
            await daemon.vault.put(REF, Secret(FIRST), reason="put")
            assert (await ask(daemon)).status == 200
            await daemon.vault.put(REF, Secret(SECOND), reason="put")
            assert (await ask(daemon)).status == 200
            assert bearer(upstream) == [FIRST, SECOND]
            pinned = [
                (one.body.credential_ref, one.body.credential_revision)
                async for one in daemon.journal
                if one.name == "attempt.started"
            ]
            assert pinned == [("config:up", 1), ("config:up", 2)]
            assert await names(daemon, "vault.") == ["vault.created", "vault.secret_stored", "vault.secret_stored"]
            assert [info.revision for info in daemon.vault.vault.revisions()] == [2]
        for path in (tmp_path / "s").rglob("*"):
            assert path.is_dir() or b"sk-canary" not in path.read_bytes()

    run(main())


def count_calls(monkeypatch: pytest.MonkeyPatch, *places: tuple[type, str]) -> list[str]:
    """Return where the names of what is called from now on are put down."""
    called: list[str] = []

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            called.append(name)
            return real(*arguments, **named)

        return call

    for kind, name in places:
        monkeypatch.setattr(kind, name, counted(name, getattr(kind, name)))
    return called


def test_requests_do_not_open_the_vault(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a start all secrets in use are in memory: no row is read and nothing unsealed, also after a change."""

    async def main() -> None:
        async with Upstream() as upstream:
            async with palyra.Daemon(calls(upstream), state_dir=tmp_path / "s") as daemon:
                await daemon.vault.put(REF, Secret(FIRST), reason="put")
            async with palyra.Daemon(calls(upstream), state_dir=tmp_path / "s") as daemon:
                opens = count_calls(
                    monkeypatch, (Vault, "get"), (VaultDb, "row"), (VaultDb, "rows"), (SealingKey, "open")
                )
                for _ in range(3):
                    assert (await ask(daemon)).status == 200
                await daemon.vault.put(REF, Secret(SECOND), reason="put")
                assert (await ask(daemon)).status == 200
                assert opens == []
                assert daemon.vault.vault.get(REF).secret == Secret(SECOND)
                assert opens == ["get", "row", "open"], "what counts does count"
            assert bearer(upstream) == [FIRST] * 3 + [SECOND]

    run(main())


def test_a_secret_goes_only_where_it_belongs(run: Run) -> None:
    """One that was stored for another origin is not sent; no byte leaves."""

    async def main() -> None:
        async with Upstream() as upstream, palyra.Daemon(calls(upstream), journal=":memory:") as daemon:
            await daemon.vault.put(REF, Secret(FIRST), reason="put", audience="https://api.openai.com:443")
            answer = await ask(daemon)
            assert (answer.status, upstream.requests) == (503, [])
            port = upstream.url.rpartition(":")[2].partition("/")[0]
            await daemon.vault.put(REF, Secret(FIRST), reason="put", audience=f"http://127.0.0.1:{port}")
            assert (await ask(daemon)).status == 200

    run(main())


def test_a_secret_that_is_missing_stops_its_runs_alone(run: Run) -> None:
    """The daemon answers that the credential is missing; once there is one, runs are served."""

    async def main() -> None:
        async with Upstream() as upstream, palyra.Daemon(calls(upstream), journal=":memory:") as daemon:
            assert (await ask(daemon)).status == 503
            await daemon.vault.put(REF, Secret(FIRST), reason="put")
            assert (await ask(daemon)).status == 200
            assert await daemon.vault.delete(REF, reason="operator")
            assert not await daemon.vault.delete(REF, reason="operator")
            assert (await ask(daemon)).status == 503
            assert await names(daemon, "vault.secret_deleted") == ["vault.secret_deleted"]

    run(main())


def test_a_lost_key_stops_no_daemon(run: Run, tmp_path: Path) -> None:
    """It is found once, the credential is locked, runs that need it get 503; the key put back mends all of it."""

    async def main() -> None:
        async with Upstream() as upstream:
            config, state = calls(upstream), tmp_path / "s"
            async with palyra.Daemon(config, state_dir=state) as daemon:
                await daemon.vault.put(REF, Secret(FIRST), reason="put")
            key = (state / "vault.key").read_bytes()
            (state / "vault.key").unlink()
            for _ in range(2):
                async with palyra.Daemon(config, state_dir=state) as daemon:
                    assert presence_of(daemon.core.state, str(REF)) == "locked"
                    assert (await ask(daemon)).status == 503
                    with pytest.raises(VaultError):
                        await daemon.vault.put(REF, Secret(SECOND), reason="put")
                    with pytest.raises(VaultError):
                        await daemon.vault.delete(REF, reason="operator")
                    assert await names(daemon, "vault.damage") == ["vault.damage_found"]
            (state / "vault.key").write_bytes(key)
            (state / "vault.key").chmod(0o600)
            # Notes of the journal's head that were written without the key are no proof to whoever has it again.
            config["journal"] = {"verify_at_start": "off"}
            async with palyra.Daemon(config, state_dir=state) as daemon:
                assert presence_of(daemon.core.state, str(REF)) == "present"
                assert (await ask(daemon)).status == 200

    run(main())


def test_a_vault_that_is_gone_is_not_begun_anew(run: Run, tmp_path: Path) -> None:
    """What the journal names may still come back."""

    async def main() -> None:
        state = tmp_path / "s"
        async with palyra.Daemon(state_dir=state) as daemon:
            await daemon.vault.put(REF, Secret(FIRST), reason="put")
        (state / "vault.db").unlink()
        async with palyra.Daemon(state_dir=state) as daemon:
            with pytest.raises(VaultError, match="gone"):
                await daemon.vault.put(REF, Secret(SECOND), reason="put")
            assert [damage.code for damage in daemon.vault.findings()] == ["vault_missing"]
        assert not (state / "vault.db").exists()

    run(main())


def test_an_older_copy_of_the_vault_shows(run: Run, tmp_path: Path) -> None:
    """The journal knows a newer revision; its number is not given out again."""

    async def main() -> None:
        state = tmp_path / "s"
        async with palyra.Daemon(state_dir=state) as daemon:
            await daemon.vault.put(REF, Secret(FIRST), reason="put")
        copy = (state / "vault.db").read_bytes()
        async with palyra.Daemon(state_dir=state) as daemon:
            await daemon.vault.put(REF, Secret(SECOND), reason="put")
        (state / "vault.db").write_bytes(copy)
        async with palyra.Daemon(state_dir=state) as daemon:
            assert [tuple(damage) for damage in daemon.vault.findings()] == [("dangling_ref", "global/up")]
            assert (await daemon.vault.put(REF, Secret(SECOND), reason="put")).info.revision == 3
            assert daemon.vault.findings() == []

    run(main())


def test_sealing_anew_is_a_fact(run: Run, tmp_path: Path) -> None:
    """With new fingerprints; the journal is still vouched for at the next start."""

    async def main() -> None:
        state = tmp_path / "s"
        async with palyra.Daemon(state_dir=state) as daemon:
            first = await daemon.vault.put(REF, Secret(FIRST), reason="put")
            await daemon.vault.rekey()
            second = daemon.core.state.vault.secrets[str(REF)].key_fingerprint
            assert second == daemon.vault.opened(REF, 1).key_fingerprint != first.key_fingerprint
        async with palyra.Daemon(state_dir=state) as daemon:
            assert daemon.vault.opened(REF, 1).secret == Secret(FIRST)
            assert await daemon.vault.verify() == []

    run(main())


def test_what_could_not_be_recorded_is_not_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old revision stays in use."""

    async def main() -> None:
        async with palyra.Daemon(journal=":memory:") as daemon:
            await daemon.vault.put(REF, Secret(FIRST), reason="put")

            async def refuse(*_: object) -> None:
                raise JournalUnwritable

            with monkeypatch.context() as patch:
                patch.setattr(daemon.core, "record", refuse)
                with pytest.raises(JournalUnwritable):
                    await daemon.vault.put(REF, Secret(SECOND), reason="put")
            assert [info.revision for info in daemon.vault.vault.revisions()] == [1]
            assert (await daemon.vault.put(REF, Secret(SECOND), reason="put")).info.revision == 3

    run(main())


def test_a_caller_that_leaves_leaves_no_half(run: Run) -> None:
    """A write that was begun is recorded."""

    async def main() -> None:
        async with palyra.Daemon(journal=":memory:") as daemon:
            task = asyncio.ensure_future(daemon.vault.put(REF, Secret(FIRST), reason="put"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            second = await daemon.vault.put(REF, Secret(SECOND), reason="put")
            assert second.info.revision == 2
            assert len(await names(daemon, "vault.secret_stored")) == 2

    run(main())


#: Steps of a put and of sealing anew, in order: the vault's, the journal's, the vault's again.
STEPS: list[tuple[type, str]] = [(Vault, "put"), (Vault, "rekey"), (Core, "record"), (Vault, "delete")]


def die_in(work: Callable[[], object], place: tuple[type, str], *, before: bool) -> int:
    """Do something in a process that is killed before or after a step of it; return its exit status."""
    child = os.fork()
    if child == 0:
        kind, name = place
        real = getattr(kind, name)

        def fatal(*arguments: Any, **named: Any) -> Any:
            if before:
                os._exit(9)
            real(*arguments, **named)
            os._exit(9)

        async def fatal_async(*arguments: Any, **named: Any) -> Any:
            if not before:
                await real(*arguments, **named)
            os._exit(9)

        def arm() -> None:
            setattr(kind, name, fatal_async if asyncio.iscoroutinefunction(real) else fatal)

        try:
            asyncio.run(work(arm))  # type: ignore[call-arg]
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step[1])
@pytest.mark.parametrize("action", ["put", "rekey"])
def test_a_write_can_be_cut_anywhere(
    run: Run, tmp_path: Path, action: str, step: tuple[type, str], before: bool
) -> None:
    """What was acknowledged is there, nothing is left over, and registry and vault agree at the next start."""
    state = tmp_path / "s"

    async def work(arm: Callable[[], None]) -> None:
        async with palyra.Daemon(state_dir=state) as daemon:
            await daemon.vault.put(REF, Secret(FIRST), reason="put")
            arm()
            if action == "put":
                await daemon.vault.put(REF, Secret(SECOND), reason="put")
            else:
                await daemon.vault.rekey()

    die_in(work, step, before=before)  # type: ignore[arg-type]

    async def main() -> None:
        async with palyra.Daemon(state_dir=state) as daemon:
            known = daemon.core.state.vault.secrets[str(REF)]
            held = daemon.vault.vault.revisions()
            assert [info.revision for info in held] == [known.revision]
            value = daemon.vault.opened(REF, known.revision).secret
            assert value == Secret(FIRST if known.revision == 1 else SECOND)
            assert daemon.vault.findings() == []
            assert known.key_fingerprint == daemon.vault.opened(REF, known.revision).key_fingerprint
            assert (await daemon.vault.put(REF, Secret(SECOND), reason="put")).info.revision > known.revision

    run(main())
