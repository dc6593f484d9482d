"""`palyra auth login`, `attempts` and `cancel`: credentials that a person gets by logging in at a provider."""

from __future__ import annotations

import contextlib
import sys
import time
import webbrowser
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call, Command
from palyra.cli.frame import Answer
from palyra.cli.page import Column, Page, Styled
from palyra.cli.render import ago, instant
from palyra.cli.secret_input import ask_hidden
from palyra.errors import PalyraError, Refused

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
    from palyra.engine.console.change_table import AUTH_LOGIN, AUTH_LOGIN_AGAIN
    from palyra.engine.console.oauth import BootstrapParams, ReconnectParams

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
    with _given_up(call, started.found):
        ended = _paste(call, started.found) if is_pasted else _wait(call, started.found, is_quiet)
    answer = ended.answer(lambda page: _show(page, ended.found))
    if ended.found.state == "completed":
        return answer
    failure = PalyraError(ended.found.message, hint=f"palyra auth login {provider}", code="login_failed")
    return answer._replace(failure=failure)


def _say(text: str) -> None:
    """Tell whoever waits; what the command answers goes elsewhere."""
    click.echo(text, err=True)


@contextlib.contextmanager
def _given_up(call: Call, started: StartedAnswer) -> Iterator[None]:
    """Cancel a login whose command ends before it: nobody would finish it, and only so many may be open."""
    from palyra.cli.asking import change
    from palyra.engine.console.change_table import AUTH_LOGIN_CANCEL
    from palyra.engine.console.oauth import AttemptParams

    try:
        yield
    except BaseException:
        with contextlib.suppress(PalyraError):
            change(call, AUTH_LOGIN_CANCEL, AttemptParams(id=started.attempt_id))
        raise


def _paste(call: Call, started: StartedAnswer) -> Asked[AttemptView]:
    """Take the address that a person ended at; whoever pastes a wrong one at a terminal is asked again."""
    from palyra.cli.asking import change
    from palyra.engine.console.change_table import AUTH_LOGIN_COMPLETE
    from palyra.engine.console.oauth import CompleteParams

    _say(f"Open this address in any browser and log in:\n\n{started.authorize_url}\n")
    _say(f"It ends at an address that begins with {started.redirect_uri}; that page need not open. Paste it here.")
    while True:
        is_asked = sys.stdin.isatty()
        address = ask_hidden("Address") if is_asked else sys.stdin.readline(_ADDRESS_MAX_CHARS)
        if not address.strip():
            raise PalyraError(
                "No address was given.", hint="palyra auth login starts another one", code="usage_error"
            )
        params = CompleteParams(attempt_id=started.attempt_id, redirect_url=address.strip())
        try:
            return change(call, AUTH_LOGIN_COMPLETE, params)
        except Refused as refused:
            if not is_asked or refused.refusal.param != "redirect_url":
                raise
            _say(str(refused))


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
    "cancel",
    cls=Command,
    examples=[
        ("palyra auth cancel 01m8gb7546as23gmr4wz7gbwfv", "end a login that nobody will come back from"),
        ("palyra auth cancel 01m8gb7546as23gmr4wz7gbwfv --json", "the same for a program"),
    ],
    exits=_EXITS,
    is_change=True,
)
@click.argument("login_id", metavar="LOGIN")
def cancel(call: Call, login_id: str) -> Answer:
    """End a login at a provider that is open; palyra auth attempts shows which are."""
    from palyra.cli.asking import change
    from palyra.engine.console.change_table import AUTH_LOGIN_CANCEL
    from palyra.engine.console.oauth import AttemptParams

    done: Asked[AttemptView] = change(call, AUTH_LOGIN_CANCEL, AttemptParams(id=login_id))
    return done.answer(lambda page: _show(page, done.found))
