package httpapi

import (
	"encoding/base64"
	"io"
	"strings"
	"time"

	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// Connector carries out CONNECT (RFC 9110, section 9.3.6). *invoke.Service is one.
type Connector interface {
	// Connect joins the client with where it wants to go, until both
	// directions are over. An error means that ex has not been answered.
	Connect(ex proxy.Exchange) error
}

const fieldProxyAuthorization = "proxy-authorization"

// connect answers a CONNECT.
func (a *API) connect(ex proxy.Exchange, public bool) {
	rules, req, start := a.rules.Load(), ex.Request(), time.Now()
	target, agent := req.Target, req.Header.Get("user-agent")
	status := a.answerConnect(ex, rules, public)
	if rules.observe != nil {
		rules.observe(Call{
			Route: "Connect", Target: target, Method: "CONNECT", Path: target, UserAgent: agent, Status: status,
			Received: -1, Duration: time.Since(start),
		})
	}
}

func (a *API) answerConnect(ex proxy.Exchange, rules *rules, public bool) (status int) {
	h := ex.Request().Header
	switch {
	case public || a.opts.Connector == nil || !rules.served[routeInvoke]:
		return refuseConnect(ex, 501, "CONNECT is not served here\n")
	case !a.opts.Token.Admits(connectToken(h)):
		return refuseConnect(ex, 407, dapr.InvalidToken+"\n")
	}
	err := a.opts.Connector.Connect(ex)
	if err == nil {
		return 200
	}
	return refuseConnect(ex, statusOfConnect(fault.CodeOf(err)), fault.Message(err)+"\n")
}

// connectToken returns the API token that a client of a proxy shows: as every
// caller does, or as proxies are told, as a bearer or as the password of anybody.
func connectToken(h proxy.Header) string {
	if token := h.Get(dapr.TokenHeader); token != "" {
		return token
	}
	scheme, shown, _ := strings.Cut(h.Get(fieldProxyAuthorization), " ")
	shown = strings.TrimSpace(shown)
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		return shown
	case strings.EqualFold(scheme, "Basic"):
		plain, err := base64.StdEncoding.DecodeString(shown)
		if err != nil {
			return ""
		}
		_, password, _ := strings.Cut(string(plain), ":")
		return password
	}
	return ""
}

func refuseConnect(ex proxy.Exchange, status int, text string) int {
	h := proxy.Header{{Name: "Content-Type", Value: "text/plain; charset=utf-8"}}
	if status == 407 {
		h.Add("Proxy-Authenticate", `Basic realm="proa"`)
	}
	if ex.Respond(status, h, int64(len(text))) == nil {
		_, _ = io.WriteString(ex, text) // the client is gone if this fails
	}
	return status
}

// statusOfConnect is what a client of a proxy is told.
func statusOfConnect(code fault.Code) int {
	switch code {
	case fault.InvalidArgument:
		return 400
	case fault.PermissionDenied, fault.Unauthenticated:
		return 403
	case fault.NotFound, fault.Unavailable, fault.FailedPrecondition, fault.Unimplemented:
		return 502
	case fault.ResourceExhausted:
		return 429
	case fault.DeadlineExceeded:
		return 504
	case fault.Canceled:
		return 499
	}
	return 500
}
