package dapr

import (
	"encoding/json"
	"maps"
	"net/http"

	"google.golang.org/grpc/codes"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
)

// Metadata is what the process says of itself: the answer of the metadata API.
// It is a plain value, not shared with anybody.
type Metadata struct {
	AppID   string
	Version string // of the API's runtime
	// Features names the optional features that are on.
	Features      []string
	Components    []Component
	Subscriptions []Subscription
	HTTPEndpoints []string // their names
	Resiliencies  []string // their names
	// Extended are the entries that SetMetadata made.
	Extended map[string]string
	App      AppConnection
	// Schedulers is where the jobs of the application are kept, as far as that
	// is connected; empty for nowhere.
	Schedulers []string
}

// Component is one component as the metadata API shows it.
type Component struct {
	Name, Type, Version string
	// Capabilities has the names of component.Spec.
	Capabilities []string
	// Status says what a component is that does not serve, "opening"; Problem
	// says why. Both are empty for one that does.
	Status, Problem string
}

// Subscription is one subscription of the application.
type Subscription struct {
	PubSub, Topic   string
	Metadata        map[string]string
	Rules           []Rule
	DeadLetterTopic string
	// Type is "DECLARATIVE", "PROGRAMMATIC" or "STREAMING".
	Type string
}

// Rule sends the events that match, or all if Match is empty, to a path.
type Rule struct{ Match, Path string }

// AppConnection tells how the process reaches the application.
type AppConnection struct {
	Port           int // 0 for none
	Protocol       string
	ChannelAddress string
	MaxConcurrency int        // 0 for no bound
	Health         *AppHealth // nil when the application's health is not probed
}

// AppHealth tells how the application's health is probed.
type AppHealth struct {
	Path      string // "" for a gRPC application
	Interval  string // such as "5s"
	Timeout   string
	Threshold int
}

// extended returns the entries of the document's field of that name: those of
// the application and the version, where older SDKs look for it.
func (m *Metadata) extended() map[string]string {
	out := maps.Clone(m.Extended)
	if out == nil {
		out = map[string]string{}
	}
	out["daprRuntimeVersion"] = m.Version
	for _, c := range m.Components {
		if c.Problem != "" {
			out["proa.component."+c.Name] = valid(c.Status + ": " + c.Problem)
		}
	}
	return out
}

// Bounds of the entries that the application may set.
const (
	maxEntries    = 1000
	maxEntryKey   = 256      // bytes
	maxEntryValue = 64 << 10 // bytes
)

// SetMetadata keeps an entry through b, as both APIs offer it, unless it is too
// large or there are too many: anybody on the host may call, and entries stay
// until the process ends. It returns nil when it kept the entry.
func SetMetadata(b Blocks, key, value string) *Error {
	switch {
	case len(key) > maxEntryKey:
		return Invalid("the metadata key has %d bytes; the most is %d", len(key), maxEntryKey)
	case len(value) > maxEntryValue:
		return BodyTooLarge(maxEntryValue)
	}
	key = valid(key)
	entries := b.Metadata().Extended
	if _, known := entries[key]; !known && len(entries) >= maxEntries {
		return flat(http.StatusTooManyRequests, codes.ResourceExhausted, "ERR_BAD_REQUEST",
			"there are %d entries of metadata already, the most allowed", len(entries))
	}
	b.SetMetadata(key, valid(value))
	return nil
}

// Proto returns m as the gRPC API answers it.
func (m *Metadata) Proto() *rtv1.GetMetadataResponse {
	out := &rtv1.GetMetadataResponse{
		Id: m.AppID, RuntimeVersion: m.Version, EnabledFeatures: m.Features, ExtendedMetadata: m.extended(),
		AppConnectionProperties: m.App.proto(),
		ActorRuntime:            &rtv1.ActorRuntime{RuntimeStatus: rtv1.ActorRuntime_DISABLED},
	}
	for _, c := range m.Components {
		out.RegisteredComponents = append(out.RegisteredComponents,
			&rtv1.RegisteredComponents{Name: c.Name, Type: c.Type, Version: c.Version, Capabilities: c.Capabilities})
	}
	for _, s := range m.Subscriptions {
		rules := &rtv1.PubsubSubscriptionRules{}
		for _, r := range s.Rules {
			rules.Rules = append(rules.Rules, &rtv1.PubsubSubscriptionRule{Match: r.Match, Path: r.Path})
		}
		out.Subscriptions = append(out.Subscriptions, &rtv1.PubsubSubscription{
			PubsubName: s.PubSub, Topic: s.Topic, Metadata: s.Metadata, Rules: rules, DeadLetterTopic: s.DeadLetterTopic,
			Type: rtv1.PubsubSubscriptionType(rtv1.PubsubSubscriptionType_value[s.Type]),
		})
	}
	for _, name := range m.HTTPEndpoints {
		out.HttpEndpoints = append(out.HttpEndpoints, &rtv1.MetadataHTTPEndpoint{Name: name})
	}
	if len(m.Schedulers) > 0 {
		out.Scheduler = &rtv1.MetadataScheduler{ConnectedAddresses: m.Schedulers}
	}
	for _, name := range m.Resiliencies {
		out.Resiliencies = append(out.Resiliencies, &rtv1.MetadataResiliency{Name: name})
	}
	return out
}

func (a *AppConnection) proto() *rtv1.AppConnectionProperties {
	out := &rtv1.AppConnectionProperties{
		Port: int32(a.Port), Protocol: a.Protocol, ChannelAddress: a.ChannelAddress, MaxConcurrency: int32(a.MaxConcurrency), //nolint:gosec // ports and counts fit
	}
	if h := a.Health; h != nil {
		out.Health = &rtv1.AppConnectionHealthProperties{
			HealthCheckPath: h.Path, HealthProbeInterval: h.Interval, HealthProbeTimeout: h.Timeout,
			HealthThreshold: int32(h.Threshold), //nolint:gosec // a count of probes fits
		}
	}
	return out
}

// The document of the HTTP API. It is not the JSON mapping of the gRPC answer:
// rules are a list, and the runtime's parts are there even when empty.
type metadataJSON struct {
	ID              string             `json:"id,omitempty"`
	RuntimeVersion  string             `json:"runtimeVersion,omitempty"`
	EnabledFeatures []string           `json:"enabledFeatures,omitempty"`
	Components      []componentJSON    `json:"components,omitempty"`
	Extended        map[string]string  `json:"extended,omitempty"`
	Subscriptions   []subscriptionJSON `json:"subscriptions,omitempty"`
	HTTPEndpoints   []nameJSON         `json:"httpEndpoints,omitempty"`
	App             appJSON            `json:"appConnectionProperties"`
	ActorRuntime    actorRuntimeJSON   `json:"actorRuntime"`
	Scheduler       *schedulerJSON     `json:"scheduler,omitempty"`
	Resiliencies    []nameJSON         `json:"resiliencies,omitempty"`
}

type componentJSON struct {
	Name         string   `json:"name,omitempty"`
	Type         string   `json:"type,omitempty"`
	Version      string   `json:"version,omitempty"`
	Capabilities []string `json:"capabilities,omitempty"`
	// These are none of Dapr's.
	Status  string `json:"status,omitempty"`
	Problem string `json:"problem,omitempty"`
}

type subscriptionJSON struct {
	PubSubName      string            `json:"pubsubname"`
	Topic           string            `json:"topic"`
	Metadata        map[string]string `json:"metadata,omitempty"`
	Rules           []ruleJSON        `json:"rules,omitempty"`
	DeadLetterTopic string            `json:"deadLetterTopic"`
	Type            string            `json:"type"`
}

type ruleJSON struct {
	Match string `json:"match,omitempty"`
	Path  string `json:"path,omitempty"`
}

type nameJSON struct {
	Name string `json:"name,omitempty"`
}

type appJSON struct {
	Port           int         `json:"port,omitempty"`
	Protocol       string      `json:"protocol,omitempty"`
	ChannelAddress string      `json:"channelAddress,omitempty"`
	MaxConcurrency int         `json:"maxConcurrency,omitempty"`
	Health         *healthJSON `json:"health,omitempty"`
}

type healthJSON struct {
	Path      string `json:"healthCheckPath,omitempty"`
	Interval  string `json:"healthProbeInterval,omitempty"`
	Timeout   string `json:"healthProbeTimeout,omitempty"`
	Threshold int    `json:"healthThreshold,omitempty"`
}

type actorRuntimeJSON struct {
	Status    string `json:"runtimeStatus"`
	HostReady bool   `json:"hostReady"`
}

type schedulerJSON struct {
	ConnectedAddresses []string `json:"connected_addresses"`
}

// JSON returns m as the HTTP API answers it.
func (m *Metadata) JSON() ([]byte, error) {
	out := metadataJSON{
		ID: m.AppID, RuntimeVersion: m.Version, EnabledFeatures: m.Features, Extended: m.extended(),
		HTTPEndpoints: names(m.HTTPEndpoints), Resiliencies: names(m.Resiliencies),
		App: appJSON{
			Port: m.App.Port, Protocol: m.App.Protocol, ChannelAddress: m.App.ChannelAddress,
			MaxConcurrency: m.App.MaxConcurrency, Health: (*healthJSON)(nil),
		},
		ActorRuntime: actorRuntimeJSON{Status: rtv1.ActorRuntime_DISABLED.String()},
	}
	if h := m.App.Health; h != nil {
		out.App.Health = &healthJSON{h.Path, h.Interval, h.Timeout, h.Threshold}
	}
	if len(m.Schedulers) > 0 {
		out.Scheduler = &schedulerJSON{m.Schedulers}
	}
	for _, c := range m.Components {
		out.Components = append(out.Components, componentJSON(c))
	}
	for _, s := range m.Subscriptions {
		sub := subscriptionJSON{
			PubSubName: s.PubSub, Topic: s.Topic, Metadata: s.Metadata, DeadLetterTopic: s.DeadLetterTopic, Type: s.Type,
		}
		for _, r := range s.Rules {
			sub.Rules = append(sub.Rules, ruleJSON(r))
		}
		out.Subscriptions = append(out.Subscriptions, sub)
	}
	return json.Marshal(out)
}

func names(list []string) []nameJSON {
	var out []nameJSON
	for _, n := range list {
		out = append(out, nameJSON{n})
	}
	return out
}
