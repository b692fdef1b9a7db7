"""State."""

import asyncio
import json

from dapr.aio.clients import DaprClient as AsyncClient
from dapr.clients.grpc._request import TransactionalStateOperation, TransactionOperationType
from dapr.clients.grpc._state import Concurrency, Consistency, StateItem, StateOptions
from grpc import StatusCode
from report import check, contains, equal, eventually, fails

STORE = 'statestore'
FIRST_WRITE = StateOptions(Consistency.strong, Concurrency.first_write)


def checks(client, _) -> None:
    def save(key, value, **more):
        client.save_state(STORE, key, value, **more)

    def get(key):
        return client.get_state(STORE, key)

    def delete(key, **more):
        client.delete_state(STORE, key, **more)

    @check('state: bytes and texts come back as they were')
    def _():
        for name, want in {
            'text': 'naïve — 漢字 🛶'.encode(),
            'json': json.dumps({'a': [1, 2.5, None]}).encode(),
            'binary': bytes(range(256)),
            'large': b'xyz\0' * (1 << 18),
        }.items():
            save(f'value-{name}', want)
            equal(get(f'value-{name}').data == want, True, name)

    @check('state: a key that does not exist is empty')
    def _():
        got = get('no-such-key')
        equal([got.data, got.etag], [b'', ''])

    @check('state: many are saved and got at once')
    def _():
        client.save_bulk_state(STORE, [StateItem('bulk-1', 'one'), StateItem('bulk-2', b'two')])
        items = client.get_bulk_state(STORE, ['bulk-1', 'bulk-2', 'bulk-3'], parallelism=10).items
        got = sorted((i.key, i.data, i.etag != '', i.error) for i in items)
        want = [('bulk-1', b'one', True, ''), ('bulk-2', b'two', True, ''), ('bulk-3', b'', False, '')]
        equal(got, want)

    @check('state: every save changes the etag, and an old one is refused')
    def _():
        save('race', 'one')
        old = get('race').etag
        save('race', 'two', etag=old, options=FIRST_WRITE)
        error = fails(lambda: save('race', 'three', etag=old, options=FIRST_WRITE))
        equal(error.code(), StatusCode.ABORTED, 'code')
        equal(get('race').data, b'two')

    @check('state: a delete with an old etag is refused, with the present one it deletes')
    def _():
        save('gone', 'one')
        old = get('gone').etag
        save('gone', 'two')
        equal(fails(lambda: delete('gone', etag=old, options=FIRST_WRITE)).code(), StatusCode.ABORTED, 'code')
        equal(get('gone').data, b'two')
        delete('gone', etag=get('gone').etag, options=FIRST_WRITE)
        equal(get('gone').data, b'')

    @check('state: a transaction makes all its changes or none')
    def _():
        save('tx-old', 'old')
        client.execute_state_transaction(
            STORE,
            [
                TransactionalStateOperation('tx-new', b'\0\xff'),
                TransactionalStateOperation('tx-old', operation_type=TransactionOperationType.delete),
            ],
        )
        equal([get('tx-new').data, get('tx-old').data], [b'\0\xff', b''])
        old = get('tx-new').etag
        save('tx-new', 'newer')
        operations = [TransactionalStateOperation('tx-other', 'x'), TransactionalStateOperation('tx-new', 'y', etag=old)]
        fails(lambda: client.execute_state_transaction(STORE, operations))
        equal([get('tx-new').data, get('tx-other').data], [b'newer', b''])

    @check('state: a value with a time to live goes away')
    def _():
        save('short', 'lived', state_metadata={'ttlInSeconds': '1'})
        equal(get('short').data, b'lived')
        eventually(lambda: get('short').data, b'')

    @check('state: a query filters, sorts and pages')
    def _():
        boats = [{'q': 'A', 'n': 2}, {'q': 'A', 'n': 3}, {'q': 'B', 'n': 4}, {'q': 'A', 'n': 1}]
        for i, boat in enumerate(boats):
            save(f'query-{i}', json.dumps(boat), state_metadata={'contentType': 'application/json'})
        query = {
            'filter': {'AND': [{'EQ': {'q': 'A'}}, {'IN': {'n': [1, 2, 3]}}]},
            'sort': [{'key': 'n', 'order': 'DESC'}],
            'page': {'limit': 2},
        }
        page = client.query_state(STORE, json.dumps(query))
        query['page']['token'] = page.token
        following = client.query_state(STORE, json.dumps(query))
        got = [(r.key, r.json(), r.etag == get(r.key).etag, r.error) for r in [*page.results, *following.results]]
        want = [(f'query-{i}', boats[i], True, '') for i in (1, 0, 3)]
        equal(got, want)
        equal(client.query_state(STORE, '{"filter":{"EQ":{"q":"nothing"}}}').results, [], 'no results')

    @check('state: a bad query is refused')
    def _():
        fails(lambda: client.query_state(STORE, '{"filter":{"LIKE":{"q":"A"}}}'))

    @check('state: an encrypted store keeps values of every kind, in transactions too')
    def _():
        values = {'json': b'{"a":[1,2.5,null]}', 'text': '漢字'.encode(), 'binary': bytes(range(256)), 'empty': b''}
        for name, value in values.items():
            client.save_state('encrypted', f'saved-{name}', value)
        client.execute_state_transaction('encrypted', [TransactionalStateOperation(f'tx-{name}', value) for name, value in values.items()])
        for name, value in values.items():
            for how in ('saved', 'tx'):
                equal(client.get_state('encrypted', f'{how}-{name}').data, value, f'{how}-{name}')
        fails(lambda: client.query_state('encrypted', '{"filter":{}}'))

    @check('state: a store that does not exist has an error with a reason')
    def _():
        error = fails(lambda: client.get_state('nostore', 'key'))
        equal([error.code(), error.error_code()], [StatusCode.INVALID_ARGUMENT, 'DAPR_STATE_NOT_FOUND'])
        contains(error.details(), 'state store nostore is not found')

    @check('state: the asynchronous client does the same')
    def _():
        async def round_trips():
            async with AsyncClient() as client:
                await asyncio.gather(*(client.save_state(STORE, f'async-{n}', str(n)) for n in range(20)))
                got = await asyncio.gather(*(client.get_state(STORE, f'async-{n}') for n in range(20)))
                equal([item.data for item in got], [str(n).encode() for n in range(20)])
                await client.save_bulk_state(STORE, [StateItem('async-bulk', 'one')])
                await client.execute_state_transaction(STORE, [TransactionalStateOperation('async-tx', 'two')])
                items = (await client.get_bulk_state(STORE, ['async-bulk', 'async-tx'])).items
                equal(sorted(item.data for item in items), [b'one', b'two'])
                equal((await client.query_state(STORE, '{"filter":{"EQ":{"q":"B"}}}')).results[0].key, 'query-2')
                await client.delete_state(STORE, 'async-tx')
                equal((await client.get_state(STORE, 'async-tx')).data, b'')

        asyncio.run(round_trips())
