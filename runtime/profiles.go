package runtime

import (
	"net/http"
	"net/http/pprof"
	goruntime "runtime"
	"sync"
)

// profiles serves the profiles of the process under /debug/pprof. Those of
// waiting need events to be recorded, which costs every lock and channel
// something: that is done only while one is gathered.
func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("/debug/pprof/block", &gathered{name: "block", record: func(on bool) {
		goruntime.SetBlockProfileRate(rate(on, blockRate))
	}})
	mux.Handle("/debug/pprof/mutex", &gathered{name: "mutex", record: func(on bool) {
		goruntime.SetMutexProfileFraction(rate(on, mutexRate))
	}})
	return mux
}

const (
	// blockRate records, on average, one event for so many nanoseconds that
	// goroutines wait.
	blockRate = 10_000
	// mutexRate records one of so many waits for a lock.
	mutexRate = 10
	// gatherFor is how long is gathered, in seconds, when nobody says.
	gatherFor = "10"
)

func rate(on bool, n int) int {
	if on {
		return n
	}
	return 0
}

// gathered serves a profile of what happens from the request on, for as long as
// its parameter seconds says.
type gathered struct {
	name   string
	record func(on bool)

	mu    sync.Mutex
	under int // requests under way
}

// ServeHTTP implements http.Handler.
func (g *gathered) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if q := r.URL.Query(); q.Get("seconds") == "" {
		q.Set("seconds", gatherFor)
		q.Del("debug") // which shows all since the start, when nothing was recorded
		r = r.Clone(r.Context())
		r.URL.RawQuery = q.Encode()
		r.Form = nil
	}
	g.use(1)
	defer g.use(-1)
	pprof.Handler(g.name).ServeHTTP(w, r)
}

// use switches recording on for the first request and off after the last.
func (g *gathered) use(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.under
	g.under += n
	if (before == 0) != (g.under == 0) {
		g.record(g.under > 0)
	}
}
