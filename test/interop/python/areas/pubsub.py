"""Publishing, and events that the sidecar calls with."""

import asyncio
import collections
import json
import os

from cloudevents.sdk.event.v1 import Event as CloudEvent
from dapr.aio.clients import DaprClient as AsyncClient
from dapr.clients import BulkPublishEntry
from dapr.clients.grpc._response import TopicEventResponse
from dapr.common.pubsub.subscription import SubscriptionMessage
from grpc import StatusCode
from report import Inbox, check, contains, equal, eventually, fails

PUBSUB = 'pubsub'
inboxes = collections.defaultdict(Inbox)


def listen(app) -> None:
    def into(topic, inbox='', **options):
        app.topic(topic, inboxes[inbox or topic].put, **options)

    for topic in ('values', 'bulk', 'grave'):
        into(topic)
    into('raw', metadata={'rawPayload': 'true'})
    attempts = iter(range(1, 1000))

    def flaky(event) -> str:
        attempt = next(attempts)
        inboxes['flaky'].put((event.data, attempt))
        return 'retry' if attempt < 3 else 'success'

    def doomed(event) -> str:
        inboxes['doomed'].put(event.data)
        return 'drop'

    app.topic('flaky', flaky)
    app.topic('doomed', doomed, dead_letter_topic='grave')
    if app.http:
        return  # for which the SDK has no rules, nor many events at once
    into('routed', 'important', rule=('event.type == "important"', 1), name='important')
    into('routed', 'large', rule=('event.data.amount > 100', 2), name='large')
    into('routed', 'ordinary', rule=('true', 3), name='ordinary')

    @app.app.subscribe(PUBSUB, 'legacy')
    def legacy(event: CloudEvent) -> None:
        inboxes['legacy'].put(event)

    failing = {'bad'}  # the first time

    @app.app.subscribe(PUBSUB, 'declared-bulk')
    def many(event: SubscriptionMessage) -> TopicEventResponse:
        inboxes['declared-bulk'].put(event.data())
        if event.data() in failing:
            failing.clear()
            return TopicEventResponse('retry')
        return TopicEventResponse('success')


def checks(client, app) -> None:
    def round_trip(topic, data, content_type='application/json', **metadata):
        client.publish_event(PUBSUB, topic, data, publish_metadata=metadata, data_content_type=content_type)
        return inboxes[topic].take()

    @check('pubsub: JSON arrives in an envelope')
    def _():
        data = {'name': 'boat 🛶', 'nested': {'deep': [1, 2.5, None, True]}}
        event = round_trip('values', json.dumps(data))
        equal(event.data, data)
        equal(
            [event.spec_version, event.type, event.source, event.content_type, event.topic, event.pubsub],
            ['1.0', 'com.dapr.event.sent', os.environ['APP_ID'], 'application/json', 'values', PUBSUB],
            'envelope',
        )
        equal(event.id != '', True, 'it has an id')
        equal(event.token, os.environ.get('APP_API_TOKEN'), "the application's token")

    @check('pubsub: a text and bytes arrive')
    def _():
        equal(round_trip('values', 'just a text', 'text/plain').data, 'just a text')
        equal(round_trip('values', bytes(range(256)), 'application/octet-stream').raw, bytes(range(256)))

    @check('pubsub: metadata sets the envelope')
    def _():
        event = round_trip('values', '{}', **{'cloudevent.id': 'my-id', 'cloudevent.type': 'my.type'})
        equal([event.id, event.type], ['my-id', 'my.type'])

    @check('pubsub: a CloudEvent is passed on as it is, extensions and all')
    def _():
        event = {'specversion': '1.0', 'id': 'e-1', 'source': 'interop', 'type': 'a.type', 'mine': 'kept', 'data': {'n': 1}}
        got = round_trip('values', json.dumps(event), 'application/cloudevents+json')
        equal([got.id, got.source, got.type, got.data], ['e-1', 'interop', 'a.type', {'n': 1}])
        equal(got.extensions.get('mine'), 'kept', 'extension')

    @check('pubsub: a raw payload arrives')
    def _():
        event = round_trip('raw', 'as it is', '', rawPayload='true')
        equal([event.raw, event.content_type], [b'as it is', 'application/octet-stream'])

    if not app.http:
        only_over_grpc(client)

    @check('pubsub: what is to be retried comes again')
    def _():
        client.publish_event(PUBSUB, 'flaky', '5', data_content_type='application/json')
        equal([inboxes['flaky'].take() for _ in range(3)], [(5, 1), (5, 2), (5, 3)])

    @check('pubsub: what is dropped goes to the dead letter topic')
    def _():
        client.publish_event(PUBSUB, 'doomed', '6', data_content_type='application/json')
        equal(inboxes['doomed'].take(), 6)
        equal(inboxes['grave'].take().data, 6)
        equal(inboxes['doomed'].qsize(), 0, 'more deliveries')

    @check('pubsub: many are published at once')
    def _():
        own = BulkPublishEntry(event='[3]', entry_id='own', content_type='application/json')
        answer = client.publish_events(PUBSUB, 'bulk', ['"one"', b'{"n":2}', own], data_content_type='application/json')
        equal(answer.failed_entries, [])
        got = sorted(json.dumps(inboxes['bulk'].take().data) for _ in range(3))
        equal(got, ['"one"', '[3]', '{"n": 2}'])

    @check('pubsub: a declared subscription delivers to another application')
    def _():
        client.publish_event(PUBSUB, 'declared', '{"n": 7}', data_content_type='application/json')
        peer = os.environ['INTEROP_PEER']
        eventually(lambda: client.invoke_method(peer, 'received', http_verb='POST').json(), [{'n': 7}], 'what the peer has received')

    @check('pubsub: a component that does not exist has an error with a reason')
    def _():
        error = fails(lambda: client.publish_event('nopubsub', 'topic', 'x'))
        equal([error.code(), error.error_code()], [StatusCode.INVALID_ARGUMENT, 'DAPR_PUBSUB_NOT_FOUND'])
        contains(error.details(), 'pubsub nopubsub is not found')

    @check('pubsub: many for a component that does not exist fail')
    def _():
        fails(lambda: client.publish_events('nopubsub', 'topic', ['x']))

    @check('pubsub: the asynchronous client publishes one, and many at once')
    def _():
        async def publish():
            async with AsyncClient() as client:
                await client.publish_event(PUBSUB, 'values', '"one"', data_content_type='application/json')
                return (await client.publish_events(PUBSUB, 'bulk', ['two', 'three'])).failed_entries

        equal(asyncio.run(publish()), [])
        equal(inboxes['values'].take().data, 'one')
        equal(sorted(inboxes['bulk'].take().data for _ in range(2)), ['three', 'two'])

    @check('pubsub: an event that has a time to live arrives')
    def _():
        equal(round_trip('values', '"in time"', ttlInSeconds='60').data, 'in time')


def only_over_grpc(client) -> None:
    @check('pubsub: rules decide on the route, in the order of their priority')
    def _():
        for route, amount, metadata in (
            ('ordinary', 1, {}),
            ('large', 1000, {}),
            ('important', 1000, {'cloudevent.type': 'important'}),
        ):
            client.publish_event(PUBSUB, 'routed', json.dumps({'amount': amount}), metadata, data_content_type='application/json')
            equal(inboxes[route].take().data, {'amount': amount}, route)
        equal([inboxes[route].qsize() for route in ('ordinary', 'large', 'important')], [0, 0, 0], 'nothing else')

    @check('pubsub: a handler of the old kind gets a CloudEvent')
    def _():
        client.publish_event(PUBSUB, 'legacy', '{"n": 1}', data_content_type='application/json')
        event = inboxes['legacy'].take()
        equal([json.loads(event.Data()), event.EventType(), event.Subject()], [{'n': 1}, 'com.dapr.event.sent', 'legacy'])

    @check('pubsub: many events come at once, and only those that failed come again')
    def _():
        client.publish_events(PUBSUB, 'declared-bulk', ['good', 'bad', 'best'], data_content_type='text/plain')
        equal(sorted(inboxes['declared-bulk'].take() for _ in range(4)), ['bad', 'bad', 'best', 'good'])
