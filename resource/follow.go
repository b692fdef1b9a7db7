package resource

import (
	"context"
	"log/slog"
	"time"
)

// FollowOptions configure Follow. The zero values are those of WatchOptions.
type FollowOptions struct {
	Settle time.Duration
	Reread time.Duration
	Log    *slog.Logger
}

// Follow calls read at once, and again whenever the file at path may say
// something else than before, in whatever way it is changed, until ctx ends, and
// returns nil then. settled tells that the file has stayed as it is for a while:
// one that cannot be read before may be one that somebody is writing.
func Follow(ctx context.Context, path string, o FollowOptions, read func(settled bool)) error {
	w := NewWatcher(WatchOptions{Options: Options{Paths: []string{path}}, Settle: o.Settle, Reread: o.Reread, Log: o.Log})
	folders := w.open()
	defer folders.close()
	read(false)
	periodic := time.NewTicker(w.opts.Reread)
	defer periodic.Stop()
	// What changed between the first look and now was noticed, or is not settled.
	settle := time.After(w.opts.Settle)
	var since time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case name := <-folders.changed:
			if !folders.relevant(name) {
				continue
			}
			now := time.Now()
			if since.IsZero() {
				since = now
			}
			settle = time.After(min(w.opts.Settle, max(0, unsettled*w.opts.Settle-now.Sub(since))))
			continue
		case <-settle:
		case <-periodic.C:
		}
		settle, since = nil, time.Time{}
		folders.sync() // before reading: what changes from here on is noticed
		read(true)
	}
}
