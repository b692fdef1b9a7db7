package appchannel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
)

// The parts of sock_diag(7) that are needed to ask the kernel who listens.
const (
	netlinkSockDiag  = 4
	sockDiagByFamily = 20
	tcpListen        = 10
	diagRequestSize  = 56 // struct inet_diag_req_v2
	diagMessageSize  = 72 // struct inet_diag_msg
)

// askListeners appends the inodes of the TCP sockets of an address family that
// listen where at accepts. The kernel goes through those that listen and no
// others, so that it costs little however many connections there are.
func askListeners(out []uint64, family uint8, at func(netip.AddrPort) bool) ([]uint64, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, netlinkSockDiag)
	if err != nil {
		return out, os.NewSyscallError("socket", err)
	}
	defer syscall.Close(fd)
	// The answer is there when the question has been taken: the time is for
	// kernels that have something else in mind.
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: 1}); err != nil {
		return out, os.NewSyscallError("setsockopt", err)
	}
	if err := syscall.Sendto(fd, diagRequest(family), 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return out, os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, 16<<10)
	for {
		n, _, err := syscall.Recvfrom(fd, buf, 0)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return out, os.NewSyscallError("recvfrom", err)
		}
		var done bool
		if out, done, err = appendAnswer(out, buf[:n], at); done || err != nil {
			return out, err
		}
	}
}

// diagRequest is the question for all sockets of the family that listen.
func diagRequest(family uint8) []byte {
	const size = syscall.NLMSG_HDRLEN + diagRequestSize
	p := make([]byte, size)
	binary.NativeEndian.PutUint32(p[0:], size)
	binary.NativeEndian.PutUint16(p[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(p[6:], syscall.NLM_F_REQUEST|syscall.NLM_F_DUMP)
	body := p[syscall.NLMSG_HDRLEN:]
	body[0], body[1] = family, syscall.IPPROTO_TCP
	binary.NativeEndian.PutUint32(body[4:], 1<<tcpListen)
	return p
}

// errDiag says that the kernel's answer makes no sense.
var errDiag = errors.New("sock_diag: the answer is malformed")

// appendAnswer takes in what one read brought, and reports whether it was the
// last.
func appendAnswer(out []uint64, p []byte, at func(netip.AddrPort) bool) (_ []uint64, done bool, _ error) {
	for len(p) >= syscall.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(p))
		if size < syscall.NLMSG_HDRLEN || size > len(p) {
			return out, false, errDiag
		}
		body := p[syscall.NLMSG_HDRLEN:size]
		switch kind := binary.NativeEndian.Uint16(p[4:]); {
		case kind == syscall.NLMSG_DONE:
			return out, true, nil
		case kind == syscall.NLMSG_ERROR && len(body) >= 4:
			errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(body)))
			return out, false, fmt.Errorf("sock_diag: %w", errno)
		case kind == sockDiagByFamily && len(body) >= diagMessageSize:
			if local, ok := diagAddress(body); ok && at(local) {
				out = append(out, uint64(binary.NativeEndian.Uint32(body[68:])))
			}
		default:
			return out, false, errDiag
		}
		aligned := (size + syscall.NLMSG_ALIGNTO - 1) &^ (syscall.NLMSG_ALIGNTO - 1)
		p = p[min(aligned, len(p)):]
	}
	return out, false, nil
}

// diagAddress returns the local address of a struct inet_diag_msg.
func diagAddress(msg []byte) (netip.AddrPort, bool) {
	length := 4
	if msg[0] == syscall.AF_INET6 {
		length = 16
	}
	ip, ok := netip.AddrFromSlice(msg[8 : 8+length])
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(msg[4:])), ok
}
