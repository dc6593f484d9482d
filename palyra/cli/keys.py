"""`palyra keys`: who may call the gateway, and what each of them may do."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import click

from palyra.cli.command import Call, Group
from palyra.cli.frame import Answer
from palyra.cli.key_pages import hand_over, place_of, show_key, show_list, status_piece
from palyra.cli.page import Styled

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Duration(click.ParamType[int]):
    """A time such as 30d, 12h, 90m or 45s; in microseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"([0-9]{1,6})([smhd])", str(value))
        if found is None:
            self.fail(f"'{value}' is no time; write it as 30d, 12h, 90m or 45s.", param, ctx)
        return int(found[1]) * _UNITS_S[found[2]] * 1_000_000


@click.group(
    cls=Group,
    examples=[
        ("palyra keys issue ci --scope v1:chat --rpm 60", "a key for one program"),
        ("palyra keys list", "all keys that open something"),
        ("palyra keys revoke ci --now", "end it, and its open requests"),
    ],
)
def keys() -> None:
    """Issue, limit, rotate and revoke the keys of programs and people."""


def _limits(command: Any) -> Any:
    for name, help_ in (
        ("--concurrent", "Requests that may be open at once; 0 for no limit."),
        ("--tpm", "Tokens a minute; 0 for no limit."),
        ("--burst", "Requests that may come at once; 0 for a minute's."),
        ("--rpm", "Requests a minute; 0 for no limit."),
    ):
        command = click.option(name, type=click.IntRange(min=0), metavar="N", help=help_)(command)
    return command


def _handed_over(command: Any) -> Any:
    for option in (
        click.option("--sk-form", "is_sk_form", is_flag=True, help="Put sk- before it, as some SDKs want."),
        click.option("-o", "--out", metavar="FILE", help="Write it to this file, for you alone."),
    ):
        command = option(command)
    return command


@keys.command(
    "issue",
    examples=[
        ("palyra keys issue ci", "a key for one program, which pays for itself"),
        ("palyra keys issue ci --scope v1:chat --model 'gpt-*' --rpm 60 --tpm 100000", "with bounds"),
        ("palyra keys issue bot --agent coder --expires 30d --out ~/bot.key", "as one agent, for a month"),
        ("palyra keys issue guest --budget usd=5/daily", "a key that stops for the day at five dollars"),
        ("palyra keys issue ada --admin --scope observe", "a key that only looks"),
    ],
    exits=(0, 2, 4, 6, 7),
    is_change=True,
)
@click.argument("name", metavar="NAME")
@click.option("--admin", "is_admin", is_flag=True, help="A key for an operator, not for programs.")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="What it may do; can be repeated.")
@click.option("--principal", default="", metavar="user:NAME", help="Who pays, where several keys share that.")
@click.option("--agent", "agents", multiple=True, metavar="ID", help="An agent that it may act as, or '*'.")
@click.option("--default-agent", default="", metavar="ID", help="The agent of requests that name none.")
@click.option("--session", default="", metavar="NAME", help="Put every request into this session.")
@click.option("--model", "models", multiple=True, metavar="GLOB", help="A model that it may use; can be repeated.")
@click.option("--from", "networks", multiple=True, metavar="CIDR", help="A network that it may be used from.")
@_limits
@click.option(
    "--budget", default="", metavar="LIMIT", help="A hard limit of its own: usd=5/daily, tokens=1000/weekly."
)
@click.option("--expires", type=Duration(), metavar="TIME", help="Until when, from now: 30d, 12h.")
@_handed_over
def issue(
    call: Call,
    name: str,
    is_admin: bool,
    scopes: tuple[str, ...],
    principal: str,
    agents: tuple[str, ...],
    default_agent: str,
    session: str,
    models: tuple[str, ...],
    networks: tuple[str, ...],
    rpm: int | None,
    burst: int | None,
    tpm: int | None,
    concurrent: int | None,
    budget: str,
    expires: int | None,
    out: str | None,
    is_sk_form: bool,
) -> Answer:
    """Make a key. Without options it may do all that programs do, and pays for itself."""
    from palyra.cli.asking import change
    from palyra.engine.clock import SystemClock
    from palyra.engine.console.change_table import KEY_ISSUE
    from palyra.engine.console.keys import IssueParams

    params = IssueParams(
        name=name,
        kind="admin" if is_admin else "client",
        scopes=list(scopes) or None,
        principal=principal,
        agents=list(agents),
        default_agent=default_agent,
        session=session,
        models=list(models) or None,
        allowed_cidrs=list(networks),
        requests_per_minute=rpm or 0,
        burst=burst or 0,
        tokens_per_minute=tpm or 0,
        concurrent_runs=concurrent or 0,
        expires_us=None if expires is None else SystemClock().now_us() + expires,
        budget=budget,
    )
    place = place_of(out)
    done = change(call, KEY_ISSUE, params)
    rule = f"{budget} · palyra budgets show key-{done.found.key.key_id}" if budget else ""
    return hand_over(done, place, is_sk_form=is_sk_form, rule=rule)


@keys.command(
    "list",
    examples=[
        ("palyra keys list", "keys that open something"),
        ("palyra keys list --all", "those that open nothing any more, too"),
        ("palyra keys list --as-of -7d", "a week ago"),
    ],
    exits=(0, 2, 5, 7),
    takes_as_of=True,
)
@click.option("--all", "is_all", is_flag=True, help="Also expired and revoked ones.")
def list_keys(call: Call, is_all: bool) -> Answer:
    """Show keys, oldest first."""
    from palyra.cli.asking import ask_all
    from palyra.engine.console.keys import KeysParams
    from palyra.engine.console.table import KEYS

    asked = ask_all(call, KEYS, KeysParams(limit=500, all=is_all))
    return asked.answer(lambda page: show_list(page, asked.found.items, asked.now_us))


@keys.command(
    "show",
    examples=[
        ("palyra keys show ci", "by its name"),
        ("palyra keys show 0h3k9m2p4r6t --json", "by its id, for a program"),
        ("palyra keys show ci --as-of -1d", "as it was yesterday"),
    ],
    exits=(0, 2, 5, 7, 8),
    takes_as_of=True,
)
@click.argument("key", metavar="KEY")
def show(call: Call, key: str) -> Answer:
    """Show one key: what it may do, its limits, its use. KEY is its id, or the name of a live one."""
    from palyra.cli.asking import ask
    from palyra.engine.console.keys import KeyParams
    from palyra.engine.console.table import KEY

    asked = ask(call, KEY, KeyParams(key=key))
    return asked.answer(lambda page: show_key(page, asked.found, asked.now_us))


@keys.command(
    "limits",
    examples=[
        ("palyra keys limits ci --rpm 30", "another limit; the others stay"),
        ("palyra keys limits ci --rpm 0 --tpm 0", "none any more"),
        ("palyra keys limits ci --scope v1:chat --expires 7d", "fewer rights, for a week"),
    ],
    exits=(0, 2, 4, 6, 7, 8),
    is_change=True,
)
@click.argument("key", metavar="KEY")
@click.option("--name", metavar="NAME", help="Another name.")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="What it may still do; never more.")
@_limits
@click.option("--expires", type=Duration(), metavar="TIME", help="Until when, from now: 30d, 12h.")
@click.option("--never-expires", "is_endless", is_flag=True, help="It does not expire.")
def limits(
    call: Call,
    key: str,
    name: str | None,
    scopes: tuple[str, ...],
    rpm: int | None,
    burst: int | None,
    tpm: int | None,
    concurrent: int | None,
    expires: int | None,
    is_endless: bool,
) -> Answer:
    """Change what may change of a key; it acts on the next request."""
    import msgspec

    from palyra.cli.asking import change
    from palyra.engine.clock import SystemClock
    from palyra.engine.console.change_table import KEY_CHANGE
    from palyra.engine.console.keys import ChangeParams

    if is_endless and expires is not None:
        raise click.UsageError("--expires excludes --never-expires", click.get_current_context())
    until: int | msgspec.UnsetType | None = None if is_endless else msgspec.UNSET
    params = ChangeParams(
        key=key,
        name=name,
        scopes=list(scopes) or None,
        requests_per_minute=rpm,
        burst=burst,
        tokens_per_minute=tpm,
        concurrent_runs=concurrent,
        expires_us=until if expires is None else SystemClock().now_us() + expires,
    )
    done = change(call, KEY_CHANGE, params)
    return done.answer(lambda page: show_key(page, done.found, done.now_us))


@keys.command(
    "rotate",
    examples=[
        ("palyra keys rotate ci", "a new key; the old one ends at once"),
        ("palyra keys rotate ci --grace 1h --out ~/ci.key", "both work for an hour"),
        ("palyra keys rotate client.key", "the one of this machine's programs; its file gets the new one"),
    ],
    exits=(0, 2, 4, 6, 7, 8),
    is_change=True,
)
@click.argument("key", metavar="KEY")
@click.option("--grace", type=Duration(), default="0s", metavar="TIME", help="How long the old one works.")
@_handed_over
def rotate(call: Call, key: str, grace: int, out: str | None, is_sk_form: bool) -> Answer:
    """Put a new key in a key's place, with the same rights, limits and payer."""
    from palyra.cli.asking import change
    from palyra.engine.console.change_table import KEY_ROTATE
    from palyra.engine.console.keys import RotateParams

    place = place_of(out)
    done = change(call, KEY_ROTATE, RotateParams(key=key, grace_ms=grace // 1_000))
    return hand_over(done, place, is_sk_form=is_sk_form)


@keys.command(
    "revoke",
    examples=[
        ("palyra keys revoke ci", "it opens nothing from now on; open requests finish"),
        ("palyra keys revoke ci --now --reason 'laptop lost'", "they end too"),
    ],
    exits=(0, 2, 4, 6, 7, 8),
    is_change=True,
    destroys="The key opens nothing from now on, and cannot be given back.",
)
@click.argument("key", metavar="KEY")
@click.option("--now", "is_now", is_flag=True, help="End its open requests too.")
@click.option("--reason", default="", metavar="TEXT", help="What is to stand in the journal about it.")
def revoke(call: Call, key: str, is_now: bool, reason: str) -> Answer:
    """End a key for good, and with it the one in whose place it was put, if that still works."""
    from palyra.cli.asking import change
    from palyra.engine.console.change_table import KEY_REVOKE
    from palyra.engine.console.keys import RevokeParams

    done = change(call, KEY_REVOKE, RevokeParams(key=key, now=is_now, reason=reason))
    return done.answer(
        lambda page: page.line(
            Styled(done.found.name, "bold"), f" ({done.found.key_id}) ", status_piece(done.found.status)
        )
    )


@keys.command(
    "whoami",
    examples=[
        ("palyra keys whoami", "whose the key in OPENAI_API_KEY is"),
        ("palyra keys whoami --key-env CI_KEY", "the one in another variable"),
        ("palyra keys whoami --key-stdin", "one that is typed or piped in"),
    ],
    exits=(0, 2, 3, 7),
)
@click.option("--key-env", default="OPENAI_API_KEY", metavar="NAME", help="Variable that holds the key.")
@click.option("--key-stdin", "is_stdin", is_flag=True, help="Read the key from standard input.")
def whoami(call: Call, key_env: str, is_stdin: bool) -> Answer:
    """Tell whose a key is, or why it opens nothing: mistyped, unknown, revoked or expired.

    It is read from a variable or from standard input, never from the command line.
    """
    from palyra.cli.reading import Journal
    from palyra.decisions.keys import authenticate
    from palyra.engine.console.keys import view_of
    from palyra.engine.replay import fold_file
    from palyra.errors import PalyraError, Refusal

    text = sys.stdin.readline() if is_stdin else os.environ.get(key_env, "")
    if not text.strip():
        where = "standard input" if is_stdin else key_env
        raise PalyraError(f"There is no key in {where}.", hint="palyra keys whoami --help", code="usage_error")
    journal = Journal(call)
    folded = fold_file(journal.paths.journal)
    caller = authenticate(folded.state, text.strip(), journal.now_us)
    if isinstance(caller, Refusal):
        raise PalyraError(caller.message, code=caller.code)
    view = view_of(folded.state.keys.by_id[caller.key_id], journal.now_us)
    return journal.answer(
        folded.journal_id, folded.state.position, view, lambda page: show_key(page, view, journal.now_us)
    )
