package identity

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/internal/fastloop"
)

// rotateVar makes the program of the tests one that rotates the authority in a
// file until it is killed.
const rotateVar = "PROA_TEST_ROTATE"

func TestMain(m *testing.M) {
	if file := os.Getenv(rotateVar); file != "" {
		fmt.Fprintln(os.Stderr, rotateForever(file))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// rotateForever gives the authority another key, and takes keys away that it has
// not used yet when there are many. It writes a line after each change.
func rotateForever(file string) error {
	for {
		_, _, err := Update(file, func(a *Authority) (*Authority, error) {
			if len(a.roots) > 3 {
				return &Authority{TrustDomain: a.TrustDomain, roots: a.roots[:1]}, nil
			}
			return a.Rotate(time.Now(), time.Hour, AuthorityOptions{})
		})
		if err != nil {
			return err
		}
		fmt.Println("changed")
	}
}

// TestNoSidecarLosesItsIdentityWhenARotationIsKilled kills processes while they
// write the authority, at whatever step they are.
func TestNoSidecarLosesItsIdentityWhenARotationIsKilled(t *testing.T) {
	fastloop.Skip(t, "starts programs")
	file := filepath.Join(t.TempDir(), "ca.pem")
	source := func(id ID) *Local {
		t.Helper()
		l, err := NewLocal(LocalOptions{ID: id, File: file})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	a, b := source(shop), source(stock)
	first := a.Current().Roots[0]
	for n := range 30 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), rotateVar+"="+file)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		changes := bufio.NewScanner(out)
		for range 1 + n%3 {
			if !changes.Scan() {
				t.Fatal("nothing is rotated")
			}
		}
		time.Sleep(time.Duration(n) * 97 * time.Microsecond) // some step of the next one
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := a.refresh(); err != nil { // b goes on with what it has
			t.Fatalf("killed for the %d. time: %v", n+1, err)
		}
		if !a.Current().Roots[0].Equal(first) {
			t.Fatal("the key that signs is lost")
		}
		for _, pair := range [][2]*Local{{a, b}, {b, a}, {source(shop), b}} {
			if _, _, err := shake(Client(pair[0], pair[1].opt.ID, Options{}), Server(pair[1], Options{})); err != nil {
				t.Fatalf("killed for the %d. time: %v", n+1, err)
			}
		}
	}
}

// TestWhatAKilledWriterLeavesBehindIsNoTrouble goes through the steps of a change,
// with what each leaves behind when the process is killed after it.
func TestWhatAKilledWriterLeavesBehindIsNoTrouble(t *testing.T) {
	for _, step := range []string{"the lock is taken", "a part is written", "all is written", "it is renamed"} {
		t.Run(step, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "ca.pem")
			l, err := NewLocal(LocalOptions{ID: shop, File: file})
			if err != nil {
				t.Fatal(err)
			}
			text, _ := os.ReadFile(file)
			now, _ := DecodeAuthority(text)
			next, err := now.Rotate(time.Now(), time.Hour, AuthorityOptions{})
			if err != nil {
				t.Fatal(err)
			}
			whole, _ := next.Encode()
			put := func(name string, text []byte) {
				t.Helper()
				path := filepath.Join(dir, name)
				if err := os.WriteFile(path, text, 0o600); err != nil {
					t.Fatal(err)
				}
				old := time.Now().Add(-2 * abandoned)
				if err := os.Chtimes(path, old, old); err != nil {
					t.Fatal(err)
				}
			}
			put("ca.pem.lock", nil)
			switch step {
			case "a part is written":
				put(".ca.pem-1", whole[:len(whole)/2])
			case "all is written":
				put(".ca.pem-1", whole)
			case "it is renamed":
				put("ca.pem", whole)
			}
			if err := l.refresh(); err != nil {
				t.Fatal(err)
			}
			a, _, err := Update(file, func(a *Authority) (*Authority, error) { return a.Rotate(time.Now(), time.Hour, AuthorityOptions{}) })
			if err != nil || !a.Roots()[0].Equal(l.Current().Roots[0]) {
				t.Fatalf("%v", err)
			}
			entries, _ := os.ReadDir(dir)
			for _, e := range entries {
				if strings.HasPrefix(e.Name(), ".ca.pem-") {
					t.Errorf("%s, with keys in it, is still there", e.Name())
				}
			}
		})
	}
}

func TestNoChangeOfAnAuthorityIsLost(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	if _, err := NewLocal(LocalOptions{ID: shop, File: file}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, _, err := Update(file, func(a *Authority) (*Authority, error) { return a.Rotate(time.Now(), time.Hour, AuthorityOptions{}) }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	text, _ := os.ReadFile(file)
	if a, err := DecodeAuthority(text); err != nil || len(a.Roots()) != 9 {
		t.Errorf("%v", err)
	}
}

func TestKeysStayTrustedForAsLongAsTheLongestCertificate(t *testing.T) {
	const month = 30 * 24 * time.Hour
	a := authority(t, "cluster.local").Promise(month)
	text, err := a.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if a, err = DecodeAuthority(text); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if a, err = a.Rotate(now, time.Hour, AuthorityOptions{}); err != nil {
		t.Fatal(err)
	}
	if kept := a.Prune(now.Add(month), time.Hour); len(kept.roots) != 2 {
		t.Error("a key is not trusted any more while certificates that it has signed are still good")
	}
	if kept := a.Prune(now.Add(month+2*time.Hour), time.Hour); len(kept.roots) != 1 {
		t.Error("a key is trusted that nothing is left of")
	}
	if a.Promise(time.Hour) != a || a.Promise(month) != a {
		t.Error("a promise that was made is made again")
	}
}
