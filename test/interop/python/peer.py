"""The other application: it echoes what it is asked, calls a third one, fails,
keeps the events of a subscription that is declared in a file, and of one that it
pulls from, and over gRPC has a service of its own."""

import json
import os
import threading

import fleet
from callbacks import Call, Event
from dapr.clients import DaprClient
from dapr.clients.grpc._response import TopicEventResponse
from dapr.common.pubsub.subscription import SubscriptionMessage

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
    def declared(event: Event) -> None:
        received.append(event.data)

    def echo(call: Call):
        return {
            'by': ME,
            'method': call.method,
            'body': parse(call.body.decode()),
            'contentType': call.content_type,
            'query': call.query,
            'caller': call.metadata.get('dapr-caller-app-id', ''),
            'greeting': call.metadata.get('x-greeting', ''),
        }

    def fail(_: Call):
        raise RuntimeError('deliberately')

    def call(request: Call):
        target = json.loads(request.body)['target']
        with DaprClient() as client:
            answer = client.invoke_method(target, 'echo', json.dumps({'from': ME}), 'application/json', http_verb='POST')
        return {'by': ME, 'answer': answer.json()}

    app.topic('declared', declared)
    app.method('received', lambda _: received)
    app.method('streamed', lambda _: streamed)
    app.method('echo', echo)
    app.method('fail', fail)
    app.method('call', call)
    if not app.http:
        app.app.add_external_service(fleet.services.add_FleetServicer_to_server, fleet.Fleet())


def parse(body: str):
    try:
        return json.loads(body)
    except ValueError:
        return body
