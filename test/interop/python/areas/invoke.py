"""Invocation of another application, over HTTP and over gRPC."""

import asyncio
import json
import os
from urllib.parse import parse_qsl

from dapr.clients import DaprClient
from dapr.conf import settings
from grpc import StatusCode
from report import check, contains, equal, fails

PEER = os.environ.get('INTEROP_PEER')


def checks(client, app) -> None:
    over('HTTP', client, app)
    settings.DAPR_API_METHOD_INVOCATION_PROTOCOL = 'GRPC'
    with DaprClient() as grpc_client:
        over('gRPC', grpc_client, app)

    @check('invoke over HTTP: the asynchronous client does the same')
    def _():
        answer = asyncio.run(client.invoke_method_async(PEER, 'echo', '{"n":1}', 'application/json', http_verb='POST'))
        equal([answer.json()['by'], answer.json()['body']], [PEER, {'n': 1}])

    @check('invoke over HTTP: headers are passed on, and who calls')
    def _():
        got = client.invoke_method(PEER, 'echo', b'{}', metadata=(('X-Greeting', 'hello'),), http_verb='POST').json()
        equal([got['greeting'], got['caller']], ['hello', os.environ['APP_ID']])

    @check('invoke over HTTP: the failure of the other application is passed on')
    def _():
        error = fails(lambda: client.invoke_method(PEER, 'fail', b'', http_verb='POST'))
        equal(error.status_code, 500, 'status')
        contains(error.raw_response_bytes.decode(), 'deliberately')


def over(protocol: str, client, app) -> None:
    @check(f'invoke over {protocol}: a body reaches the other application')
    def _():
        body = {'n': 1, 'text': '漢字 🛶'}
        answer = client.invoke_method(PEER, 'echo', json.dumps(body), 'application/json', http_verb='POST')
        got = answer.json()
        equal([got['by'], got['body'], got['contentType']], [PEER, body, 'application/json'])
        equal(answer.content_type, 'application/json', 'content type of the answer')

    @check(f'invoke over {protocol}: bytes are passed on as they are')
    def _():
        got = client.invoke_method(PEER, 'echo', b'just bytes', 'text/plain', http_verb='PUT').json()
        equal([got['body'], got['contentType']], ['just bytes', 'text/plain'])

    if app.http:

        @check(f'invoke over {protocol}: verbs and the query reach the other application')
        def _():
            for verb in ('POST', 'PUT', 'DELETE'):
                got = client.invoke_method(PEER, 'echo', b'', http_verb=verb, http_querystring=(('x', '1'), ('y', 'a b'))).json()
                equal([got['method'], dict(parse_qsl(got['query']))], [verb, {'x': '1', 'y': 'a b'}])

    @check(f'invoke over {protocol}: two megabytes go there and back')
    def _():
        text = 'y' * (2 << 20)
        got = client.invoke_method(PEER, 'echo', text, 'text/plain', http_verb='POST').json()
        equal(got['body'] == text, True, 'same text')

    @check(f'invoke over {protocol}: an application that does not exist is an error')
    def _():
        error = fails(lambda: client.invoke_method('nobody', 'echo', b'{}', http_verb='POST'))
        if protocol == 'gRPC':
            equal(error.code(), StatusCode.INTERNAL, 'code')
            contains(error.details(), 'nobody')
        else:
            equal([error.status_code, error.error_code], [500, 'ERR_DIRECT_INVOKE'])
            contains(str(error), 'nobody')

    if protocol == 'gRPC':

        @check('invoke over gRPC: the failure of the other application is passed on')
        def _():
            error = fails(lambda: client.invoke_method(PEER, 'fail', b'', http_verb='POST'))
            equal(error.code(), StatusCode.UNKNOWN, 'code')
            contains(error.details(), 'Internal Server Error' if app.http else 'deliberately')
