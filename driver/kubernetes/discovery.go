package kubernetes

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
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

// NamesConfig configures how applications are found by the EndpointSlices of
// their Services.
//
// The namespace of an application is one of the cluster. The role of the account
// must allow to "list" and to "watch" endpointslices of discovery.k8s.io there.
// An endpoint that is ready is healthy, one that is terminating drains, any other
// is unhealthy; its zone is the one that the cluster meant it for (hints), or
// else the one it is in.
type NamesConfig struct {
	// KubeconfigPath is the path of a kubeconfig. When empty, the service
	// account of the pod is used; outside of a pod the first file that the
	// environment variable KUBECONFIG names, or .kube/config in the home
	// folder.
	KubeconfigPath string `setting:"kubeconfigPath"`
	// Service is the name of the Service of an application, with {appid} in it.
	Service string `setting:"service"`
	// PortName is the name of the port where sidecars take calls from each
	// other.
	PortName string `setting:"portName"`
	// Port counts where no port has that name.
	Port int `setting:"port"`
	// Protocol is what is spoken there when it is not sidecars that listen:
	// http/1.1, h2c or tcp.
	Protocol string `setting:"protocol"`
}

func namesDefaults() NamesConfig {
	return NamesConfig{Service: "{appid}-dapr", PortName: "dapr-internal-grpc", Port: 50002}
}

// Validate reports settings that can never work.
func (c NamesConfig) Validate() error {
	switch p := discovery.Protocol(c.Protocol); {
	case !strings.Contains(strings.ToLower(c.Service), "{appid}"):
		return component.Invalid("service", `wants a name with {appid} in it, such as "{appid}-dapr", not %q`, c.Service)
	case c.Port < 1 || c.Port > 65535:
		return component.Invalid("port", "wants a port, not %d", c.Port)
	case !slices.Contains([]discovery.Protocol{discovery.Sidecar, discovery.HTTP1, discovery.HTTP2, discovery.TCP}, p):
		return component.Invalid("protocol", "wants http/1.1, h2c or tcp, not %q", c.Protocol)
	}
	return nil
}

// Names is a discovery.Driver.
type Names struct {
	client *client
	cfg    NamesConfig
}

// OpenNames finds out how to reach the API server, and whether it answers.
func OpenNames(ctx context.Context, cfg NamesConfig, env component.Env) (*Names, error) {
	a, err := here().access(Config{KubeconfigPath: cfg.KubeconfigPath}, env)
	if err != nil {
		return nil, err
	}
	n := &Names{newClient(a), cfg}
	if err := n.client.get(ctx, "/version", &struct{}{}); err != nil {
		_ = n.Close()
		return nil, err
	}
	return n, nil
}

// Close implements io.Closer.
func (n *Names) Close() error {
	n.client.http.CloseIdleConnections()
	return nil
}

// slice is what counts of an EndpointSlice, version discovery.k8s.io/v1.
type slice struct {
	Metadata struct {
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	AddressType string          `json:"addressType"`
	Endpoints   []sliceEndpoint `json:"endpoints"`
	Ports       []struct {
		Name     *string `json:"name"`
		Port     *int    `json:"port"`
		Protocol *string `json:"protocol"`
	} `json:"ports"`
}

type sliceEndpoint struct {
	Addresses  []string `json:"addresses"`
	Conditions struct {
		Ready       *bool `json:"ready"`
		Terminating *bool `json:"terminating"`
	} `json:"conditions"`
	NodeName  string `json:"nodeName"`
	Zone      string `json:"zone"`
	TargetRef struct {
		Kind string `json:"kind"`
		Name string `json:"name"`
	} `json:"targetRef"`
	Hints struct {
		ForZones []struct {
			Name string `json:"name"`
		} `json:"forZones"`
	} `json:"hints"`
}

// errExpired says that the API server has forgotten what came after a version.
var errExpired = errors.New("the resourceVersion is too old")

// Watch implements discovery.Source.
func (n *Names) Watch(ctx context.Context, svc discovery.Service, update func([]discovery.Endpoint)) error {
	service := strings.NewReplacer("{appid}", svc.AppID, "{appID}", svc.AppID, "{appId}", svc.AppID).Replace(n.cfg.Service)
	if !validNamespace(svc.Namespace) || !validNamespace(service) {
		return fault.New(fault.InvalidArgument, "no Service of a cluster can be called %q in the namespace %q", service, svc.Namespace)
	}
	w := &sliceWatch{
		names: n, update: update, path: "/apis/discovery.k8s.io/v1/namespaces/" + svc.Namespace + "/endpointslices",
		selector: "kubernetes.io/service-name=" + service,
	}
	for {
		err := w.list(ctx)
		for err == nil {
			err = w.session(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, errExpired):
			return slicesError(err)
		}
	}
}

// slicesError says of slices what the client says of secrets.
func slicesError(err error) error {
	switch fault.CodeOf(err) {
	case fault.PermissionDenied:
		return fault.New(fault.PermissionDenied, "the role of the account wants the verbs list and watch on endpointslices (discovery.k8s.io)")
	case fault.NotFound:
		return fault.New(fault.FailedPrecondition, "the API server has no EndpointSlices of version discovery.k8s.io/v1")
	}
	return err
}

// sliceWatch is one Watch under way.
type sliceWatch struct {
	names          *Names
	update         func([]discovery.Endpoint)
	path, selector string
	known          map[string]slice // by name
	version        string           // up to which everything is in known
	said           []discovery.Endpoint
	any            bool // that something was said
}

// list reads all slices of the Service.
func (w *sliceWatch) list(ctx context.Context) error {
	known := map[string]slice{}
	query := url.Values{"labelSelector": {w.selector}, "limit": {strconv.Itoa(pageSize)}}
	for {
		var page struct {
			Metadata struct {
				ResourceVersion string `json:"resourceVersion"`
				Continue        string `json:"continue"`
			} `json:"metadata"`
			Items []slice `json:"items"`
		}
		switch err := w.names.client.get(ctx, w.path+"?"+query.Encode(), &page); {
		case isExpired(err):
			return errExpired
		case err != nil:
			return err
		}
		for _, s := range page.Items {
			known[s.Metadata.Name] = s
		}
		if page.Metadata.Continue == "" {
			w.known, w.version = known, page.Metadata.ResourceVersion
			w.report()
			return nil
		}
		query.Set("continue", page.Metadata.Continue)
	}
}

// isExpired reports whether the API server has answered with 410.
func isExpired(err error) bool {
	return err != nil && strings.Contains(err.Error(), "(status "+strconv.Itoa(http.StatusGone)+")")
}

// shortSession is how long a watch lasts at least that is not ended for a reason
// that stays.
const shortSession = 50 * time.Millisecond

// session follows changes after w.version until the API server ends the answer,
// as it does after some minutes.
func (w *sliceWatch) session(ctx context.Context) error {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, sessionEnd)
	defer cancel()
	query := url.Values{
		"watch": {"true"}, "labelSelector": {w.selector}, "resourceVersion": {w.version}, "allowWatchBookmarks": {"true"},
		"timeoutSeconds": {strconv.Itoa(int(session / time.Second))},
	}
	res, err := w.names.client.open(ctx, w.path+"?"+query.Encode())
	if isExpired(err) {
		return errExpired
	}
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // nothing was written
	events := bufio.NewReaderSize(res.Body, readAhead)
	before := w.version
	for {
		line, err := readLine(events)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return unreachable(ctx, err)
		}
		if err := w.take(line); err != nil {
			return err
		}
		if events.Buffered() == 0 { // much that comes at once is reported once
			w.report()
		}
	}
	w.report()
	if w.version == before && time.Since(begun) < shortSession {
		return fault.New(fault.Unavailable, "the API server ends watches at once")
	}
	return nil
}

// take takes in one event.
func (w *sliceWatch) take(line []byte) error {
	var e struct {
		Type   string          `json:"type"`
		Object json.RawMessage `json:"object"`
	}
	var status struct {
		Code int `json:"code"`
	}
	var s slice
	err := json.Unmarshal(line, &e)
	switch {
	case err != nil:
	case e.Type == "ERROR":
		if err = json.Unmarshal(e.Object, &status); err != nil {
			break
		}
		if status.Code == http.StatusGone {
			return errExpired
		}
		return fault.New(fault.Unavailable, "the API server ended the watch (status %d)", status.Code)
	default:
		err = json.Unmarshal(e.Object, &s)
	}
	if err != nil {
		return fault.New(fault.Internal, "what answers does not speak the protocol of Kubernetes")
	}
	w.version = s.Metadata.ResourceVersion
	switch e.Type {
	case "ADDED", "MODIFIED":
		w.known[s.Metadata.Name] = s
	case "DELETED":
		delete(w.known, s.Metadata.Name)
	} // a bookmark says only how far we are
	return nil
}

// readAhead is how much of an answer is read at once, in bytes.
const readAhead = 64 << 10

// readLine reads one event, which is at most maxEvent bytes.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if line = append(line, part...); len(line) > maxEvent {
			return nil, bufio.ErrTooLong
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if err != nil && (len(line) > 0 || !errors.Is(err, io.EOF)) {
				return nil, io.ErrUnexpectedEOF
			}
			return line, err
		}
	}
}

// report tells of the endpoints if they are others than before.
func (w *sliceWatch) report() {
	list := []discovery.Endpoint{}
	at := map[string]bool{}
	for _, s := range w.known {
		for _, ep := range w.names.endpoints(s) {
			// While the cluster moves an endpoint it may be in two slices.
			if !at[ep.Address] {
				at[ep.Address] = true
				list = append(list, ep)
			}
		}
	}
	slices.SortFunc(list, func(a, b discovery.Endpoint) int { return strings.Compare(a.Address, b.Address) })
	if w.any && slices.EqualFunc(list, w.said, discovery.Endpoint.Equal) {
		return
	}
	w.any, w.said = true, slices.Clone(list)
	w.update(list)
}

// endpoints returns the endpoints of a slice.
func (n *Names) endpoints(s slice) []discovery.Endpoint {
	port := n.cfg.Port
	for _, p := range s.Ports {
		if p.Name != nil && *p.Name == n.cfg.PortName && p.Port != nil && (p.Protocol == nil || *p.Protocol == "TCP") {
			port = *p.Port
		}
	}
	var out []discovery.Endpoint
	for _, e := range s.Endpoints {
		if len(e.Addresses) == 0 {
			continue
		}
		ep := discovery.Endpoint{ // all addresses of an endpoint are equivalent: the first one counts
			Address: net.JoinHostPort(e.Addresses[0], strconv.Itoa(port)), ID: e.TargetRef.Name, Protocol: discovery.Protocol(n.cfg.Protocol),
			Locality: discovery.Locality{Zone: e.Zone},
		}
		if zones := e.Hints.ForZones; len(zones) > 0 && !slices.ContainsFunc(zones, func(z struct {
			Name string `json:"name"`
		}) bool {
			return z.Name == e.Zone
		}) {
			ep.Locality.Zone = zones[0].Name
		}
		if e.NodeName != "" {
			ep.Labels = map[string]string{"node": e.NodeName}
		}
		switch {
		case e.Conditions.Terminating != nil && *e.Conditions.Terminating:
			ep.Health = discovery.Draining
		case e.Conditions.Ready != nil && !*e.Conditions.Ready:
			ep.Health = discovery.Unhealthy
		}
		out = append(out, ep)
	}
	return out
}
