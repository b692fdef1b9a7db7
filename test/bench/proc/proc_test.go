package proc

import (
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

func TestTheCPUTimeOfAProcessGrowsWithItsWork(t *testing.T) {
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for start := time.Now(); time.Since(start) < 50*time.Millisecond; n++ {
		_ = n
	}
	after, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if after <= before {
		t.Errorf("%v, then %v", before, after)
	}
	if _, err := CPU(1 << 22); err == nil {
		t.Error("a process that cannot be has CPU time")
	}
}

func TestThePeakForgetsWhatWasBeforeItsReset(t *testing.T) {
	big := make([]byte, 64<<20)
	for i := 0; i < len(big); i += 4096 {
		big[i] = 1
	}
	rss, err := RSS(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	peak, err := Peak(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if rss < 64<<20 || peak < 64<<20 {
		t.Errorf("with 64 MiB in use: %d resident, %d at most", rss, peak)
	}
	big[0] = 2 // it was in use until here
	if err := ResetPeak(os.Getpid()); err != nil {
		t.Fatal(err)
	}
}

func TestDescriptorsAreCounted(t *testing.T) {
	before, err := Descriptors(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	after, err := Descriptors(os.Getpid())
	if err != nil || after != before+3 {
		t.Errorf("%d, then %d with three more; %v", before, after, err)
	}
}

func TestATreeHasTheChildren(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "cat; true") // sh waits for cat
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close()
		_ = cmd.Wait()
	}()
	for deadline := time.Now().Add(10 * time.Second); ; {
		tree, err := Tree(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		below, err := Tree(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if len(below) == 2 && slices.Contains(tree, below[1]) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the tree is %v, that below %v", tree, below)
		}
	}
}

func TestThreadsAreCounted(t *testing.T) {
	n, err := Threads(os.Getpid())
	if err != nil || n < 1 {
		t.Errorf("%d threads, %v", n, err)
	}
	if _, err := Threads(os.Getpid(), 1<<22+1); err == nil {
		t.Error("there are threads of a process that cannot be")
	}
}
