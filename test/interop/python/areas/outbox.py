"""The outbox: what a transaction writes is published."""

import json

from dapr.clients.grpc._request import TransactionalStateOperation, TransactionOperationType
from report import Inbox, check, equal, fails

STORE = 'outbox'  # and the topic too
inbox = Inbox()


def listen(app) -> None:
    app.topic('outbox', inbox.put)


def checks(client, _) -> None:
    def transact(*operations):
        client.execute_state_transaction(STORE, operations)

    def order(key, value, **more):
        return TransactionalStateOperation(key, json.dumps(value), metadata={'datacontenttype': 'application/json', **more})

    @check('outbox: what a transaction writes is published, and what it deletes is not')
    def _():
        client.save_state(STORE, 'old', 'x')
        transact(order('order-1', {'n': 1}), TransactionalStateOperation('old', operation_type=TransactionOperationType.delete))
        event = inbox.take()
        equal([event.data, event.topic, event.content_type], [{'n': 1}, 'outbox', 'application/json'])
        equal([client.get_state(STORE, 'order-1').json(), client.get_state(STORE, 'old').data], [{'n': 1}, b''], 'stored')

    @check('outbox: a projection is published in place of what is stored')
    def _():
        transact(order('order-2', {'n': 2, 'private': True}), order('order-2', {'n': 2}, **{'outbox.projection': 'true'}))
        equal(inbox.take().data, {'n': 2}, 'published')
        equal(client.get_state(STORE, 'order-2').json(), {'n': 2, 'private': True}, 'stored')

    @check('outbox: a transaction that fails publishes nothing')
    def _():
        client.save_state(STORE, 'order-3', '{}')
        old = client.get_state(STORE, 'order-3').etag
        client.save_state(STORE, 'order-3', '{}')
        fails(lambda: transact(order('order-4', {'n': 4}), TransactionalStateOperation('order-3', 'x', etag=old)))
        transact(order('order-5', {'n': 5}))
        equal(inbox.take().data, {'n': 5}, 'next event')
        equal(inbox.qsize(), 0, 'more events')
