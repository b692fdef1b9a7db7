package main

import (
	"bufio"
	"bytes"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// releaseProgram gives back the pages of the program file that starting has
// touched: they are as they are in the file, so that what is needed again is
// mapped anew, at a cost of microseconds. Most of a process that has just
// started is such pages, which every driver's initialisation leaves behind.
func releaseProgram() {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	for _, r := range programPages(maps, program) {
		// A refusal leaves the pages where they are.
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, r.start, r.end-r.start, syscall.MADV_DONTNEED)
	}
}

// pages is a range of addresses.
type pages struct{ start, end uintptr }

// programPages returns where the program's own file is mapped so that no page
// can have been changed, from what /proc/self/maps says (proc(5)).
func programPages(maps []byte, program string) []pages {
	var out []pages
	for s := bufio.NewScanner(bytes.NewReader(maps)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 6 || f[5] != program || f[1] != "r-xp" && f[1] != "r--p" {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 == nil && err2 == nil && start < end {
			out = append(out, pages{uintptr(start), uintptr(end)})
		}
	}
	return out
}
