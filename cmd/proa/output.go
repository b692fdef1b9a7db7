package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/term"
)

// screen is where several programs write lines, each behind a name of its own.
// It is safe for concurrent use.
type screen struct {
	mu     sync.Mutex
	out    io.Writer
	colour bool
	width  int // of the widest name
	next   int // colour
}

// newScreen writes to f, in colour when it is a terminal and nobody objects.
func newScreen(f *os.File) *screen {
	_, no := os.LookupEnv("NO_COLOR")
	return &screen{out: f, colour: !no && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))} //nolint:gosec // a descriptor is small
}

// palette has colours that show on light and on dark.
func palette() []int { return []int{36, 35, 33, 32, 34, 31} }

// writer returns a writer whose lines get the name in front. faint is for what
// the sidecar says.
func (s *screen) writer(name string, faint bool) *lines {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.width = max(s.width, len(name))
	colours := palette()
	w := &lines{screen: s, name: name, colour: colours[s.next%len(colours)], faint: faint}
	if faint {
		w.colour = 90
	} else {
		s.next++
	}
	return w
}

// lines writes whole lines to a screen.
type lines struct {
	screen *screen
	name   string
	colour int
	faint  bool

	// also gets all output too; quiet keeps it off the screen. They are set
	// before the first write.
	also  io.Writer
	quiet bool

	mu   sync.Mutex
	rest []byte // a line that is not complete
}

// maxLine bounds a line that does not end.
const maxLine = 64 << 10

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.also != nil {
		if _, err := l.also.Write(p); err != nil {
			return 0, err
		}
	}
	if l.quiet {
		return len(p), nil
	}
	l.rest = append(l.rest, p...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 && len(l.rest) < maxLine {
			return len(p), nil
		}
		if i < 0 {
			i = len(l.rest)
			l.rest = append(l.rest, '\n')
		}
		l.print(l.rest[:i])
		l.rest = l.rest[i+1:]
	}
}

// flush writes a line that did not end.
func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.rest) > 0 {
		l.print(l.rest)
		l.rest = nil
	}
}

func (l *lines) print(line []byte) {
	s := l.screen
	s.mu.Lock()
	defer s.mu.Unlock()
	line = bytes.TrimSuffix(line, []byte("\r"))
	if s.colour {
		fmt.Fprintf(s.out, "\x1b[%dm%-*s |\x1b[0m %s\n", l.colour, s.width, l.name, line)
		return
	}
	fmt.Fprintf(s.out, "%-*s | %s\n", s.width, l.name, line)
}
