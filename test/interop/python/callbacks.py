"""What the sidecar calls, in the same words over gRPC and over HTTP.

An application over gRPC is the App of the SDK. One over HTTP is an application
of FastAPI or of Flask, each with the extension of the SDK, which is for topics:
all else are routes.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import flask
import uvicorn
import werkzeug.serving
from dapr.clients.grpc._response import TopicEventResponse
from dapr.common.pubsub.subscription import SubscriptionMessage
from dapr.ext.fastapi import DaprApp as FastAPIApp
from dapr.ext.flask import DaprApp as FlaskApp
from dapr.ext.grpc import App, BindingRequest, InvokeMethodRequest, InvokeMethodResponse, JobEvent, Rule
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool


@dataclass
class Event:
    """An event, however it came."""

    id: str
    source: str
    type: str
    spec_version: str
    content_type: str
    topic: str
    pubsub: str
    data: object
    raw: bytes
    extensions: dict = field(default_factory=dict)
    token: str | None = None


@dataclass
class Call:
    """An invocation, however it came."""

    method: str
    body: bytes
    content_type: str
    query: str
    metadata: dict


class OverGRPC:
    """An application that is called over gRPC."""

    http = False

    def __init__(self) -> None:
        self.app = App()

    def topic(self, topic: str, handle: Callable, rule: tuple[str, int] | None = None, name: str = '', **options) -> None:
        def receive(event: SubscriptionMessage):
            status = handle(from_message(event))
            return TopicEventResponse(status) if status else None

        receive.__name__ = name or topic  # which the SDK takes for the route of a rule
        self.app.subscribe('pubsub', topic, rule=Rule(*rule) if rule else None, **options)(receive)

    def method(self, name: str, handle: Callable) -> None:
        def invoke(request: InvokeMethodRequest):
            call = Call('', request.data, request.content_type, '', dict(request.get_metadata()))
            return InvokeMethodResponse(json.dumps(handle(call)), 'application/json')

        self.app.method(name)(invoke)

    def binding(self, name: str, handle: Callable) -> None:
        def receive(request: BindingRequest) -> None:
            handle(request.data)

        self.app.binding(name)(receive)

    def job(self, name: str, handle: Callable) -> None:
        def trigger(event: JobEvent) -> None:
            handle(event.data)

        self.app.job_event(name)(trigger)

    def health(self, handle: Callable) -> None:
        self.app.register_health_check(handle)

    def run(self, port: int) -> None:
        self.app.run(port, '127.0.0.1')


class OverFastAPI:
    """An application of FastAPI."""

    http = True

    def __init__(self) -> None:
        self.app = FastAPI()
        self.dapr = FastAPIApp(self.app)

    def topic(self, topic: str, handle: Callable, **options) -> None:
        async def receive(request: Request):
            status = await run_in_threadpool(handle, from_json(await request.json(), request.headers))
            return {'status': status.upper()} if status else Response()

        self.dapr.subscribe('pubsub', topic, **options)(receive)

    def route(self, path: str, handle: Callable, methods: list[str]) -> None:
        async def answer(request: Request):
            body = await request.body()
            call = Call(request.method, body, request.headers.get('content-type', ''), request.url.query, dict(request.headers))
            try:
                return await run_in_threadpool(handle, call)
            except RuntimeError as e:
                return Response(str(e), 500)

        self.app.add_api_route(path, answer, methods=methods)

    def method(self, name: str, handle: Callable) -> None:
        self.route(f'/{name}', handle, ['GET', 'POST', 'PUT', 'DELETE'])

    def binding(self, name: str, handle: Callable) -> None:
        self.route(f'/{name}', lambda call: handle(call.body), ['POST'])

    def job(self, name: str, handle: Callable) -> None:
        self.route(f'/job/{name}', lambda call: handle(call.body), ['POST'])

    def health(self, handle: Callable) -> None:
        self.route('/healthz', lambda _: handle(), ['GET'])

    def run(self, port: int) -> None:
        uvicorn.run(self.app, host='127.0.0.1', port=port, log_level='warning')


class OverFlask:
    """An application of Flask."""

    http = True

    def __init__(self) -> None:
        self.app = flask.Flask('peer')
        self.dapr = FlaskApp(self.app)

    def topic(self, topic: str, handle: Callable, **options) -> None:
        def receive():
            status = handle(from_json(flask.request.get_json(force=True), flask.request.headers))
            return {'status': status.upper()} if status else ''

        self.dapr.subscribe('pubsub', topic, route=f'/{topic}', **options)(receive)

    def method(self, name: str, handle: Callable) -> None:
        def answer():
            request = flask.request
            query, header = request.query_string.decode(), {k.lower(): v for k, v in request.headers}
            try:
                return flask.jsonify(handle(Call(request.method, request.get_data(), request.content_type, query, header)))
            except RuntimeError as e:
                return str(e), 500

        self.app.add_url_rule(f'/{name}', name, answer, methods=['GET', 'POST', 'PUT', 'DELETE'])

    def run(self, port: int) -> None:
        werkzeug.serving.make_server('127.0.0.1', port, self.app, threaded=True).serve_forever()


def from_message(event: SubscriptionMessage) -> Event:
    return Event(
        event.id(),
        event.source(),
        event.type(),
        event.spec_version(),
        event.data_content_type(),
        event.topic(),
        event.pubsub_name(),
        event.data(),
        event.raw_data(),
        event.extensions(),
        event.metadata().get('dapr-api-token'),
    )


def from_json(envelope: dict, header) -> Event:
    data = envelope.get('data')
    raw = base64.b64decode(envelope['data_base64']) if 'data_base64' in envelope else str(data).encode()
    return Event(
        envelope['id'],
        envelope['source'],
        envelope['type'],
        envelope['specversion'],
        envelope.get('datacontenttype', ''),
        envelope['topic'],
        envelope['pubsubname'],
        data,
        raw,
        envelope,
        header.get('dapr-api-token'),
    )
