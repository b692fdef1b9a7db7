//go:build linux && (amd64 || arm64) && !race

package sockio

import (
	"syscall"
	"unsafe"
)

// The calls are those of RawSyscall: the scheduler does not hear of them. So they
// must never block, whatever somebody else has made of the descriptor's mode.
const dontWait = syscall.MSG_DONTWAIT | syscall.MSG_NOSIGNAL

// read reads to p, which must not be empty.
func read(fd int, p []byte) (int, error) {
	return call(syscall.SYS_RECVFROM, fd, unsafe.Pointer(unsafe.SliceData(p)), len(p), syscall.MSG_DONTWAIT)
}

func write(fd int, p []byte) (int, error) {
	return call(syscall.SYS_SENDTO, fd, unsafe.Pointer(unsafe.SliceData(p)), len(p), dontWait)
}

func look(fd int, p []byte) (int, error) {
	return call(syscall.SYS_RECVFROM, fd, unsafe.Pointer(unsafe.SliceData(p)), len(p), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
}

// waiting returns how many bytes there are to read.
func waiting(fd int) int {
	var n int32
	_, _, errno := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCINQ, uintptr(unsafe.Pointer(&n)))
	if errno != 0 {
		return 0
	}
	return int(n)
}

// writeAll writes the parts that are not empty.
func writeAll(fd int, parts *[3][]byte) (int, error) {
	var vec [3]syscall.Iovec
	used := 0
	for _, p := range parts {
		if len(p) > 0 {
			vec[used].Base = unsafe.SliceData(p)
			vec[used].SetLen(len(p))
			used++
		}
	}
	switch used {
	case 0:
		return 0, nil
	case 1:
		return call(syscall.SYS_SENDTO, fd, unsafe.Pointer(vec[0].Base), int(vec[0].Len), dontWait)
	}
	msg := syscall.Msghdr{Iov: &vec[0], Iovlen: uint64(used)}
	return call(syscall.SYS_SENDMSG, fd, unsafe.Pointer(&msg), dontWait, 0)
}

// call makes the call with a descriptor, a pointer and two more arguments.
func call(number uintptr, fd int, p unsafe.Pointer, n, flags int) (int, error) {
	for {
		r, _, errno := syscall.RawSyscall6(number, uintptr(fd), uintptr(p), uintptr(n), uintptr(flags), 0, 0)
		switch errno {
		case 0:
			return int(r), nil
		case syscall.EINTR:
		default:
			return -1, errno
		}
	}
}
