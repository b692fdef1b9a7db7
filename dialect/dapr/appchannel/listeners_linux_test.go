package appchannel

import (
	"bufio"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
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

func TestTheKernelSaysWhatItsTablesSay(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		at := listenerFilter("localhost:" + port)
		told, err := asked(at)
		if err != nil {
			t.Fatal(err)
		}
		read, err := listed(at)
		if err != nil || len(told) != 1 || !slices.Equal(told, read) {
			t.Errorf("%s: the kernel says %v, its tables %v, %v", address, told, read, err)
		}
	}
}

func FuzzAnswerOfTheKernel(f *testing.F) {
	message := func(kind uint16, body []byte) []byte {
		p := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
		p = binary.NativeEndian.AppendUint16(p, kind)
		return append(append(p, make([]byte, 10)...), body...)
	}
	socket := make([]byte, diagMessageSize)
	copy(socket, []byte{syscall.AF_INET, tcpListen, 0, 0, 0x1f, 0x90, 0, 0, 127, 0, 0, 1})
	f.Add(message(sockDiagByFamily, socket))
	f.Add(append(message(sockDiagByFamily, socket), message(syscall.NLMSG_DONE, nil)...))
	f.Add(message(syscall.NLMSG_ERROR, []byte{0xfe, 0xff, 0xff, 0xff}))
	f.Add(message(sockDiagByFamily, socket)[:40])
	f.Fuzz(func(t *testing.T, p []byte) {
		got, _, _ := appendAnswer(nil, p, listenerFilter("127.0.0.1:8080"))
		if len(got) > len(p)/diagMessageSize {
			t.Errorf("%d listeners in %d bytes", len(got), len(p))
		}
	})
}

func BenchmarkListening(b *testing.B) {
	at := listenerFilter("127.0.0.1:8080")
	for name, ask := range map[string]func(func(netip.AddrPort) bool) ([]uint64, error){"asked": asked, "listed": listed} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ask(at); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
