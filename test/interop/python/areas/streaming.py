"""Subscriptions that pull events from the sidecar."""

import asyncio
import os

from dapr.aio.clients import DaprClient as AsyncClient
from dapr.clients.grpc._response import TopicEventResponse
from report import CHECK_WITHIN, Inbox, check, contains, equal, fails

PUBSUB = 'pubsub'
grave = Inbox()


def listen(app) -> None:
    app.topic('streamed-grave', grave.put)


def checks(client, _) -> None:
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
        equal(grave.take().data, 'bad', 'dead letter')
        close()

    @check('streaming: a component that does not exist is named in the error')
    def _():
        contains(str(fails(lambda: client.subscribe('nopubsub', 'topic'))), 'nopubsub')

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

    @check('streaming: a handler of the asynchronous client answers for each event')
    def _():
        async def stream():
            got = asyncio.Queue()

            async def handle(event):
                await got.put(event.data())
                return TopicEventResponse('success')

            async with AsyncClient() as client:
                close = await client.subscribe_with_handler(PUBSUB, 'handled-async', handle)
                await client.publish_event(PUBSUB, 'handled-async', 'one', data_content_type='text/plain')
                equal(await asyncio.wait_for(got.get(), CHECK_WITHIN), 'one')
                await close()

        asyncio.run(stream())
