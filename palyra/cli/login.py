"""`palyra auth login`, `attempts` and `refresh`: credentials that a person gets by logging in at a provider."""

from __future__ import annotations

import sys
import time
import webbrowser
from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call, Command
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Styled
from palyra.cli.render import ago, instant
from palyra.errors import PalyraError

if TYPE_CHECKING:
    from palyra.cli.asking import Asked
    from palyra.engine.console.frame import Items
    from palyra.engine.console.oauth import AttemptView, StartedAnswer

_EXITS = (0, 2, 3, 4, 6, 7, 8)
_READ_EXITS = (0, 2, 5, 7, 8)
_POLL_S = 1.5
_ADDRESS_MAX_CHARS = 4_200
_OPEN = ("pending", "exchanging")


@click.command(
    "login",
    cls=Command,
    examples=[
        ("palyra auth login openai", "log in with the browser of this machine"),
        ("palyra auth login openai --paste", "log in anywhere, and paste the address that it ends at"),
        ("palyra auth login openai --profile work-k3d9zz", "log in anew for a profile that is there"),
    ],
    exits=_EXITS,
    is_change=True,
)
@click.argument("provider", metavar="PROVIDER", type=click.Choice(["openai"]))
@click.option("--paste", "is_pasted", is_flag=True, help="Finish by pasting an address; needs no browser here.")
@click.option("--profile", "profile_id", default="", metavar="ID", help="Give this profile new tokens.")
@click.option("--name", default="Default", metavar="NAME", help="Name of a new profile.")
@click.option("--agent", default="", metavar="ID", help="Only for runs of this agent.")
@click.option("--default", "is_default", is_flag=True, help="Try it before the others.")
@click.option("--no-open", "is_quiet", is_flag=True, help="Print the address and open no browser.")
def login(
    call: Call,
    provider: str,
    is_pasted: bool,
    profile_id: str,
    name: str,
    agent: str,
    is_default: bool,
    is_quiet: bool,
) -> Answer:
    """Log in at a provider, and keep what it gives in the vault as a profile that renews itself."""
    from palyra.cli.asking import change
    from palyra.engine.console.auth import Scope
    from palyra.engine.console.oauth import BootstrapParams, ReconnectParams
    from palyra.engine.console.table import AUTH_LOGIN, AUTH_LOGIN_AGAIN

    mode: Any = "paste" if is_pasted else "browser"
    if profile_id:
        started: Asked[StartedAnswer] = change(
            call, AUTH_LOGIN_AGAIN, ReconnectParams(profile_id=profile_id, mode=mode)
        )
    else:
        scope = Scope(kind="agent", agent_id=agent) if agent else Scope()
        params = BootstrapParams(profile_name=name, scope=scope, set_default=is_default, mode=mode)
        started = change(call, AUTH_LOGIN, params)
    for warning in started.found.warnings:
        _say(warning)
    ended = _paste(call, started.found) if is_pasted else _wait(call, started.found, is_quiet)
    answer = ended.answer(lambda page: _show(page, ended.found))
    if ended.found.state == "completed":
        return answer
    failure = PalyraError(ended.found.message, hint=f"palyra auth login {provider}", code="login_failed")
    return answer._replace(failure=failure)


def _say(text: str) -> None:
    """Tell whoever waits; what the command answers goes elsewhere."""
    click.echo(text, err=True)


def _paste(call: Call, started: StartedAnswer) -> Asked[AttemptView]:
    from palyra.cli.asking import change
    from palyra.engine.console.oauth import CompleteParams
    from palyra.engine.console.table import AUTH_LOGIN_COMPLETE

    _say(f"Open this address in any browser and log in:\n\n{started.authorize_url}\n")
    _say(f"It ends at an address that begins with {started.redirect_uri}; that page need not open. Paste it here.")
    if sys.stdin.isatty():
        import getpass

        address = getpass.getpass("Address: ")
    else:
        address = sys.stdin.readline(_ADDRESS_MAX_CHARS)
    if not address.strip():
        raise PalyraError("No address was given.", hint="palyra auth attempts shows the login", code="usage_error")
    params = CompleteParams(attempt_id=started.attempt_id, redirect_url=address.strip())
    return change(call, AUTH_LOGIN_COMPLETE, params)


def _wait(call: Call, started: StartedAnswer, is_quiet: bool) -> Asked[AttemptView]:
    """Send a browser on its way and look until it has come back."""
    from palyra.cli.asking import ask
    from palyra.engine.console.oauth import StateParams
    from palyra.engine.console.table import AUTH_CALLBACK_STATE

    assert started.launch_url is not None
    if is_quiet or not webbrowser.open(started.launch_url):
        _say(f"Open this address within a minute, in a browser of this machine:\n\n{started.launch_url}\n")
    _say("Waiting for the login ...")
    while True:
        asked: Asked[AttemptView] = ask(call, AUTH_CALLBACK_STATE, StateParams(attempt_id=started.attempt_id))
        if asked.found.state not in _OPEN:
            return asked
        time.sleep(_POLL_S)


def _show(page: Page, found: AttemptView) -> None:
    style = "good" if found.state == "completed" else "bad"
    page.line(Styled(found.profile_id or found.attempt_id, "bold"), " · ", Styled(found.state, style))
    page.line(found.message)


@click.command(
    "attempts",
    cls=Command,
    examples=[
        ("palyra auth attempts", "logins that are open, and those of the last minutes"),
        ("palyra auth attempts --json", "the same for a program"),
    ],
    exits=_READ_EXITS,
    takes_as_of=True,
)
def attempts(call: Call) -> Answer:
    """Show logins at providers that are open or were over a moment ago."""
    from palyra.cli.asking import ask_all
    from palyra.engine.console.frame import ListParams
    from palyra.engine.console.table import AUTH_ATTEMPTS

    asked: Asked[Items[AttemptView]] = ask_all(call, AUTH_ATTEMPTS, ListParams(limit=500))

    def show(page: Page) -> None:
        if not asked.found.items:
            page.line(Styled("No login is open.", "dim"))
            return
        rows = [
            (
                one.attempt_id,
                one.provider,
                one.mode,
                f"{one.state}: {one.failure_code}" if one.failure_code else one.state,
                ago(one.created_us, asked.now_us),
                instant(one.expires_us, page.zone) if one.state == "pending" else "",
            )
            for one in asked.found.items
        ]
        names = ("LOGIN", "PROVIDER", "MODE", "STATE", "STARTED", "UNTIL")
        page.table([Column(name, is_cut=name == "LOGIN") for name in names], rows)

    return asked.answer(show)


@click.command(
    "refresh",
    cls=Command,
    examples=[
        ("palyra auth refresh work-k3d9zz", "get a new token now"),
        ("palyra auth refresh work-k3d9zz --json", "the same for a program"),
    ],
    exits=_EXITS,
    is_change=True,
)
@click.argument("profile", metavar="ID")
def refresh(call: Call, profile: str) -> Answer:
    """Renew a profile's token now; the daemon does so by itself before one ends."""
    from palyra.cli.asking import change
    from palyra.engine.console.auth import ProfileParams
    from palyra.engine.console.table import AUTH_REFRESH

    done = change(call, AUTH_REFRESH, ProfileParams(id=profile))
    found = done.found

    def show(page: Page) -> None:
        page.line(Styled(found.profile_id, "bold"), f" of {found.provider} · ", Styled(found.state, "good"))
        page.line(found.message)

    return done.answer(show)
