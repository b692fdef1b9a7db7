package peer

import (
	"context"
	"os"
	"path/filepath"
)

// haproxyConfig is the configuration.
const haproxyConfig = `global
  nbthread @CORES@
  maxconn @CONNECTIONS@
  no strict-limits
  tune.h2.max-concurrent-streams 1024
defaults
  mode http
  http-reuse always
  timeout connect 10s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
frontend http_in
  bind @HTTP@
  default_backend http_app
backend http_app
  server app @HTTPAPP@
frontend grpc_in
  bind @GRPC@ proto h2
  default_backend grpc_app
backend grpc_app
  server app @GRPCAPP@ proto h2
`

// StartHaproxy starts haproxy.
func StartHaproxy(ctx context.Context, o Options) (*Peer, error) {
	addrs, err := addresses(2)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(o.Dir, "haproxy.cfg")
	if err := os.WriteFile(config, []byte(fill(haproxyConfig, o, addrs)), 0o600); err != nil {
		return nil, err
	}
	p, err := run(ctx, o.Dir, "haproxy", []string{"-db", "-f", config}, addrs)
	if err != nil {
		return nil, err
	}
	p.HTTP, p.GRPC = addrs[0], addrs[1]
	return p, nil
}
