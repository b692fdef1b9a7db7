package runtime

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/engine"
)

// jobApp is an application that takes the triggers of jobs, and the events of
// the topic "orders".
type jobApp struct {
	*httptest.Server

	mu   sync.Mutex
	ill  bool
	got  map[string][]string // bodies, by path
	news chan struct{}       // closed when there is another one
}

// newJobApp makes an application that listens once it is started.
func newJobApp(t *testing.T) *jobApp {
	t.Helper()
	a := &jobApp{got: map[string][]string{}, news: make(chan struct{})}
	a.Server = httptest.NewUnstartedServer(http.HandlerFunc(a.serve))
	t.Cleanup(a.Close)
	return a
}

func (a *jobApp) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case r.URL.Path == "/healthz" && a.ill:
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.URL.Path == "/dapr/subscribe":
		fmt.Fprint(w, `[{"pubsubname":"pubsub","topic":"orders","route":"/on/orders"}]`)
	case strings.HasPrefix(r.URL.Path, "/job/"), r.URL.Path == "/on/orders":
		a.got[r.URL.Path] = append(a.got[r.URL.Path], string(body))
		close(a.news)
		a.news = make(chan struct{})
	case r.URL.Path != "/healthz":
		w.WriteHeader(http.StatusNotFound)
	}
}

func (a *jobApp) port() int { return a.Listener.Addr().(*net.TCPAddr).Port }

func (a *jobApp) setIll(ill bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ill = ill
}

// all returns what it has got so far.
func (a *jobApp) all() map[string][]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.got)
}

// await waits until the application has got what enough asks for.
func (a *jobApp) await(t *testing.T, enough func(map[string][]string) bool) {
	t.Helper()
	patient := time.After(patience)
	for {
		a.mu.Lock()
		news, done := a.news, enough(a.got)
		a.mu.Unlock()
		if done {
			return
		}
		select {
		case <-news:
		case <-patient:
			t.Fatalf("the application got only %v", a.all())
		}
	}
}

// gets waits for the first trigger of a job and returns what came with it.
func (a *jobApp) gets(t *testing.T, name string) string {
	t.Helper()
	a.await(t, func(got map[string][]string) bool { return len(got["/job/"+name]) > 0 })
	return a.all()["/job/"+name][0]
}

func TestAJobThatIsDueReachesTheApplication(t *testing.T) {
	app := newJobApp(t)
	app.Start()
	r := newRig(t, nil, func(c *Config) { c.AppPort = app.port() })
	r.must("POST", "/v1.0/jobs/once", `{"dueTime":"0s","data":{"n":1}}`, 204)
	if body := app.gets(t, "once"); body != `{"n":1}` {
		t.Errorf("the application got %q", body)
	}
	r.must("POST", "/v1.0-alpha1/jobs/often", `{"schedule":"@every 10ms","repeats":3}`, 204)
	app.await(t, func(got map[string][]string) bool { return len(got["/job/often"]) == 3 })
	for deadline := time.Now().Add(patience); ; {
		status, answer, err := r.call("GET", "/v1.0/jobs/often", "")
		if err == nil && status == 500 && strings.Contains(answer, "job not found") {
			break
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("the job has not ended: %d %s (%v)", status, answer, err)
		}
	}
	if n := len(app.all()["/job/often"]); n != 3 {
		t.Errorf("it was triggered %d times", n)
	}
	if metadata := r.must("GET", "/v1.0/metadata", "", 200); !strings.Contains(metadata, `"scheduler":{"connected_addresses":["`) {
		t.Errorf("the metadata is %s", metadata)
	}
}

func TestAJobWaitsForTheApplication(t *testing.T) {
	app := newJobApp(t)
	r := newRig(t, nil, func(c *Config) { c.AppPort = app.port() })
	r.must("POST", "/v1.0/jobs/early", `{"dueTime":"0s","failurePolicy":{"drop":{}}}`, 204)
	if got := app.all(); len(got) != 0 {
		t.Errorf("an application that does not listen got %v", got)
	}
	app.Start()
	app.gets(t, "early")
}

func TestAnApplicationThatIsNotWellIsLeftAlone(t *testing.T) {
	app := newJobApp(t)
	app.Start()
	app.setIll(true)
	r := newRig(t, nil, func(c *Config) {
		c.AppPort = app.port()
		c.AppHealth.Enabled, c.AppHealth.Interval, c.AppHealth.Threshold = true, 10*time.Millisecond, 1
	})
	r.must("POST", "/v1.0/jobs/rest", `{"dueTime":"0s","failurePolicy":{"drop":{}}}`, 204)
	// The job is held for as long as the application is not well: a trigger
	// would be a failure that its policy drops.
	for range 5 {
		r.must("GET", "/v1.0/jobs/rest", "", 200)
	}
	if got := app.all(); len(got) != 0 {
		t.Errorf("an application that is not well got %v", got)
	}
	app.setIll(false)
	app.gets(t, "rest")
}

func TestTheJobsOfAReplacedStoreAreTriggered(t *testing.T) {
	app := newJobApp(t)
	app.Start()
	r := newRig(t, nil, func(c *Config) { c.AppPort = app.port() })
	r.must("POST", "/v1.0/jobs/kept", `{"dueTime":"1h"}`, 204)
	r.write("jobs.yaml", componentYAML("mine", "jobs.in-memory"))
	r.applied()
	if _, answer, _ := r.call("GET", "/v1.0/jobs/kept", ""); !strings.Contains(answer, "job not found") {
		t.Errorf("the new store has %s", answer)
	}
	r.must("POST", "/v1.0/jobs/fresh", `{"dueTime":"0s"}`, 204)
	app.gets(t, "fresh")
	r.remove("jobs.yaml")
	r.applied()
	r.must("GET", "/v1.0/jobs/kept", "", 200)
	r.must("POST", "/v1.0/jobs/kept", `{"dueTime":"0s","overwrite":true}`, 204)
	app.gets(t, "kept")
}

func TestASecondJobsComponentIsRefused(t *testing.T) {
	r := newRig(t, map[string]string{"a.yaml": componentYAML("a", "jobs.in-memory")}, nil)
	r.write("b.yaml", componentYAML("b", "jobs.in-memory"))
	if reload := r.next(); reload.Err == nil || !strings.Contains(reload.Err.Error(), `there is a jobs component already, "a"`) {
		t.Errorf("the change is %s", &reload)
	}
}

func TestTheReplicasOfAnApplicationShareItsJobs(t *testing.T) {
	dir := t.TempDir()
	var apps [2]*jobApp
	var rigs [2]*rig
	for i := range apps {
		apps[i] = newJobApp(t)
		apps[i].Start()
		rigs[i] = newRig(t, nil, func(c *Config) {
			c.AppPort = apps[i].port()
			c.Engine = engine.Options{Dir: dir, Durability: engine.Relaxed}
		})
	}
	const n = 50
	for i := range n {
		rigs[i%2].must("POST", fmt.Sprintf("/v1.0/jobs/j%d", i), `{"dueTime":"0s"}`, 204)
	}
	total := func() int {
		sum := 0
		for _, a := range apps {
			for _, got := range a.all() {
				sum += len(got)
			}
		}
		return sum
	}
	for deadline := time.Now().Add(patience); total() < n; {
		if time.Now().After(deadline) {
			t.Fatalf("%d triggers of %d jobs", total(), n)
		}
		time.Sleep(10 * time.Millisecond) // two applications have no signal in common
	}
	rigs[1].stop() // the other one goes on alone
	rigs[0].must("POST", "/v1.0/jobs/last", `{"dueTime":"0s"}`, 204)
	apps[0].gets(t, "last")
	if got := total(); got != n+1 {
		t.Errorf("%d triggers of %d jobs", got, n+1)
	}
}
