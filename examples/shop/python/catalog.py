"""catalog, in Python: knows what things cost. Standard library only."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PRICES = {"tea": 4, "teapot": 60, "mirror": 13}


class Catalog(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        item = self.path.rsplit("/", 1)[-1]
        if self.path == f"/price/{item}" and item in PRICES:
            self.answer(200, {"price": PRICES[item]})
        else:
            self.answer(404, {"error": f"there is no {item}"})

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


print("catalog in Python", flush=True)
ThreadingHTTPServer(("127.0.0.1", int(os.environ["APP_PORT"])), Catalog).serve_forever()
