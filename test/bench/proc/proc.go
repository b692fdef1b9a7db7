// Package proc reads what running processes have used, from Linux' /proc and
// clocks.
package proc

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CPU returns the user and system time that the processes have used together,
// in all their threads, those that have ended too, to the nanosecond.
func CPU(pids ...int) (time.Duration, error) {
	var total time.Duration
	for _, pid := range pids {
		// The clock of a process, as clock_getcpuclockid(3) makes it.
		const sched = 2
		var ts unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil { //nolint:gosec // a pid has 22 bits
			return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
		}
		total += time.Duration(ts.Nano())
	}
	return total, nil
}

// RSS returns the resident memory of the processes in bytes. Pages that several
// of them share count for each.
func RSS(pids ...int) (int64, error) { return status("VmRSS", pids) }

// Peak returns the most resident memory that each of the processes has had
// since ResetPeak, added up, in bytes.
func Peak(pids ...int) (int64, error) { return status("VmHWM", pids) }

// ResetPeak lets Peak begin with what the processes have now.
func ResetPeak(pids ...int) error {
	for _, pid := range pids {
		// proc_pid_clear_refs(5)
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
			return err
		}
	}
	return nil
}

// Threads returns how many threads the processes have.
func Threads(pids ...int) (int, error) {
	n := 0
	for _, pid := range pids {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return 0, err
		}
		n += len(tasks)
	}
	return n, nil
}

// Descriptors returns how many files the processes have open.
func Descriptors(pids ...int) (int, error) {
	n := 0
	for _, pid := range pids {
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			return 0, err
		}
		n += len(open)
	}
	return n, nil
}

// Tree returns a process and all that descend from it.
func Tree(pid int) ([]int, error) {
	out := []int{pid}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	for _, t := range threads {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // the thread has ended
		}
		if err != nil {
			return nil, err
		}
		for field := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				return nil, err
			}
			below, err := Tree(child)
			if err != nil {
				return nil, err
			}
			out = append(out, below...)
		}
	}
	return out, nil
}

func status(field string, pids []int) (int64, error) {
	var total int64
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		n, err := kilobytes(string(text), field)
		if err != nil {
			return 0, fmt.Errorf("process %d: %w", pid, err)
		}
		total += n << 10
	}
	return total, nil
}

// kilobytes finds a field of /proc/pid/status.
func kilobytes(status, field string) (int64, error) {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			return strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		}
	}
	return 0, errors.New("no " + field)
}
