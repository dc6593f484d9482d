"""The smaller boards: catalog, health, heartbeats, incidents, boots, keys, configuration and the journal itself."""

from __future__ import annotations

import pytest
from budget_kit import put, rule
from registries import THREE, model, provider, registry
from story import T0_US, admit, adopt, boot, break_down, given, record, serve, start, wait

from palyra.events.base import Recorded, UnknownEvent
from palyra.events.budgets import BudgetReleased
from palyra.events.console_sessions import ConsoleSessionEnded, ConsoleSessionOpened
from palyra.events.daemon import DaemonClockStepped, DaemonDraining, DaemonReady, DaemonStopped
from palyra.events.heartbeats import HeartbeatCleared, HeartbeatRecorded
from palyra.events.incidents import (
    IncidentOpened,
    IncidentReopened,
    IncidentResolved,
    IncidentSeverityChanged,
)
from palyra.events.journal import (
    BackupRestored,
    JournalDamageFound,
    JournalHistoryForked,
    JournalUpgraded,
    JournalVerified,
)
from palyra.events.keys import AccessDenied, ClientKeyIssued, ClientKeyRevoked
from palyra.events.loops import LoopCrashed, LoopRestarted
from palyra.events.models import ModelExcluded, ModelReadmitted
from palyra.events.vocabulary import VOCABULARY
from palyra.projections.catalog import model_entry, models_named, provider_entry, standing_of
from palyra.projections.config import HISTORY_COUNT
from palyra.projections.daemon import BOOTS_COUNT, current_boot
from palyra.projections.health import HealthState, evidence_of, health_of
from palyra.projections.heartbeats import beat_key, beat_stream
from palyra.projections.incidents import RESOLVED_COUNT, incident_key, newest_incident, open_incidents
from palyra.projections.journal import DAMAGES_COUNT, Checked, Damage, Fork, Restore
from palyra.projections.keys import live_keys
from palyra.projections.state import State


def test_names_lead_to_models_by_priority_and_file_order() -> None:
    """Ids and aliases of one role; the registry before is forgotten."""
    config = registry(
        provider("a"),
        provider("b"),
        model("gpt", "a", priority=5, aliases=["smart"]),
        model("gpt", "b", priority=5),
        model("big", "b", priority=1, aliases=["smart"]),
    )
    state = given(THREE, adopt(config)).state
    assert [entry.provider_id for entry in models_named(state, "chat", "gpt")] == ["a", "b"]
    assert [entry.model_id for entry in models_named(state, "chat", "smart")] == ["big", "gpt"]
    assert models_named(state, "embeddings", "gpt") == []
    entry = model_entry(state, "chat", "b", "gpt")
    assert entry is not None
    assert entry.upstream_model == "gpt-b"
    assert model_entry(state, "chat", "b", "smart") is None
    assert provider_entry(state, "c") is None


def test_a_models_standing_ends_with_its_readmission() -> None:
    """Excluded with time and reason, then nothing."""
    world = given(THREE, record("provider-a", ModelExcluded(model_id="gpt", until_us=9, reason="overloaded")))
    standing = standing_of(world.state, "a", "gpt")
    assert standing is not None
    assert (standing.excluded_until_us, standing.reason) == (9, "overloaded")
    world.do(record("provider-a", ModelReadmitted(model_id="gpt")))
    assert standing_of(world.state, "a", "gpt") is None


@pytest.mark.parametrize(("ttl_ms", "counts_for_ms"), [(60_000, 1_800_000), (900_000, 2_700_000)])
def test_evidence_counts_for_three_ttls_and_half_an_hour_at_least(ttl_ms: int, counts_for_ms: int) -> None:
    """Later the provider is as unknown as at the start."""
    config = registry(provider("a"), model("gpt", "a"), health_ttl_ms=ttl_ms)
    world = given(config, serve("r1"), wait(ms=counts_for_ms))
    entry = config.providers[0]
    assert health_of(world.state, entry, world.now_us) == "healthy"
    assert health_of(world.state, entry, world.now_us + 1) == "unknown"


@pytest.mark.parametrize(
    ("failure_class", "health", "last_error"),
    [
        ("overloaded", "degraded", "overloaded"),
        ("netguard_blocked", "unavailable", "netguard_blocked"),
        ("redirect_refused", "unavailable", "redirect_refused"),
        ("invalid_request", "healthy", ""),
        ("rate_limited", "healthy", ""),
    ],
)
def test_what_a_failure_says_about_its_provider(failure_class: str, health: HealthState, last_error: str) -> None:
    """Counted faults degrade, a refused address makes unavailable, the caller's faults say nothing."""
    world = given(THREE, serve("r1"), break_down("r2", failure_class))
    evidence = evidence_of(world.state, "a")
    assert health_of(world.state, THREE.providers[0], world.now_us) == health
    assert (evidence.last_error, evidence.attempts_count, evidence.succeeded_count) == (last_error, 2, 1)
    world.do(serve("r3", model="a/gpt"))
    assert health_of(world.state, THREE.providers[0], world.now_us) == "healthy"
    assert evidence_of(world.state, "a").last_error == ""


def test_another_configuration_gives_a_blocked_provider_another_chance() -> None:
    """Whoever allowed the address in the configuration need not wait for the other providers to fail."""
    world = given(THREE, break_down("r1", "netguard_blocked"))
    assert health_of(world.state, THREE.providers[0], world.now_us) == "unavailable"
    world.do(adopt(THREE))
    assert health_of(world.state, THREE.providers[0], world.now_us) != "unavailable"


def test_disabled_and_deterministic_providers_have_no_evidence_to_weigh() -> None:
    """Configuration alone says what they are."""
    state = given(THREE).state
    assert health_of(state, provider("a", enabled=False, kind="deterministic"), T0_US) == "disabled"
    assert health_of(state, provider("a", kind="deterministic"), T0_US) == "static"


def beat(number: int, work_kind: str = "run", work_id: str = "r1") -> HeartbeatRecorded:
    return HeartbeatRecorded(
        work_kind=work_kind,  # type: ignore[arg-type]
        work_id=work_id,
        beat_no=number,
        stage_code=f"stage-{number}",
        progress_count=number * 10,
        stalls_after_ms=1_000 * number,
    )


def test_a_beat_shows_the_newest_life_of_its_work() -> None:
    """First and last instant, how many beats, how far, and when silence is suspect."""
    stream = beat_stream("run", "r1")
    world = given(THREE, record(stream, beat(1)), wait(ms=7), record(stream, beat(2)))
    shown = world.state.heartbeats.board[beat_key("run", "r1")]
    assert (shown.started_us, shown.last_life_us, shown.beats_count) == (T0_US, T0_US + 7_000, 2)
    assert (shown.stage_code, shown.progress_count, shown.stalls_after_ms) == ("stage-2", 20, 2_000)
    assert shown.position == world.state.position


@pytest.mark.parametrize(("work_kind", "is_kept"), [("run", False), ("loop", True)])
def test_cleared_work_leaves_the_board_and_a_run_its_stream(work_kind: str, is_kept: bool) -> None:
    """A run never beats again; a loop does, so the version of its stream stays known."""
    stream = beat_stream(work_kind, "x")
    cleared = HeartbeatCleared(work_kind=work_kind, work_id="x", because="ended")  # type: ignore[arg-type]
    world = given(THREE, record(stream, beat(1, work_kind, "x"), cleared))
    assert world.state.heartbeats.board == {}
    assert (stream in world.state.streams) == is_kept
    world.do(record("beat-run-other", HeartbeatCleared(work_kind="run", work_id="other", because="ended")))


def opened(kind: str = "loop_down", subject_id: str = "watchdog") -> IncidentOpened:
    return IncidentOpened(
        kind=kind,
        severity="warning",
        subject_kind="loop",
        subject_id=subject_id,
        because_positions=[1, 2],
        facts={"crashes": 3},
    )


def test_an_incident_opens_gets_worse_is_resolved_and_comes_back() -> None:
    """One incident over its whole life, found by its key."""
    key = incident_key("loop_down", "loop", "watchdog")
    worse = IncidentSeverityChanged(before="warning", after="critical", reason_code="again")
    world = given(THREE, record("incident-1", opened(), worse))
    incident = newest_incident(world.state, key)
    assert incident is not None
    assert (incident.incident_id, incident.severity, incident.opened_us) == ("1", "critical", T0_US)
    assert open_incidents(world.state) == [incident]
    world.do(wait(ms=1), record("incident-1", IncidentResolved(because="recovered")))
    assert (incident.status, incident.because, incident.resolved_us) == ("resolved", "recovered", T0_US + 1_000)
    assert open_incidents(world.state) == []
    again = IncidentReopened(because_positions=list(range(20)), reopened_count=1)
    world.do(record("incident-1", again))
    assert (incident.status, incident.resolved_us, incident.reopened_count) == ("open", None, 1)
    assert incident.because_positions == list(range(4, 20))
    assert newest_incident(world.state, "other") is None


def test_facts_about_an_incident_that_is_gone_change_nothing() -> None:
    """Too old to be remembered, or never opened."""
    world = given(
        THREE,
        record(
            "incident-9",
            IncidentSeverityChanged(before="info", after="danger", reason_code="x"),
            IncidentResolved(because="recovered"),
            IncidentReopened(reopened_count=1),
        ),
    )
    assert world.state.incidents.by_id == {}


def test_resolved_incidents_are_kept_in_bounds() -> None:
    """The oldest resolved ones go with their streams and keys; an open one stays however old it is."""
    world = given(THREE, record("incident-open", opened("other")))
    for number in range(RESOLVED_COUNT + 2):
        subject = f"s{number // 2}"
        world.do(record(f"incident-{number}", opened(subject_id=subject), IncidentResolved(because="recovered")))
    incidents = world.state.incidents
    assert len(incidents.by_id) == RESOLVED_COUNT + 1
    assert "incident-1" not in world.state.streams
    assert list(incidents.by_id)[:2] == ["open", "2"]
    assert incident_key("loop_down", "loop", "s0") not in incidents.by_key


def test_a_forgotten_incident_leaves_the_key_to_a_newer_one() -> None:
    """The oldest of two incidents of one subject goes; the key leads to the newer."""
    world = given(THREE, record("incident-old", opened(), IncidentResolved(because="recovered")))
    world.do(record("incident-new", opened()))
    for number in range(RESOLVED_COUNT):
        resolved = IncidentResolved(because="recovered")
        world.do(record(f"incident-{number}", opened(subject_id=f"s{number}"), resolved))
    newest = newest_incident(world.state, incident_key("loop_down", "loop", "watchdog"))
    assert newest is not None
    assert newest.incident_id == "new"


def test_a_boot_is_ready_drains_and_stops() -> None:
    """Each step with its instant; what recovery closed and what was forced."""
    world = given(
        THREE,
        wait(ms=1),
        record("daemon", DaemonReady(boot_id="boot-1", recovered={"runs": 2})),
        wait(ms=1),
        record("daemon", DaemonDraining(boot_id="boot-1", reason="signal", deadline_us=9)),
        wait(ms=1),
        record("daemon", DaemonStopped(boot_id="boot-1", forced_count=3)),
    )
    now = current_boot(world.state)
    assert now is not None
    assert [now.started_us, now.ready_us, now.draining_us, now.stopped_us] == [
        T0_US + number * 1_000 for number in range(4)
    ]
    assert (now.ended, now.recovered, now.forced_count) == ("clean", {"runs": 2}, 3)


def test_a_boot_that_did_not_stop_has_crashed() -> None:
    """The next start says so; a clean end stays clean; the newest fifty are kept."""
    world = given(THREE, boot(), record("daemon", DaemonStopped(boot_id="boot-2")), boot())
    assert [one.ended for one in world.state.daemon.boots] == ["crashed", "clean", ""]
    world.do(*[boot()] * 60)
    assert len(world.state.daemon.boots) == BOOTS_COUNT


def test_a_journal_without_a_daemon_has_no_boot() -> None:
    """Life signs of a process that never started change nothing."""
    world = given(THREE)
    world.state.daemon.boots = []
    world.do(
        record(
            "daemon",
            DaemonReady(boot_id="x"),
            DaemonDraining(boot_id="x", reason="signal", deadline_us=1),
            DaemonStopped(boot_id="x"),
        )
    )
    assert current_boot(State()) is None
    assert world.state.daemon.boots == []


def test_loops_have_a_standing_in_their_boot() -> None:
    """Crashes, restarts and the slow lane; a new process starts with none."""
    crashed = LoopCrashed(
        boot_id="boot-1", loop_name="watchdog", error_code="KeyError", crashes_count=6, backoff_ms=1, slow_lane=True
    )
    world = given(THREE, record("daemon", crashed, LoopRestarted(boot_id="boot-1", loop_name="watchdog")))
    standing = world.state.daemon.loops["watchdog"]
    assert (standing.crashes_count, standing.restarts_count, standing.last_error) == (6, 1, "KeyError")
    assert standing.slow_lane
    assert world.do(boot()).state.daemon.loops == {}


def issued(kind: str = "client") -> ClientKeyIssued:
    return ClientKeyIssued(
        kind=kind,  # type: ignore[arg-type]
        display_name="laptop",
        verifier="f" * 64,
        principal_id="key:laptop",
        scopes=["inference"],
    )


def test_keys_live_until_they_are_revoked() -> None:
    """By kind, oldest first; the first revocation counts, and one of an unknown key is nothing."""
    world = given(THREE, record("key-1", issued()), record("key-2", issued()), record("key-3", issued("admin")))
    assert [key.key_id for key in live_keys(world.state, "client", T0_US)] == ["1", "2"]
    revoked = ClientKeyRevoked(reason="operator")
    world.do(wait(ms=1), record("key-1", revoked), wait(ms=1), record("key-1", revoked), record("key-9", revoked))
    assert [key.key_id for key in live_keys(world.state, "client", T0_US)] == ["2"]
    assert world.state.keys.by_id["1"].revoked_us == T0_US + 1_000
    assert "9" not in world.state.keys.by_id


def test_denials_are_summed_by_kind() -> None:
    """Aggregates of several minutes add up."""
    denied = AccessDenied(
        surface="v1", reason="invalid_client_key", peer_class="loopback", count=3, window_start_us=1
    )
    world = given(THREE, record("access", denied, denied))
    assert world.state.keys.denied == {"v1|invalid_client_key|loopback": 6}


def test_configurations_have_a_history_in_bounds() -> None:
    """Generations with instant and position, the newest hundred."""
    world = given(THREE, *[adopt(THREE)] * (HISTORY_COUNT + 5))
    history = world.state.config.history
    assert [one.generation for one in history] == list(range(7, HISTORY_COUNT + 7))
    assert history[-1].position == world.state.position
    assert world.state.config.generation == HISTORY_COUNT + 6


def test_the_journal_knows_who_it_is_and_how_it_grew() -> None:
    """Identity from position 1, then each upgrade of the file."""
    world = given(THREE, record("journal", JournalUpgraded(before=1, after=2, release="0.2.0")))
    journal = world.state.journal
    assert (journal.journal_id, journal.release, journal.created_us) == ("01STORY", "0.1.0", T0_US)
    assert journal.upgrades == [(world.state.position, 1, 2)]


def test_the_journal_remembers_its_checks() -> None:
    """The newest one that found it sound, and the newest twenty that found damage."""
    world = given(THREE, record("journal", JournalVerified(first=1, last=3, replayed=True)))
    journal = world.state.journal
    assert journal.checked == Checked(position=world.state.position, at_us=T0_US, first=1, last=3, replayed=True)
    found = JournalDamageFound(code="link_mismatch", found_position=2, findings_count=5)
    world = given(THREE, *(record("journal", found) for _ in range(25)))
    assert len(world.state.journal.damages) == DAMAGES_COUNT
    assert world.state.journal.damages[-1] == Damage(
        position=world.state.position, at_us=T0_US, code="link_mismatch", found_position=2, findings_count=5
    )


def test_the_journal_knows_where_its_history_was_forked() -> None:
    """Each fork and each restored backup, with its position, in order."""
    world = given(THREE)
    after = world.state.position
    world.do(
        record("journal", JournalHistoryForked(kind="restore", before=90, after=after)),
        record("journal", BackupRestored(backup_ref="a backup", position=after, replaced_position=90)),
        record(
            "journal", JournalHistoryForked(kind="accepted", before=95, after=after + 2, reason="a broken disk")
        ),
    )
    journal = world.state.journal
    assert journal.forks == [
        Fork(position=after + 1, kind="restore", before=90, after=after, reason=""),
        Fork(position=after + 3, kind="accepted", before=95, after=after + 2, reason="a broken disk"),
    ]
    assert journal.restores == [Restore(position=after + 2, backup_ref="a backup", backup_position=after)]


def test_a_release_of_another_attempts_hold_leaves_this_one() -> None:
    """Only the hold of the attempt that is named is let go."""
    world = given(THREE, put(rule()), admit("r1"), start("r1"), record("run-r1", BudgetReleased(attempt=9)))
    assert list(world.state.budgets.holds) == ["r1"]


def test_a_step_of_the_clock_moves_the_life_of_watched_work() -> None:
    """A clock that is set an hour forward makes nothing look silent for an hour."""
    beat = HeartbeatRecorded(work_kind="loop", work_id="probes", beat_no=1, stalls_after_ms=60_000)
    step = DaemonClockStepped(
        cause="step", wall_before_us=T0_US, wall_after_us=T0_US + 3_600_000_000, monotonic_elapsed_us=0
    )
    world = given(THREE, record(beat_stream("loop", "probes"), beat))
    before_us = world.state.heartbeats.board[beat_key("loop", "probes")].last_life_us
    world.do(record("daemon", step))
    assert world.state.heartbeats.board[beat_key("loop", "probes")].last_life_us == before_us + step.step_us


def test_a_recorded_fact_has_its_name() -> None:
    """Known ones by their Struct, unknown ones by what the journal says."""
    world = given(THREE)
    assert [one.name for one in world.history] == [VOCABULARY.name_of(one.body) for one in world.history]
    unknown = Recorded(1, "s", 1, 1, "a", "", 0, "", UnknownEvent(name="later.happened", schema=1, body={}))
    assert unknown.name == "later.happened"


def test_a_key_remembers_when_it_was_used() -> None:
    """Admitted or refused, a request is a use; of a key that is not known it is nothing."""
    world = given(THREE, record("key-1", issued()))
    assert world.state.keys.by_id["1"].last_used_us is None
    world.do(wait(ms=1), admit("r1", key_id="1"), admit("r2", key_id="9"))
    assert world.state.keys.by_id["1"].last_used_us == T0_US + 1_000


def test_console_sessions_end_with_the_process() -> None:
    """One that ended is gone; a start finds nobody logged in, whatever the journal says of the last one."""
    opened = ConsoleSessionOpened(principal_id="key:a", key_id="a", how="token", peer_class="loopback")
    world = given(THREE, record("session-1", opened), record("session-2", opened))
    assert list(world.state.console_sessions.open) == ["1", "2"]
    assert world.state.console_sessions.open["1"].opened_us == T0_US
    world.do(record("session-1", ConsoleSessionEnded(reason="logout")))
    assert list(world.state.console_sessions.open) == ["2"]
    assert world.do(boot()).state.console_sessions.open == {}
    assert "session-2" not in world.state.streams
