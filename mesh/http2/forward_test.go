package http2_test

import (
	"errors"
	"io"

	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// always is a Server.Inline that says yes.
func always(*proxy.Request) bool { return true }

// forward is a handler that passes requests on to rt, as a proxy does.
func forward(rt proxy.RoundTripper) proxy.Handler {
	var relayer proxy.Relayer
	return func(x proxy.Exchange) {
		opts := proxy.RoundTripOptions{Interim: func(status int, h proxy.Header) { _ = x.Interim(status, h) }}
		res, err := rt.RoundTrip(x.Context(), x.Request(), opts)
		if err != nil {
			refuse(x, err)
			return
		}
		_, _ = relayer.Relay(x, res)
	}
}

func refuse(x proxy.Exchange, err error) {
	if r, ok := errors.AsType[*http2.ResetError](err); ok && r.ByPeer {
		proxy.Abort(x, err)
		return
	}
	if x.Respond(502, nil, proxy.UnknownLength) != nil {
		x.Abort()
		return
	}
	_, _ = io.WriteString(x, err.Error())
}
