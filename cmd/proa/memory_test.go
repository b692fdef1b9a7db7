package main

import (
	"errors"
	"testing"
)

func TestTheContainersMemoryLimitIsRead(t *testing.T) {
	for text, want := range map[string]int64{"268435456\n": 256 << 20, "max\n": 0, "9223372036854771712\n": 0, "": 0} {
		got := containerLimit(func(path string) ([]byte, error) {
			if path != "/sys/fs/cgroup/memory.max" {
				return nil, errors.New("no such file")
			}
			return []byte(text), nil
		})
		if got != want {
			t.Errorf("%q is a limit of %d, want %d", text, got, want)
		}
	}
}
