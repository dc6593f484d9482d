"""A change of the console made in a state whose daemon is stopped, by the same functions.

It needs all that a change can be about, the vault and logins at providers with it, which other work on a stopped
state has no use for.
"""

from __future__ import annotations

import asyncio
import contextlib

from palyra.auth.keyfiles import witness_key
from palyra.config.load import LoadedConfig
from palyra.config.state import StatePaths, prepare_state_dir
from palyra.engine.adoptable import adoptable_of
from palyra.engine.boot import adopt_config, creation
from palyra.engine.console.changes import Change, Changer, ChangeT, Desk
from palyra.engine.console.frame import AnswerT, Told
from palyra.engine.content import ContentRules, Contents
from palyra.engine.oauth import OAuthDesk
from palyra.engine.offline import OPERATOR, held_core, take_lock
from palyra.engine.tokens import TokenKeeper
from palyra.engine.vault import VaultKeeper, open_vault


def change_offline(
    paths: StatePaths, loaded: LoadedConfig, change: Change[ChangeT, AnswerT], params: ChangeT
) -> Told:
    """Make a change in a journal that nobody writes, and in its vault, as the daemon would.

    Where there is no journal one is begun, as by a first start. Raises `JournalLocked` while a daemon runs, and
    `VaultError` (`vault_busy`). Not for use inside a running loop.
    """
    config = loaded.config

    async def make() -> Told:
        async with held_core(paths) as core:
            await core.record(creation(core), OPERATOR)
            if change.adopts:
                await adopt_config(core, adoptable_of(config, loaded.sources), actor=OPERATOR)
            keeper = VaultKeeper(core, vault)
            await keeper.reconcile()
            key_files = {path.name: path for path in (paths.admin_token, paths.client_key)}
            tokens = TokenKeeper(core, keeper)
            logins = OAuthDesk(core, keeper, tokens, lambda: config.auth.oauth.openai)
            contents = Contents(paths.content, core.clock, ContentRules(), on_trouble=lambda error: None)
            desk = Desk(core, keeper, key_files=key_files, oauth=logins, tokens=tokens, contents=contents)
            try:
                return await Changer(desk).change(change, params, actor=OPERATOR)
            finally:
                await tokens.settle()
                await contents.close()

    prepare_state_dir(paths)
    with take_lock(paths, timeout_ms=config.vault.lock_timeout_ms):
        witness_key(paths.vault_key, create=not paths.journal.exists())
        with contextlib.closing(open_vault(paths, config.vault)) as vault:
            return asyncio.run(make())
