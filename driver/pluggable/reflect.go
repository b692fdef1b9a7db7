package pluggable

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/proa-io/proa/fault"
)

// maxServices bounds what a process may say that it serves.
const maxServices = 1000

// The methods of reflection: the present one, and the one that many libraries
// still know only. Their messages are the same on the wire.
const (
	reflectV1    = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
	reflectAlpha = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
)

// servicesOf returns the names of the services that are served on a socket.
func servicesOf(ctx context.Context, path string) ([]string, error) {
	l := newLink(func(ctx context.Context) (net.Conn, error) { return dialSocket(ctx, path) }, "")
	s, err := l.dialed(ctx)
	if err != nil {
		return nil, err
	}
	defer s.end()
	return listServices(ctx, s.conn)
}

// listServices asks by reflection what is served.
func listServices(ctx context.Context, cc grpc.ClientConnInterface) ([]string, error) {
	names, err := listBy(ctx, cc, reflectV1)
	if status.Code(err) == codes.Unimplemented {
		names, err = listBy(ctx, cc, reflectAlpha)
	}
	if status.Code(err) == codes.Unimplemented {
		return nil, fault.Wrap(err, fault.FailedPrecondition, "the component serves no gRPC server reflection, by which it says what it is")
	}
	return names, err
}

func listBy(ctx context.Context, cc grpc.ClientConnInterface, method string) ([]string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return nil, err
	}
	ask := &reflection.ServerReflectionRequest{MessageRequest: &reflection.ServerReflectionRequest_ListServices{ListServices: "*"}}
	if err := stream.SendMsg(ask); err != nil {
		return nil, receivedError(stream, err)
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	var answer reflection.ServerReflectionResponse
	if err := stream.RecvMsg(&answer); err != nil {
		return nil, err
	}
	list := answer.GetListServicesResponse().GetService()
	var names []string
	for _, s := range list[:min(len(list), maxServices)] {
		names = append(names, s.GetName())
	}
	return names, nil
}

// receivedError returns why a stream has ended on which SendMsg failed with err.
func receivedError(stream grpc.ClientStream, err error) error {
	if why := stream.RecvMsg(nil); why != nil {
		return why
	}
	return err
}
