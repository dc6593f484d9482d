"""The defences of the threat model: how each is taken away, and the tests that fail without it.

A function is taken away in its own place: its code is exchanged, so that everybody who has imported it has it. What
stands in for it is read in the module of the original and may use its names; the original itself is there as
`real_<name>`. `without_defence.py` takes them away in a process of its own, and `test_threats.py` asks for the
proof.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any, NamedTuple


class Defence(NamedTuple):
    """Something that keeps somebody out, and what shows that it is gone."""

    name: str
    #: Takes it away, once and for all of this process.
    take_away: Callable[[], None]
    #: Each of them fails without it; `<file below tests/>::<test>`, one with parameters with any of them.
    tests: tuple[str, ...]


def _instead(function: Callable[..., Any], stand_in: Callable[..., Any]) -> None:
    """Let a function do what another does, for all who hold it."""
    assert isinstance(function, types.FunctionType)
    assert isinstance(stand_in, types.FunctionType)
    assert inspect.iscoroutinefunction(function) == inspect.iscoroutinefunction(stand_in)
    real = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    real.__kwdefaults__ = function.__kwdefaults__
    function.__globals__[f"real_{function.__name__}"] = real
    function.__code__ = stand_in.__code__


# The stand-ins below are read in other modules than this one.
# ruff: noqa: F821


# -- another user of the machine


def _modes_of_key_files() -> None:
    from palyra.auth import keyfiles

    _instead(keyfiles._check, lambda path, status: None)


def _mode_of_the_vault() -> None:
    from palyra.auth import vault

    _instead(vault._check_private, lambda path: None)


def _modes_of_the_state() -> None:
    from palyra.config import state

    _instead(state.find_insecure, lambda paths: [])


def _modes_of_named_files() -> None:
    from palyra.auth.references import ReferenceSource

    _instead(ReferenceSource._check, lambda self, credential_ref, path, found: None)


def _owner_of_the_socket_s_peer() -> None:
    from palyra.daemon import peers

    _instead(peers.is_ours, lambda transport: True)


def _keys_on_every_route() -> None:
    from palyra.decisions import keys

    _instead(keys.authenticate, lambda state, presented, now_us, *, may_be_anonymous=False: LOCAL_CALLER)


def _no_key_among_arguments() -> None:
    from palyra.cli import secret_input

    _instead(secret_input._refuse_stray, lambda stray, what: None)


# -- the holder of a disk or a backup


def _sealing() -> None:
    from palyra.auth.sealing import SealingKey

    _instead(SealingKey.seal, lambda self, value, context: bytes(12) + value)
    _instead(SealingKey.open, lambda self, sealed, context: sealed[12:])


def _no_keys_in_backups() -> None:
    from palyra.cli import journal_files

    _instead(journal_files._key_files, lambda paths, *, is_wanted: {"vault.key": paths.vault_key})


# -- a keychain that guards nothing, a key that is not there


def _list_of_keychains() -> None:
    from palyra.auth import keysource

    def find_keychain():  # type: ignore[no-untyped-def]
        from keyring.backend import get_all_keyring

        best = max(get_all_keyring(), key=lambda backend: backend.priority, default=None)
        return best, KeychainReport(found="the best", is_allowed=True)

    _instead(keysource.find_keychain, find_keychain)


def _a_lost_key_stays_lost() -> None:
    from palyra.auth import vault

    def find_key(self, files, meta):  # type: ignore[no-untyped-def]
        write_vault_key(files.key, VaultKeyLine(master=new_vault_key()))
        self._key, self.status = SealingKey(read_vault_key(files.key).master), "open"

    vault.__dict__.update({name: getattr(_keyfiles(), name) for name in _OF_KEY_FILES})
    _instead(vault.Vault._find_key, find_key)


_OF_KEY_FILES = ("write_vault_key", "read_vault_key", "VaultKeyLine")


def _keyfiles() -> types.ModuleType:
    from palyra.auth import keyfiles

    return keyfiles


# -- an editor of vault.db


def _associated_data() -> None:
    from palyra.auth import sealing

    _instead(sealing._associated, lambda context: b"")


def _columns_as_they_were_sealed() -> None:
    from palyra.auth import sealed

    _instead(sealed._checked, lambda info, sealed: info)


def _authentication_of_sealed_values() -> None:
    from palyra.auth.sealing import SealingKey

    def decrypt(self, sealed, context):  # type: ignore[no-untyped-def]
        """AES in counter mode, as GCM has it, without a look at the tag."""
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        counter = sealed[:_NONCE_BYTES] + (2).to_bytes(4, "big")
        reader = Cipher(algorithms.AES(self._seal), modes.CTR(counter)).decryptor()
        return reader.update(sealed[_NONCE_BYTES:-16])

    _instead(SealingKey.open, decrypt)


def _revisions_in_the_journal() -> None:
    from palyra.decisions import vault

    _instead(vault.reconcile, lambda state, look: Reconciliation([], []))


# -- an editor of palyra.toml


def _audience_of_profiles() -> None:
    from palyra.decisions import credentials

    _instead(
        credentials._mismatch,
        lambda profile, provider, agent_id: None if profile.status == "active" else Verdict("failed"),
    )


def _guarded_sockets() -> None:
    from palyra.providers.guard import Guard

    _instead(Guard.judge, lambda self, host, address: None)


def _no_redirects() -> None:
    from palyra.providers import http

    _instead(http._refusal_of_head, lambda reader: None)


# -- a web page


def _names_of_hosts() -> None:
    from palyra.decisions import arrivals

    _instead(arrivals.host_refusal, lambda host, extra_hosts: None)


def _no_pages_at_the_api() -> None:
    from palyra.decisions import arrivals

    _instead(arrivals.origin_refusal, lambda headers, allowed_origins=(): None)


def _own_pages_at_the_console() -> None:
    from palyra.decisions import arrivals

    _instead(arrivals.own_origin_refusal, lambda headers, scheme, *, is_needed: None)


def _second_secret() -> None:
    from palyra.engine.logins import Session

    _instead(Session.fits, lambda self, csrf_token: True)


def _fence_of_the_console() -> None:
    from palyra.daemon import answers, login_pages

    for headers in (answers.CONSOLE_ANSWER, login_pages._HEADERS):
        headers["Content-Security-Policy"] = "script-src *"


# -- another server on this machine


def _ports_in_origins() -> None:
    from palyra.decisions import arrivals

    def plain_origin(origin):  # type: ignore[no-untyped-def]
        scheme, _, host = origin.lower().partition("://")
        return f"{scheme}://{host.partition(':')[0]}"

    _instead(arrivals._plain_origin, plain_origin)


def _cookies_that_were_given() -> None:
    from palyra.engine.logins import Logins

    _instead(Logins.find, lambda self, cookie: next(iter(self._sessions.values())))


def _second_secret_in_one_answer() -> None:
    from palyra.daemon.doorkeeper import Doorkeeper
    from palyra.engine import logins

    logins.digest_of = lambda token: token  # type: ignore[assignment]

    async def session(self, visit, operator, place):  # type: ignore[no-untyped-def]
        one = _of(operator)
        return Told(200, self._tell(LoginAnswer(**self._fields(one), csrf_token=one._csrf_digest)))

    _instead(Doorkeeper._session, session)


# -- a neighbour on the network


def _no_listening_in_the_clear() -> None:
    from palyra.config import listening

    _instead(listening.is_on_this_machine, lambda host: True)


def _no_login_in_the_clear() -> None:
    from palyra.engine import logins

    logins.classify_address = lambda address: "loopback"  # type: ignore[assignment]


def _certificates_of_clients() -> None:
    from palyra.daemon import tls

    def load(self):  # type: ignore[no-untyped-def]
        context = real__load(self)
        context.verify_mode = ssl.CERT_NONE
        return context

    _instead(tls.TlsContext._load, load)


def _trusted_proxies() -> None:
    from palyra.daemon.requests import Entrance

    def adopt(self, limits):  # type: ignore[no-untyped-def]
        real_adopt(self, limits)
        self._trusted_proxies = ("0.0.0.0/0", "::/0")

    _instead(Entrance.adopt, adopt)


def _lock_of_logins() -> None:
    from palyra.engine.rates import LoginLock

    _instead(LoginLock.wait_ms, lambda self, peer, now_us: 0)


def _late_answers_to_guesses() -> None:
    from palyra.engine import rates

    _instead(rates.failing_delay_ms, lambda failures_count: 0)


def _randomness_of_keys() -> None:
    from palyra.auth import keys

    def make_key(kind, random_number=None):  # type: ignore[no-untyped-def]
        return real_make_key(kind, 7 if random_number is None else random_number)

    _instead(keys.make_key, make_key)


def _randomness_of_tokens() -> None:
    from palyra.auth import keys

    _instead(keys.random_token, lambda: Secret("short"))


def _secrets_of_keys() -> None:
    from palyra.decisions import keys

    _instead(keys.known_key, lambda state, text: state.keys.by_id.get(text.key_id))


# -- the holder of a client key


def _scopes() -> None:
    from palyra.decisions import keys

    _instead(keys.has_scope, lambda scopes, scope: True)


def _kinds_of_keys() -> None:
    from palyra.decisions import keys

    _instead(keys.authorize, lambda caller, scope, peer_address: scope_refusal(caller.scopes, scope))


def _changes_for_operators() -> None:
    from palyra.daemon import operators

    def known(visit, access, logins, *, is_change):  # type: ignore[no-untyped-def]
        return real__known(visit, access, logins, is_change=False)

    _instead(operators._known, known)


def _bindings_of_keys() -> None:
    from palyra.decisions import arrivals

    def read(found, name, value, caller):  # type: ignore[no-untyped-def]
        return real__read(found, name, value, msgspec.structs.replace(caller, session="", agents=["*"]))

    _instead(arrivals._read, read)


def _sessions_of_principals() -> None:
    from palyra.decisions import arrivals

    def read(found, name, value, caller):  # type: ignore[no-untyped-def]
        return real__read(found, name, value, msgspec.structs.replace(caller, principal_id="everybody"))

    _instead(arrivals._read, read)


def _models_of_keys() -> None:
    from palyra.decisions import keys

    _instead(keys.is_permitted, lambda models, provider_id, model_id: True)


def _networks_of_keys() -> None:
    from palyra.decisions import keys

    _instead(keys.peer_refusal, lambda caller, peer_address: None)


def _no_more_than_the_issuer() -> None:
    from palyra.decisions import key_changes

    _instead(key_changes._power, lambda held, scopes: None)


def _budgets_of_keys() -> None:
    from palyra.engine.console import keys

    _instead(keys._budget_of, lambda order, params, key_id: [])


# -- whoever attacks a login at a provider


def _pkce() -> None:
    from palyra.auth import oauth

    _instead(oauth.challenge_of, lambda verifier: "x" * 43)


def _states_of_logins() -> None:
    from palyra.decisions import oauth

    _instead(oauth._by_state, lambda state, state_digest, now_us: next(iter(state.oauth.attempts.values())))


def _cookies_of_logins() -> None:
    from palyra.decisions import oauth

    def claim_browser(state, state_digest, cookie_digest, now_us):  # type: ignore[no-untyped-def]
        attempt = _by_state(state, state_digest, now_us)
        if attempt is None:
            return real_claim_browser(state, state_digest, cookie_digest, now_us)
        return _claim(attempt, now_us)

    _instead(oauth.claim_browser, claim_browser)


def _one_claim() -> None:
    from palyra.decisions import oauth

    _instead(oauth._claim, lambda attempt, now_us: Claim(attempt, [], is_won=True))


def _end_of_an_attempt() -> None:
    from palyra.decisions import oauth

    _instead(oauth._claim, lambda attempt, now_us: real__claim(attempt, 0))


def _one_use_of_a_launch() -> None:
    from palyra.engine.oauth import OAuthDesk

    def launch(self, code):  # type: ignore[no-untyped-def]
        known = dict(self._launches)
        made = real_launch(self, code)
        self._launches = known
        return made

    _instead(OAuthDesk.launch, launch)


def _who_may_paste() -> None:
    from palyra.decisions import oauth

    def claim_paste(state, attempt_id, state_digest, actor, now_us):  # type: ignore[no-untyped-def]
        return _claim(attempt_of(state, attempt_id, now_us), now_us)

    _instead(oauth.claim_paste, claim_paste)


def _issuers() -> None:
    from palyra.auth import oauth

    _instead(oauth.read_redirect, lambda query: real_read_redirect(query)._replace(issuer=""))


def _claims_of_id_tokens() -> None:
    from palyra.auth import oauth

    _instead(oauth.subject_of, lambda id_token, *, nonce, client_id, now_s: Secret("somebody"))


def _one_try_of_a_code() -> None:
    from palyra.decisions import oauth

    _instead(oauth.interrupt, lambda state: [])


def _tokens_checked_before_they_are_kept() -> None:
    from palyra.decisions import profiles

    _instead(profiles.check_code, lambda status, *, has_list: "connected")


# -- a hostile provider or proxy


def _bounds_of_answers() -> None:
    from palyra.providers import reading

    async def read_whole(chunk, max_bytes, *, announced_bytes=0):  # type: ignore[no-untyped-def]
        return await real_read_whole(chunk, 1 << 30)

    _instead(reading.read_whole, read_whole)


def _clean_words_of_others() -> None:
    from palyra import redaction

    _instead(redaction.clean_message, lambda text, known=(), max_chars=240: text)


# -- a reader of journal, logs and capsules


def _secrets_that_say_nothing() -> None:
    from palyra.redaction import Secret

    _instead(Secret.__repr__, lambda self: self._value)
    _instead(Secret.__format__, lambda self, spec: self._value)


def _redactor_of_texts() -> None:
    from palyra import redaction

    _instead(redaction.redact_text, lambda text, known=(): text)


def _redactor_by_name() -> None:
    from palyra import redaction

    redaction.is_sensitive_key.__wrapped__.__code__ = (lambda key: False).__code__
    redaction.is_sensitive_key.cache_clear()


def _known_secrets() -> None:
    from palyra.redaction import KnownSecrets

    _instead(KnownSecrets.hold, lambda self, name, *secrets: None)


def _guard_of_facts() -> None:
    from palyra.engine.core import Core

    _instead(Core.refuse_secrets, lambda self, encoded: None)


def _clean_words_of_clients() -> None:
    from palyra import redaction

    _instead(redaction.hide_keys, lambda text: text)


def _redacted_configuration() -> None:
    from palyra.config import effective

    _instead(effective._redacted, lambda name, value: value)


# -- a thief of a refresh token


def _one_renewal() -> None:
    from palyra.engine.tokens import TokenKeeper

    async def renew(self, profile_id):  # type: ignore[no-untyped-def]
        return Renewed(await self._renew(profile_id), False)

    _instead(TokenKeeper.renew, renew)


def _rotation_of_refresh_tokens() -> None:
    from palyra.engine import tokens

    def parts_of(tokens):  # type: ignore[no-untyped-def]
        return {"access_token": tokens.access_token}

    _instead(tokens.parts_of, parts_of)


def _an_end_of_grants() -> None:
    from palyra.decisions import tokens

    _instead(tokens._terminal, lambda refusal, rejected_count: None)


def _a_new_secret_wins() -> None:
    from palyra.decisions import tokens
    from palyra.engine.vault import VaultKeeper

    _instead(tokens.was_superseded, lambda state, profile_id, revision: False)

    async def put(self, *arguments, **named):  # type: ignore[no-untyped-def]
        return await real_put(self, *arguments, **(named | {"if_revision": None}))

    _instead(VaultKeeper.put, put)


def _giving_back() -> None:
    from palyra.engine.tokens import TokenKeeper

    async def ask_back(self, grant, parts):  # type: ignore[no-untyped-def]
        return None

    _instead(TokenKeeper._ask_back, ask_back)


def _out_of_use_at_once() -> None:
    from palyra.decisions import credentials
    from palyra.projections import auth

    auth._GONE_STATUS = ()  # type: ignore[assignment]
    _instead(credentials._mismatch, lambda profile, provider, agent_id: None)


_KEYS, _VAULT, _REFERENCES = "auth/test_auth_keys.py", "auth/test_auth_vault.py", "auth/test_auth_references.py"
_ACCESS, _DAEMON_KEYS, _TLS = (f"daemon/test_daemon_{name}.py" for name in ("access", "keys", "tls"))
_CONNECT, _LOGINS, _OAUTH = (f"console/test_console_{name}.py" for name in ("auth", "logins", "oauth"))
_TOKENS, _ENGINE_LOGINS = "engine/test_engine_tokens.py", "engine/test_engine_logins.py"
_CANARIES, _LOGS = "embedding/test_embedding_canaries.py", "acceptance/test_acceptance_logs.py"
_GUARD, _TEXTS = "providers/test_providers_guard.py", "redaction/test_redaction_texts.py"

#: Who tries what, and what keeps him from it: the rows of the specification.
THREATS: dict[str, tuple[Defence, ...]] = {
    "another user of the machine reads files, uses the port, looks at ps": (
        Defence(
            "modes-of-key-files",
            _modes_of_key_files,
            (
                f"{_KEYS}::test_a_key_file_open_to_others_is_not_read",
                f"{_KEYS}::test_a_key_file_of_somebody_else_is_not_read",
                f"{_VAULT}::test_files_that_others_could_use_are_refused",
                "engine/test_engine_access.py::test_a_file_that_others_can_read_stops_the_start",
            ),
        ),
        Defence(
            "mode-of-the-vault",
            _mode_of_the_vault,
            (f"{_VAULT}::test_files_that_others_could_use_are_refused",),
        ),
        Defence(
            "modes-of-the-state",
            _modes_of_the_state,
            ("config/test_config_state.py::test_open_directory_and_files_are_refused_with_their_fix",),
        ),
        Defence(
            "modes-of-named-files",
            _modes_of_named_files,
            (
                f"{_REFERENCES}::test_a_file_that_others_can_use_is_refused",
                f"{_REFERENCES}::test_a_file_of_somebody_else_is_refused",
            ),
        ),
        Defence(
            "owner-of-the-socket-s-peer",
            _owner_of_the_socket_s_peer,
            ("daemon/test_daemon_socket.py::test_another_user_at_the_socket_is_nobody",),
        ),
        Defence("keys-on-every-route", _keys_on_every_route, (f"{_ACCESS}::test_keys_that_open_nothing",)),
        Defence(
            "no-key-among-arguments",
            _no_key_among_arguments,
            (
                "cli/test_cli_auth.py::test_a_key_is_no_argument",
                "cli/test_cli_vault.py::test_a_secret_is_never_an_argument",
            ),
        ),
    ),
    "the holder of a disk or a backup reads secrets": (
        Defence(
            "sealing",
            _sealing,
            (
                f"{_VAULT}::test_a_vault_is_made_with_its_first_secret",
                f"{_VAULT}::test_a_row_of_another_vault_does_not_open",
            ),
        ),
        Defence(
            "no-keys-in-backups",
            _no_keys_in_backups,
            ("cli/test_cli_journal_files.py::test_a_backup_stands_below_the_state_or_where_it_is_wanted",),
        ),
    ),
    "a program of the same user takes a keychain that guards nothing for one, or a lost key for a new one": (
        Defence("list-of-keychains", _list_of_keychains, (f"{_VAULT}::test_no_allowed_keychain_means_locked",)),
        Defence(
            "a-lost-key-stays-lost",
            _a_lost_key_stays_lost,
            (
                f"{_VAULT}::test_a_lost_key_locks_and_is_not_replaced",
                f"{_VAULT}::test_another_key_opens_nothing",
            ),
        ),
    ),
    "an editor of vault.db moves, drops or rolls back rows": (
        Defence(
            "associated-data",
            _associated_data,
            (
                f"{_VAULT}::test_a_row_that_was_moved_or_changed_does_not_open",
                f"{_VAULT}::test_a_row_of_another_vault_does_not_open",
            ),
        ),
        Defence(
            "columns-as-they-were-sealed",
            _columns_as_they_were_sealed,
            (f"{_VAULT}::test_a_row_that_was_moved_or_changed_does_not_open",),
        ),
        Defence(
            "authentication-of-sealed-values",
            _authentication_of_sealed_values,
            (f"{_VAULT}::test_any_flipped_byte_is_damage",),
        ),
        Defence(
            "revisions-in-the-journal",
            _revisions_in_the_journal,
            (
                "decisions/test_decisions_vault.py::test_what_was_put_before_a_crash_goes",
                "decisions/test_decisions_vault.py::test_what_the_vault_lacks_is_found_once",
                "embedding/test_embedding_vault.py::test_an_older_copy_of_the_vault_shows",
            ),
        ),
    ),
    "an editor of palyra.toml harvests keys with a base_url of his own": (
        Defence(
            "audience-of-profiles",
            _audience_of_profiles,
            (f"{_CONNECT}::test_a_moved_provider_gets_no_key",),
        ),
        Defence(
            "guarded-sockets",
            _guarded_sockets,
            (
                f"{_GUARD}::test_refused_literals_are_never_dialled",
                f"{_GUARD}::test_a_name_that_changes_its_answer_sends_no_byte",
            ),
        ),
        Defence(
            "no-redirects",
            _no_redirects,
            (
                f"{_GUARD}::test_a_redirect_is_not_followed",
                f"{_CONNECT}::test_what_a_provider_says",
            ),
        ),
    ),
    "a web page forges requests, rebinds its name, frames the console": (
        Defence(
            "names-of-hosts",
            _names_of_hosts,
            (
                f"{_ACCESS}::test_a_foreign_host_is_refused_everywhere",
                f"{_DAEMON_KEYS}::test_every_place_knows_its_hosts_and_its_headers",
            ),
        ),
        Defence("no-pages-at-the-api", _no_pages_at_the_api, (f"{_ACCESS}::test_a_web_page_is_refused",)),
        Defence(
            "own-pages-at-the-console",
            _own_pages_at_the_console,
            (
                f"{_LOGINS}::test_changes_need_the_second_secret_and_the_own_origin",
                f"{_LOGINS}::test_a_foreign_page_cannot_log_in",
                f"{_LOGINS}::test_a_bearer_key_needs_no_cookie_but_no_foreign_page_either",
            ),
        ),
        Defence(
            "second-secret",
            _second_secret,
            (f"{_LOGINS}::test_changes_need_the_second_secret_and_the_own_origin",),
        ),
        Defence(
            "fence-of-the-console",
            _fence_of_the_console,
            (f"{_LOGINS}::test_every_answer_of_the_console_is_fenced",),
        ),
    ),
    "another server on localhost takes the cookie or posts forms": (
        Defence(
            "ports-in-origins",
            _ports_in_origins,
            (f"{_LOGINS}::test_changes_need_the_second_secret_and_the_own_origin",),
        ),
        Defence(
            "cookies-that-were-given",
            _cookies_that_were_given,
            (f"{_LOGINS}::test_a_cookie_alone_reads_and_a_forged_one_does_not",),
        ),
        Defence(
            "second-secret-in-one-answer",
            _second_secret_in_one_answer,
            (f"{_LOGINS}::test_no_answer_to_a_question_holds_a_secret",),
        ),
    ),
    "a neighbour on the network listens or guesses": (
        Defence(
            "no-listening-in-the-clear",
            _no_listening_in_the_clear,
            ("config/test_config_listening.py::test_beyond_this_machine_somebody_has_to_say_so",),
        ),
        Defence(
            "no-login-in-the-clear",
            _no_login_in_the_clear,
            (f"{_ENGINE_LOGINS}::test_a_login_from_elsewhere_needs_tls",),
        ),
        Defence(
            "certificates-of-clients",
            _certificates_of_clients,
            (f"{_TLS}::test_clients_may_need_a_certificate",),
        ),
        Defence(
            "trusted-proxies",
            _trusted_proxies,
            (f"{_DAEMON_KEYS}::test_forged_forwarding_headers_are_nothing",),
        ),
        Defence("lock-of-logins", _lock_of_logins, (f"{_LOGINS}::test_failed_logins_have_to_wait",)),
        Defence(
            "late-answers-to-guesses",
            _late_answers_to_guesses,
            (f"{_DAEMON_KEYS}::test_guessing_is_slow_and_good_keys_are_not",),
        ),
        Defence(
            "randomness-of-keys",
            _randomness_of_keys,
            (f"{_KEYS}::test_a_new_key_is_random_and_spelled_rightly",),
        ),
        Defence(
            "randomness-of-tokens",
            _randomness_of_tokens,
            (f"{_LOGINS}::test_a_login_opens_a_session",),
        ),
        Defence("secrets-of-keys", _secrets_of_keys, (f"{_ACCESS}::test_keys_that_open_nothing",)),
    ),
    "the holder of a client key wants more scope, another agent, session or budget": (
        Defence("scopes", _scopes, (f"{_DAEMON_KEYS}::test_every_route_of_v1_needs_its_scope",)),
        Defence("kinds-of-keys", _kinds_of_keys, (f"{_ACCESS}::test_an_operator_key_is_known_and_refused",)),
        Defence(
            "changes-for-operators",
            _changes_for_operators,
            ("console/test_console_keys.py::test_only_those_who_may_manage_keys_do",),
        ),
        Defence(
            "bindings-of-keys",
            _bindings_of_keys,
            (f"{_DAEMON_KEYS}::test_a_key_is_held_to_its_agents_and_its_session",),
        ),
        Defence(
            "sessions-of-principals",
            _sessions_of_principals,
            (f"{_DAEMON_KEYS}::test_sessions_of_two_keys_never_meet",),
        ),
        Defence("models-of-keys", _models_of_keys, (f"{_DAEMON_KEYS}::test_a_key_is_held_to_its_models",)),
        Defence("networks-of-keys", _networks_of_keys, (f"{_DAEMON_KEYS}::test_a_key_is_held_to_its_networks",)),
        Defence(
            "no-more-than-the-issuer",
            _no_more_than_the_issuer,
            ("console/test_console_keys.py::test_only_those_who_may_manage_keys_do",),
        ),
        Defence(
            "budgets-of-keys",
            _budgets_of_keys,
            ("console/test_console_keys.py::test_a_budget_of_a_key_stops_that_key_alone",),
        ),
    ),
    "somebody brings a foreign code, a stolen, replayed or parallel callback, or mixes servers up": (
        Defence(
            "pkce",
            _pkce,
            (
                "auth/test_auth_pkce.py::test_the_challenge_is_that_of_the_standard",
                f"{_OAUTH}::test_a_login_in_a_browser",
            ),
        ),
        Defence("states-of-logins", _states_of_logins, (f"{_OAUTH}::test_who_comes_back_must_be_who_left",)),
        Defence("cookies-of-logins", _cookies_of_logins, (f"{_OAUTH}::test_who_comes_back_must_be_who_left",)),
        Defence("one-claim", _one_claim, (f"{_OAUTH}::test_fifty_callbacks_at_once_are_one_exchange",)),
        Defence(
            "end-of-an-attempt",
            _end_of_an_attempt,
            ("decisions/test_decisions_oauth.py::test_whoever_comes_too_late",),
        ),
        Defence("one-use-of-a-launch", _one_use_of_a_launch, (f"{_OAUTH}::test_who_comes_back_must_be_who_left",)),
        Defence("who-may-paste", _who_may_paste, (f"{_OAUTH}::test_pasting",)),
        Defence("issuers", _issuers, (f"{_OAUTH}::test_answers_that_bring_no_code",)),
        Defence("claims-of-id-tokens", _claims_of_id_tokens, (f"{_OAUTH}::test_tokens_that_are_not_kept",)),
        Defence(
            "one-try-of-a-code",
            _one_try_of_a_code,
            (f"{_OAUTH}::test_an_exchange_that_was_cut_off_is_not_repeated",),
        ),
        Defence(
            "tokens-checked-before-they-are-kept",
            _tokens_checked_before_they_are_kept,
            (f"{_OAUTH}::test_tokens_that_are_not_kept",),
        ),
    ),
    "a hostile provider or proxy redirects, echoes secrets, sends huge bodies": (
        Defence(
            "bounds-of-answers",
            _bounds_of_answers,
            (f"{_OAUTH}::test_tokens_that_are_not_kept",),
        ),
        Defence(
            "clean-words-of-others",
            _clean_words_of_others,
            (
                f"{_CONNECT}::test_an_echoed_key_is_taken_out",
                f"{_TEXTS}::test_a_message_is_one_line_and_cut",
            ),
        ),
    ),
    "a reader of journal, logs and capsules finds secrets": (
        Defence(
            "secrets-that-say-nothing",
            _secrets_that_say_nothing,
            (f"{_TEXTS}::test_a_secret_says_nothing_about_itself",),
        ),
        Defence(
            "redactor-of-texts",
            _redactor_of_texts,
            (
                f"{_TEXTS}::test_texts_are_redacted_by_shape",
                f"{_LOGS}::test_an_error_keeps_its_secrets",
                f"{_LOGS}::test_everything_is_redacted",
            ),
        ),
        Defence("redactor-by-name", _redactor_by_name, (f"{_LOGS}::test_everything_is_redacted",)),
        Defence(
            "known-secrets",
            _known_secrets,
            (
                f"{_CANARIES}::test_an_echoed_credential_is_nowhere",
                f"{_CANARIES}::test_a_fact_that_would_hold_a_secret_is_refused",
            ),
        ),
        Defence(
            "guard-of-facts",
            _guard_of_facts,
            (f"{_CANARIES}::test_a_fact_that_would_hold_a_secret_is_refused",),
        ),
        Defence(
            "clean-words-of-clients",
            _clean_words_of_clients,
            (f"{_CANARIES}::test_what_clients_write_is_cleaned_before_it_is_decided",),
        ),
        Defence(
            "redacted-configuration",
            _redacted_configuration,
            (f"{_CANARIES}::test_an_exported_configuration_names_no_credential",),
        ),
    ),
    "a thief of a refresh token keeps access": (
        Defence("one-renewal", _one_renewal, (f"{_TOKENS}::test_everybody_who_wants_a_token_joins_one_renewal",)),
        Defence(
            "rotation-of-refresh-tokens",
            _rotation_of_refresh_tokens,
            (f"{_TOKENS}::test_a_token_is_renewed_before_it_ends",),
        ),
        Defence(
            "an-end-of-grants", _an_end_of_grants, (f"{_TOKENS}::test_a_grant_that_is_over_is_asked_for_once",)
        ),
        Defence(
            "a-new-secret-wins",
            _a_new_secret_wins,
            (f"{_TOKENS}::test_a_secret_that_was_put_there_meanwhile_wins",),
        ),
        Defence(
            "giving-back",
            _giving_back,
            (f"{_TOKENS}::test_a_revoked_profile_is_out_of_use_at_once_and_given_back_later",),
        ),
        Defence(
            "out-of-use-at-once",
            _out_of_use_at_once,
            (f"{_TOKENS}::test_a_revoked_profile_is_out_of_use_at_once_and_given_back_later",),
        ),
    ),
}

DEFENCES: dict[str, Defence] = {one.name: one for row in THREATS.values() for one in row}
