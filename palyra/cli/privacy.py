"""`palyra privacy`: what is kept of prompts and answers, and letting go of it."""

from __future__ import annotations

import click

from palyra.cli.command import Call, Group
from palyra.cli.frame import Answer
from palyra.cli.page import Page
from palyra.cli.render import counted


@click.group(
    cls=Group,
    examples=[
        ("palyra privacy erase --session s-7", "delete what is kept of a session"),
        ("palyra privacy erase --agent coder", "and of an agent"),
    ],
)
def privacy() -> None:
    """Delete what is kept of prompts and answers, where privacy.capture_content is or was on."""


@privacy.command(
    "erase",
    examples=[
        ("palyra privacy erase --principal key:ci", "all that is kept of a principal"),
        ("palyra privacy erase --run 01JDZ8Q2W3E4R5T6Y7U8I9O0PA", "one run"),
    ],
    exits=(0, 2, 4, 6, 7),
    is_change=True,
    destroys="The prompts and answers that are kept of this subject are deleted.",
)
@click.option("--principal", metavar="ID", help="A principal, as palyra runs list shows it.")
@click.option("--session", metavar="ID", help="A session.")
@click.option("--agent", metavar="ID", help="An agent.")
@click.option("--run", metavar="ID", help="One run, by its whole id.")
def erase(call: Call, **subjects: str | None) -> Answer:
    """Delete the prompts and answers that are kept of a subject.

    The journal holds none, and keeps its facts. Backups that were made before hold what was kept then.
    """
    from palyra.cli.asking import change
    from palyra.engine.console.change_table import PRIVACY_ERASE
    from palyra.engine.console.privacy import EraseParams
    from palyra.errors import PalyraError

    named = [(kind, subject) for kind, subject in subjects.items() if subject]
    if len(named) != 1:
        raise PalyraError("Name one principal, session, agent or run.", code="usage_error")
    kind, subject = named[0]
    asked = change(call, PRIVACY_ERASE, EraseParams(kind=kind, subject=subject))  # type: ignore[arg-type]

    def show(page: Page) -> None:
        page.line(f"The content of {counted(asked.found.contents_count, 'run')} is gone.")

    return asked.answer(show)
