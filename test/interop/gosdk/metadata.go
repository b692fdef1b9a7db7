package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/dapr/go-sdk/client"
)

// listenToHealth answers the sidecar's question whether the application is
// well.
func (a *app) listenToHealth() {
	asked := a.inboxes.inbox("asked")
	err := a.service.AddHealthCheckHandler("healthz", func(context.Context) error {
		select {
		case asked <- true:
		default: // often enough
		}
		return nil
	})
	if err != nil {
		panic(err)
	}
}

func (a *app) checkHealth() {
	a.check("the client connects to the sidecar", func(ctx context.Context, t *t) {
		t.ok(a.client.Wait(ctx, 10*time.Second))
	})
	a.check("the sidecar becomes ready when the application's subscriptions are there", func(ctx context.Context, t *t) {
		t.eventually(ctx, http.StatusNoContent, "status of healthz", func() any {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+os.Getenv("DAPR_HTTP_PORT")+"/v1.0/healthz", nil)
			t.ok(err)
			resp, err := http.DefaultClient.Do(req)
			t.ok(err)
			_ = resp.Body.Close()
			return resp.StatusCode
		})
	})
	if token := os.Getenv("DAPR_API_TOKEN"); token != "" {
		a.check("a call with a wrong token is refused", func(ctx context.Context, t *t) {
			a.client.WithAuthToken("wrong")
			defer a.client.WithAuthToken(token)
			_, err := a.client.GetMetadata(ctx)
			t.refused(err, "code = Unauthenticated")
		})
	}
	a.check("the sidecar asks whether the application is well", func(ctx context.Context, t *t) {
		take[bool](ctx, t, a.inboxes["asked"])
	})
}

func (a *app) checkMetadata() {
	a.check("metadata: it says who this is and what there is", func(ctx context.Context, t *t) {
		m, err := a.client.GetMetadata(ctx)
		t.ok(err)
		t.equal(m.ID, a.id, "id")
		want := map[string]string{}
		t.ok(json.Unmarshal([]byte(os.Getenv("INTEROP_COMPONENTS")), &want))
		got := map[string]string{}
		for _, c := range m.RegisteredComponents {
			if want[c.Name] != "" {
				got[c.Name] = c.Type
			}
		}
		t.equal(got, want, "components")
		for _, c := range m.RegisteredComponents {
			for _, can := range []string{"ETAG", "TRANSACTIONAL", "TTL", "QUERY_API"} {
				if c.Name == stateStore && !slices.Contains(c.Capabilities, can) {
					t.fail("%s has %s, and not %s", c.Name, c.Capabilities, can)
				}
			}
		}
	})
	a.check("metadata: it lists the subscriptions with their rules", func(ctx context.Context, t *t) {
		m, err := a.client.GetMetadata(ctx)
		t.ok(err)
		for _, s := range m.Subscriptions {
			if s.Topic != "routed" {
				continue
			}
			var rules []client.PubsubSubscriptionRule
			for _, r := range s.Rules.Rules {
				rules = append(rules, *r)
			}
			t.equal(rules, []client.PubsubSubscriptionRule{
				{Match: `event.type == "important"`, Path: "/important"}, {Match: `event.data.amount > 100`, Path: "/large"}, {Path: "/ordinary"},
			}, "rules")
			return
		}
		t.fail("the topic is not among %d subscriptions", len(m.Subscriptions))
	})
	a.check("metadata: what the application sets is there", func(ctx context.Context, t *t) {
		t.ok(a.client.SetMetadata(ctx, "interop", "was here"))
		m, err := a.client.GetMetadata(ctx)
		t.ok(err)
		t.equal(m.ExtendedMetadata["interop"], "was here", "value")
	})
}
