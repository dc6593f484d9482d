"""What a request would lose at a provider that speaks another dialect, or has ways of its own, so badly that such a
candidate is left out.
"""

from __future__ import annotations

from collections.abc import Iterator

from palyra.wire.decoding import MEMBERS, read_or_none
from palyra.wire.neutral import DIALECTS, Call, Dialect, NeutralRequest
from palyra.wire.parameters import Policy, losses, row_of
from palyra.wire.target import WAYS, Changes


def losses_by_target(request: NeutralRequest, policy: Policy = "rule") -> dict[str, tuple[str, ...]]:
    """Return what excludes a candidate: by the dialect that it would be asked in, or by `flavor:NAME`."""
    found: dict[str, tuple[str, ...]] = {}
    for target in DIALECTS:
        if target != request.dialect:
            found[target] = losses(request, target, policy).refused
    if "messages" in found and _has_bad_arguments(request):
        found["messages"] += ("tool_arguments_not_json",)
    for flavor, ways in WAYS.items():
        said = [name for name in ways.refuses if name in request.params or name in request.marks]
        found[f"flavor:{flavor}"] = tuple(name for name in said if not (policy == "drop" and row_of(name).may_drop))
    return {target: names for target, names in found.items() if names}


def changes_for(request: NeutralRequest, target: Dialect) -> Changes:
    """Return what a writer begins with: what its dialect has no place for is dropped, or done in its place."""
    changes, lost = Changes(), losses(request, target)
    for name in (*lost.refused, *lost.dropped):
        changes.drop(name)
    if request.choice is not None and request.choice.among:
        changes.emulate("tool_choice.allowed_tools")  # the others are not offered
    return changes


def _has_bad_arguments(request: NeutralRequest) -> bool:
    return any(
        call.arguments.strip() and read_or_none(MEMBERS, call.arguments.encode()) is None
        for call in _calls(request)
    )


def _calls(request: NeutralRequest) -> Iterator[Call]:
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, Call) and not part.is_freeform:
                yield part
