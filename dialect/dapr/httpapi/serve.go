package httpapi

import (
	"fmt"
	"strings"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/dialect/dapr"
)

// serve answers the request as its route says.
func (c *call) serve() {
	if (c.req.Method == "HEAD" || c.route == routeBeside || c.route == routePublish && c.params[1] == "") && c.addressed() {
		c.route = routeInvoke // what would be no route in Dapr
	}
	switch c.route {
	case routeInvoke:
		c.invoke()
		return
	case routeBeside:
		c.beside, c.status = c.api.opts.Beside.Handle(c.context(), c.ex, c.path)
		return
	}
	if !c.unescapeParams() {
		return
	}
	switch c.route {
	case routeGetState:
		c.getState()
	case routeSaveState:
		c.saveState()
	case routeDeleteState:
		c.deleteState()
	case routeBulkGetState:
		c.bulkGetState()
	case routeTransaction:
		c.transact()
	case routeQueryState:
		c.queryState()
	case routePublish:
		c.publishEvent()
	case routeBulkPublish, routeBulkPublishAlpha1:
		c.bulkPublish()
	case routeBinding:
		c.invokeBinding()
	case routeGetSecret:
		c.getSecret()
	case routeBulkGetSecret:
		c.bulkGetSecret()
	case routeGetConfiguration, routeGetConfigurationAlpha1:
		c.getConfiguration()
	case routeSubscribeConfiguration, routeSubscribeConfigurationAlpha1:
		c.subscribeConfiguration()
	case routeUnsubscribeConfiguration, routeUnsubscribeConfigurationAlpha1:
		c.unsubscribeConfiguration()
	case routeTryLock:
		c.tryLock()
	case routeUnlock:
		c.unlock()
	case routeCrypto:
		c.crypto()
	case routeConversation:
		c.converse(&rtv1.ConversationRequest{})
	case routeConversationAlpha2:
		c.converse(&rtv1.ConversationRequestAlpha2{})
	case routeSubtleCrypto:
		c.subtleCrypto()
	case routeJobs, routeJobsAlpha1:
		c.jobs()
	default:
		c.serveProcess()
	}
}

// serveProcess answers requests about the process itself, and those to blocks
// that this version does not have.
func (c *call) serveProcess() {
	switch c.route {
	case routeGetMetadata:
		c.getMetadata()
	case routePutMetadata:
		c.putMetadata()
	case routeHealthz:
		c.healthz()
	case routeOutboundHealthz:
		c.outboundHealthz()
	case routeShutdown:
		c.shutdown()
	default:
		info := c.route.info()
		c.fail(dapr.NotImplemented(fmt.Sprintf("this version of proa has no %s (%s %s)", info.group, c.req.Method, c.path)))
	}
}

func (c *call) getMetadata() {
	m := c.api.opts.Blocks.Metadata()
	body, err := m.JSON()
	if err != nil {
		c.fail(&dapr.Error{HTTPStatus: 500, Tag: "ERR_INTERNAL", Message: "failed to encode response as JSON"})
		return
	}
	c.json(200, body)
}

func (c *call) putMetadata() {
	body, ok := c.readBody()
	if !ok {
		return
	}
	if e := dapr.SetMetadata(c.api.opts.Blocks, c.params[0], string(body)); e != nil {
		c.fail(e)
		return
	}
	c.empty()
}

func (c *call) healthz() {
	if missing := c.api.opts.Blocks.NotReady(false); len(missing) > 0 {
		c.fail(dapr.HealthNotReady(missing))
		return
	}
	q, ok := c.query()
	if !ok {
		return
	}
	if id, given := q.get("appid"); given && id != c.api.opts.AppID {
		c.fail(dapr.AppIDMismatch())
		return
	}
	c.empty()
}

func (c *call) outboundHealthz() {
	if len(c.api.opts.Blocks.NotReady(true)) > 0 {
		c.fail(dapr.OutboundNotReady())
		return
	}
	c.empty()
}

// shutdown answers before the process stops, so that the answer arrives.
func (c *call) shutdown() {
	force := strings.EqualFold(c.req.Header.Get("dapr-force-shutdown"), "true")
	c.empty()
	_ = c.ex.Flush() // an error means that the client has gone
	c.api.opts.Blocks.Shutdown(force)
}
