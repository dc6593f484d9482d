"""Logins at providers: what the keys of `[auth.oauth.openai]` say about each other."""

from __future__ import annotations

from palyra.config.values import Reading
from palyra.decisions.oauth import OWN_PARAMETERS

_EXTRA = "auth.oauth.openai.extra_authorize_params"


def check_logins(reading: Reading) -> None:
    """Refuse parameters that are OAuth's own: they would take the place of what protects a login."""
    if _EXTRA in reading.root.faulty:
        return
    for name in reading.root.get(_EXTRA):
        if name in OWN_PARAMETERS:
            reading.refuse("conflicting_keys", reading.root, _EXTRA, "is set by OAuth itself", inside=(name,))
