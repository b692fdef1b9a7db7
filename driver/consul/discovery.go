package consul

import (
	"context"
	"encoding/base32"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/discovery"
)

// Names in the metadata of services that are ours.
const (
	metaEndpoint  = "PROA_ENDPOINT"  // what labels and weights do not say, as JSON
	metaNamespace = "PROA_NAMESPACE" // of the application; any when it is missing
	// metaLabel begins the name of a label that cannot be one in metadata, in
	// Base32.
	metaLabel = "proa-label-"
)

// Times of an instance that announces itself: it says every heartbeat that it is
// there, and is critical when it has not for expiry. A dead one is removed from
// Consul after forget, the shortest time there is.
const (
	heartbeat = 3 * time.Second
	expiry    = 10 * time.Second
	forget    = time.Minute
)

// Pauses between attempts of a registration that fails, and between questions
// so that much that changes at once is one answer.
const (
	firstDelay = 200 * time.Millisecond
	lastDelay  = 3 * time.Second
	pace       = 50 * time.Millisecond
)

// Names is a discovery.Driver and a discovery.Registrar.
type Names struct {
	client *client
	cfg    Config
}

// Open prepares to ask an agent. It need not be there yet.
func Open(_ context.Context, cfg Config, env component.Env) (*Names, error) {
	c, err := newClient(cfg, env)
	if err != nil {
		return nil, err
	}
	return &Names{c, cfg}, nil
}

// Close implements io.Closer.
func (n *Names) Close() error {
	n.client.http.CloseIdleConnections()
	return nil
}

// entry is what counts of an instance in an answer of /v1/health/service.
type entry struct {
	Node struct {
		Address string
	}
	Service struct {
		ID      string
		Address string
		Tags    []string
		Meta    map[string]string
		Weights struct{ Passing uint32 }
	}
	Checks []struct{ Status string }
}

// Watch implements discovery.Source.
func (n *Names) Watch(ctx context.Context, svc discovery.Service, update func([]discovery.Endpoint)) error {
	var index uint64
	var said []discovery.Endpoint
	for first := true; ; {
		var entries []entry
		next, err := n.client.blocking(ctx, "/v1/health/service/"+url.PathEscape(svc.AppID), index, &entries)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		index = next
		list := make([]discovery.Endpoint, 0, len(entries))
		for _, e := range entries {
			if ep, ok := n.endpoint(e, svc); ok {
				list = append(list, ep)
			}
		}
		if first || !slices.EqualFunc(list, said, discovery.Endpoint.Equal) {
			first, said = false, slices.Clone(list)
			update(list)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pace):
		}
	}
}

// about is what stands in metaEndpoint.
type about struct {
	ID       string             `json:"id,omitempty"`
	MTLS     bool               `json:"mtls,omitempty"`
	Protocol discovery.Protocol `json:"protocol,omitempty"`
	Locality discovery.Locality `json:"locality,omitzero"`
	Priority uint32             `json:"priority,omitempty"`
	Health   discovery.Health   `json:"health,omitempty"`
}

// endpoint returns the endpoint that an instance is, if it is one of svc that
// can be used.
func (n *Names) endpoint(e entry, svc discovery.Service) (ep discovery.Endpoint, ok bool) {
	meta := e.Service.Meta
	if ns, said := meta[metaNamespace]; said && ns != svc.Namespace {
		return ep, false
	}
	host, port := e.Service.Address, meta[n.cfg.DaprPortMetaKey]
	if host == "" {
		host = e.Node.Address
	}
	if p, err := strconv.ParseUint(port, 10, 16); err != nil || p == 0 || host == "" {
		return ep, false
	}
	var a about
	if text, said := meta[metaEndpoint]; said && json.Unmarshal([]byte(text), &a) != nil {
		return ep, false // one of a later version
	}
	ep = discovery.Endpoint{
		Address: net.JoinHostPort(host, port), ID: a.ID, MTLS: a.MTLS, Protocol: a.Protocol, Weight: e.Service.Weights.Passing,
		Locality: a.Locality, Priority: a.Priority, Health: a.Health, Labels: n.labels(e),
	}
	for _, c := range e.Checks {
		switch {
		case c.Status == "critical" || c.Status == "maintenance":
			return ep, false
		case c.Status != "passing" && ep.Health == discovery.Healthy:
			ep.Health = discovery.Unhealthy
		}
	}
	return ep, true
}

// labels returns what tags and metadata say of an instance.
func (n *Names) labels(e entry) map[string]string {
	labels := map[string]string{}
	for _, tag := range e.Service.Tags {
		if name, value, ok := strings.Cut(tag, "="); ok {
			labels[name] = value
		} else {
			labels[tag] = "true"
		}
	}
	for name, value := range e.Service.Meta {
		switch {
		case name == n.cfg.DaprPortMetaKey, name == metaEndpoint, name == metaNamespace:
			continue
		case strings.HasPrefix(name, metaLabel):
			text, err := labelNames().DecodeString(name[len(metaLabel):])
			if err != nil {
				continue
			}
			name = string(text)
		}
		labels[name] = value
	}
	if len(labels) == 0 {
		return nil
	}
	return labels
}

func labelNames() *base32.Encoding { return base32.HexEncoding.WithPadding(base32.NoPadding) }

// Register implements discovery.Registrar. It does nothing unless the settings
// say that this application announces itself.
func (n *Names) Register(ctx context.Context, a *discovery.Announcement) error {
	if !n.cfg.SelfRegister && n.cfg.AdvancedRegistration == nil {
		<-ctx.Done()
		return nil
	}
	ep, changed := a.Endpoint()
	r, err := n.registration(a, ep)
	if err != nil {
		return err
	}
	there, delay := false, firstDelay
	for {
		if there {
			err = n.renew(ctx, r)
		} else {
			err = n.put(ctx, r)
		}
		wait := heartbeat
		switch {
		case err == nil:
			there, delay = true, firstDelay
		case errors.Is(err, errGone): // an agent that has begun anew
			there, wait = false, 0
		default:
			wait, delay = delay, min(2*delay, lastDelay)
		}
		select {
		case <-ctx.Done():
			n.withdraw(ctx, r)
			return nil
		case <-changed:
			ep, changed = a.Endpoint()
			there = false
			if r, err = n.registration(a, ep); err != nil {
				return err
			}
		case <-time.After(wait):
		}
	}
}

// registration is what an instance says to the agent.
type registration struct {
	id      string
	service Registration
	// check is the check that says that the instance is there, with its state;
	// "" when others check it.
	check, status string
}

// plainKey reports whether Consul takes a name in metadata.
func plainKey(name string) bool {
	return name != "" && len(name) <= 128 && !strings.HasPrefix(name, metaLabel) && !strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	})
}

func (n *Names) registration(a *discovery.Announcement, ep discovery.Endpoint) (registration, error) {
	host, port, err := net.SplitHostPort(ep.Address)
	if err != nil {
		return registration{}, fault.New(fault.InvalidArgument, `Consul is told "host:port", not %q`, ep.Address)
	}
	id := a.Service.AppID + "-" + a.Service.Namespace + "-" + host + "-" + port
	meta := map[string]string{}
	r := registration{id: id, status: "passing", service: Registration{}}
	if n.cfg.AdvancedRegistration != nil {
		maps.Copy(r.service, n.cfg.AdvancedRegistration)
		if own, ok := r.service["ID"].(string); ok && own != "" {
			r.id = own
		}
		given, _ := r.service["Meta"].(map[string]any)
		for name, value := range given {
			meta[name], _ = value.(string)
		}
	} else {
		portNumber, _ := strconv.Atoi(port)
		if a.AppPort > 0 {
			portNumber = a.AppPort
		}
		maps.Copy(meta, n.cfg.Meta)
		r.service["Name"], r.service["Address"], r.service["Port"], r.service["Tags"] = a.Service.AppID, host, portNumber, n.cfg.Tags
		n.addChecks(&r)
	}
	r.service["ID"] = r.id
	meta[n.cfg.DaprPortMetaKey], meta[metaNamespace] = port, a.Service.Namespace
	for name, value := range ep.Labels {
		if !plainKey(name) || name == n.cfg.DaprPortMetaKey || name == metaEndpoint || name == metaNamespace {
			name = metaLabel + labelNames().EncodeToString([]byte(name))
		}
		meta[name] = value
	}
	text, err := json.Marshal(about{ep.ID, ep.MTLS, ep.Protocol, ep.Locality, ep.Priority, ep.Health})
	if err != nil {
		return registration{}, fault.Wrap(err, fault.Internal, "encode endpoint")
	}
	meta[metaEndpoint] = string(text)
	r.service["Meta"] = meta
	if ep.Weight > 0 {
		r.service["Weights"] = map[string]any{"Passing": ep.Weight, "Warning": 1}
	}
	if ep.Health != discovery.Healthy {
		r.status = "warning"
	}
	r.state()
	return r, nil
}

// addChecks adds those of the settings or, without any, one that the instance
// itself keeps up.
func (n *Names) addChecks(r *registration) {
	if len(n.cfg.Checks) > 0 {
		r.service["Checks"] = n.cfg.Checks
		return
	}
	r.check = "proa:" + r.id
	r.service["Check"] = map[string]any{
		"CheckID": r.check, "Name": "Sidecar", "TTL": expiry.String(), "DeregisterCriticalServiceAfter": forget.String(),
	}
}

// state puts the state of the own check into the registration, so that it counts
// from the beginning.
func (r *registration) state() {
	if check, ok := r.service["Check"].(map[string]any); ok && r.check != "" {
		check["Status"] = r.status
	}
}

// put registers the instance, over what stands there.
func (n *Names) put(ctx context.Context, r registration) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	_, err := n.client.send(ctx, http.MethodPut, "/v1/agent/service/register", url.Values{"replace-existing-checks": {"true"}}, r.service, nil)
	return err
}

// renew says that the instance is there or, where others check it, makes sure
// that the agent knows it.
func (n *Names) renew(ctx context.Context, r registration) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	if r.check == "" {
		_, err := n.client.send(ctx, http.MethodGet, "/v1/agent/service/"+url.PathEscape(r.id), nil, nil, nil)
		return err
	}
	_, err := n.client.send(ctx, http.MethodPut, "/v1/agent/check/update/"+url.PathEscape(r.check), nil,
		map[string]string{"Status": r.status, "Output": "the sidecar is there"}, nil)
	return err
}

// withdraw removes the instance at once. If the agent is away, the instance
// becomes critical by itself.
func (n *Names) withdraw(ctx context.Context, r registration) {
	if n.cfg.SelfDeregister != nil && !*n.cfg.SelfDeregister {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_, _ = n.client.send(ctx, http.MethodPut, "/v1/agent/service/deregister/"+url.PathEscape(r.id), nil, nil, nil) // see above
}
