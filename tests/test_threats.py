"""The threat model and its proofs: for each row the tests that fail without its defence.

The rows are those of the specification; a test that is renamed or removed is missed here.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

#: Who tries what -> tests by file.
THREATS: dict[str, dict[str, str]] = {
    "another user of the machine reads files, uses the port, looks at ps": {
        "auth/test_auth_vault.py": "test_files_that_others_could_use_are_refused",
        "auth/test_auth_keys.py": "test_a_key_file_of_somebody_else_is_not_read",
        "engine/test_engine_access.py": "test_a_file_that_others_can_read_stops_the_start",
        "daemon/test_daemon_access.py": "test_keys_that_open_nothing",
        "cli/test_cli_auth.py": "test_a_key_is_no_argument",
        "cli/test_cli_vault.py": "test_a_secret_is_never_an_argument",
    },
    "the holder of a disk or a backup reads secrets": {
        "auth/test_auth_vault.py": "test_a_row_of_another_vault_does_not_open test_another_key_opens_nothing",
        "acceptance/test_acceptance_login.py": "test_a_login_with_a_browser",
    },
    "a keychain that guards nothing is taken for one": {
        "auth/test_auth_vault.py": (
            "test_no_allowed_keychain_means_locked test_a_lost_key_locks_and_is_not_replaced"
        ),
    },
    "an editor of vault.db moves, drops or rolls back rows": {
        "auth/test_auth_vault.py": (
            "test_a_row_that_was_moved_or_changed_does_not_open test_any_flipped_byte_is_damage"
        ),
        "decisions/test_decisions_vault.py": "test_what_was_put_before_a_crash_goes",
    },
    "an editor of palyra.toml harvests keys with a base_url of his own": {
        "console/test_console_auth.py": "test_a_moved_provider_gets_no_key",
        "providers/test_providers_guard.py": (
            "test_a_redirect_is_not_followed test_refused_literals_are_never_dialled"
        ),
        "engine/test_engine_tokens.py": "test_redirects_are_not_followed",
    },
    "a web page forges requests, rebinds its name, frames the console": {
        "daemon/test_daemon_access.py": "test_a_foreign_host_is_refused_everywhere test_a_web_page_is_refused",
        "console/test_console_logins.py": (
            "test_changes_need_the_second_secret_and_the_own_origin test_every_answer_of_the_console_is_fenced"
            " test_a_foreign_page_cannot_log_in"
        ),
    },
    "another server on localhost takes the cookie or posts forms": {
        "console/test_console_logins.py": (
            "test_a_cookie_alone_reads_and_a_forged_one_does_not test_no_answer_to_a_question_holds_a_secret"
        ),
    },
    "a neighbour on the network listens or guesses": {
        "config/test_config_listening.py": "test_beyond_this_machine_somebody_has_to_say_so",
        "console/test_console_logins.py": "test_failed_logins_have_to_wait",
        "daemon/test_daemon_keys.py": "test_guessing_is_slow_and_good_keys_are_not",
        "daemon/test_daemon_tls.py": "test_the_api_is_served_over_tls",
    },
    "the holder of a client key wants more scope, another agent, session or budget": {
        "daemon/test_daemon_keys.py": (
            "test_every_route_of_v1_needs_its_scope test_a_key_is_held_to_its_agents_and_its_session"
            " test_sessions_of_two_keys_never_meet"
        ),
        "console/test_console_keys.py": "test_only_those_who_may_manage_keys_do",
    },
    "somebody brings a foreign code, a stolen, replayed or parallel callback, or mixes servers up": {
        "console/test_console_oauth.py": (
            "test_a_login_in_a_browser test_fifty_callbacks_at_once_are_one_exchange"
            " test_who_comes_back_must_be_who_left test_an_attempt_ends test_answers_that_bring_no_code"
            " test_an_exchange_that_was_cut_off_is_not_repeated test_pasting test_tokens_that_are_not_kept"
        ),
    },
    "a hostile provider or proxy redirects, echoes secrets, sends huge bodies": {
        "console/test_console_auth.py": "test_what_a_provider_says test_an_echoed_key_is_taken_out",
        "console/test_console_oauth.py": "test_tokens_that_are_not_kept",
        "providers/test_providers_guard.py": "test_a_redirect_is_not_followed test_proxy_variables_are_ignored",
    },
    "a reader of journal, logs and capsules finds secrets": {
        "redaction/test_redaction_texts.py": (
            "test_a_known_secret_is_found_in_every_form test_a_secret_says_nothing_about_itself"
            " test_any_number_of_known_secrets_is_found_in_one_pass"
        ),
        "engine/test_engine_access.py": "test_no_secret_is_in_the_journal",
        "acceptance/test_acceptance_logs.py": "test_an_error_keeps_its_secrets test_everything_is_redacted",
        "acceptance/test_acceptance_login.py": "test_a_login_by_pasting_without_a_daemon",
        "acceptance/test_acceptance_canaries.py": "test_no_canary_is_found_anywhere",
    },
    "a thief of a refresh token keeps access": {
        "engine/test_engine_tokens.py": (
            "test_everybody_who_wants_a_token_joins_one_renewal test_a_grant_that_is_over_is_asked_for_once"
            " test_a_revoked_profile_is_out_of_use_at_once_and_given_back_later test_a_provider_is_asked_for_a_day"
        ),
    },
}


@pytest.mark.parametrize("threat", THREATS)
def test_every_defence_has_its_test(threat: str) -> None:
    """The tests that are named are there."""
    for file, names in THREATS[threat].items():
        tree = ast.parse((TESTS / file).read_text())
        found = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
        assert set(names.split()) <= found, (file, set(names.split()) - found)
