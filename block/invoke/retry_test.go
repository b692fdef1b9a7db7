package invoke_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/proa-io/proa/policy"
)

// trouble is an application that answers its first calls with a failure, and
// then with what it was sent.
func trouble(calls *atomic.Int32, fails int32, failure http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if calls.Add(1) <= fails {
			failure(w, r)
			return
		}
		fmt.Fprintf(w, "%d bytes", len(b))
	})
}

func answering(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func TestARetryPolicyRepeatsTheStatusesThatItNames(t *testing.T) {
	names := func(codes ...int) policy.Chain {
		is := func(code int) bool { return slices.Contains(codes, code) }
		return policy.Chain{policy.Retry{Max: 2, HTTP: is, When: func(err error) bool {
			var answer interface {
				error
				HTTPStatus() int
			}
			return errors.As(err, &answer) && is(answer.HTTPStatus())
		}}.Policy}
	}
	for _, tc := range []struct {
		name   string
		answer int
		policy policy.Chain
		calls  int32
	}{
		{"named", 404, names(404, 409), 3},
		{"not named", 410, names(404, 409), 1},
		{"a failure that is not named", 503, names(404), 1},
		{"none named", 404, policy.Chain{policy.Retry{Max: 2}.Policy}, 1},
		{"a failure, none named", 503, policy.Chain{policy.Retry{Max: 2}.Policy}, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var calls atomic.Int32
			m := start(t, options{app: trouble(&calls, 99, answering(tc.answer)), policy: tc.policy})
			resp := m.do(t, "POST", "/", strings.NewReader("x"))
			if text(t, resp); resp.StatusCode != tc.answer || calls.Load() != tc.calls {
				t.Errorf("status %d after %d calls, want %d after %d", resp.StatusCode, calls.Load(), tc.answer, tc.calls)
			}
		})
	}
}

func TestARetriedRequestIsWhole(t *testing.T) {
	for _, tc := range []struct {
		name  string
		size  int
		known bool
		calls int32
		want  string
	}{
		{"that is small", 10, true, 2, "10 bytes"},
		{"that is sent while it comes", 1 << 20, true, 2, "1048576 bytes"},
		{"of unknown length", 1 << 20, false, 2, "1048576 bytes"},
		{"that is too large to keep", 8 << 20, true, 1, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var calls atomic.Int32
			m := start(t, options{app: trouble(&calls, 1, answering(503)), policy: policy.Chain{policy.Retry{Max: 2}.Policy}})
			var body io.Reader = bytes.NewReader(make([]byte, tc.size))
			if !tc.known {
				body = io.MultiReader(body)
			}
			resp := m.do(t, "POST", "/", body)
			if got := text(t, resp); got != tc.want || calls.Load() != tc.calls {
				t.Errorf("%q after %d calls, want %q after %d", got, calls.Load(), tc.want, tc.calls)
			}
		})
	}
}

func TestAFailureOfUnknownLengthCounts(t *testing.T) {
	chunked := func(size int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			for range size / 1024 {
				_, _ = w.Write(make([]byte, 1024))
				w.(http.Flusher).Flush()
			}
		}
	}
	for size, want := range map[int]int32{4 << 10: 3, 1 << 20: 1} {
		var calls atomic.Int32
		m := start(t, options{app: trouble(&calls, 99, chunked(size)), policy: policy.Chain{policy.Retry{Max: 2}.Policy}})
		resp := m.do(t, "GET", "/", nil)
		if got := text(t, resp); resp.StatusCode != 500 || len(got) != size || calls.Load() != want {
			t.Errorf("status %d with %d bytes after %d calls, want %d bytes after %d", resp.StatusCode, len(got), calls.Load(), size, want)
		}
	}
}

func TestFailuresOfRequestsThatCannotBeRepeatedOpenTheBreaker(t *testing.T) {
	var calls atomic.Int32
	breaker := policy.NewCircuitBreaker(policy.BreakerOptions{Trip: func(c policy.Counts) bool { return c.TotalFailures >= 2 }})
	m := start(t, options{app: trouble(&calls, 99, answering(500)), policy: policy.Chain{breaker.Policy}})
	for range 3 {
		text(t, m.do(t, "POST", "/", io.MultiReader(bytes.NewReader(make([]byte, 1<<20)))))
	}
	if calls.Load() != 2 || breaker.State() != policy.BreakerOpen {
		t.Errorf("%d calls, the breaker is %v", calls.Load(), breaker.State())
	}
}
