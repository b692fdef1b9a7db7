"""Locks."""

from dapr.clients.grpc._response import UnlockResponseStatus
from report import check, equal, eventually

STORE = 'lockstore'


def checks(client) -> None:
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

    @check('lock: it expires')
    def _():
        equal(lock('paddle', 'ada', 1), True, 'ada locks')
        eventually(lambda: lock('paddle', 'bob'), True, "bob locks when ada's time is over")
