package sidecar

import (
	"strings"
	"testing"
)

func TestTheHeapInUseIsReadFromAProfile(t *testing.T) {
	const text = "heap profile: 1: 2 [3: 4] @ heap/1048576\n\n# runtime.MemStats\n# Alloc = 7\n# HeapAlloc = 1000\n# HeapSys = 9\n# HeapInuse = 2000\n# Stack = 300 / 400\n"
	if objects, held, err := heap(text); err != nil || objects != 1000 || held != 2300 {
		t.Errorf("%d, %d, %v", objects, held, err)
	}
	for name, bad := range map[string]string{"HeapInuse": strings.Replace(text, "HeapInuse", "X", 1), "HeapAlloc": strings.Replace(text, "1000", "x", 1)} {
		if _, _, err := heap(bad); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}
