package appchannel

import (
	"bufio"
	"net"
	"strings"
	"testing"
)

func TestListenersAreFound(t *testing.T) {
	for _, network := range []struct{ listen, ask string }{
		{"127.0.0.1", "127.0.0.1"}, {"127.0.0.1", "localhost"}, {"0.0.0.0", "127.0.0.1"}, {"", "127.0.0.1"}, {"::1", "::1"}, {"::", "::1"},
	} {
		l, err := net.Listen("tcp", net.JoinHostPort(network.listen, "0"))
		if err != nil {
			t.Logf("%v: %v", network, err) // a host without IPv6
			continue
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		find := listenerFinder(net.JoinHostPort(network.ask, port))
		if got, err := find(); err != nil || len(got) != 1 {
			t.Errorf("%v: found %v, %v", network, got, err)
		}
		_ = l.Close()
		if got, err := find(); err != nil || len(got) != 0 {
			t.Errorf("%v, closed: found %v, %v", network, got, err)
		}
	}
}

func TestOnlyLoopbackAddressesHaveListeners(t *testing.T) {
	for _, address := range []string{"10.0.0.1:80", "app:80", "127.0.0.1", "127.0.0.1:http", "[fe80::1]:80", "0.0.0.0:80", ""} {
		if listenerFinder(address) != nil {
			t.Errorf("%q has listeners", address)
		}
	}
}

func FuzzTableOfSockets(f *testing.F) {
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	f.Add(head + "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0 100 0 0 10 0\n")
	f.Add(head + "   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 7 1\n")
	f.Add(head + "   0: 0100007F 0 0A 0 0 0 0 0 x\n   0: zz:zz 0 0A 0 0 0 0 0 0 x\n")
	f.Fuzz(func(t *testing.T, table string) {
		got, _ := appendListening(nil, bufio.NewScanner(strings.NewReader(table)), listenerFilter("127.0.0.1:8080"))
		if len(got) > strings.Count(table, "\n")+1 {
			t.Errorf("%d listeners in %q", len(got), table)
		}
	})
}
