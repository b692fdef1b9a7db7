package freeport

import (
	"net"
	"strconv"
	"testing"
)

func TestPickedPortsCanBeListenedOn(t *testing.T) {
	for range 20 {
		port, err := Pick()
		if err != nil {
			t.Fatal(err)
		}
		if port < first || port > last {
			t.Fatalf("port %d is outside [%d, %d]", port, first, last)
		}
		l, err := Listen()
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if _, err := net.Listen("tcp", l.Addr().String()); err == nil {
			t.Fatalf("a second listener got %s", l.Addr())
		}
	}
}

func TestAPortIsGivenOutOnce(t *testing.T) {
	seen := map[int]bool{}
	for range 500 {
		port, err := Pick()
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] {
			t.Fatalf("port %d was given out twice", port)
		}
		seen[port] = true
		if release, ok := reserve(port); ok {
			release()
			t.Fatalf("port %d can be given out again", port)
		}
	}
}

func TestThePortRangeLiesBelowTheEphemeralPorts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, text, _ := net.SplitHostPort(l.Addr().String())
	if port, _ := strconv.Atoi(text); port <= last {
		t.Errorf("the system hands out port %d, which is not above %d", port, last)
	}
}
