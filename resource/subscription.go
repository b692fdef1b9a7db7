package resource

import (
	"strings"

	"github.com/proa-io/proa/component"
)

// Subscription is a resource of kind Subscription, of v1alpha1 or v2alpha1;
// the route of v1alpha1 is kept as Routes.Default.
type Subscription struct {
	header `yaml:",inline"`
	Spec   SubscriptionSpec `yaml:"spec"`
}

// SubscriptionSpec is the spec of a Subscription.
type SubscriptionSpec struct {
	Topic           string             `yaml:"topic"`
	PubsubName      string             `yaml:"pubsubname"`
	Route           string             `yaml:"route"`
	Routes          Routes             `yaml:"routes"`
	Metadata        map[string]string  `yaml:"metadata"`
	BulkSubscribe   BulkSubscribe      `yaml:"bulkSubscribe"`
	DeadLetterTopic string             `yaml:"deadLetterTopic"`
	Pos             component.Position `yaml:"-"`
}

// Routes tells which path of the application takes which event.
type Routes struct {
	Rules   []Rule `yaml:"rules"`
	Default string `yaml:"default"`
}

// Rule sends the events that Match, a CEL expression, is true of to Path.
type Rule struct {
	Match string             `yaml:"match"`
	Path  string             `yaml:"path"`
	Pos   component.Position `yaml:"-"`
}

// BulkSubscribe asks for several events per delivery.
type BulkSubscribe struct {
	Enabled            bool  `yaml:"enabled"`
	MaxMessagesCount   int32 `yaml:"maxMessagesCount"`
	MaxAwaitDurationMs int32 `yaml:"maxAwaitDurationMs"`
}

// Name returns the subscription's name.
func (s *Subscription) Name() string { return s.Metadata.Name }

// Scopes returns the applications the subscription is for; empty for all.
func (s *Subscription) Scopes() []string { return s.header.Scopes }

// Position returns where the document starts.
func (s *Subscription) Position() component.Position { return s.Pos }

func (s *Subscription) check(p *problems) {
	res := s.describe()
	s.requireName(p)
	if s.Spec.Topic == "" {
		p.addf(s.Pos, res, "spec.topic", "is required")
	}
	if s.Spec.PubsubName == "" {
		p.addf(s.Pos, res, "spec.pubsubname", "is required")
	}
	if v1 := strings.HasSuffix(s.APIVersion, "/v1alpha1"); v1 {
		if len(s.Spec.Routes.Rules) > 0 || s.Spec.Routes.Default != "" {
			p.addf(s.Spec.Pos, res, "spec.routes", "belongs to dapr.io/v2alpha1; set apiVersion: dapr.io/v2alpha1, or use route")
		} else if s.Spec.Route == "" {
			p.addf(s.Pos, res, "spec.route", "is required")
		}
		s.Spec.Routes.Default = s.Spec.Route
	} else {
		if s.Spec.Route != "" {
			p.addf(s.Spec.Pos, res, "spec.route", "belongs to dapr.io/v1alpha1; use routes.default")
		} else if len(s.Spec.Routes.Rules) == 0 && s.Spec.Routes.Default == "" {
			p.addf(s.Pos, res, "spec.routes", "wants rules, a default, or both")
		}
		for i, r := range s.Spec.Routes.Rules {
			at := "spec.routes.rules[" + itoa(i) + "]"
			if r.Match == "" {
				p.addf(r.Pos, res, at, `wants match, a condition such as event.type == "order"`)
			}
			if r.Path == "" {
				p.addf(r.Pos, res, at, "wants path, where the application takes the event")
			}
		}
	}
	if b := s.Spec.BulkSubscribe; b.MaxMessagesCount < 0 || b.MaxAwaitDurationMs < 0 {
		p.addf(s.Spec.Pos, res, "spec.bulkSubscribe", "wants counts and durations that are not negative")
	}
}

// HTTPEndpoint is a resource of kind HTTPEndpoint: an address outside that can
// be invoked by name.
type HTTPEndpoint struct {
	header `yaml:",inline"`
	Spec   HTTPEndpointSpec `yaml:"spec"`
	Auth   Auth             `yaml:"auth"`
}

// HTTPEndpointSpec is the spec of an HTTPEndpoint.
type HTTPEndpointSpec struct {
	BaseURL   string      `yaml:"baseUrl"`
	Headers   []NameValue `yaml:"headers"`
	ClientTLS ClientTLS   `yaml:"clientTLS"`
}

// ClientTLS is how to prove who calls, and whom to trust. Certificates and
// keys are PEM.
type ClientTLS struct {
	RootCA        TLSDocument `yaml:"rootCA"`
	Certificate   TLSDocument `yaml:"certificate"`
	PrivateKey    TLSDocument `yaml:"privateKey"`
	Renegotiation string      `yaml:"renegotiation"`
}

// TLSDocument is a PEM text or a reference to one.
type TLSDocument struct {
	Value        Value              `yaml:"value"`
	SecretKeyRef SecretKeyRef       `yaml:"secretKeyRef"`
	Pos          component.Position `yaml:"-"`
}

// Name returns the endpoint's name.
func (e *HTTPEndpoint) Name() string { return e.Metadata.Name }

// Scopes returns the applications the endpoint is for; empty for all.
func (e *HTTPEndpoint) Scopes() []string { return e.header.Scopes }

// Position returns where the document starts.
func (e *HTTPEndpoint) Position() component.Position { return e.Pos }

func (e *HTTPEndpoint) check(p *problems) {
	res := e.describe()
	e.requireName(p)
	if problem := baseURLProblem(e.Spec.BaseURL); problem != "" {
		p.addf(e.Pos, res, "spec.baseUrl", "%s", problem)
	}
	checkNameValues(p, res, "spec.headers", e.Spec.Headers)
	switch e.Spec.ClientTLS.Renegotiation {
	case "", "RenegotiateNever", "RenegotiateOnceAsClient", "RenegotiateFreelyAsClient":
	default:
		p.addf(e.Pos, res, "spec.clientTLS.renegotiation",
			"wants RenegotiateNever, RenegotiateOnceAsClient or RenegotiateFreelyAsClient, not %q", e.Spec.ClientTLS.Renegotiation)
	}
}
