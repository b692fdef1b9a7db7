package peer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// nginxConfig is the configuration. Bodies of 64 KiB stay in memory, and one
// connection may have as many requests as there are; both are not so by default.
const nginxConfig = `daemon off;
worker_processes @CORES@;
@USER@
pid @DIR@/nginx.pid;
error_log stderr error;
events { worker_connections @CONNECTIONS@; }
http {
  access_log off;
  tcp_nodelay on;
  keepalive_timeout 1h;
  keepalive_requests 1000000000;
  client_max_body_size 0;
  client_body_buffer_size 128k;
  client_body_temp_path @DIR@/body;
  proxy_temp_path @DIR@/proxy;
  fastcgi_temp_path @DIR@/fastcgi;
  uwsgi_temp_path @DIR@/uwsgi;
  scgi_temp_path @DIR@/scgi;
  upstream http_app {
    server @HTTPAPP@;
    keepalive 512;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
  }
  upstream grpc_app {
    server @GRPCAPP@;
    keepalive 512;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
  }
  server {
    listen @HTTP@ reuseport;
    location / {
      proxy_pass http://http_app;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffer_size 16k;
      proxy_buffers 16 16k;
    }
  }
  server {
    listen @GRPC@ http2 reuseport;
    http2_max_concurrent_streams 1024;
    location / {
      grpc_pass grpc://grpc_app;
      grpc_read_timeout 1h;
      grpc_send_timeout 1h;
    }
  }
}
`

// StartNginx starts nginx.
func StartNginx(ctx context.Context, o Options) (*Peer, error) {
	addrs, err := addresses(2)
	if err != nil {
		return nil, err
	}
	user := ""
	if os.Getuid() == 0 {
		user = "user root;" // the folder is root's
	}
	config := filepath.Join(o.Dir, "nginx.conf")
	if err := os.WriteFile(config, []byte(fill(nginxConfig, o, addrs, "USER", user)), 0o600); err != nil {
		return nil, err
	}
	p, err := run(ctx, o.Dir, "nginx", []string{"-p", o.Dir, "-c", config, "-e", "stderr"}, addrs)
	if err != nil {
		return nil, err
	}
	p.HTTP, p.GRPC = addrs[0], addrs[1]
	return p, nil
}

// fill puts what is known now into a configuration.
func fill(config string, o Options, addrs []string, more ...string) string {
	values := []string{
		"CORES", fmt.Sprint(o.Cores), "DIR", o.Dir, "CONNECTIONS", fmt.Sprint(o.MaxConnection),
		"HTTPAPP", o.HTTPApp, "GRPCAPP", o.GRPCApp, "HTTP", addrs[0], "GRPC", addrs[1],
	}
	values = append(values, more...)
	for i := 0; i < len(values); i += 2 {
		values[i] = "@" + values[i] + "@"
	}
	return strings.NewReplacer(values...).Replace(config)
}
