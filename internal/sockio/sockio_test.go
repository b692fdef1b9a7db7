//go:build unix

package sockio

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// pair returns the two ends of a connection.
func pair(t *testing.T, network string) (ours, theirs net.Conn) {
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if ours, err = net.Dial(network, ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if theirs, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	ours.SetDeadline(time.Now().Add(10 * time.Second))
	theirs.SetDeadline(time.Now().Add(10 * time.Second))
	return ours, theirs
}

// lent is a Buffer that knows whether it is lent.
type lent struct {
	p    []byte
	held bool
}

func (l *lent) Take() []byte { l.held = true; return l.p }
func (l *lent) Drop()        { l.held = false }

func TestReadsAndWrites(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			ours, theirs := pair(t, network)
			s := Of(ours)
			if n, err := s.TryWrite(new(Writes), []byte("ab"), nil, []byte("c")); n != 3 || err != nil {
				t.Fatalf("wrote %d, %v", n, err)
			}
			buf := make([]byte, 10)
			if n, err := theirs.Read(buf); string(buf[:n]) != "abc" {
				t.Fatalf("the other side got %q, %v", buf[:n], err)
			}
			if s.Peek() != Quiet {
				t.Error("there is something to read")
			}
			theirs.Write([]byte("xyz"))
			if n, err := s.Read(buf[:2]); n != 2 || err != nil {
				t.Fatalf("read %d, %v", n, err)
			}
			if s.Peek() != Readable {
				t.Error("there is nothing to read")
			}
			b := &lent{p: buf}
			if n, err := s.Fill(b); string(buf[:n]) != "z" || err != nil || !b.held {
				t.Fatalf("got %q, %v", buf[:n], err)
			}
			theirs.Close()
			if n, err := s.Fill(b); n != 0 || err != io.EOF || b.held {
				t.Errorf("after the end: %d, %v", n, err)
			}
			if s.Peek() != Ended {
				t.Error("the end is not seen")
			}
		})
	}
}

func TestFillOnlyLooksWithoutABuffer(t *testing.T) {
	ours, theirs := pair(t, "tcp")
	s := Of(ours)
	theirs.Write([]byte("x"))
	for range 2 {
		if n, err := s.Fill(&lent{}); n != 0 || err != nil {
			t.Fatalf("got %d, %v", n, err)
		}
	}
	b := &lent{p: make([]byte, 10)}
	if n, err := s.Fill(b); n != 1 || err != nil {
		t.Fatalf("then %d, %v", n, err)
	}
	theirs.Close()
	if n, err := s.Fill(&lent{}); n != 0 || err != io.EOF {
		t.Errorf("after the end: %d, %v", n, err)
	}
}

func TestWatchHearsOfAllThatComes(t *testing.T) {
	ours, theirs := pair(t, "tcp")
	s, buf := Of(ours), make([]byte, 10)
	got := make(chan string)
	watched := make(chan error)
	go func() {
		watched <- s.Watch(func() bool {
			for {
				n, err := s.TryRead(buf)
				if n == 0 {
					return err == nil
				}
				got <- string(buf[:n])
			}
		})
	}()
	for range 100 {
		theirs.Write([]byte("ping"))
		if p := <-got; p != "ping" {
			t.Fatalf("got %q", p)
		}
	}
	theirs.Close()
	if err := <-watched; err != nil {
		t.Errorf("Watch: %v", err)
	}
}

func TestAskGetsTheAnswer(t *testing.T) {
	ours, theirs := pair(t, "tcp")
	go io.Copy(theirs, theirs)
	s, b := Of(ours), &lent{p: make([]byte, 10)}
	for range 1000 {
		wrote, n, err := s.Ask([]byte("ping"), b, false)
		if wrote != 4 || string(b.p[:n]) != "ping" || err != nil {
			t.Fatalf("wrote %d, got %q, %v", wrote, b.p[:n], err)
		}
	}
	ours.SetReadDeadline(time.Unix(1, 0))
	if wrote, _, err := s.Ask([]byte("ping"), b, false); wrote != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %d, %v", wrote, err)
	}
}

func TestAskWritesNothingToAStaleConnection(t *testing.T) {
	for name, spoil := range map[string]func(net.Conn){
		"it has ended": func(nc net.Conn) { nc.Close() },
		"bytes came":   func(nc net.Conn) { nc.Write([]byte("HTTP/1.1 408\r\n\r\n")) },
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := pair(t, "tcp")
			s := Of(ours)
			spoil(theirs)
			for s.Peek() == Quiet {
				time.Sleep(time.Millisecond)
			}
			if wrote, n, err := s.Ask([]byte("ping"), &lent{p: make([]byte, 10)}, false); err != ErrStale || wrote+n != 0 {
				t.Errorf("wrote %d, read %d, %v", wrote, n, err)
			}
		})
	}
}

func TestAWriteToAFullSocketIsShort(t *testing.T) {
	ours, _ := pair(t, "tcp")
	s, p := Of(ours), bytes.Repeat([]byte("x"), 1<<20)
	for total := 0; ; {
		n, err := s.TryWrite(new(Writes), p, p)
		if err != nil {
			t.Fatal(err)
		}
		if total += n; n < 2*len(p) {
			if wrote, n, err := s.Ask(p, &lent{p: make([]byte, 10)}, true); wrote == len(p) || n != 0 || err != nil {
				t.Errorf("asked after %d bytes: wrote %d, read %d, %v", total, wrote, n, err)
			}
			return
		}
	}
}

func TestWritingToABrokenConnectionFails(t *testing.T) {
	ours, theirs := pair(t, "unix")
	s := Of(ours)
	theirs.Close()
	if n, err := s.TryWrite(new(Writes), []byte("x")); err == nil {
		t.Errorf("wrote %d", n)
	}
	ours.Close()
	if _, err := s.TryWrite(new(Writes), []byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestWhatIsNoSocketHasNone(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if Of(a) != nil {
		t.Error("a pipe is a socket")
	}
}

func TestWhatWaitsIsCounted(t *testing.T) {
	ours, theirs := pair(t, "tcp")
	s := Of(ours)
	if n := s.Waiting(); n != 0 {
		t.Errorf("%d bytes wait before any were sent", n)
	}
	theirs.Write([]byte("abc"))
	for s.Peek() == Quiet {
		time.Sleep(time.Millisecond)
	}
	if n := s.Waiting(); n < 1 || n > 3 {
		t.Errorf("%d bytes wait, of 3", n)
	}
	ours.Close()
	if n := s.Waiting(); n != 0 {
		t.Errorf("%d bytes wait in a socket that is closed", n)
	}
}
