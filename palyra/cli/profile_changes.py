"""`palyra auth connect`, `rotate`, `revoke` and what else changes the profile that a provider is asked with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call, Command
from palyra.cli.frame import Answer
from palyra.cli.page import Page, Styled
from palyra.cli.render import counted
from palyra.cli.secret_input import key_options, read_key_input

if TYPE_CHECKING:
    from palyra.cli.asking import Asked
    from palyra.engine.console.auth import ActionResult

_EXITS = (0, 2, 3, 4, 6, 7, 8)


@click.command(
    "connect",
    cls=Command,
    examples=[
        ("palyra auth connect openai", "ask for the key"),
        ("palyra auth connect groq --key-env GROQ_KEY --name Work", "take it from a variable"),
        ("palyra auth connect anthropic --key-stdin", "read it from standard input"),
        ("palyra auth connect openai --agent coder --default", "for one agent, before the others"),
    ],
    exits=_EXITS,
    is_change=True,
)
@click.argument("provider", metavar="PROVIDER")
@click.option("--profile", "profile_id", default="", metavar="ID", help="Id of the profile; else made of its name.")
@click.option("--name", default="Default", metavar="NAME", help="Name of the profile.")
@click.option("--agent", default="", metavar="ID", help="Only for runs of this agent.")
@click.option("--default", "is_default", is_flag=True, help="Try it before the others.")
@key_options
def connect(
    call: Call,
    provider: str,
    profile_id: str,
    name: str,
    agent: str,
    is_default: bool,
    key_env: str | None,
    is_key_stdin: bool,
    stray: tuple[str, ...],
) -> Answer:
    """Check a provider's key at the provider, and keep it in the vault as a profile."""
    from palyra.engine.console.auth import ConnectParams
    from palyra.engine.console.change_table import AUTH_CONNECT

    key = read_key_input(f"Key for {provider}", key_env, is_key_stdin, stray)
    params = ConnectParams(
        provider=provider,
        api_key=key.reveal(),
        profile_name=name,
        profile_id=profile_id,
        scope=scope_of(agent),
        set_default=is_default,
    )
    return change_profile(call, AUTH_CONNECT, params)


def scope_of(agent_id: str) -> Any:
    from palyra.engine.console.auth import Scope

    return Scope(kind="agent", agent_id=agent_id) if agent_id else Scope()


def change_profile(call: Call, what: Any, params: Any) -> Answer:
    from palyra.cli.asking import change

    done: Asked[ActionResult] = change(call, what, params)
    return done.answer(lambda page: _show_result(page, done.found))


def _show_result(page: Page, found: ActionResult) -> None:
    models = f" · {counted(found.models_count, 'model')}" if found.models_count is not None else ""
    state = Styled(found.state.replace("_", " "), "good")
    page.line(Styled(found.profile_id, "bold"), f" of {found.provider} · ", state, models)
    page.line(found.message)
    if found.duplicate_of:
        page.line(Styled(f"{found.duplicate_of} has the very same key.", "warn"))
    for warning in found.warnings:
        page.line(Styled(warning, "warn"))


def of_one(path: str, change: str, help_: str, first: str) -> click.Command:
    """Return the command `palyra auth <path> ID`, which has one change of the table made of one profile.

    `first` says what its first example does.
    """

    @click.command(
        path.rpartition(" ")[2],
        cls=Command,
        help=help_,
        examples=[
            (f"palyra auth {path} work-openai", first),
            (f"palyra auth {path} work-openai --json", "the same for a program"),
        ],
        exits=_EXITS,
        is_change=True,
    )
    @click.argument("profile", metavar="ID")
    def command(call: Call, profile: str) -> Answer:
        from palyra.engine.console import change_table
        from palyra.engine.console.auth import ProfileParams

        return change_profile(call, getattr(change_table, change), ProfileParams(id=profile))

    return command


validate = of_one(
    "validate",
    "AUTH_VALIDATE",
    "Ask the provider whether it takes a profile's key; that costs nothing, and ends a failure if it does.",
    "ask the provider whether it takes the key",
)
default = of_one(
    "default",
    "AUTH_DEFAULT",
    "Try a profile before the others of its provider and scope.",
    "try it before the others",
)
disable = of_one("disable", "AUTH_DISABLE", "Let a profile rest until it is enabled.", "let it rest")
enable = of_one("enable", "AUTH_ENABLE", "Use a profile again.", "use it again")
refresh = of_one(
    "refresh",
    "AUTH_REFRESH",
    "Renew a profile's token now; the daemon does so by itself before one ends.",
    "get a new token now",
)
clear_cooldown = of_one(
    "cooldown clear",
    "AUTH_COOLDOWN_CLEAR",
    "End every pause of a credential; a failure stays.",
    "use it now; a failure stays",
)


@click.command(
    "rotate",
    cls=Command,
    examples=[
        ("palyra auth rotate work-openai", "ask for another key and put it in its place"),
        ("palyra auth rotate work-openai --key-env NEW_KEY", "take it from a variable"),
    ],
    exits=_EXITS,
    is_change=True,
)
@click.argument("profile", metavar="ID")
@key_options
def rotate(call: Call, profile: str, key_env: str | None, is_key_stdin: bool, stray: tuple[str, ...]) -> Answer:
    """Give a profile another key, if its provider takes it; open requests go on with the one they have."""
    from palyra.engine.console.auth import KeyParams
    from palyra.engine.console.change_table import AUTH_ROTATE

    key = read_key_input(f"New key for {profile}", key_env, is_key_stdin, stray)
    return change_profile(call, AUTH_ROTATE, KeyParams(id=profile, api_key=key.reveal()))


@click.command(
    "rebind",
    cls=Command,
    examples=[
        ("palyra auth rebind work-openai openai-eu", "send it where this entry is, and nowhere else"),
        ("palyra auth rebind work-openai openai-eu --json", "the same for a program"),
    ],
    exits=_EXITS,
    is_change=True,
)
@click.argument("profile", metavar="ID")
@click.argument("provider", metavar="PROVIDER")
def rebind(call: Call, profile: str, provider: str) -> Answer:
    """Check a profile's key where a provider of the configuration is now, and bind it to that address."""
    from palyra.engine.console.auth import RebindParams
    from palyra.engine.console.change_table import AUTH_REBIND

    return change_profile(call, AUTH_REBIND, RebindParams(id=profile, provider_id=provider))


@click.command(
    "revoke",
    cls=Command,
    examples=[
        ("palyra auth revoke work-openai", "use it no more and delete its secret"),
        ("palyra auth revoke work-openai --local-only", "and ask nothing of the provider"),
    ],
    exits=_EXITS,
    is_change=True,
    destroys="The profile is used no more, and its secret is deleted.",
)
@click.argument("profile", metavar="ID")
@click.option("--local-only", "is_local", is_flag=True, help="Ask nothing of the provider.")
def revoke(call: Call, profile: str, is_local: bool) -> Answer:
    """Use a profile no more and delete its secret."""
    from palyra.engine.console.auth import RevokeParams
    from palyra.engine.console.change_table import AUTH_REVOKE

    return change_profile(call, AUTH_REVOKE, RevokeParams(id=profile, local_only=is_local))
