package grpcapi

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
)

// methods returns the names of all methods of the Dapr service.
func methods() []string {
	var all []string
	for _, m := range rtv1.Dapr_ServiceDesc.Methods {
		all = append(all, m.MethodName)
	}
	for _, m := range rtv1.Dapr_ServiceDesc.Streams {
		all = append(all, m.StreamName)
	}
	slices.Sort(all)
	return all
}

func TestEveryMethodBelongsToOneGroup(t *testing.T) {
	var grouped []string
	for _, g := range groups {
		grouped = append(grouped, g.methods...)
	}
	slices.Sort(grouped)
	if all := methods(); !slices.Equal(grouped, all) || len(all) != 72 {
		t.Errorf("the service has %d methods, the groups %d:\n%v\n%v", len(all), len(grouped), all, grouped)
	}
}

// callMethod calls a method with an empty message, and returns its first error.
func callMethod(ctx context.Context, cc *grpc.ClientConn, path string) error {
	stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, path)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&emptypb.Empty{}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	return stream.RecvMsg(&emptypb.Empty{})
}

func TestMethodsOfBlocksThatAreNotThereNameTheBlock(t *testing.T) {
	leak.Check(t)
	cc, ctx := serve(t, New(Options{Blocks: newWorld(t)})), timeout(t)
	n := 0
	for _, g := range groups {
		for _, m := range g.methods {
			err := callMethod(ctx, cc, apiPrefix+m)
			if g.absent == "" {
				if status.Code(err) == codes.Unimplemented {
					t.Errorf("%s: %v", m, err)
				}
				continue
			}
			n++
			want{codes.Unimplemented, "ERR_API_UNIMPLEMENTED", g.absent}.check(t, err)
		}
	}
	if n == 0 {
		t.Error("the test looked at no method")
	}
	want{codes.Unimplemented, "ERR_API_UNIMPLEMENTED", "workflow"}.check(t, callMethod(ctx, cc, "/TaskHubSidecarService/GetWorkItems"))
	want{codes.Unimplemented, "ERR_API_UNIMPLEMENTED", "workflow"}.check(t, callMethod(ctx, cc, "/TaskHubSidecarService/Hello"))
}

func TestAGroupThatIsForbiddenIsNotThere(t *testing.T) {
	leak.Check(t)
	allows := func(group, version string) bool { return group+"."+version == "state.v1" }
	inv := fakeInvoker{forward: func(proxy.Exchange, string, string) error { return errors.New("forwarded") }}
	cc, ctx := serve(t, New(Options{Blocks: newWorld(t), Allows: allows, Invoker: inv})), timeout(t)
	c := rtv1.NewDaprClient(cc)
	if _, err := c.GetState(ctx, &rtv1.GetStateRequest{StoreName: "statestore", Key: "k"}); err != nil {
		t.Error(err)
	}
	no := want{codes.Unimplemented, "", "requested endpoint is not available"}
	for _, m := range methods() {
		if slices.Contains(groups[1].methods, m) {
			continue
		}
		no.check(t, callMethod(ctx, cc, apiPrefix+m))
	}
	no.check(t, callMethod(with(ctx, "dapr-app-id", "other"), cc, "/any.Service/Method"))
}

func TestTheTokenIsAskedOfEveryMethod(t *testing.T) {
	leak.Check(t)
	inv := fakeInvoker{forward: func(ex proxy.Exchange, id, _ string) error {
		if ex.Request().Header.Has(dapr.TokenHeader) || ex.Request().Header.Has("dapr-app-id") {
			return fault.New(fault.Internal, "the token or the id was passed on")
		}
		return rpc.Fail(ex, status.New(codes.DataLoss, "forwarded to "+id))
	}}
	cc, ctx := serve(t, New(Options{Blocks: newWorld(t), Token: dapr.NewToken("secret"), Invoker: inv})), timeout(t)
	const reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
	for _, path := range []string{apiPrefix + "GetState", apiPrefix + "SubscribeTopicEventsAlpha1", apiPrefix + "Nope", reflection, "/any.Service/Method"} {
		want{codes.Unauthenticated, "Unauthorized", "Unauthorized"}.check(t, callMethod(ctx, cc, path))
		err := callMethod(with(ctx, "dapr-api-token", "wrong"), cc, path)
		want{codes.Unauthenticated, "Unauthorized", "Unauthorized"}.check(t, err)
		if info := errorInfo(status.Convert(err)); info.GetMetadata()["http.code"] != "401" || info.GetMetadata()["http.error_message"] == "" {
			t.Errorf("the details are %v", info)
		}
		if err := callMethod(with(ctx, "dapr-api-token", "secret"), cc, path); status.Code(err) == codes.Unauthenticated {
			t.Errorf("%s: with the token: %v", path, err)
		}
	}
	err := callMethod(with(ctx, "dapr-api-token", "secret", "dapr-app-id", "cart"), cc, "/any.Service/Method")
	want{codes.DataLoss, "", "forwarded to cart"}.check(t, err)
	if _, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("a probe: %v", err)
	}
}

func TestCallsOfUnknownServicesGoToTheApplicationNamed(t *testing.T) {
	leak.Check(t)
	inv := fakeInvoker{forward: func(ex proxy.Exchange, id, path string) error {
		if id == "nobody" {
			return fault.New(fault.NotFound, "no application %q is known", id)
		}
		return rpc.Fail(ex, status.New(codes.DataLoss, id+" "+path))
	}}
	w := newWorld(t)
	cc, ctx := serve(t, New(Options{Blocks: w, Invoker: inv})), timeout(t)
	without := serve(t, New(Options{Blocks: w}))
	for _, tc := range []struct {
		name string
		err  error
		want want
	}{
		{"by dapr-app-id", callMethod(with(ctx, "dapr-app-id", "cart"), cc, "/a.B/C"), want{codes.DataLoss, "", "cart /a.B/C"}},
		{"by dapr-callee-app-id", callMethod(with(ctx, "dapr-callee-app-id", "cart"), cc, "/a.B/C"), want{codes.DataLoss, "", "cart /a.B/C"}},
		{"its own health", callMethod(with(ctx, "dapr-app-id", "cart"), cc, "/grpc.health.v1.Health/Check"),
			want{codes.DataLoss, "", "cart /grpc.health.v1.Health/Check"}},
		{"none", callMethod(ctx, cc, "/a.B/C"),
			want{codes.Unknown, "", "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found"}},
		{"nobody", callMethod(with(ctx, "dapr-app-id", "nobody"), cc, "/a.B/C"),
			want{codes.Internal, "ERR_DIRECT_INVOKE", `failed to invoke, id: nobody, err: no application "nobody" is known`}},
		{"without invocation", callMethod(with(ctx, "dapr-app-id", "cart"), without, "/a.B/C"),
			want{codes.Internal, "ERR_DIRECT_INVOKE", "invoke API is not ready"}},
		{"the API itself", callMethod(with(ctx, "dapr-app-id", "cart"), cc, apiPrefix+"GetMetadata"), want{codes.OK, "", ""}},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.want.check(t, tc.err) })
	}
}

func TestReflectionListsTheServices(t *testing.T) {
	leak.Check(t)
	stream := must[reflectpb.ServerReflection_ServerReflectionInfoClient](t)(
		reflectpb.NewServerReflectionClient(serve(t, New(Options{Blocks: newWorld(t)}))).ServerReflectionInfo(timeout(t)))
	ask := func(r *reflectpb.ServerReflectionRequest) *reflectpb.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
		return must[*reflectpb.ServerReflectionResponse](t)(stream.Recv())
	}
	var names []string
	for _, s := range ask(&reflectpb.ServerReflectionRequest{MessageRequest: &reflectpb.ServerReflectionRequest_ListServices{}}).GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	if !slices.Contains(names, "dapr.proto.runtime.v1.Dapr") {
		t.Errorf("the services are %v", names)
	}
	symbol := &reflectpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "dapr.proto.runtime.v1.Dapr.GetState"}
	if files := ask(&reflectpb.ServerReflectionRequest{MessageRequest: symbol}).GetFileDescriptorResponse().GetFileDescriptorProto(); len(files) == 0 {
		t.Error("the service is not described")
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestHealthFollowsTheProcess(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	a := New(Options{Blocks: w})
	c, ctx := healthpb.NewHealthClient(serve(t, a)), timeout(t)
	ready := func(what ...string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.notReady = what
	}
	check := func(service string) string {
		out, err := c.Check(ctx, &healthpb.HealthCheckRequest{Service: service})
		if err != nil {
			return status.Code(err).String()
		}
		return out.GetStatus().String()
	}
	watch := must[healthpb.Health_WatchClient](t)(c.Watch(ctx, &healthpb.HealthCheckRequest{}))
	next := func() string { return must[*healthpb.HealthCheckResponse](t)(watch.Recv()).GetStatus().String() }
	if got := []string{check(""), check("dapr.proto.runtime.v1.Dapr"), check("other"), next()}; strings.Join(got, " ") != "SERVING SERVING NotFound SERVING" {
		t.Error(got)
	}
	ready("component statestore")
	if got := []string{check(""), next()}; strings.Join(got, " ") != "NOT_SERVING NOT_SERVING" {
		t.Error(got)
	}
	if list := must[*healthpb.HealthListResponse](t)(c.List(ctx, &healthpb.HealthListRequest{})); len(list.GetStatuses()) != 2 {
		t.Errorf("the list is %v", list)
	}
	a.Stop()
	_, err := watch.Recv()
	want{codes.Unavailable, "", "shutting down"}.check(t, err)
}

func TestCallsAreObserved(t *testing.T) {
	leak.Check(t)
	seen := make(chan Call, 1)
	inv := fakeInvoker{forward: func(ex proxy.Exchange, _, _ string) error { return rpc.Fail(ex, status.New(codes.DataLoss, "")) }}
	cc, ctx := serve(t, New(Options{Blocks: newWorld(t), Invoker: inv, Observe: func(c Call) { seen <- c }})), timeout(t)
	for _, tc := range []struct {
		ctx  context.Context
		path string
		want Call
	}{
		{ctx, apiPrefix + "GetMetadata", Call{Method: apiPrefix + "GetMetadata", Sent: 50}},
		{ctx, apiPrefix + "GetState", Call{Method: apiPrefix + "GetState", Code: codes.InvalidArgument}},
		{with(ctx, "dapr-app-id", "cart"), "/a.B/C", Call{Method: "/a.B/C", Forwarded: true, Passed: proxy.Route{Target: "cart"}, Code: codes.Unknown, Received: -1, Sent: -1}},
	} {
		_ = callMethod(tc.ctx, cc, tc.path) // how it ends is what is observed
		got := <-seen
		if got.Duration <= 0 || !strings.HasPrefix(got.UserAgent, "grpc-go") {
			t.Errorf("%+v", got)
		}
		if got.Duration, got.UserAgent = 0, ""; got != tc.want {
			t.Errorf("got %+v, want %+v", got, tc.want)
		}
	}
}
