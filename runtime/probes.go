package runtime

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"

	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/mesh/balance"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/proxy"
)

// probes carries out the health checks of traffic policies, over the transports
// that requests take.
type probes struct{ rt *Runtime }

// probe implements balance.Prober.
func (p *probes) probe(ctx context.Context, svc discovery.Service, ep discovery.Endpoint, c *balance.Check) error {
	switch c.Kind {
	case balance.CheckHTTP:
		return p.http(ctx, probed{svc, ep}, c)
	case balance.CheckGRPC:
		return p.grpc(ctx, probed{svc, ep}, c)
	}
	network, address := "tcp", ep.Address
	if path, ok := strings.CutPrefix(ep.Address, "unix:"); ok {
		network, address = "unix", path
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// probed is an endpoint that is asked.
type probed struct {
	svc discovery.Service
	ep  discovery.Endpoint
}

// maxProbe bounds what is read of the answer to a check.
const maxProbe = 4 << 10

func (p *probes) http(ctx context.Context, to probed, c *balance.Check) error {
	r := &proxy.Request{Method: c.Method, Target: c.Path}
	status, body, err := p.ask(ctx, to, r, c.Host)
	if err != nil {
		return err
	}
	if !c.Expected(status) {
		return fmt.Errorf("%s %s is answered with status %d, want %s%s", c.Method, c.Path, status, c.Wanted, quoted(body))
	}
	return nil
}

// quoted is the beginning of an answer, for people.
func quoted(body []byte) string {
	if len(body) == 0 {
		return ""
	}
	return fmt.Sprintf(": %.80q", body)
}

func (p *probes) grpc(ctx context.Context, to probed, c *balance.Check) error {
	message, err := proto.Marshal(&grpc_health_v1.HealthCheckRequest{Service: c.Service})
	if err != nil {
		return err
	}
	n := len(message)
	frame := append([]byte{0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, message...)
	r := &proxy.Request{
		Method: "POST", Target: "/grpc.health.v1.Health/Check", Body: bytes.NewReader(frame), ContentLength: int64(len(frame)),
		Header: proxy.Header{{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"}},
	}
	status, body, err := p.ask(ctx, to, r, "")
	if err != nil {
		return err
	}
	var answer grpc_health_v1.HealthCheckResponse
	switch {
	case status != 200:
		return fmt.Errorf("grpc.health.v1.Health/Check is answered with status %d", status)
	case len(body) < 5 || body[0] != 0 || proto.Unmarshal(body[5:], &answer) != nil:
		return fmt.Errorf("grpc.health.v1.Health/Check has no answer that makes sense%s", quoted(body))
	case answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING:
		return fmt.Errorf("grpc.health.v1.Health/Check of %q says %s, want SERVING", c.Service, answer.GetStatus())
	}
	return nil
}

// ask sends a request to an endpoint and reads the answer. That of a sidecar about
// its application is an error, as is a failed gRPC call.
func (p *probes) ask(ctx context.Context, to probed, r *proxy.Request, host string) (int, []byte, error) {
	cfg := &p.rt.cfg
	r.Scheme, r.Authority = "http", host
	if host == "" {
		r.Authority = to.svc.AppID
	}
	if to.ep.Protocol == discovery.Sidecar {
		r.Header = append(r.Header, proxy.Field{Name: invoke.FieldCalleeAppID, Value: to.svc.AppID},
			proxy.Field{Name: invoke.FieldCallerAppID, Value: cfg.AppID}, proxy.Field{Name: invoke.FieldCallerNS, Value: cfg.Namespace})
	}
	resp, err := p.rt.transports.peer(to.svc, to.ep).RoundTrip(ctx, r, proxy.RoundTripOptions{})
	if err != nil {
		return 0, nil, err
	}
	if resp.Upgraded != nil {
		_ = resp.Upgraded.Close()
		return 0, nil, fmt.Errorf("the answer switches protocols")
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProbe))
	if err != nil {
		return 0, nil, err
	}
	if err := invoke.FaultOf(resp, body); err != nil {
		return 0, nil, err
	}
	status := resp.Header.Get("grpc-status")
	text := resp.Header.Get("grpc-message")
	if resp.Trailer != nil && status == "" {
		status, text = resp.Trailer.Get("grpc-status"), resp.Trailer.Get("grpc-message")
	}
	if status != "" && status != "0" {
		return 0, nil, fmt.Errorf("%s is answered with gRPC status %s: %s", r.Target, status, text)
	}
	return resp.Status, body, nil
}
