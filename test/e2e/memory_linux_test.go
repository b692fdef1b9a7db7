package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

// zeros is a body without an end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestAGibibytePassesTwoSidecarsThatStaySmall sends content both ways that is
// much larger than the memory the sidecars may take.
func TestAGibibytePassesTwoSidecarsThatStaySmall(t *testing.T) {
	long(t)
	const gib, most = 1 << 30, 160 << 10 // bytes; KiB
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/down") {
			_, _ = io.CopyN(w, zeros{}, gib)
			return
		}
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
	}))
	defer app.Close()
	home := t.TempDir()
	callee := startSidecar(t, options{name: "callee", home: home, app: app.Listener.Addr().String()})
	caller := startSidecar(t, options{name: "caller", home: home, flags: []string{"--app-id", "caller"}})
	client := &http.Client{}
	for _, length := range []int64{gib, -1} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", caller.url("/v1.0/invoke/shop/method/up"), io.LimitReader(zeros{}, gib))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = length
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := fmt.Sprint(gib, nil); string(answer) != want {
			t.Errorf("with Content-Length %d the application got %s, want %s", length, answer, want)
		}
	}
	resp, err := client.Get(caller.url("/v1.0/invoke/shop/method/down"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if n != gib || err != nil {
		t.Errorf("%d bytes came back, %v", n, err)
	}
	for _, s := range []*sidecar{callee, caller} {
		if peak := peakMemory(t, s); peak > most {
			t.Errorf("%s took %d KiB, want at most %d", s.name, peak, most)
		}
	}
}

// peakMemory returns the most resident memory that a process has had, in KiB.
func peakMemory(t *testing.T, s *sidecar) (kib int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib
}
