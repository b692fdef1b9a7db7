"""Bindings."""

import asyncio
import json

from dapr.aio.clients import DaprClient as AsyncClient
from report import Inbox, check, contains, equal, fails

ticks = Inbox()


def listen(app) -> None:
    app.binding('ticks', ticks.put)


def checks(client, _) -> None:
    @check('binding: a schedule calls the application')
    def _():
        ticks.take()
        ticks.take()

    @check('binding: a file is created, read, listed and deleted')
    def _():
        name = {'fileName': 'notes.txt'}
        client.invoke_binding('files', 'create', 'some notes', name)
        equal(client.invoke_binding('files', 'get', '', name).data, b'some notes', 'content')
        contains(client.invoke_binding('files', 'list', '').text(), 'notes.txt')
        client.invoke_binding('files', 'delete', '', name)
        fails(lambda: client.invoke_binding('files', 'get', '', name))

    @check('binding: an HTTP endpoint is called and answers')
    def _():
        answer = client.invoke_binding('web', 'post', 'to the web', {'path': '/echo'})
        got = json.loads(answer.text())
        equal([got['method'], got['body'], answer.binding_metadata['statusCode']], ['POST', 'to the web', '200'])

    @check('binding: the asynchronous client does the same')
    def _():
        async def call():
            async with AsyncClient() as client:
                return json.loads((await client.invoke_binding('web', 'post', 'to the web', {'path': '/echo'})).text())['body']

        equal(asyncio.run(call()), 'to the web')

    @check('binding: one that does not exist is named in the error')
    def _():
        contains(fails(lambda: client.invoke_binding('nobinding', 'create', 'x')).details(), 'nobinding')
