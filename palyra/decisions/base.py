"""What a decision is: the facts to record, and what the caller is told. Pure; time and ids are given."""

from __future__ import annotations

from typing import NamedTuple

from palyra.errors import Refusal
from palyra.events.base import Draft


class Decision(NamedTuple):
    """Drafts in the order in which they are recorded, all or none; a refusal is told to whoever asked."""

    drafts: list[Draft]
    refusal: Refusal | None = None
