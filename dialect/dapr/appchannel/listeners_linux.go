package appchannel

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// listenerFinder returns a function that lists the sockets, by their inodes,
// which listen at a loopback address; nil for any other address. The list is
// empty when nobody listens there, or it is somebody outside of this network
// namespace.
func listenerFinder(address string) func() ([]uint64, error) {
	at := listenerFilter(address)
	if at == nil {
		return nil
	}
	return func() ([]uint64, error) { return listening(at) }
}

// listenerFilter returns what tells whether a socket that listens at an address
// takes connections to a loopback address; nil for any other address.
func listenerFilter(address string) func(netip.AddrPort) bool {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil
	}
	var ip netip.Addr // invalid: any loopback address
	if host != "localhost" {
		if ip, err = netip.ParseAddr(host); err != nil || !ip.Unmap().IsLoopback() {
			return nil
		}
		ip = ip.Unmap()
	}
	return func(a netip.AddrPort) bool {
		if a.Port() != uint16(port) {
			return false
		}
		here := a.Addr().Unmap()
		return here.IsUnspecified() || here == ip || !ip.IsValid() && here.IsLoopback()
	}
}

// listening returns the inodes of the sockets that listen at an address which
// at accepts, sorted.
func listening(at func(netip.AddrPort) bool) ([]uint64, error) {
	out, err := asked(at)
	if err != nil {
		out, err = listed(at) // kernels without sock_diag, and sandboxes
	}
	slices.Sort(out)
	return out, err
}

// asked asks the kernel.
func asked(at func(netip.AddrPort) bool) ([]uint64, error) {
	out, err := askListeners(nil, syscall.AF_INET, at)
	if err != nil {
		return nil, err
	}
	return askListeners(out, syscall.AF_INET6, at)
}

// listed reads the tables of the kernel, which makes them up in full, those of
// all connections included.
func listed(at func(netip.AddrPort) bool) ([]uint64, error) {
	var out []uint64
	for _, table := range [...]string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		f, err := os.Open(table)
		if errors.Is(err, fs.ErrNotExist) && table == "/proc/self/net/tcp6" {
			continue // no IPv6 here
		}
		if err != nil {
			return nil, err
		}
		out, err = appendListening(out, bufio.NewScanner(f), at)
		_ = f.Close() // it was only read
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// appendListening reads a table of sockets as proc(5) describes it. Those that
// listen come first, so that the rest, which may be long, is not read.
func appendListening(out []uint64, lines *bufio.Scanner, at func(netip.AddrPort) bool) ([]uint64, error) {
	const listen = "0A"
	lines.Scan() // the heading
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 {
			continue
		}
		if fields[3] != listen {
			break
		}
		local, ok := parseSocketAddress(fields[1])
		if !ok || !at(local) {
			continue
		}
		if inode, err := strconv.ParseUint(fields[9], 10, 64); err == nil {
			out = append(out, inode)
		}
	}
	return out, lines.Err()
}

// parseSocketAddress reads "0100007F:1F90". The address is in words of four
// bytes, each in the byte order of the machine.
func parseSocketAddress(text string) (netip.AddrPort, bool) {
	hexIP, hexPort, ok := strings.Cut(text, ":")
	raw, err := hex.DecodeString(hexIP)
	if !ok || err != nil {
		return netip.AddrPort{}, false
	}
	port, err := strconv.ParseUint(hexPort, 16, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	for i := 0; i+4 <= len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	ip, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(ip, uint16(port)), ok
}
