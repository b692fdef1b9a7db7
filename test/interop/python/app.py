"""An application on the Dapr SDK for Python.

    app.py main http|grpc    make all checks, then shut the sidecar down
    app.py peer http|grpc    be the other application that main talks to

The protocol is the one it is called over. It calls over gRPC, as the SDK does,
but for invocations, which it makes over HTTP too. All ports and tokens come from
the environment.
"""

import os
import sys
import threading
import warnings

import peer
import report
from areas import (
    binding,
    configuration,
    conversation,
    crypto,
    health,
    invoke,
    jobs,
    lock,
    metadata,
    outbox,
    proxy,
    pubsub,
    secret,
    state,
    streaming,
)
from callbacks import OverFastAPI, OverFlask, OverGRPC
from dapr.clients import DaprClient

AREAS = [
    health,
    state,
    outbox,
    pubsub,
    streaming,
    invoke,
    proxy,
    binding,
    secret,
    configuration,
    lock,
    crypto,
    conversation,
    jobs,
    metadata,
]


def main(role: str, protocol: str) -> None:
    warnings.simplefilter('ignore')  # of the alpha APIs, which are to be checked
    report.end_with_parent()
    print('waiting for the sidecar')
    port = int(os.environ['APP_PORT'])
    if role == 'peer':
        app = OverFlask() if protocol == 'http' else OverGRPC()
        peer.listen(app)
        threading.Thread(target=peer.stream, daemon=True).start()
        app.run(port)
        return
    app = OverFastAPI() if protocol == 'http' else OverGRPC()
    for area in AREAS:
        if hasattr(area, 'listen'):
            area.listen(app)
    threading.Thread(target=app.run, args=(port,), daemon=True).start()
    with DaprClient() as client:
        for area in AREAS:
            area.checks(client, app)
        report.done()
        client.shutdown()
        threading.Event().wait()  # until the sidecar stops this program


main(sys.argv[1], sys.argv[2])
