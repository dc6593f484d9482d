"""How money is counted where nobody knows for sure: settings of a configuration that decisions read."""

from __future__ import annotations

from typing import Literal

import msgspec

from palyra.limits import DEFAULT_OUTPUT_CAP_TOKENS

#: What is counted for a call whose consumption is not known: its input, all that it might have used, or nothing.
Unknown = Literal["input", "reserved", "zero"]


class Accounting(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """`[usage]`, `[budgets]` and `[approvals]`, as far as decisions read them."""

    #: Of a call that was sent and never answered.
    unknown_outcome: Unknown = "input"
    #: Of a call that a crash cut off.
    abandoned: Unknown = "reserved"
    #: Output that is held where neither the client nor the model names a maximum.
    default_output_cap_tokens: int = DEFAULT_OUTPUT_CAP_TOKENS
    #: Where the days of a rule begin that names no zone.
    timezone: str = "UTC"
    #: A request to pass a limit waits this long for somebody to decide.
    approval_ttl_hours: int = 24
    #: Nobody decides about what they asked for themselves.
    four_eyes: bool = False
