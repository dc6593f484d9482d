"""Privacy: what was asked and answered, and is not kept any more. Stream `privacy`."""

from __future__ import annotations

from typing import Literal

from palyra.events.base import Fact

SubjectKind = Literal["run", "principal", "session", "agent"]


class SubjectErased(Fact, tag="subject.erased", frozen=True, kw_only=True):
    """All content that was kept of a subject was deleted; the facts of the journal, which hold none, stay."""

    kind: SubjectKind
    subject: str
    #: Runs whose content was kept.
    contents_count: int
