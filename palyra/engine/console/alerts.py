"""`alerts`: what somebody should know, and what was seen of it."""

from __future__ import annotations

from typing import Literal

from palyra.decisions.alerts import acknowledge
from palyra.engine.console.changes import Order
from palyra.engine.console.frame import Items, ListParams, Params, Sight
from palyra.engine.console.pages import page_of
from palyra.engine.questions import AlertAnswer, alert_answer
from palyra.engine.reports.alerts import is_about
from palyra.errors import PalyraError, or_refuse
from palyra.projections.alerts import Alert
from palyra.projections.state import State


class AlertsParams(ListParams, frozen=True, kw_only=True):
    """Which alerts."""

    #: Only those that stand like this.
    state: Literal["open", "acknowledged", "ended", ""] = ""
    #: Only those about this principal.
    principal_id: str = ""


class AlertParams(Params, frozen=True, kw_only=True):
    """Which alert."""

    #: Its id, or the unique beginning of it.
    alert: str


class OneAlertParams(AlertParams, frozen=True, kw_only=True):
    """Which alert."""

    #: It must be about this principal; "" for any.
    principal_id: str = ""


def alerts(sight: Sight, params: AlertsParams) -> Items[AlertAnswer]:
    """Return alerts, newest first."""
    own = params.principal_id
    about = [one for one in sight.state.alerts.by_id.values() if not own or is_about(one.raised, own)]
    found = [alert_answer(one, sight.now_us) for one in about]
    found = [one for one in found if params.state in ("", one.state)]
    found.sort(key=lambda one: (one.raised_us, one.alert_id), reverse=True)
    return page_of(found, params, lambda one: (one.raised_us, one.alert_id), is_falling=True)


def alert(sight: Sight, params: OneAlertParams) -> AlertAnswer:
    """Return one alert."""
    return alert_answer(_find(sight.state, params.alert, params.principal_id), sight.now_us)


async def acknowledge_alert(order: Order, params: AlertParams) -> AlertAnswer:
    """Note that somebody has seen an alert; it stays on the list until its cause has gone."""
    now_us = order.core.clock.now_us()
    found = _find(order.core.state, params.alert)
    await order.record(or_refuse(acknowledge(found, now_us)))
    return alert_answer(found, now_us)


def _find(state: State, name: str, about: str = "") -> Alert:
    found = [one for one in state.alerts.by_id.values() if name and one.alert_id.startswith(name)]
    found = [one for one in found if not about or is_about(one.raised, about)]
    if len(found) != 1:
        hint = "palyra alerts list shows them"
        said = "several alerts whose names begin" if found else "no alert whose name begins"
        raise PalyraError(f"There is {said} with '{name}'.", hint=hint, code="alert_not_found")
    return found[0]
