"""An application that uses the components. It knows their names and nothing else:
neither that they are plugged in, nor what they are written in."""

import json
import os
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SIDECAR = f"http://127.0.0.1:{os.environ['DAPR_HTTP_PORT']}/v1.0"

heard = threading.Event()


class Inbox(BaseHTTPRequestHandler):
    """Takes the events of the binding called inbox."""

    failed = False

    def do_OPTIONS(self):  # does the application take them?
        self.answer(200 if self.path == "/inbox" else 404)

    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if not Inbox.failed:
            Inbox.failed = True
            print(f"app: not now: {text}", flush=True)
            self.answer(500)
            return
        print(f"app: heard: {text}", flush=True)
        self.answer(200)
        heard.set()

    def do_GET(self):
        self.answer(404)

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def call(method, path, body=None, headers=None):
    """Returns the status, the headers and the text of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(SIDECAR + path, data, {"Content-Type": "application/json", **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as r:
            return r.status, r.headers, r.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.headers, e.read().decode()


def expect(what, got, want):
    if got != want:
        raise SystemExit(f"app: {what}: {got}, want {want}")
    print(f"app: {what}: {got}", flush=True)


def main():
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["APP_PORT"])), Inbox)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    _, _, visits = call("GET", "/state/notebook/visits")
    expect("counted", call("POST", "/state/notebook", [{"key": "visits", "value": int(visits or 0) + 1}])[0], 204)
    _, headers, visits = call("GET", "/state/notebook/visits")
    print(f"app: visit {visits}", flush=True)

    stale = headers["ETag"]
    expect("with the right etag", call("DELETE", "/state/notebook/visits", headers={"If-Match": stale})[0], 204)
    expect("back again", call("POST", "/state/notebook", [{"key": "visits", "value": int(visits)}])[0], 204)
    expect("with a stale etag", call("DELETE", "/state/notebook/visits", headers={"If-Match": stale})[0], 409)
    transaction = {"operations": [
        {"operation": "upsert", "request": {"key": "a", "value": "1"}},
        {"operation": "delete", "request": {"key": "visits", "etag": stale, "options": {"concurrency": "first-write"}}},
    ]}
    status, _, _ = call("POST", "/state/notebook/transaction", transaction)
    expect("a transaction with a stale etag", status >= 400, True)
    expect("nothing of which has happened", call("GET", "/state/notebook/a")[0], 204)
    del transaction["operations"][1]
    expect("a transaction", call("POST", "/state/notebook/transaction", transaction)[0], 204)
    expect("which has happened", call("GET", "/state/notebook/a")[2], '"1"')
    expect("tidied up", call("DELETE", "/state/notebook/a")[0], 204)

    expect("said something", call("POST", "/bindings/inbox", {"operation": "create", "data": "hello"})[0], 200)
    if not heard.wait(30):
        raise SystemExit("app: the event has not come")
    print("app: done", flush=True)


if __name__ == "__main__":
    main()
