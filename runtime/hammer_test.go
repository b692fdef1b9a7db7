package runtime

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/proa-io/proa/internal/testserver"
)

func subscriptionYAML(name, broker, topic, route string) string {
	return fmt.Sprintf("apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata:\n  name: %s\nspec:\n  pubsubname: %s\n  topic: %s\n  routes:\n    default: %s\n",
		name, broker, topic, route)
}

func TestNoEventIsLostOrDoubledWhenItsBrokerIsReplaced(t *testing.T) {
	redis := testserver.Redis(t, testserver.RedisOptions{})
	for typ, settings := range map[string][]string{
		"pubsub.in-memory": {"concurrency=%d"}, "pubsub.nats": {"maxAckPending=%d"}, "pubsub.redis": {"concurrency=%d", "redisHost=" + redis.Addr()},
	} {
		t.Run(typ, func(t *testing.T) {
			app := newTestApp(t)
			sent := notes{app: app}
			bus := func(n int) string {
				return componentYAML("bus", typ, append([]string{fmt.Sprintf(settings[0], 10+n)}, settings[1:]...)...)
			}
			app.subscriptions = []map[string]string{{"pubsubname": "bus", "topic": "asked", "route": "/asked"}}
			r := newRig(t, map[string]string{"bus.yaml": bus(0), "sub.yaml": subscriptionYAML("s", "bus", "declared", "/declared")},
				func(c *Config) { c.AppPort = app.port })
			r.subscribed("declared", "asked")
			stop := hammer(t, func(w, i int) error {
				topic := []string{"asked", "declared"}[i%2]
				id := fmt.Sprintf("%d-%d", w, i)
				status, answer, err := r.call("POST", "/v1.0/publish/bus/"+topic, fmt.Sprintf("%q", id))
				if err != nil || status != http.StatusNoContent {
					return fmt.Errorf("%d %s %w", status, answer, err)
				}
				sent.add("/" + topic + " " + id)
				return nil
			})
			for n := range rounds {
				r.write("bus.yaml", bus(n+1))
				r.applied()
			}
			stop()
			app.once(t, sent.all)
		})
	}
}

// subscribed waits until the topics are subscribed to.
func (r *rig) subscribed(topics ...string) {
	r.t.Helper()
	eventually(r.t, func() error {
		active := map[string]bool{}
		for _, s := range r.app.runner.Subscriptions() {
			active[s.Spec.Topic] = s.Active
		}
		for _, topic := range topics {
			if !active[topic] {
				return fmt.Errorf("%s is not subscribed to: %v", topic, active)
			}
		}
		return nil
	})
}

func TestSubscriptionsChangeWithoutTouchingOthers(t *testing.T) {
	app := newTestApp(t)
	sent := notes{app: app}
	r := newRig(t, map[string]string{
		"bus.yaml": componentYAML("bus", "pubsub.in-memory"), "steady.yaml": subscriptionYAML("steady", "bus", "steady", "/steady"),
	}, func(c *Config) { c.AppPort = app.port })
	r.subscribed("steady")
	stop := hammer(t, func(w, i int) error {
		id := fmt.Sprintf("%d-%d", w, i)
		if status, answer, err := r.call("POST", "/v1.0/publish/bus/steady", fmt.Sprintf("%q", id)); err != nil || status != 204 {
			return fmt.Errorf("%d %s %w", status, answer, err)
		}
		sent.add("/steady " + id)
		return nil
	})
	for n := range rounds {
		switch route := fmt.Sprint("/route-", n); n % 3 {
		case 0: // added
			r.write("other.yaml", subscriptionYAML("other", "bus", "other", route))
			r.applied()
			fallthrough
		case 1: // changed
			r.write("other.yaml", subscriptionYAML("other", "bus", "other", route+"-changed"))
			r.applied()
			// What is taken while the old one ends may still go its way.
			eventually(t, func() error {
				r.must("POST", "/v1.0/publish/bus/other", `"x"`, 204)
				if app.times(route+"-changed x") == 0 {
					return fmt.Errorf("%s was not called", route)
				}
				return nil
			})
		default: // removed; what comes for it stays with the broker
			r.remove("other.yaml")
			r.applied()
		}
	}
	stop()
	app.once(t, sent.all)
}
