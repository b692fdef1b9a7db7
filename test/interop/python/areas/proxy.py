"""Calls of a gRPC service of the other application, with the client that is
generated for it, through the sidecars."""

import os

import grpc
from fleet import Boat, services
from report import check, contains, equal, fails


def checks(_, app) -> None:
    if app.http:
        return
    token = os.environ.get('DAPR_API_TOKEN')

    def to(target: str) -> tuple:
        more = (('dapr-api-token', token),) if token else ()
        return (('dapr-app-id', target), ('greeting', 'ahoy'), *more)

    peer = to(os.environ['INTEROP_PEER'])
    with grpc.insecure_channel(f'127.0.0.1:{os.environ["DAPR_GRPC_PORT"]}') as channel:
        stub = services.FleetStub(channel)

        @check('proxy: a call and its headers pass')
        def _():
            answer, call = stub.Hail.with_call(Boat(name='oak', oars=3, cargo=b'x' * 300_000), metadata=peer)
            equal([answer.name, answer.oars, len(answer.cargo)], ['oak!', 3, 300_000])
            equal(dict(call.initial_metadata())['heard'], 'ahoy', 'header')

        @check('proxy: a status and its trailers pass')
        def _():
            error = fails(lambda: stub.Hail(Boat(), metadata=peer))
            equal([error.code(), error.details()], [grpc.StatusCode.FAILED_PRECONDITION, 'a boat without a name: 漢字'])
            equal(dict(error.trailing_metadata())['why-bin'], b'\0\xff', 'trailer')

        @check('proxy: a stream of answers passes')
        def _():
            equal([boat.oars for boat in stub.List(Boat(oars=50), metadata=peer)], list(range(50)))

        @check('proxy: a stream of requests passes')
        def _():
            equal(stub.Join((Boat(oars=n) for n in range(50)), metadata=peer).oars, 1225)

        @check('proxy: messages go back and forth')
        def _():
            names = ['oak', 'ash', 'elm']
            equal([boat.name for boat in stub.Ferry((Boat(name=name) for name in names), metadata=peer)], names)

        @check('proxy: a call to nobody is refused')
        def _():
            contains(fails(lambda: stub.Hail(Boat(name='oak'), metadata=to('nobody'))).details(), 'nobody')
            contains(fails(lambda: stub.Hail(Boat(name='oak'), metadata=to('')[1:])).details(), 'dapr-app-id')
