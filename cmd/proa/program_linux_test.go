package main

import (
	"os"
	"slices"
	"testing"
)

func TestOnlyPagesThatCannotHaveChangedAreGivenBack(t *testing.T) {
	const maps = `00400000-01e59000 r-xp 00000000 fe:00 12 /bin/proa
01e59000-037a5000 r--p 01a59000 fe:00 12 /bin/proa
037a5000-038d0000 rw-p 033a5000 fe:00 12 /bin/proa
038d0000-03960000 rw-p 00000000 00:00 0
7f0000000000-7f0000001000 r--p 00000000 fe:00 13 /etc/ld.so.cache
zzz-1 r--p 00000000 fe:00 12 /bin/proa
`
	want := []pages{{0x400000, 0x1e59000}, {0x1e59000, 0x37a5000}}
	if got := programPages([]byte(maps), "/bin/proa"); !slices.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

func TestThisProgramHasPagesToGiveBack(t *testing.T) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if len(programPages(maps, program)) == 0 {
		t.Errorf("none of %s in\n%s", program, maps)
	}
	releaseProgram() // and the program goes on
}
