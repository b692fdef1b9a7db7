// Package freeport finds TCP ports on the loopback address for tests that must
// know a port before the program that listens on it runs, or that must be able
// to come back to the same port later.
//
// Ports come from a range below the ones that operating systems hand out for
// outgoing connections and for ":0" listeners, so that no unrelated connection
// sits on the port while the test has its server down.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// The range ports are taken from: [first, last].
const (
	first = 12000
	last  = 31999
)

// attempts bounds the search. With a nearly empty range the first try succeeds.
const attempts = 200

// Listen listens on a free port of the range on 127.0.0.1. It is safe for
// concurrent use, as is Pick.
func Listen() (net.Listener, error) {
	var lastErr error
	for range attempts {
		port := first + rand.IntN(last-first+1) //nolint:gosec // a port needs no secrecy
		release, ok := reserve(port)
		if !ok {
			lastErr = fmt.Errorf("port %d is given out", port)
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return l, nil
		}
		release()
		lastErr = err
	}
	return nil, fmt.Errorf("no free port between %d and %d in %d tries, the last: %w",
		first, last, attempts, lastErr)
}

// Pick returns a port that was free a moment ago. A program that does not get its
// ports here may take it before the caller's program listens.
func Pick() (int, error) {
	l, err := Listen()
	if err != nil {
		return 0, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}
