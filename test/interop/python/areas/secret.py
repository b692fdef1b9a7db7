"""Secrets."""

import asyncio

from dapr.aio.clients import DaprClient as AsyncClient
from grpc import StatusCode
from report import check, contains, equal, fails


def checks(client, _) -> None:
    @check('secret: one is read from the environment')
    def _():
        got = client.get_secret('secretstore', 'INTEROP_SECRET').secret
        equal(dict(got), {'INTEROP_SECRET': 'from the environment'})

    @check('secret: all are read at once')
    def _():
        equal(
            client.get_bulk_secret('secretfile').secrets,
            {'database:password': {'database:password': 'from a file'}, 'key': {'key': 'value'}},
        )

    @check('secret: the asynchronous client does the same')
    def _():
        async def read():
            async with AsyncClient() as client:
                one = await client.get_secret('secretfile', 'key')
                return [dict(one.secret), dict((await client.get_bulk_secret('secretfile')).secrets)['key']]

        equal(asyncio.run(read()), [{'key': 'value'}, {'key': 'value'}])

    @check('secret: one that does not exist is named in the error')
    def _():
        contains(fails(lambda: client.get_secret('secretfile', 'no-such-secret')).details(), 'no-such-secret')

    @check('secret: a store that does not exist is named in the error')
    def _():
        error = fails(lambda: client.get_secret('nosecrets', 'key'))
        equal(error.code(), StatusCode.INVALID_ARGUMENT, 'code')
        contains(error.details(), 'nosecrets')
