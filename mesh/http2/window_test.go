package http2_test

import (
	"io"
	"strconv"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

func TestAStreamWhoseWindowOpensTooSlowlyIsReset(t *testing.T) {
	const size, pause = 200 << 10, 20 * time.Second
	for name, c := range map[string]struct {
		more  uint32 // each pause
		reset bool
	}{
		"byte by byte":           {1, true},
		"slowly, but far enough": {8 << 10, false},
	} {
		t.Run(name, func(t *testing.T) {
			_ = bubble(t, &http2.Server{Handler: sized}, func(t *testing.T, r *raw) {
				r.write([]byte(xhttp2.ClientPreface))
				r.do(r.fr.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 1}))
				r.greet()
				begin := time.Now()
				r.ask(1, size)
				got, reset := r.dribble(1, pause, c.more)
				switch took := time.Since(begin); {
				case reset != c.reset:
					t.Errorf("reset: %v after %d bytes in %v", reset, got, took)
				case reset && (took < 5*time.Minute || took > 7*time.Minute):
					t.Errorf("reset after %v", took)
				case !reset && (got != size || took < 6*time.Minute):
					t.Errorf("got %d bytes in %v, which is no test of patience", got, took)
				}
			})
		})
	}
}

// dribble opens the windows by so much after each frame that has come, until the
// stream ends, and returns how much came and whether the stream was reset.
func (r *raw) dribble(id uint32, pause time.Duration, more uint32) (got int, reset bool) {
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			r.tb.Fatal(err)
		}
		switch f := f.(type) {
		case *xhttp2.RSTStreamFrame:
			return got, f.ErrCode == xhttp2.ErrCodeCancel
		case *xhttp2.DataFrame:
			if got += len(f.Data()); f.StreamEnded() {
				return got, false
			}
			time.Sleep(pause)
			r.do(r.fr.WriteWindowUpdate(0, more))
			r.do(r.fr.WriteWindowUpdate(id, more))
		}
	}
}

func TestWindowsOpenOnlyForWhatStillComes(t *testing.T) {
	const whole, most = 180 << 10, 160 << 10
	read := make(chan struct{})
	addr := serve(t, &http2.Server{Handler: func(x proxy.Exchange) {
		_, _ = io.CopyN(io.Discard, x.Request().Body, most)
		read <- struct{}{}
		_, _ = io.Copy(io.Discard, x.Request().Body)
		_ = x.Respond(204, nil, 0)
	}})
	for name, known := range map[string]bool{"a length that fits": true, "no length": false} {
		t.Run(name, func(t *testing.T) {
			r := rawClient(t, addr)
			fields := postFields
			if known {
				fields = with(fields, "content-length", strconv.Itoa(whole))
			}
			r.headers(1, false, fields...)
			for range most >> 14 {
				r.frame(xhttp2.FrameData, 0, 1, make([]byte, 1<<14))
			}
			<-read
			if opened := r.opened(1); opened == known {
				t.Errorf("a WINDOW_UPDATE came: %v", opened)
			}
			for left := whole - most; left > 0; left -= 1 << 14 {
				n := min(left, 1<<14)
				r.do(r.fr.WriteData(1, left == n, make([]byte, n)))
			}
			if v := r.next(); v.String() != response(1, "204") {
				t.Errorf("got %v", v)
			}
		})
	}
}

// opened reports whether the window of a stream is opened before a PING is
// answered.
func (r *raw) opened(id uint32) (opened bool) {
	r.do(r.fr.WritePing(false, [8]byte{'w', 'i', 'n'}))
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			r.tb.Fatal(err)
		}
		switch f := f.(type) {
		case *xhttp2.WindowUpdateFrame:
			opened = opened || f.StreamID == id
		case *xhttp2.PingFrame:
			if f.IsAck() {
				return opened
			}
		}
	}
}
