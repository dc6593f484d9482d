"""`usage/explain` and `usage/what-if`: what a request would meet, and what other rules would have made of all.

Nothing is journaled, reserved or sent. A text that is given is counted and forgotten.
"""

from __future__ import annotations

import os
from typing import Annotated

import msgspec

from palyra.config.load import load_text
from palyra.decisions.what_if import WhatIfReport
from palyra.engine.adoptable import adoptable_of
from palyra.engine.console.frame import Params, Sight, Written, tell
from palyra.engine.console.models import PlanParams, plan
from palyra.engine.model_plans import PlanAnswer
from palyra.engine.reports.scope import instant_in
from palyra.engine.what_if import END_US, rules_of, what_if
from palyra.errors import PalyraError, Refusal, Refused
from palyra.limits import CONFIG_FILE_MAX_BYTES
from palyra.wire.keywords import count_keywords
from palyra.wire.tokens import AROUND_TOKENS, estimate_token_count


class ExplainParams(PlanParams, frozen=True, kw_only=True):
    """A request as far as a plan depends on it, with its text or without."""

    #: In place of `tokens` and `keywords`.
    prompt: Annotated[str, msgspec.Meta(max_length=1 << 20)] = ""


class WhatIfParams(Params, frozen=True, kw_only=True):
    """Another configuration, and the requests that are decided again under it."""

    #: A whole `palyra.toml`.
    toml: Annotated[str, msgspec.Meta(min_length=1, max_length=CONFIG_FILE_MAX_BYTES)]
    #: RFC 3339, a local date or -7d; "" for all of them.
    from_: str = msgspec.field(default="", name="from")
    to: str = ""


def explain_request(sight: Sight, params: ExplainParams) -> PlanAnswer:
    """Return what such a request would meet."""
    if params.prompt:
        for name in ("tokens", "keywords"):
            if getattr(params, name):
                message = f"'{name}' is counted in 'prompt'; leave one of them out."
                raise Refused(Refusal(code="invalid_request", message=message, param=name))
        around = AROUND_TOKENS if params.endpoint == "chat" else 0
        params = msgspec.structs.replace(
            params,
            tokens=estimate_token_count(params.prompt) + around,
            keywords=count_keywords(params.prompt, sight.state.config.routing.keywords),
        )
    return plan(sight, params)


def what_if_toml(sight: Sight, params: WhatIfParams) -> Written:
    """Return the report of a journal under another configuration; raises `PalyraError`.

    A journal whose recorded rules do not give the recorded decisions has no report (`replay_not_faithful`).
    """
    from_us = instant_in(params.from_, "from", sight.zone, sight.now_us) if params.from_ else 0
    to_us = instant_in(params.to, "to", sight.zone, sight.now_us) if params.to else END_US
    loaded = load_text(params.toml, "toml", os.environ)
    other = rules_of(adoptable_of(loaded.config, loaded.sources), sight.rows)
    _, report = what_if(sight.rows, other, from_us=from_us, to_us=to_us)
    if report.unfaithful_count:
        raise not_faithful(report)
    return Written(sight.at, "application/json", "palyra-what-if.json", iter([tell(report, sight.at).data]))


def not_faithful(report: WhatIfReport) -> PalyraError:
    """Return why a report proves nothing."""
    first = report.unfaithful_positions[0]
    what = "decision" if report.unfaithful_count == 1 else "decisions"
    message = (
        f"The recorded rules do not give {report.unfaithful_count:,} recorded {what} again, the first one at"
        f" position {first:,}; what other rules would have given is not known."
    )
    hint = "a journal of another release may have been decided otherwise; --from can leave those runs out"
    return PalyraError(message, hint=hint, code="replay_not_faithful")
