"""Waiting for the sidecar, and being asked by it."""

import os
import urllib.error
import urllib.request

from dapr.clients import DaprClient
from dapr.conf import settings
from grpc import StatusCode
from report import Inbox, check, equal, eventually, fails

asked = Inbox()


def listen(app) -> None:
    app.health(lambda: asked.put(True))


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as e:
        return e.code


def checks(client, _) -> None:
    @check('the client finds the port of the sidecar')
    def _():
        client.wait(10)

    @check("the sidecar becomes ready when the application's subscriptions are there")
    def _():
        url = f'http://127.0.0.1:{os.environ["DAPR_HTTP_PORT"]}/v1.0/healthz'
        eventually(lambda: status(url), 204, 'status of healthz')

    @check('the sidecar asks whether the application is well')
    def _():
        asked.take()

    if os.environ.get('DAPR_API_TOKEN'):

        @check('a call with a wrong token is refused')
        def _():
            right, settings.DAPR_API_TOKEN = settings.DAPR_API_TOKEN, 'wrong'
            try:
                with DaprClient() as stranger:
                    equal(fails(stranger.get_metadata).code(), StatusCode.UNAUTHENTICATED, 'code')
            finally:
                settings.DAPR_API_TOKEN = right
