package sidecar

import "testing"

func TestTheHeapInUseIsReadFromAProfile(t *testing.T) {
	got, err := heapAlloc("heap profile: 1: 2 [3: 4] @ heap/1048576\n\n# runtime.MemStats\n# Alloc = 7\n# HeapAlloc = 123456\n# HeapSys = 9\n")
	if err != nil || got != 123456 {
		t.Errorf("%d, %v", got, err)
	}
	if _, err := heapAlloc("heap profile: 1: 2 [3: 4] @ heap/1048576\n"); err == nil {
		t.Error("a profile without it has a heap in use")
	}
}
