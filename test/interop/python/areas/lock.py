"""Locks."""

import asyncio

from dapr.aio.clients import DaprClient as AsyncClient
from dapr.clients.grpc._response import UnlockResponseStatus
from report import check, contains, equal, eventually, fails

STORE = 'lockstore'


def checks(client, _) -> None:
    def lock(identity, owner, seconds=60):
        return client.try_lock(STORE, identity, owner, seconds).success

    def unlock(identity, owner):
        return client.unlock(STORE, identity, owner).status

    @check('lock: one owner has it, and only that one gives it back')
    def _():
        equal(lock('boat', 'ada'), True, 'ada locks')
        equal(lock('boat', 'bob'), False, 'bob locks')
        equal(unlock('boat', 'bob'), UnlockResponseStatus.lock_belongs_to_others, 'bob unlocks')
        equal(unlock('boat', 'ada'), UnlockResponseStatus.success, 'ada unlocks')
        equal(unlock('boat', 'ada'), UnlockResponseStatus.lock_does_not_exist, 'ada unlocks again')

    @check('lock: it is held within a with statement')
    def _():
        with client.try_lock(STORE, 'oar', 'ada', 60) as held:
            equal(held.success, True, 'ada locks')
            equal(lock('oar', 'bob'), False, 'bob locks')
        equal(lock('oar', 'bob'), True, 'bob locks afterwards')

    @check('lock: a with statement that comes second does not take it away')
    def _():
        equal(lock('rudder', 'ada'), True, 'ada locks')
        with client.try_lock(STORE, 'rudder', 'bob', 60) as held:
            equal(bool(held), False, 'bob locks')
        equal(lock('rudder', 'cyd'), False, 'cyd locks')
        equal(unlock('rudder', 'ada'), UnlockResponseStatus.success, 'ada unlocks')

    @check('lock: the asynchronous client does the same')
    def _():
        async def hold():
            async with AsyncClient() as client:
                async with await client.try_lock(STORE, 'sail', 'ada', 60) as held:
                    second = await client.try_lock(STORE, 'sail', 'bob', 60)
                    return [held.success, second.success]

        equal(asyncio.run(hold()), [True, False])
        equal(lock('sail', 'bob'), True, 'bob locks afterwards')

    @check('lock: a store that does not exist is named in the error')
    def _():
        contains(fails(lambda: client.try_lock('nolocks', 'boat', 'ada', 60)).details(), 'nolocks')

    @check('lock: it expires')
    def _():
        equal(lock('paddle', 'ada', 1), True, 'ada locks')
        eventually(lambda: lock('paddle', 'bob'), True, "bob locks when ada's time is over")
