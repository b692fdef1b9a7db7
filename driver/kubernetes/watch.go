package kubernetes

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/proa-io/proa/fault"
)

// session is how long one watch lasts; the API server ends it then, and it is
// begun anew. Where the server has gone without a trace it is sessionEnd until
// that is noticed, if nothing notices it before.
const (
	session    = 5 * time.Minute
	sessionEnd = session + 30*time.Second
)

// maxEvent bounds one event, in bytes.
const maxEvent = 8 << 20

// Watch implements secret.Watcher. It has one request under way for each secret,
// because a role may allow an account these secrets only.
func (s *Store) Watch(ctx context.Context, names []string, changed func()) error {
	path, err := s.path(nil)
	if err != nil {
		return err
	}
	watching, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	tell := make(chan struct{}, 1)
	signal := func() {
		select {
		case tell <- struct{}{}:
		default:
		}
	}
	standing := newCountdown(len(names))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	for _, name := range names {
		wg.Go(func() { cancel(s.follow(watching, path, name, func() { standing.done(name); signal() })) })
	}
	select {
	case <-standing.zero:
	case <-watching.Done():
		return context.Cause(watching)
	}
	changed()
	for {
		select {
		case <-watching.Done():
			return context.Cause(watching)
		case <-tell:
			changed()
		}
	}
}

// countdown tells when each of several things has been done once.
type countdown struct {
	mu   sync.Mutex
	left int
	seen map[string]struct{}
	zero chan struct{} // closed then
}

func newCountdown(n int) *countdown {
	c := &countdown{left: n, seen: map[string]struct{}{}, zero: make(chan struct{})}
	if n == 0 {
		close(c.zero)
	}
	return c
}

func (c *countdown) done(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, again := c.seen[name]; again {
		return
	}
	c.seen[name] = struct{}{}
	if c.left--; c.left == 0 {
		close(c.zero)
	}
}

// follow calls event once it is told of the changes of a secret, and at each of
// them.
func (s *Store) follow(ctx context.Context, path, name string, event func()) error {
	query := url.Values{
		"watch": {"true"}, "fieldSelector": {"metadata.name=" + name},
		"timeoutSeconds": {strconv.Itoa(int(session / time.Second))},
	}
	for {
		begun := time.Now()
		if err := s.session(ctx, path+"?"+query.Encode(), event); err != nil {
			return err
		}
		if time.Since(begun) < time.Second {
			return fault.New(fault.Unavailable, "the API server ends watches at once")
		}
	}
}

// session follows one answer of the API server to its end.
func (s *Store) session(ctx context.Context, path string, event func()) error {
	ctx, cancel := context.WithTimeout(ctx, sessionEnd)
	defer cancel()
	res, err := s.client.open(ctx, path)
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // nothing was written
	event()
	events := bufio.NewScanner(res.Body) // one event per line
	events.Buffer(nil, maxEvent)
	for events.Scan() {
		var e struct {
			Type   string `json:"type"`
			Object struct {
				Code int `json:"code"`
			} `json:"object"`
		}
		switch err := json.Unmarshal(events.Bytes(), &e); {
		case err != nil: // its text could quote a secret
			return fault.New(fault.Internal, "what answers does not speak the protocol of Kubernetes")
		case e.Type == "ERROR" && e.Object.Code == http.StatusGone:
			return nil
		case e.Type == "ERROR":
			return fault.New(fault.Unavailable, "the API server ended the watch (status %d)", e.Object.Code)
		case e.Type != "BOOKMARK":
			event()
		}
	}
	if err := events.Err(); err != nil {
		return unreachable(ctx, err)
	}
	return nil // its time is over
}
