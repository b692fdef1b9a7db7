"""Configuration."""

import asyncio
import os
import urllib.request

from dapr.aio.clients import DaprClient as AsyncClient
from report import Inbox, check, equal

STORE = 'configstore'


def control(method: str, key: str, value: str) -> None:
    """Changes the configuration, as an operator would do it."""
    url = f'{os.environ["INTEROP_CONTROL"]}/configuration/{key}'
    with urllib.request.urlopen(urllib.request.Request(url, value.encode(), method=method)) as answer:
        equal(answer.status, 204, 'status of the control')


def values(answer) -> dict:
    return {key: item.value for key, item in answer.items.items()}


def checks(client, _) -> None:
    @check('configuration: items are read')
    def _():
        control('PUT', 'colour', 'red')
        control('PUT', 'size', '10')
        got = client.get_configuration(STORE, ['colour', 'nothing'])
        equal(values(got), {'colour': 'red'})
        equal(got.items['colour'].version != '', True, 'it has a version')
        equal(values(client.get_configuration(STORE, [])), {'colour': 'red', 'size': '10'}, 'all')

    @check('configuration: the asynchronous client reads it too')
    def _():
        async def read():
            async with AsyncClient() as client:
                return values(await client.get_configuration(STORE, ['size']))

        equal(asyncio.run(read()), {'size': '10'})

    if os.environ.get('DAPR_API_TOKEN'):
        return  # which the SDK does not send with the request for changes

    @check('configuration: changes are sent until the subscription ends')
    def _():
        changes = Inbox()
        identity = client.subscribe_configuration(STORE, ['colour'], lambda id, answer: changes.put((id, values(answer))))
        for n in range(3):
            control('PUT', 'size', str(n))  # which is not asked for
            control('PUT', 'colour', f'colour-{n}')
            equal(changes.take(), (identity, {'colour': f'colour-{n}'}), 'change')
        equal(client.unsubscribe_configuration(STORE, identity), True, 'ended')
        control('PUT', 'colour', 'blue')
        equal(values(client.get_configuration(STORE, ['colour'])), {'colour': 'blue'})
        equal(changes.qsize(), 0, 'changes after the end')
