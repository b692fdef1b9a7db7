//go:build unix && (!linux || race || !(amd64 || arm64))

package sockio

import "syscall"

// These calls are those of the syscall package, which tells the race detector
// that what one side wrote comes before what the other side reads.

func read(fd int, p []byte) (int, error) {
	return call(func() (int, error) { return syscall.Read(fd, p) })
}

func write(fd int, p []byte) (int, error) {
	return call(func() (int, error) { return syscall.Write(fd, p) })
}

func look(fd int, p []byte) (int, error) {
	return call(func() (int, error) {
		n, _, err := syscall.Recvfrom(fd, p, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return n, err
	})
}

// waiting returns 1 if there is anything to read.
func waiting(fd int) int {
	var one [1]byte
	n, _ := look(fd, one[:])
	return max(n, 0)
}

// writeAll writes the parts that are not empty, one after the other.
func writeAll(fd int, parts *[3][]byte) (int, error) {
	total := 0
	for _, p := range parts {
		if len(p) == 0 {
			continue
		}
		n, err := write(fd, p)
		total += max(n, 0)
		if err != nil || n < len(p) {
			return total, err
		}
	}
	return total, nil
}

func call(f func() (int, error)) (int, error) {
	for {
		if n, err := f(); err != syscall.EINTR {
			return n, err
		}
	}
}
