"""The service of fleet.proto, from which all code is generated."""

import grpc

protos, services = grpc.protos_and_services('fleet.proto')
Boat = protos.Boat


class Fleet(services.FleetServicer):
    def Hail(self, boat, context):
        if not boat.name:
            context.set_trailing_metadata((('why-bin', b'\0\xff'),))
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, 'a boat without a name: 漢字')
        context.send_initial_metadata((('heard', dict(context.invocation_metadata()).get('greeting', '')),))
        return Boat(name=f'{boat.name}!', oars=boat.oars, cargo=boat.cargo)

    def List(self, boat, context):
        for n in range(boat.oars):
            yield Boat(name=boat.name, oars=n)

    def Join(self, boats, context):
        return Boat(oars=sum(boat.oars for boat in boats))

    def Ferry(self, boats, context):
        yield from boats
