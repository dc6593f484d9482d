"""`palyra auth`: the identities that Palyra has towards providers."""

from __future__ import annotations

import click

from palyra.cli import profile_changes, profile_views
from palyra.cli.command import Group
from palyra.cli.login import attempts, cancel, login
from palyra.cli.profile_order import cooldown, order


@click.group(
    cls=Group,
    examples=[
        ("palyra auth connect openai", "ask for a key, check it, keep it"),
        ("palyra auth list", "all credentials and how they do"),
        ("palyra auth explain openai", "which of them a request would be made with"),
    ],
)
def auth() -> None:
    """Connect, check, change and revoke the keys that providers are asked with."""


for _command in (
    profile_changes.connect,
    profile_views.list_,
    profile_views.show,
    profile_views.health,
    profile_changes.validate,
    profile_changes.rotate,
    profile_changes.rebind,
    profile_changes.default,
    profile_changes.disable,
    profile_changes.enable,
    profile_changes.revoke,
    order,
    cooldown,
    profile_views.explain,
    login,
    attempts,
    cancel,
    profile_changes.refresh,
):
    auth.add_command(_command)
