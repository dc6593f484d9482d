"""What a daemon tells of itself: lines of its log, and findings that its journal does not hold.

A daemon that is embedded without a log says nothing; what must not be lost is a fact as well.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from palyra.config.listening import is_on_this_machine
from palyra.config.tree import Config, DaemonConfig, ObservabilityConfig
from palyra.daemon.logs import Log
from palyra.daemon.request_lines import RequestLine
from palyra.daemon.tls import EXPIRES_SOON_US, TlsContext
from palyra.decisions.credential_alerts import missing_credentials
from palyra.decisions.findings import Finding
from palyra.decisions.incidents import Stall, report
from palyra.engine.clock import SystemClock
from palyra.engine.console.config import ReloadAnswer
from palyra.engine.core import Core
from palyra.engine.webhook import Untold
from palyra.errors import PalyraError
from palyra.events.alerts import AlertRaised
from palyra.redaction import KnownSecrets
from palyra.units import us_to_ms


class Telling:
    """The voice of one daemon."""

    def __init__(self, log: Log | None, config: Callable[[], Config], clock: SystemClock) -> None:
        """`config` returns what is in force."""
        self._log = log
        self._config = config
        self._clock = clock
        self._notes: set[asyncio.Task[None]] = set()

    def keep_from(self, known: KnownSecrets) -> None:
        """Let no line show one of these."""
        if self._log is not None:
            self._log.known = known

    def obey(self, config: Config) -> None:
        """Write the log as another configuration says; where it cannot, the old one tells why."""
        if self._log is None:
            return
        settings = config.observability
        try:
            self._log.change(settings.log_level, settings.log_format, log_file_of(settings))
        except OSError as error:
            self._log.error("log_not_changed", file=settings.log_file, reason=error.strerror)

    def of_reload(self, answer: ReloadAnswer) -> None:
        """Tell what reading the configuration again came to."""
        if self._log is not None:
            self._log.info(
                f"config_{answer.outcome}",
                generation=answer.generation,
                changed=", ".join(answer.changed),
                pending_restart_keys=", ".join(answer.pending_restart_keys),
            )

    def of_refusal(self, error: PalyraError) -> None:
        """Tell why it came to nothing."""
        if self._log is not None:
            self._log.error("config_not_adopted", reason=str(error), error_code=error.code)

    def of_boot(self, boot_id: str) -> None:
        """Name the start in every line from now on."""
        if self._log is not None:
            self._log.name_boot(boot_id)

    def of_request(self, line: RequestLine) -> None:
        """Tell of a request that was answered, if those are wanted."""
        if self._log is None:
            return
        which = self._config().observability.log_requests
        if which == "off" or (which == "errors" and line.status < 400):
            return
        self._log.request(line)

    def of_bug(self, run_id: str) -> None:
        """Tell of an exception that nobody expected; its client knows the run's id only."""
        if self._log is not None:
            self._log.error("internal_error", run_id=run_id, exc_info=True)

    def of_journal(self, error: Exception) -> None:
        """Tell that nothing can be recorded, so that nothing is done."""
        if self._log is not None:
            self._log.error("journal_unwritable", reason=str(error))

    def of_shortage(self, left_bytes: int) -> None:
        """Tell that the journal's disk has too little room for new runs."""
        if self._log is not None:
            floor_bytes = self._config().journal.min_free_bytes
            self._log.error("disk_low", left_bytes=left_bytes, floor_bytes=floor_bytes)

    def of_content(self, error: Exception) -> None:
        """Tell that a text could not be kept, or not let go of."""
        if self._log is not None:
            self._log.warning("content_not_kept", cause=str(error))

    def of_alert(self, raised: AlertRaised) -> None:
        """Tell what somebody should know."""
        if self._log is not None:
            about = {"kind": raised.kind, "severity": raised.severity, "subject": raised.subject_id}
            self._log.warning("alert_raised", **about, **raised.facts)

    def of_untold(self, untold: Untold) -> None:
        """Tell that nobody took the news of an alert."""
        if self._log is not None:
            self._log.warning("alert_not_told", **untold._asdict())

    def of_tls(self, message: str) -> None:
        """Tell that changed TLS files cannot be used."""
        if self._log is not None:
            self._log.error("tls_unusable", reason=message)

    def of_expiry(self, tls: TlsContext | None) -> None:
        """Tell that the certificate ends soon, where it does."""
        if tls is None or self._log is None:
            return
        left_us = tls.expires_us - self._clock.now_us()
        if left_us < EXPIRES_SOON_US:
            file = self._config().daemon.tls_cert_file
            self._log.warning("tls_expires_soon", file=file, left_ms=us_to_ms(max(0, left_us)))

    def of_last_chore(self, name: str) -> None:
        """Tell that the next start will be slower: something was not written before the end."""
        if self._log is not None:
            self._log.error("last_chore_failed", chore=name, exc_info=True)

    def of_leak(self, core: Core, name: str) -> None:
        """Tell of a fact that would have held a secret and was refused; it is an incident too."""
        if self._log is not None:
            self._log.error("secret_in_event", fact=name)
        # Not inside the batch that was refused.
        task = asyncio.create_task(_report_leak(core, name))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)


def log_file_of(settings: ObservabilityConfig) -> Path | None:
    """Return where to log to, None for standard error."""
    return Path(settings.log_file) if settings.log_file else None


async def _report_leak(core: Core, name: str) -> None:
    leak = Stall(kind="secret_in_event", stage="suspect", subject_kind="fact", subject_id=name)
    with contextlib.suppress(PalyraError):
        now_us = core.clock.now_us()
        incident_id = core.ids.ulid(now_us)
        await core.record(report(core.state, leak, incident_id=incident_id, now_us=now_us))


def standing_findings(
    daemon: DaemonConfig, tls: TlsContext | None, core: Core, absent: Sequence[str]
) -> list[Finding]:
    """Return what somebody should know of the ways in and out, which the journal alone cannot tell."""
    found, now_us = [*missing_credentials(core.state, absent)], core.clock.now_us()
    if tls is not None and tls.expires_us - now_us < EXPIRES_SOON_US:
        found.append(
            Finding(
                kind="tls_expires",
                key=daemon.tls_cert_file,
                severity="danger" if tls.expires_us <= now_us else "warning",
                subject_kind="certificate",
                subject_id=daemon.tls_cert_file,
                facts={"expires_us": tls.expires_us},
                action="renew_certificate",
            )
        )
    if tls is None and daemon.allow_plain_remote and not is_on_this_machine(daemon.host):
        found.append(
            Finding(
                kind="plain_remote",
                key=daemon.host,
                severity="warning",
                subject_kind="listener",
                subject_id=daemon.host,
                action="use_tls",
            )
        )
    return found
