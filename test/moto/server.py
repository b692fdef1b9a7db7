"""Serves moto on a port of this machine, and forgets all when it ends.

DynamoDB carries out a request as if it were alone. moto's, asked by several at
once, mixes them up: here they wait for each other.
"""

import logging
import os
import sys
import threading

from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

port = int(sys.argv[1])
os.environ["MOTO_PORT"] = str(port)
logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line for each request
app = DomainDispatcherApplication(create_backend_app)
alone = threading.Lock()


def serve(environ, start_response):
    if environ.get("HTTP_X_AMZ_TARGET", "").startswith("DynamoDB"):
        with alone:
            return app(environ, start_response)
    return app(environ, start_response)


run_simple("127.0.0.1", port, serve, threaded=True, request_handler=MotoRequestHandler)
