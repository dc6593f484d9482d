"""`palyra vault`: secrets go in and are never shown again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call, Group
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Styled
from palyra.cli.render import ago, count
from palyra.cli.secret_input import read_secret, secret_options
from palyra.errors import PalyraError

if TYPE_CHECKING:
    from palyra.engine.console.vault import VaultStatusAnswer

_WORDS = {
    "vault_missing": "the journal names secrets, but there is no vault; put vault.db back",
    "vault_unreadable": "vault.db cannot be read; put a copy of it back",
    "vault_locked": "its key is not there; put vault.key back, or open the keychain",
    "vault_key_mismatch": "its key is another one; put the right vault.key back",
    "secret_damaged": "it does not open; put it again",
    "dangling_ref": "the vault lacks it; put it again",
}


@click.group(
    cls=Group,
    examples=[
        ("palyra vault put global/openai", "ask for a secret and keep it"),
        ("palyra vault list", "which secrets there are"),
        ("palyra vault absorb", "move keys out of the configuration into the vault"),
    ],
)
def vault() -> None:
    """Keep secrets: put, list, delete, seal anew. A value goes in and is never shown."""


@vault.command(
    "status",
    examples=[
        ("palyra vault status", "whether it opens, and what is wrong"),
        ("palyra vault status --as-of -1d", "what was known of it yesterday"),
    ],
    exits=(0, 2, 5, 7),
    takes_as_of=True,
)
def status(call: Call) -> Answer:
    """Show whether the vault opens, where its key is kept, and what is wrong with it."""
    from palyra.cli.asking import ask
    from palyra.engine.console.table import VAULT_STATUS
    from palyra.engine.console.vault import VaultStatusParams

    asked = ask(call, VAULT_STATUS, VaultStatusParams())
    return asked.answer(lambda page: _show_status(page, asked.found))


@vault.command(
    "list",
    examples=[
        ("palyra vault list", "all of them"),
        ("palyra vault list --scope agent:coder --json", "those of one agent, for a program"),
    ],
    exits=(0, 2, 5, 7),
    takes_as_of=True,
)
@click.option("--scope", default="", help="Only those of one scope: global, agent:ID, principal:ID, skill:ID.")
def list_secrets(call: Call, scope: str) -> Answer:
    """Show which secrets there are: reference, revision, size, where each may be sent."""
    from palyra.cli.asking import ask_all
    from palyra.engine.console.table import VAULT_SECRETS
    from palyra.engine.console.vault import SecretsParams

    asked = ask_all(call, VAULT_SECRETS, SecretsParams(scope=scope))

    def show(page: Page) -> None:
        if not asked.found.items:
            page.line("No secrets. ", Styled("palyra vault put global/NAME keeps one.", "dim"))
            return
        columns = [
            Column("secret"),
            Column("revision", "right"),
            Column("bytes", "right"),
            Column("for"),
            Column("state"),
            Column("stored"),
        ]
        rows = [
            [
                one.ref,
                count(one.revision),
                count(one.value_bytes),
                one.audience or "-",
                one.presence,
                ago(one.created_us, asked.now_us),
            ]
            for one in asked.found.items
        ]
        page.table(columns, rows)

    return asked.answer(show)


@vault.command(
    "put",
    examples=[
        ("palyra vault put global/openai", "ask for it"),
        ("palyra vault put global/groq --env GROQ_API_KEY", "take it from a variable"),
        ("palyra vault put global/openai --stdin", "take it from another program"),
        ("palyra vault put global/openai --for https://api.openai.com", "send it nowhere else"),
    ],
    exits=(0, 2, 4, 6, 7),
    is_change=True,
)
@click.argument("ref", metavar="REF")
@click.option("--for", "audience", metavar="URL", help="The one origin that it may be sent to.")
@click.option("--if-revision", type=click.IntRange(0), help="Only if this revision is live; 0 for none.")
@secret_options
def put(call: Call, ref: str, audience: str | None, if_revision: int | None, **source: Any) -> Answer:
    """Keep a secret under REF, such as global/openai. The next request that needs it uses it."""
    from palyra.cli.asking import change
    from palyra.decisions.vault import read_vault_ref
    from palyra.engine.console.change_table import VAULT_SECRET_PUT
    from palyra.engine.console.vault import PutSecretParams
    from palyra.errors import or_refuse

    checked = or_refuse(read_vault_ref(ref))  # before anybody is asked for anything
    secret = read_secret(f"Secret for {checked}", **source)
    params = PutSecretParams(ref=ref, value=secret.reveal(), audience=audience, if_revision=if_revision)
    done = change(call, VAULT_SECRET_PUT, params)
    found = done.found

    def show(page: Page) -> None:
        page.line(Styled(found.ref, "bold"), f" revision {found.revision}, {found.value_bytes} bytes")
        page.line(Styled(f'api_key_vault_ref = "{found.ref}" gives it to a provider.', "dim"))

    return done.answer(show)


@vault.command(
    "delete",
    examples=[
        ("palyra vault delete global/groq", "forget it for good"),
        ("palyra vault delete global/openai --force", "although a provider uses it"),
    ],
    exits=(0, 2, 4, 6, 7),
    is_change=True,
    destroys="The secret is deleted with all its revisions.",
)
@click.argument("ref", metavar="REF")
@click.option("--force", "is_forced", is_flag=True, help="Also one that a provider uses.")
def delete(call: Call, ref: str, is_forced: bool) -> Answer:
    """Delete a secret with all its revisions. One that a provider uses needs --force."""
    from palyra.cli.asking import change
    from palyra.engine.console.change_table import VAULT_SECRET_DELETE
    from palyra.engine.console.vault import DeleteSecretParams

    done = change(call, VAULT_SECRET_DELETE, DeleteSecretParams(ref=ref, force=is_forced))
    what = "is gone" if done.found.was_there else "was not there"
    return done.answer(lambda page: page.line(Styled(done.found.ref, "bold"), f" {what}"))


@vault.command(
    "rekey",
    examples=[
        ("palyra vault rekey", "seal everything under a new key"),
        ("palyra vault rekey --key-source os_keychain", "and keep that in the system's keychain"),
    ],
    exits=(0, 2, 4, 7),
    is_change=True,
)
@click.option("--key-source", type=click.Choice(["key_file", "os_keychain"]), help="Where the new key is kept.")
def rekey(call: Call, key_source: Any) -> Answer:
    """Seal every secret under a new key; the old key opens nothing any more. Values and revisions stay."""
    from palyra.cli.asking import change
    from palyra.engine.console.change_table import VAULT_REKEY
    from palyra.engine.console.vault import RekeyParams

    done = change(call, VAULT_REKEY, RekeyParams(key_source=key_source))

    def show(page: Page) -> None:
        _show_status(page, done.found)
        if key_source is not None and key_source != call.loaded.config.vault.key_source:
            page.line(f"Before the next start: palyra config set vault.key_source {key_source}")

    return done.answer(show)


@vault.command(
    "verify",
    examples=[
        ("palyra vault verify", "open every secret and say what does not open"),
        ("palyra vault verify --json", "the same for a program"),
    ],
    exits=(0, 2, 4, 7),
    is_change=True,
)
def verify(call: Call) -> Answer:
    """Open every secret and compare the vault with the journal; exit 7 when something is wrong."""
    from palyra.cli.asking import change
    from palyra.engine.console.change_table import VAULT_VERIFY
    from palyra.engine.console.vault import VerifyParams

    done = change(call, VAULT_VERIFY, VerifyParams())
    answer = done.answer(lambda page: _show_status(page, done.found))
    if not done.found.findings:
        return answer
    whole = done.found.state == "open"
    hint = "put the secrets again" if whole else "put the files of the vault back"
    failure = PalyraError("Something is wrong with the vault.", hint=hint, code="secret_damaged")
    return answer._replace(failure=failure)


@vault.command(
    "absorb",
    examples=[
        ("palyra vault absorb --dry-run", "what would be moved"),
        ("palyra vault absorb", "move keys out of the configuration into the vault"),
    ],
    exits=(0, 2, 4, 7, 8),
    is_change=True,
)
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Say what would be moved, and move nothing.")
def absorb(call: Call, is_dry_run: bool) -> Answer:
    """Move every secret of the configuration file into the vault and leave references; comments stay."""
    from palyra.cli.absorb import absorb as move

    return move(call, is_dry_run=is_dry_run)


def _show_status(page: Page, found: VaultStatusAnswer) -> None:
    page.fields(
        [
            ("vault", Styled(found.state, "good" if found.state in ("open", "empty") else "bad")),
            ("key", found.key_source or "-"),
            ("secrets", count(found.secrets_count)),
        ]
    )
    for finding in found.findings:
        where = finding.ref or "the vault"
        page.line(Styled(finding.code, "bad"), f" {where}: {_WORDS[finding.code]}")
