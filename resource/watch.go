package resource

import (
	"context"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Snapshot is what all files say at one moment.
type Snapshot struct {
	// Set is complete when Err is nil.
	Set *Set
	// Err joins all problems, each an *Error with its place.
	Err error
	// Forced tells that it was asked for, by Reread, and may be the same as the
	// one before.
	Forced bool
}

// WatchOptions configure a Watcher.
type WatchOptions struct {
	Options
	// Known is what the files said when they were read last.
	Known *Set
	// Settle is how long files must stay as they are before they are read;
	// 100 ms when zero. Many editors and tools write in several steps.
	Settle time.Duration
	// Reread is how often the files are read whether or not a change was
	// noticed; 60 s when zero. Network file systems and some mounts tell of no
	// change.
	Reread time.Duration
	// Passive leaves changes of files unnoticed, so that only Watcher.Reread
	// does anything.
	Passive bool
	// Log tells when changes cannot be noticed; nil discards.
	Log *slog.Logger
}

// Watcher notices when resource files change, in whatever way: written in
// place, renamed over, or by a symbolic link on the way to them that points
// elsewhere, as Kubernetes does with what it mounts.
type Watcher struct {
	opts   WatchOptions
	reread chan struct{} // has room for one
}

// NewWatcher returns a Watcher, which does nothing until Run is called.
func NewWatcher(o WatchOptions) *Watcher {
	if o.Settle <= 0 {
		o.Settle = 100 * time.Millisecond
	}
	if o.Reread <= 0 {
		o.Reread = time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Watcher{opts: o, reread: make(chan struct{}, 1)}
}

// Reread makes Run read all files now and hand out a Snapshot in any case. It
// returns at once.
func (w *Watcher) Reread() {
	select {
	case w.reread <- struct{}{}:
	default: // one that has not begun yet covers this one
	}
}

// unsettled bounds how long files that change all the time are waited for, as a
// multiple of Settle.
const unsettled = 10

// Run calls each, one call after the other, with a Snapshot whenever the files
// say something else than before, until ctx ends, and returns nil then.
func (w *Watcher) Run(ctx context.Context, each func(context.Context, Snapshot)) error {
	said := w.opts.Known.print() // of the last Snapshot
	good := w.opts.Known
	folders := w.open()
	defer folders.close()
	periodic := time.NewTicker(w.opts.Reread)
	defer periodic.Stop()
	first := make(chan struct{}, 1) // what changed before the folders were watched
	first <- struct{}{}
	var settle <-chan time.Time
	var since time.Time // of the first change that has not been read
	forced := false     // asked for by Reread, and not answered yet
	for {
		settled := false
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
		case <-w.reread:
			forced = true
		case <-settle:
			settled = true
		case <-first:
		case <-periodic.C:
		}
		if w.opts.Passive && !forced {
			continue
		}
		settle, since = nil, time.Time{}
		folders.sync() // before reading: what changes from here on is noticed
		s := w.read(good)
		print := s.print()
		if s.Err != nil && !settled && print != said {
			// Read while somebody was writing, perhaps: a trouble is one if it stays.
			settle, since = time.After(w.opts.Settle), time.Now()
			continue
		}
		if s.Err == nil {
			good = s.Set
		}
		if forced || print != said {
			said, s.Forced = print, forced
			each(ctx, s)
		}
		forced = false
	}
}

// read reads all files. A file that is empty is taken for one that is being
// written if it was not before: what it declared must not vanish meanwhile.
func (w *Watcher) read(good *Set) Snapshot {
	set, err := Load(w.opts.Options)
	if err != nil {
		return Snapshot{Set: set, Err: err}
	}
	var p problems
	for _, path := range slices.Sorted(maps.Keys(set.files)) {
		if set.files[path].bytes == 0 && good.file(path).documents > 0 {
			p.add(&Error{Pos: position(path), Problem: "is empty, but declared something before; delete the file if that shall go"})
		}
	}
	return Snapshot{Set: set, Err: p.err()}
}

// print is equal for snapshots that say the same.
func (s *Snapshot) print() string {
	if s.Err != nil {
		return "error " + s.Err.Error()
	}
	return s.Set.print()
}

// folders are the folders in which a change of a name may change what the files
// say.
type folders struct {
	paths   []string
	reread  time.Duration // how often files are read anyway
	log     *slog.Logger
	notify  *fsnotify.Watcher // nil when nothing is noticed
	changed chan string
	done    chan struct{}
	names   map[string]bool // paths that are resources or links on the way to them
	all     map[string]bool // folders of which every name counts
	failed  string          // why a folder could not be watched, said once
}

func (w *Watcher) open() *folders {
	f := &folders{
		paths: slices.Concat(w.opts.Paths, w.opts.ConfigPaths), reread: w.opts.Reread, log: w.opts.Log,
		changed: make(chan string), done: make(chan struct{}),
	}
	if w.opts.Passive {
		close(f.done)
		return f
	}
	return f.open()
}

// open begins to notice changes, if the system can tell of them.
func (f *folders) open() *folders {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		f.warn(err)
		close(f.done)
		return f
	}
	f.notify = n
	quit := n.Events
	go func() {
		defer close(f.done)
		for {
			select {
			case e, ok := <-quit:
				if !ok {
					return
				}
				if e.Op != fsnotify.Chmod {
					f.changed <- e.Name
				}
			case err, ok := <-n.Errors:
				if !ok {
					return
				}
				// Events may be lost: look at everything.
				f.log.Warn("changes of files were noticed too quickly to follow", "error", err)
				f.changed <- ""
			}
		}
	}()
	f.sync()
	return f
}

func (f *folders) close() {
	if f.notify == nil {
		return
	}
	go func() {
		for range f.changed { // let the reader of events go
		}
	}()
	_ = f.notify.Close() // nobody wants its events any more
	<-f.done
	close(f.changed)
}

func (f *folders) warn(err error) {
	if text := err.Error(); text != f.failed {
		f.failed = text
		f.log.Warn("changes of files are not noticed at once, but every so often", "every", f.reread, "error", err)
	}
}

// relevant reports whether a change of the name can matter; "" stands for any.
func (f *folders) relevant(name string) bool {
	return name == "" || f.names[name] || f.all[filepath.Dir(name)]
}

// sync watches the folders that matter now, and no others.
func (f *folders) sync() {
	if f.notify == nil {
		return
	}
	f.names, f.all = map[string]bool{}, map[string]bool{}
	want := map[string]bool{}
	for _, path := range f.paths {
		f.follow(path, want, true)
	}
	for _, dir := range f.notify.WatchList() {
		if !want[dir] {
			_ = f.notify.Remove(dir) // it may be gone already
		}
	}
	for dir := range want {
		// A folder that was deleted and made again is another one: it must be
		// added even if it is in the list.
		if err := f.notify.Add(dir); err != nil {
			f.warn(err)
		}
	}
}

// maxLinks bounds the symbolic links that lead to one file.
const maxLinks = 40

// follow notes every name on the way to path, and the folders they are in. The
// names of files matter, and if it is a folder all that it holds.
func (f *folders) follow(path string, want map[string]bool, files bool) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return
	}
	volume := filepath.VolumeName(abs)
	at := volume + string(filepath.Separator)
	rest := split(abs[len(volume):])
	for links := 0; len(rest) > 0; {
		next := filepath.Join(at, rest[0])
		kind, target := look(next)
		if kind == aLink || kind == nothing || len(rest) == 1 {
			f.names[next], want[at] = true, true
		}
		switch {
		case kind == nothing || links == maxLinks:
			return
		case kind == aLink:
			links++
			rest = append(split(target), rest[1:]...)
			if filepath.IsAbs(target) {
				at = volume + string(filepath.Separator)
			}
		default:
			at, rest = next, rest[1:]
			if len(rest) == 0 && kind == aFolder {
				f.folder(next, want, files)
			}
		}
	}
}

// folder notes that every name in a folder of resources matters.
func (f *folders) folder(dir string, want map[string]bool, files bool) {
	f.all[dir], want[dir] = true, true
	if !files {
		return
	}
	for _, path := range resourceFiles(dir) {
		if kind, _ := look(path); kind == aLink {
			f.follow(path, want, false)
		}
	}
}

func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == filepath.Separator || r == '/' })
}
