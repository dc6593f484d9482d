"""`palyra console` and `palyra sessions`: the way of a browser into the daemon, and who is in."""

from __future__ import annotations

import webbrowser
from typing import TYPE_CHECKING, Any

import click

from palyra.cli.command import Call, Command, Group
from palyra.cli.frame import Answer, At
from palyra.cli.page import Column, Page, Styled
from palyra.cli.render import ago, instant

if TYPE_CHECKING:
    from palyra.cli.door import Door


@click.command(
    cls=Command,
    examples=[
        ("palyra console", "print a link that logs in once"),
        ("palyra console --open", "and open it in the browser"),
        ("palyra console --json", "the link for a program"),
    ],
    exits=(0, 2, 4, 7),
    is_change=True,
)
@click.option("--open", "is_opened", is_flag=True, help="Open the link in the browser.")
def console(call: Call, is_opened: bool) -> Answer:
    """Print a link that logs a browser in: once, within a minute.

    This release has no page behind the link yet. What stands behind its # is good for the API as well:
    POST {"login_code": CODE} to /console/v1/auth/login sets the cookie and answers with the csrf_token that changes
    take in x-palyra-csrf-token.
    """
    door = _door(call)
    made = door.send("POST", "auth/login-codes", {})
    url = str(made["login_url"])
    if is_opened:
        webbrowser.open(url)
    base, _, code = url.partition("/console#code=")

    def show(page: Page) -> None:
        page.line(Styled(url, "accent"))
        page.line(Styled(f"good once, until {instant(made['expires_us'], page.zone)}", "dim"))
        page.title("Without a browser")
        page.line("curl -s -c cookies.txt -H 'Content-Type: application/json' \\", indent=2)
        page.line(f"""  -d '{{"login_code": "{code}"}}' {base}/console/v1/auth/login""", indent=2)

    return _answer(door, made, show)


@click.group(
    cls=Group,
    examples=[
        ("palyra sessions list", "who is logged in"),
        ("palyra sessions end 01JD4E8K9M2P4R6T8V0X2Z4B6D", "end one login"),
    ],
)
def sessions() -> None:
    """Show who is logged in at the console, and end it."""


@sessions.command(
    "list",
    examples=[
        ("palyra sessions list", "logins of the daemon that runs"),
        ("palyra sessions list --json", "the same for a program"),
    ],
    exits=(0, 2, 4, 7),
    is_change=True,
)
def list_sessions(call: Call) -> Answer:
    """Show who is logged in. A start of the daemon ends all logins."""
    from palyra.engine.clock import SystemClock

    door = _door(call)
    found = door.send("GET", "auth/sessions", None)
    now_us = SystemClock().now_us()

    def show(page: Page) -> None:
        rows = [
            (one["id"], one["principal"], ago(one["issued_us"], now_us), ago(one["last_seen_us"], now_us))
            for one in found["items"]
        ]
        if rows:
            page.table([Column("LOGIN"), Column("WHO", is_cut=True), Column("SINCE"), Column("SEEN")], rows)
        else:
            page.line(Styled("Nobody is logged in.", "dim"))

    return _answer(door, found, show)


@sessions.command(
    "end",
    examples=[
        ("palyra sessions end 01JD4E8K9M2P4R6T8V0X2Z4B6D", "it opens nothing any more"),
        ("palyra sessions end 01JD4E8K9M2P4R6T8V0X2Z4B6D --json", "the same for a program"),
    ],
    exits=(0, 2, 4, 7, 8),
    is_change=True,
)
@click.argument("session", metavar="ID")
def end(call: Call, session: str) -> Answer:
    """End a login at once."""
    from urllib.parse import quote

    door = _door(call)
    door.send("DELETE", f"auth/sessions/{quote(session, safe='')}", None)
    return _answer(door, {"id": session}, lambda page: page.line(Styled(f"The login {session} has ended.", "good")))


def _door(call: Call) -> Door:
    """Return the way to the daemon; logins are in its memory and nowhere else."""
    from palyra.cli.door import find_door
    from palyra.engine.console.changes import DaemonNotRunning
    from palyra.journal.lock import LockState, read_lock

    door = find_door(call, LockState(False, None) if call.url else read_lock(call.paths.lock))
    if door is None:
        raise DaemonNotRunning
    return door


def _answer(door: Door, data: dict[str, Any], show: Any) -> Answer:
    at = data.pop("at", None)
    where = None if at is None else At(**at, source="daemon")
    return Answer(data, show, where, door.origin)
