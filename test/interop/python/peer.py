"""The other application: it echoes what it is asked, calls a third one, fails,
and keeps the events of a subscription that is declared in a file, and of one
that it pulls from."""

import json
import os
import threading

from dapr.clients import DaprClient
from dapr.clients.grpc._response import TopicEventResponse
from dapr.common.pubsub.subscription import SubscriptionMessage
from dapr.ext.grpc import InvokeMethodRequest, InvokeMethodResponse

ME = os.environ['APP_ID']


received = []
streamed = []


def stream() -> None:
    """Keeps the events of a topic, for as long as the program runs."""

    def handle(event: SubscriptionMessage) -> TopicEventResponse:
        streamed.append(event.data())
        return TopicEventResponse('success')

    with DaprClient() as client:
        client.subscribe_with_handler('pubsub', 'streamed', handle)
        threading.Event().wait()


def listen(app) -> None:

    @app.subscribe('pubsub', 'declared')
    def declared(event: SubscriptionMessage) -> None:
        received.append(event.data())

    @app.method('received')
    def get_received(_: InvokeMethodRequest):
        return as_json(received)

    @app.method('streamed')
    def get_streamed(_: InvokeMethodRequest):
        return as_json(streamed)

    @app.method('echo')
    def echo(request: InvokeMethodRequest):
        metadata = dict(request.get_metadata())
        return as_json(
            {
                'by': ME,
                'body': parse(request.text()),
                'contentType': request.content_type,
                'caller': metadata.get('dapr-caller-app-id', ''),
                'greeting': metadata.get('x-greeting', ''),
            }
        )

    @app.method('fail')
    def fail(_: InvokeMethodRequest):
        raise RuntimeError('deliberately')

    @app.method('call')
    def call(request: InvokeMethodRequest):
        target = json.loads(request.text())['target']
        with DaprClient() as client:
            answer = client.invoke_method(target, 'echo', json.dumps({'from': ME}), 'application/json', http_verb='POST')
        return as_json({'by': ME, 'answer': answer.json()})


def as_json(value) -> InvokeMethodResponse:
    return InvokeMethodResponse(json.dumps(value), 'application/json')


def parse(body: str):
    try:
        return json.loads(body)
    except ValueError:
        return body
