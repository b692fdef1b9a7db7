package discovery

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/resource"
)

// File knows the endpoints that stand in a file, by application id or by
// "app.namespace", and notices when they change. While the file is wrong, what it
// said last counts.
type File struct {
	path   string
	settle time.Duration
	log    *slog.Logger
	end    context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	known   Static // nil before the first good look
	err     error  // of the last look
	changed chan struct{}
}

// FileConfig names a file of endpoints.
//
// It holds applications, by id or by "app.namespace", each with an endpoint or a
// list of them. An endpoint is an address, or an object with the fields address,
// id, mtls, protocol, weight, locality (region, zone, subZone), priority, labels
// and health. The file may be YAML or JSON. It is read again when it changes, in
// place, by a rename or through a symbolic link; one that is wrong changes
// nothing but the log.
type FileConfig struct {
	// Path of the file. A relative one is relative to the working directory or,
	// when there is none, to the folder of the Configuration.
	Path string `setting:"path,file,required"`
}

func openFile(ctx context.Context, cfg FileConfig, env component.Env) (*File, error) {
	log := env.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return NewFile(ctx, env.Locate(cfg.Path), 0, log)
}

// NewFile reads the file and follows its changes until Close. settle is how long
// a change must stay to count, 100 ms when zero. A file that cannot be used at
// first is an error.
func NewFile(ctx context.Context, path string, settle time.Duration, log *slog.Logger) (*File, error) {
	f := &File{path: path, settle: settle, log: log, done: make(chan struct{}), changed: make(chan struct{})}
	known, err := resource.ReadEndpoints(path)
	if err != nil {
		return nil, fault.Wrap(err, fault.InvalidArgument, "endpoints")
	}
	f.take(known)
	ctx, f.end = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(f.done)
		_ = resource.Follow(ctx, path, resource.FollowOptions{Settle: settle, Log: log}, f.look) // which does not fail
	}()
	return f, nil
}

// Close implements io.Closer.
func (f *File) Close() error {
	f.end()
	<-f.done
	return nil
}

// look reads the file.
func (f *File) look(settled bool) {
	known, err := resource.ReadEndpoints(f.path)
	if err == nil {
		f.take(known)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !settled || f.err != nil && f.err.Error() == err.Error() {
		return
	}
	f.err = err
	f.log.Warn("the file of endpoints is wrong; what it said last stays in use", "error", err)
}

func (f *File) take(known map[string][]resource.Endpoint) {
	list := make(Static, len(known))
	for app, eps := range known {
		list[app] = fromResource(eps)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known, f.err = list, nil
	close(f.changed)
	f.changed = make(chan struct{})
}

// Watch implements Source.
func (f *File) Watch(ctx context.Context, svc Service, update func([]Endpoint)) error {
	var said reported
	for {
		f.mu.Lock()
		list, changed := f.known.of(svc), f.changed
		f.mu.Unlock()
		said.report(list, update)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// reported is what a watch has reported last.
type reported struct {
	any  bool
	list []Endpoint
}

// report calls update if list says something else than the one before.
func (r *reported) report(list []Endpoint, update func([]Endpoint)) {
	if r.any && sameEndpoints(r.list, list) {
		return
	}
	r.any, r.list = true, append(r.list[:0:0], list...)
	update(list)
}

// sameEndpoints reports whether two lists say the same in the same order.
func sameEndpoints(a, b []Endpoint) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].Equal(b[i]) {
			return false
		}
	}
	return true
}
