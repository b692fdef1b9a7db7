// Package memcached keeps the promises of the state block on memcached, as far
// as a cache can: items may be evicted at any time when memory runs short.
//
// It speaks the meta protocol (memcached 1.6 and newer, doc/protocol.txt,
// "Meta Commands"), because only that can tell when an item expires, remove one
// under a condition, and carry keys of any bytes. The usual client library
// offers none of it, nor contexts.
package memcached

import (
	"net"
	"strings"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		state.Spec(component.Description{
			Name:    "memcached",
			Summary: "Keeps items in memcached, which may evict them when its memory runs short.",
		}, defaults(), OpenState),
	}
}

// StateConfig configures a state store on memcached.
type StateConfig struct {
	// Hosts are the servers, "host:port" or the paths of Unix sockets, separated
	// by commas. The port is 11211 unless given. Keys are spread over the
	// servers by their CRC-32, so the order matters and must be the same for
	// all that share them.
	Hosts []string `setting:"hosts,required"`
	// MaxIdleConnections is how many connections to each server are kept open
	// when nobody uses them.
	MaxIdleConnections int `setting:"maxIdleConnections"`
	// Timeout is how long a server may take to connect or to answer before it
	// counts as unreachable.
	Timeout component.Millis `setting:"timeout"`
}

func defaults() StateConfig {
	return StateConfig{MaxIdleConnections: 32, Timeout: component.Millis(time.Second)}
}

// Validate reports settings that can never work.
func (c StateConfig) Validate() error {
	switch {
	case len(c.Hosts) == 0:
		return component.Invalid("hosts", "wants host:port of at least one server")
	case c.MaxIdleConnections < 0:
		return component.Invalid("maxIdleConnections", "must not be negative")
	case c.Timeout <= 0:
		return component.Invalid("timeout", "wants a time above 0")
	}
	for _, h := range c.Hosts {
		if _, addr := address(h); addr == "" || strings.HasPrefix(addr, ":") {
			return component.Invalid("hosts", "wants host:port, or the path of a Unix socket")
		}
	}
	return nil
}

const defaultPort = "11211"

// address returns the network and the address of a host in the settings.
func address(host string) (network, addr string) {
	if strings.HasPrefix(host, "/") {
		return "unix", host
	}
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(strings.Trim(host, "[]"), defaultPort)
	}
	return "tcp", host
}
