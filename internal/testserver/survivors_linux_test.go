package testserver

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// dyingVar tells a child process which end it is to come to.
const dyingVar = "PROA_TESTSERVER_DYING"

// waysToDie are the ends of a test binary, each with what its parent does to
// it. None but the first runs any cleanup.
var waysToDie = map[string]struct {
	inChild  func(t *testing.T)
	inParent func(child *os.Process) error
}{
	"a test fails":             {inChild: func(t *testing.T) { t.Fatal("as asked") }},
	"a test panics":            {inChild: func(*testing.T) { panic("as asked") }},
	"a goroutine panics":       {inChild: func(*testing.T) { go panic("as asked"); select {} }},
	"it exits":                 {inChild: func(*testing.T) { os.Exit(3) }},
	"it runs out of time":      {inChild: func(*testing.T) { select {} }},
	"it is killed":             {inChild: func(*testing.T) { select {} }, inParent: (*os.Process).Kill},
	"it is interrupted":        {inChild: func(*testing.T) { select {} }, inParent: interrupt},
	"a shared server is alive": {inChild: dieWithSharedServer},
	"servers of another user":  {inChild: dieAsAnotherUser},
	"brokers are alive":        {inChild: dieWithBrokers},
}

func interrupt(p *os.Process) error { return p.Signal(os.Interrupt) }

// dieAsAnotherUser has servers that may not be root, where we are.
func dieAsAnotherUser(t *testing.T) {
	fmt.Println("pid", Postgres(t, PostgresOptions{}).Pid())
	fmt.Println("pid", MariaDB(t, MariaDBOptions{}).Pid())
	fmt.Println("up")
	os.Exit(3)
}

// dieWithBrokers has a server that needs another one beside it.
func dieWithBrokers(t *testing.T) {
	rabbit := RabbitMQ(t, RabbitMQOptions{})
	fmt.Println("pid", rabbit.Pid())
	fmt.Println("pid", rabbit.names.Pid())
	fmt.Println("pid", Mosquitto(t, MosquittoOptions{}).Pid())
	fmt.Println("up")
	os.Exit(3)
}

func dieWithSharedServer(t *testing.T) {
	shared := Share(func(tb TB) *MemcachedServer { return Memcached(tb) })
	fmt.Println("pid", shared.Get(t).Pid())
	fmt.Println("up")
	os.Exit(3)
}

// TestNoServerOutlivesTheTestBinary is its own child: there it starts servers
// and dies, here it looks for what is left.
func TestNoServerOutlivesTheTestBinary(t *testing.T) {
	if way, ok := waysToDie[os.Getenv(dyingVar)]; ok {
		fmt.Println("pid", Redis(t, RedisOptions{AppendOnly: true}).Pid())
		fmt.Println("pid", Memcached(t).Pid())
		fmt.Println("pid", NATS(t, NATSOptions{}).Pid())
		if !slices.Contains([]string{"a shared server is alive", "servers of another user", "brokers are alive"}, os.Getenv(dyingVar)) {
			fmt.Println("up")
		}
		way.inChild(t)
		return
	}
	NATS(t, NATSOptions{}) // builds it, which the child's time does not allow for
	for name, way := range waysToDie {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limit := "60s"
			if name == "it runs out of time" {
				limit = "3s"
			}
			dir := t.TempDir()
			if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // for the other user
				t.Fatal(err)
			}
			child := exec.Command(os.Args[0], "-test.run=^"+strings.SplitN(t.Name(), "/", 2)[0]+"$", "-test.timeout="+limit)
			child.Env = append(os.Environ(), dyingVar+"="+name, "TMPDIR="+dir)
			out, err := child.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			pids, printed := readPids(bufio.NewScanner(out))
			if way.inParent != nil {
				if err := way.inParent(child.Process); err != nil {
					t.Error(err)
				}
			}
			if err := child.Wait(); err == nil {
				t.Errorf("the child came to a good end")
			}
			if len(pids) < 3 {
				t.Fatalf("the child started %d servers and printed:\n%s", len(pids), printed)
			}
			for _, pid := range pids {
				awaitGone(t, pid)
			}
		})
	}
}

// readPids reads what the child prints until it says that all is up or ends.
func readPids(lines *bufio.Scanner) (pids []int, printed string) {
	for lines.Scan() {
		printed += lines.Text() + "\n"
		if lines.Text() == "up" {
			return pids, printed
		}
		if text, ok := strings.CutPrefix(lines.Text(), "pid "); ok {
			pid, _ := strconv.Atoi(text)
			pids = append(pids, pid)
		}
	}
	return pids, printed
}

// awaitGone waits until the process has ended. One that nobody has reaped yet
// has ended too.
func awaitGone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return
		}
		_, state, _ := strings.Cut(string(stat), ") ")
		if strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X") {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("process %d has outlived the test binary: %s", pid, stat)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
