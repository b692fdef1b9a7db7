package http2_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// greeting is what comes before the frames of a fuzzed client.
func greeting() []byte {
	return append([]byte(xhttp2.ClientPreface), script(func(r *raw) {
		r.do(r.fr.WriteSettings())
		r.do(r.fr.WriteSettingsAck())
	})...)
}

// nothingLent checks that all memory that was lent was given back, once.
func nothingLent(t *testing.T, lent *atomic.Int64) {
	t.Helper()
	if n := lent.Load(); n != 0 {
		t.Errorf("%d slabs, streams or header blocks more were taken than given back", n)
	}
}

// FuzzFrames holds the frame parser against the Framer of golang.org/x/net: what
// that takes for an error of the connection may not pass.
func FuzzFrames(f *testing.F) {
	for _, v := range slices.Concat(clientViolations, clientGoodConduct, hpackCases) {
		f.Add(script(func(r *raw) {
			defer func() { _ = recover() }() // those that wait for an answer have no connection here
			v.send(r)
		}))
	}
	first := greeting()
	f.Fuzz(func(t *testing.T, frames []byte) {
		leak.Check(t)
		s := &http2.Server{Handler: func(x proxy.Exchange) { _ = x.Respond(204, nil, 0) }}
		lent := s.Lent()
		ended := s.ServeConn(newCanned(append(bytes.Clone(first), frames...), nil), nil)
		s.Close()
		nothingLent(t, lent)

		fr := xhttp2.NewFramer(nil, bytes.NewReader(frames))
		fr.SetMaxReadFrameSize(1 << 14)
		var err error
		for err == nil {
			if _, err = fr.ReadFrame(); err != nil {
				if _, stream := errors.AsType[xhttp2.StreamError](err); stream {
					err = nil
				}
			}
		}
		_, wrong := errors.AsType[xhttp2.ConnectionError](err)
		if d := fr.ErrorDetail(); d != nil && strings.HasPrefix(d.Error(), "PRIORITY_UPDATE") {
			return // RFC 9218 is unknown here, and so ignored
		}
		if (wrong || errors.Is(err, xhttp2.ErrFrameTooLarge)) && ended == nil {
			t.Errorf("the connection ended well; the oracle says: %v (%v)", err, fr.ErrorDetail())
		}
	})
}

// FuzzHeads holds requests against golang.org/x/net, too: a handler may see none
// whose fields that does not accept, and what cannot be decompressed ends the
// connection.
func FuzzHeads(f *testing.F) {
	for _, v := range slices.Concat(clientViolations, clientGoodConduct, hpackCases) {
		fr := xhttp2.NewFramer(nil, bytes.NewReader(script(func(r *raw) {
			defer func() { _ = recover() }()
			v.send(r)
		})))
		for {
			frame, err := fr.ReadFrame()
			if err != nil {
				break
			}
			if h, ok := frame.(*xhttp2.HeadersFrame); ok {
				f.Add(bytes.Clone(h.HeaderBlockFragment()), uint16(len(h.HeaderBlockFragment())/2))
			}
		}
	}
	first := greeting()
	f.Fuzz(func(t *testing.T, block []byte, at uint16) {
		if len(block) > 1<<14 {
			return
		}
		leak.Check(t)
		k := min(int(at), len(block))
		frames := script(func(r *raw) {
			r.frame(xhttp2.FrameHeaders, 1, 1, block[:k])
			r.frame(xhttp2.FrameContinuation, 4, 1, block[k:])
		})
		var seen atomic.Bool
		s := &http2.Server{Handler: func(x proxy.Exchange) {
			seen.Store(true)
			_ = x.Respond(204, nil, 0)
		}}
		lent := s.Lent()
		ended := s.ServeConn(newCanned(append(bytes.Clone(first), frames...), nil), nil)
		s.Close()
		nothingLent(t, lent)

		fr := xhttp2.NewFramer(nil, bytes.NewReader(frames))
		fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		fr.MaxHeaderListSize = 1 << 20
		_, err := fr.ReadFrame()
		if err != nil && seen.Load() {
			t.Errorf("a handler saw the request; the oracle says: %v (%v)", err, fr.ErrorDetail())
		}
		// The oracle ends the connection for a malformed request, too, when a
		// CONTINUATION is still to come.
		if errors.Is(err, xhttp2.ConnectionError(hpackError)) && ended == nil {
			t.Error("the connection ended well; the oracle cannot decompress the request")
		}
	})
}
