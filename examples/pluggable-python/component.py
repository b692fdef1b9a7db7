"""A pluggable component: a state store and a binding, in one process.

The socket notebook.sock makes it state.notebook and bindings.notebook:

- The state store keeps items in a file of SQLite, with etags and transactions.
- The binding is a folder. Its output operation "create" drops a file into it;
  its input hands every file that is in the folder to the application, and
  removes it when the application has taken it.

    python component.py FOLDER-OF-SOCKETS
"""

import os
import queue
import signal
import sqlite3
import sys
import threading
import uuid
from concurrent import futures
from pathlib import Path

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from dapr.proto.components.v1 import bindings_pb2, bindings_pb2_grpc, common_pb2, state_pb2, state_pb2_grpc


def instance(context):
    """Returns the name of the component that a call is for: several components may
    be plugged into this process, each with its own settings."""
    return dict(context.invocation_metadata()).get("x-component-instance", "")


class WrongETag(Exception):
    """A write whose etag, or whose first-write, is not true."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code

    def refuse(self, context):
        """Ends a call in the way that the sidecar knows an etag by."""
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.BadRequest(field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field="etag", description=str(self))]))
        status = status_pb2.Status(code=self.code, message=str(self), details=[detail])
        context.abort_with_status(rpc_status.to_status(status))


class Database:
    """The items of one component. The etag of an item is its version."""

    def __init__(self, path):
        self.lock = threading.Lock()
        self.db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.db.execute("CREATE TABLE IF NOT EXISTS items (key TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL)")
        self.db.execute("CREATE TABLE IF NOT EXISTS versions (last INTEGER NOT NULL)")
        if not self.db.execute("SELECT 1 FROM versions").fetchone():
            self.db.execute("INSERT INTO versions VALUES (0)")

    def get(self, key):
        with self.lock:
            return self.db.execute("SELECT value, version FROM items WHERE key = ?", (key,)).fetchone()

    def run(self, operations):
        """Carries out writes and removals, all or none."""
        with self.lock:
            self.db.execute("BEGIN IMMEDIATE")
            try:
                for operation in operations:
                    self.write(operation)
                self.db.execute("COMMIT")
            except BaseException:
                self.db.execute("ROLLBACK")
                raise

    def write(self, request):
        self.check(request)
        if isinstance(request, state_pb2.DeleteRequest):
            self.db.execute("DELETE FROM items WHERE key = ?", (request.key,))
            return
        # A version never comes again, not even when an item does.
        self.db.execute("UPDATE versions SET last = last + 1")
        self.db.execute("INSERT OR REPLACE INTO items SELECT ?, ?, last FROM versions", (request.key, request.value))

    def check(self, request):
        """Raises WrongETag unless the item is the one that the request wants."""
        first = request.options.concurrency == state_pb2.StateOptions.CONCURRENCY_FIRST_WRITE
        if not request.HasField("etag") and not first:
            return
        found = self.db.execute("SELECT version FROM items WHERE key = ?", (request.key,)).fetchone()
        if not request.HasField("etag"):
            if found and isinstance(request, state_pb2.SetRequest):
                raise WrongETag(code_pb2.FAILED_PRECONDITION, "there is an item already")
            return
        if not request.etag.value.isdecimal():
            raise WrongETag(code_pb2.INVALID_ARGUMENT, "an etag is a whole number")
        if not found or str(found[0]) != request.etag.value:
            raise WrongETag(code_pb2.FAILED_PRECONDITION, "the item has another etag")


class Store(state_pb2_grpc.StateStoreServicer, state_pb2_grpc.TransactionalStateStoreServicer):
    """state.notebook. Setting: file, where the items are kept."""

    def __init__(self):
        self.databases = {}

    def Init(self, request, context):
        path = request.metadata.properties.get("file")
        if not path:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the setting file is missing: where are the items to be kept?")
        self.databases[instance(context)] = Database(path)
        return state_pb2.InitResponse()

    def Features(self, request, context):
        return common_pb2.FeaturesResponse(features=["ETAG", "TRANSACTIONAL"])

    def Ping(self, request, context):
        return common_pb2.PingResponse()

    def Get(self, request, context):
        found = self.databases[instance(context)].get(request.key)
        if not found:
            return state_pb2.GetResponse()
        return state_pb2.GetResponse(data=found[0], etag=state_pb2.Etag(value=str(found[1])))

    def run(self, operations, context):
        try:
            self.databases[instance(context)].run(operations)
        except WrongETag as e:
            e.refuse(context)

    def Set(self, request, context):
        self.run([request], context)
        return state_pb2.SetResponse()

    def Delete(self, request, context):
        self.run([request], context)
        return state_pb2.DeleteResponse()

    def Transact(self, request, context):
        self.run([getattr(o, o.WhichOneof("request")) for o in request.operations], context)
        return state_pb2.TransactionalStateResponse()


class Folders:
    """bindings.notebook. Setting: folder, where the files are."""

    def __init__(self):
        self.paths = {}

    def init(self, request, context):
        path = request.metadata.properties.get("folder")
        if not path:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the setting folder is missing: where are the files to be?")
        Path(path).mkdir(parents=True, exist_ok=True)
        self.paths[instance(context)] = Path(path)


class Output(bindings_pb2_grpc.OutputBindingServicer):
    """What an application can do: drop a file."""

    def __init__(self, folders):
        self.folders = folders

    def Init(self, request, context):
        self.folders.init(request, context)
        return bindings_pb2.OutputBindingInitResponse()

    def Ping(self, request, context):
        return common_pb2.PingResponse()

    def ListOperations(self, request, context):
        return bindings_pb2.ListOperationsResponse(operations=["create"])

    def Invoke(self, request, context):
        name = f"{uuid.uuid4().hex}.note"
        folder = self.folders.paths[instance(context)]
        part = folder / f".{name}"
        part.write_bytes(request.data)
        part.rename(folder / name)  # so that nobody sees half of it
        return bindings_pb2.InvokeResponse(data=name.encode(), metadata={"name": name})


class Input(bindings_pb2_grpc.InputBindingServicer):
    """What an application is told: that there is a file."""

    def __init__(self, folders):
        self.folders = folders
        self.stopping = threading.Event()

    def Init(self, request, context):
        self.folders.init(request, context)
        return bindings_pb2.InputBindingInitResponse()

    def Ping(self, request, context):
        return common_pb2.PingResponse()

    def Read(self, requests, context):
        """Sends each file as an event, until the sidecar ends the stream."""
        folder, answers = self.folders.paths[instance(context)], queue.Queue()

        def receive():
            try:
                for answer in requests:
                    answers.put(answer)
            except Exception:  # the connection has broken
                pass
            answers.put(None)

        threading.Thread(target=receive, daemon=True).start()
        under_way = set()
        while context.is_active() and not self.stopping.is_set():
            for file in sorted(folder.glob("*.note")):
                if file.name not in under_way:
                    under_way.add(file.name)
                    yield bindings_pb2.ReadResponse(data=file.read_bytes(), metadata={"name": file.name}, message_id=file.name)
            try:
                answer = answers.get(timeout=0.2)
            except queue.Empty:
                continue
            if answer is None:
                return
            if not answer.HasField("response_error"):
                (folder / answer.message_id).unlink()
            under_way.discard(answer.message_id)  # what has failed is sent again


def main():
    sockets = Path(sys.argv[1])
    sockets.mkdir(parents=True, exist_ok=True)
    path = sockets / "notebook.sock"
    path.unlink(missing_ok=True)  # that of a process which was killed

    # Every stream takes one of the threads for as long as it lasts.
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    store, folders = Store(), Folders()
    source = Input(folders)
    state_pb2_grpc.add_StateStoreServicer_to_server(store, server)
    state_pb2_grpc.add_TransactionalStateStoreServicer_to_server(store, server)
    bindings_pb2_grpc.add_InputBindingServicer_to_server(source, server)
    bindings_pb2_grpc.add_OutputBindingServicer_to_server(Output(folders), server)
    # Reflection is how the sidecar learns what the process is.
    services = [state_pb2.DESCRIPTOR.services_by_name[n].full_name for n in ("StateStore", "TransactionalStateStore")]
    services += [bindings_pb2.DESCRIPTOR.services_by_name[n].full_name for n in ("InputBinding", "OutputBinding")]
    reflection.enable_server_reflection([*services, reflection.SERVICE_NAME], server)
    server.add_insecure_port(f"unix://{path.resolve()}")
    server.start()
    print(f"component: serving on {path}", flush=True)

    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    done.wait()
    source.stopping.set()
    server.stop(grace=2).wait()


if __name__ == "__main__":
    os.umask(0o077)
    main()
