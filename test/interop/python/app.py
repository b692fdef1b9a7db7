"""An application on the Dapr SDK for Python.

    app.py main    make all checks, then shut the sidecar down
    app.py peer    be the other application that main talks to

It is called over gRPC and calls over gRPC, but for invocations, which it makes
over HTTP too. All ports and tokens come from the environment.
"""

import os
import sys
import threading
import warnings

import peer
import report
from areas import binding, configuration, health, invoke, lock, metadata, pubsub, secret, state
from dapr.clients import DaprClient
from dapr.ext.grpc import App

AREAS = [health, state, pubsub, invoke, binding, secret, configuration, lock, metadata]


def main() -> None:
    warnings.simplefilter('ignore')  # of the alpha APIs, which are to be checked
    report.end_with_parent()
    print('waiting for the sidecar')
    app = App()
    port = int(os.environ['APP_PORT'])
    if sys.argv[1] == 'peer':
        peer.listen(app)
        threading.Thread(target=peer.stream, daemon=True).start()
        app.run(port, '127.0.0.1')
        return
    for area in AREAS:
        if hasattr(area, 'listen'):
            area.listen(app)
    threading.Thread(target=app.run, args=(port, '127.0.0.1'), daemon=True).start()
    with DaprClient() as client:
        for area in AREAS:
            area.checks(client)
        report.done()
        client.shutdown()
        threading.Event().wait()  # until the sidecar stops this program


main()
