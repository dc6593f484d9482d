"""`palyra help`, `version` and `completions`: about the program itself."""

from __future__ import annotations

import importlib.resources
import platform

import click

from palyra import __version__
from palyra.cli.command import EXITS, Call, Command
from palyra.cli.frame import Answer
from palyra.cli.page import Page, Styled
from palyra.errors import CODES

#: Topic -> its line in the list of topics; the texts lie in `topics/`.
TOPICS = {
    "as-of": "how to ask about an earlier moment",
    "config": "where the configuration is, what wins, how keys are set",
    "exit-codes": "what an exit status means, and which codes lead to it",
    "journal": "what is recorded, how to read it, how to check it",
    "money": "how costs come about, what a limit holds, where spending is shown",
    "privacy": "what leaves the machine and what is written down",
}
_SHELLS = ("bash", "zsh", "fish")


@click.command(
    cls=Command,
    name="help",
    examples=[
        ("palyra help", "the list of topics"),
        ("palyra help journal", "one of them"),
    ],
    exits=(0, 2, 8),
    is_configured=False,
)
@click.argument("topic", required=False, type=click.Choice(list(TOPICS)))
def help_(call: Call, topic: str | None) -> Answer:
    """Read about a topic. `palyra COMMAND --help` tells about a command."""
    if topic is None:

        def show_topics(page: Page) -> None:
            page.fields((Styled(f"palyra help {name}", "accent").text, line) for name, line in TOPICS.items())

        return Answer({"topics": TOPICS}, show_topics)
    text = topic_text(topic)

    def show(page: Page) -> None:
        for line in text.split("\n"):
            page.line(Styled(line, "title") if line.isupper() else line)

    return Answer({"topic": topic, "text": text}, show)


def topic_text(topic: str) -> str:
    """Return a topic's text; the one about exit codes ends with all codes."""
    file = importlib.resources.files("palyra.cli") / "topics" / f"{topic}.txt"
    text = file.read_text(encoding="utf-8").rstrip()
    return f"{text}\n\n{_codes_text()}" if topic == "exit-codes" else text


def _codes_text() -> str:
    formatter = click.HelpFormatter(width=80)
    for number, meaning in EXITS.items():
        codes = sorted(name for name, code in CODES.items() if code.exit_code == number)
        if codes:
            formatter.write(f"{number}  {meaning}\n")
            with formatter.indentation(), formatter.indentation():
                formatter.write_text(" ".join(codes))
    return formatter.getvalue().rstrip()


@click.command(
    cls=Command,
    examples=[
        ("palyra version", "Palyra, Python, SQLite"),
        ("palyra version --json", "the same for a program"),
    ],
    exits=(0, 2),
    is_configured=False,
)
def version(call: Call) -> Answer:
    """Print the versions."""
    found = versions()

    def show(page: Page) -> None:
        page.line(f"palyra {found['release']} · Python {found['python']} · SQLite {found['sqlite']}")

    return Answer(found, show)


def versions() -> dict[str, str]:
    """Return what this program is made of."""
    from palyra.journal.version import SQLITE_VERSION

    return {"release": __version__, "python": platform.python_version(), "sqlite": SQLITE_VERSION}


@click.command(
    cls=Command,
    examples=[
        ('eval "$(palyra completions bash)"', "in this shell; in ~/.bashrc for all"),
        ("palyra completions fish > ~/.config/fish/completions/palyra.fish", "in fish, for good"),
    ],
    exits=(0, 2),
    is_configured=False,
)
@click.argument("shell", type=click.Choice(_SHELLS))
def completions(call: Call, shell: str) -> Answer:
    """Print the script that completes commands in a shell."""
    from click.shell_completion import get_completion_class

    from palyra.cli.main import COMPLETE_VARIABLE, PROGRAM, program

    completer = get_completion_class(shell)
    assert completer is not None
    script = completer(program, {}, PROGRAM, COMPLETE_VARIABLE).source()

    def show(page: Page) -> None:
        page.stream.write(script)

    return Answer({"shell": shell, "script": script}, show)
