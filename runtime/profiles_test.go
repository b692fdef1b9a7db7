package runtime

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	goruntime "runtime"
	"testing"
)

func TestWaitingIsRecordedOnlyWhileAProfileOfItIsGathered(t *testing.T) {
	s := httptest.NewServer(profiles())
	defer s.Close()
	fraction := func() int { return goruntime.SetMutexProfileFraction(-1) }
	if n := fraction(); n != 0 {
		t.Fatalf("one of %d waits is recorded though nobody asked", n)
	}
	got := make(chan error, 1)
	go func() {
		resp, err := http.Get(s.URL + "/debug/pprof/mutex?seconds=1") //nolint:noctx // the server ends it
		if err != nil {
			got <- err
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err == nil && (resp.StatusCode != 200 || len(body) == 0) {
			err = errors.New(resp.Status + " " + string(body))
		}
		got <- err
	}()
	eventually(t, func() error {
		if fraction() != mutexRate {
			return errors.New("waits are not recorded")
		}
		return nil
	})
	if err := <-got; err != nil {
		t.Error(err)
	}
	if n := fraction(); n != 0 {
		t.Errorf("one of %d waits is recorded still", n)
	}
}

func TestAllProfilesAreServed(t *testing.T) {
	h := profiles()
	for _, path := range []string{"", "goroutine?debug=1", "heap", "allocs", "threadcreate", "block?seconds=1", "mutex?seconds=1", "cmdline", "symbol"} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "GET", "/debug/pprof/"+path, nil))
		if rec.Code != 200 {
			t.Errorf("%s: %d %s", path, rec.Code, rec.Body)
		}
	}
}
