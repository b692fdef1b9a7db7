"""Publishing and subscribing: called by the sidecar, and pulling from it."""

import asyncio
import collections
import json
import os

from dapr.aio.clients import DaprClient as AsyncClient
from dapr.clients import BulkPublishEntry
from dapr.clients.grpc._response import TopicEventResponse
from dapr.common.pubsub.subscription import SubscriptionMessage
from dapr.ext.grpc import Rule
from grpc import StatusCode
from report import CHECK_WITHIN, Inbox, check, contains, equal, eventually, fails

PUBSUB = 'pubsub'
inboxes = collections.defaultdict(Inbox)


def listen(app) -> None:
    def into(topic, inbox='', **options):
        def handle(event: SubscriptionMessage) -> None:
            inboxes[inbox or topic].put(event)

        handle.__name__ = inbox or topic  # which the SDK takes for the route of a rule
        app.subscribe(PUBSUB, topic, **options)(handle)

    for topic in ('values', 'bulk', 'grave', 'streamed-grave'):
        into(topic)
    into('raw', metadata={'rawPayload': 'true'})
    into('routed', 'important', rule=Rule('event.type == "important"', 1))
    into('routed', 'large', rule=Rule('event.data.amount > 100', 2))
    into('routed', 'ordinary', rule=Rule('true', 3))

    attempts = iter(range(1, 1000))

    @app.subscribe(PUBSUB, 'flaky')
    def flaky(event: SubscriptionMessage) -> TopicEventResponse:
        attempt = next(attempts)
        inboxes['flaky'].put((event.data(), attempt))
        return TopicEventResponse('retry' if attempt < 3 else 'success')

    @app.subscribe(PUBSUB, 'doomed', dead_letter_topic='grave')
    def doomed(event: SubscriptionMessage) -> TopicEventResponse:
        inboxes['doomed'].put(event.data())
        return TopicEventResponse('drop')


def checks(client) -> None:
    def round_trip(topic, data, content_type='application/json', **metadata):
        client.publish_event(PUBSUB, topic, data, publish_metadata=metadata, data_content_type=content_type)
        return inboxes[topic].take()

    @check('pubsub: JSON arrives in an envelope')
    def _():
        data = {'name': 'boat 🛶', 'nested': {'deep': [1, 2.5, None, True]}}
        event = round_trip('values', json.dumps(data))
        equal(event.data(), data)
        equal(
            [event.spec_version(), event.type(), event.source(), event.data_content_type(), event.topic(), event.pubsub_name()],
            ['1.0', 'com.dapr.event.sent', os.environ['APP_ID'], 'application/json', 'values', PUBSUB],
            'envelope',
        )
        equal(event.id() != '', True, 'it has an id')
        equal(event.metadata().get('dapr-api-token'), os.environ.get('APP_API_TOKEN'), "the application's token")

    @check('pubsub: a text and bytes arrive')
    def _():
        equal(round_trip('values', 'just a text', 'text/plain').data(), 'just a text')
        equal(round_trip('values', bytes(range(256)), 'application/octet-stream').raw_data(), bytes(range(256)))

    @check('pubsub: metadata sets the envelope')
    def _():
        event = round_trip('values', '{}', **{'cloudevent.id': 'my-id', 'cloudevent.type': 'my.type'})
        equal([event.id(), event.type()], ['my-id', 'my.type'])

    @check('pubsub: a CloudEvent is passed on as it is, extensions and all')
    def _():
        event = {'specversion': '1.0', 'id': 'e-1', 'source': 'interop', 'type': 'a.type', 'mine': 'kept', 'data': {'n': 1}}
        got = round_trip('values', json.dumps(event), 'application/cloudevents+json')
        equal([got.id(), got.source(), got.type(), got.data()], ['e-1', 'interop', 'a.type', {'n': 1}])
        equal(got.extensions().get('mine'), 'kept', 'extension')

    @check('pubsub: a raw payload arrives')
    def _():
        event = round_trip('raw', 'as it is', '', rawPayload='true')
        equal([event.raw_data(), event.data_content_type()], [b'as it is', 'application/octet-stream'])

    @check('pubsub: rules decide on the route, in the order of their priority')
    def _():
        for route, amount, metadata in (
            ('ordinary', 1, {}),
            ('large', 1000, {}),
            ('important', 1000, {'cloudevent.type': 'important'}),
        ):
            client.publish_event(PUBSUB, 'routed', json.dumps({'amount': amount}), metadata, data_content_type='application/json')
            equal(inboxes[route].take().data(), {'amount': amount}, route)
        equal([inboxes[route].qsize() for route in ('ordinary', 'large', 'important')], [0, 0, 0], 'nothing else')

    @check('pubsub: what is to be retried comes again')
    def _():
        client.publish_event(PUBSUB, 'flaky', '5', data_content_type='application/json')
        equal([inboxes['flaky'].take() for _ in range(3)], [(5, 1), (5, 2), (5, 3)])

    @check('pubsub: what is dropped goes to the dead letter topic')
    def _():
        client.publish_event(PUBSUB, 'doomed', '6', data_content_type='application/json')
        equal(inboxes['doomed'].take(), 6)
        equal(inboxes['grave'].take().data(), 6)
        equal(inboxes['doomed'].qsize(), 0, 'more deliveries')

    @check('pubsub: many are published at once')
    def _():
        own = BulkPublishEntry(event='[3]', entry_id='own', content_type='application/json')
        answer = client.publish_events(PUBSUB, 'bulk', ['"one"', b'{"n":2}', own], data_content_type='application/json')
        equal(answer.failed_entries, [])
        got = sorted(json.dumps(inboxes['bulk'].take().data()) for _ in range(3))
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

    @check('streaming: events are received and acknowledged one by one')
    def _():
        subscription = client.subscribe(PUBSUB, 'streamed')
        client.publish_event(PUBSUB, 'streamed', '{"n": 1}', data_content_type='application/json')
        event = subscription.next_message()
        equal([event.data(), event.topic(), event.pubsub_name()], [{'n': 1}, 'streamed', PUBSUB])
        subscription.respond_retry(event)
        again = subscription.next_message()
        equal([again.id(), again.data()], [event.id(), {'n': 1}], 'event when it comes again')
        subscription.respond_success(again)
        client.publish_event(PUBSUB, 'streamed', '{"n": 2}', data_content_type='application/json')
        following = subscription.next_message()
        equal(following.data(), {'n': 2}, 'next event')
        subscription.respond_success(following)
        subscription.close()

    @check('streaming: a handler answers for each event')
    def _():
        got = Inbox()

        def handle(event):
            got.put(event.data())
            return TopicEventResponse('drop' if event.data() == 'bad' else 'success')

        close = client.subscribe_with_handler(PUBSUB, 'handled', handle, dead_letter_topic='streamed-grave')
        for text in ('good', 'bad'):
            client.publish_event(PUBSUB, 'handled', text, data_content_type='text/plain')
            equal(got.take(), text)
        equal(inboxes['streamed-grave'].take().data(), 'bad', 'dead letter')
        close()

    if os.environ.get('DAPR_API_TOKEN'):
        return  # which the asynchronous client of the SDK does not send with streams

    @check('streaming: the asynchronous client does the same')
    def _():
        async def stream():
            async with AsyncClient() as client:
                subscription = await client.subscribe(PUBSUB, 'streamed-async')
                await client.publish_event(PUBSUB, 'streamed-async', '{"n": 3}', data_content_type='application/json')
                event = await asyncio.wait_for(subscription.next_message(), CHECK_WITHIN)
                equal(event.data(), {'n': 3})
                await subscription.respond_success(event)
                await subscription.close()

        asyncio.run(stream())
