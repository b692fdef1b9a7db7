package http2_test

import (
	"errors"
	"io"
	"sync"

	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// forward is a handler that passes requests on to rt, as a proxy does.
func forward(rt proxy.RoundTripper) proxy.Handler {
	return func(x proxy.Exchange) {
		opts := proxy.RoundTripOptions{Interim: func(status int, h proxy.Header) { _ = x.Interim(status, h) }}
		res, err := rt.RoundTrip(x.Context(), x.Request(), opts)
		if err != nil {
			refuse(x, err)
			return
		}
		if res.Upgraded != nil {
			tunnel(x, res)
			return
		}
		defer res.Body.Close()
		if err := x.Respond(res.Status, res.Header, res.ContentLength); err != nil {
			x.Abort()
			return
		}
		if err := pass(x, res.Body); err != nil {
			refuse(x, err)
			return
		}
		if res.Trailer != nil && len(*res.Trailer) > 0 {
			_ = x.Trailer(*res.Trailer)
		}
	}
}

func refuse(x proxy.Exchange, err error) {
	if r, ok := errors.AsType[*http2.ResetError](err); ok && r.ByPeer {
		http2.Reset(x, r.Code)
		return
	}
	if x.Respond(502, nil, proxy.UnknownLength) != nil {
		x.Abort()
		return
	}
	_, _ = io.WriteString(x, err.Error())
}

// pass copies the body and flushes when nothing more waits to be read.
func pass(x proxy.Exchange, body io.Reader) error {
	look := body.(proxy.Lookahead)
	buf := make([]byte, 16<<10)
	for {
		if look.Buffered() == 0 {
			if err := x.Flush(); err != nil {
				return err
			}
		}
		n, err := body.Read(buf)
		if n > 0 {
			if _, err := x.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func tunnel(x proxy.Exchange, res *proxy.Response) {
	defer res.Upgraded.Close()
	rw, err := x.Upgrade(res.Header)
	if err != nil {
		return
	}
	defer rw.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(res.Upgraded, rw)
		_ = res.Upgraded.(proxy.Stream).CloseWrite()
	})
	_, _ = io.Copy(rw, res.Upgraded)
	_ = rw.(proxy.Stream).CloseWrite()
	wg.Wait()
}
