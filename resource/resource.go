// Package resource reads the YAML resources that configure the process:
// Component, Configuration, Subscription, Resiliency and HTTPEndpoint of
// dapr.io/v1alpha1 (and Subscription of dapr.io/v2alpha1), routes and what belongs
// to them of gateway.networking.k8s.io, RouteFilter and TrafficPolicy of proa.io/v1alpha1,
// from files with any number of documents and from folders.
//
// Reading is strict and complete: every problem in every document is found in
// one pass and reported with file, line and field, and with the nearest name
// where one was probably meant. Nothing here opens a component or reaches a
// network.
package resource

import (
	"slices"

	"github.com/proa-io/proa/component"
)

// Meta is the metadata of every kind.
type Meta struct {
	Name        string            `yaml:"name"`
	Namespace   string            `yaml:"namespace"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`

	// What Kubernetes adds when a resource is exported; read and ignored.
	ResourceVersion   string `yaml:"resourceVersion"`
	UID               string `yaml:"uid"`
	CreationTimestamp string `yaml:"creationTimestamp"`
	Generation        int64  `yaml:"generation"`
	ManagedFields     Value  `yaml:"managedFields"`
	OwnerReferences   Value  `yaml:"ownerReferences"`
	Finalizers        Value  `yaml:"finalizers"`
}

// header is what every document starts with.
type header struct {
	APIVersion string             `yaml:"apiVersion"`
	Kind       string             `yaml:"kind"`
	Metadata   Meta               `yaml:"metadata"`
	Scopes     []string           `yaml:"scopes"`
	Status     Value              `yaml:"status"` // of an exported resource; ignored
	Pos        component.Position `yaml:"-"`

	digest string
}

// Set is everything that was read, in the order it was read, cut down to what
// concerns one application.
type Set struct {
	Components    []Component
	Configuration Configuration
	Subscriptions []Subscription
	Resiliencies  []Resiliency
	HTTPEndpoints []HTTPEndpoint
	// TrafficPolicies say how requests are spread.
	TrafficPolicies []TrafficPolicy
	// Gateway holds what routes are made of.
	Gateway    GatewaySet
	RateLimits []RateLimit
	// Ignored lists documents that are well formed but of a kind that this
	// program does not read.
	Ignored []Ignored

	files  map[string]fileInfo // that were read, by path
	prints []string            // of each resource, in the order they were read
}

// Ignored is a document that was passed over.
type Ignored struct {
	Pos              component.Position
	APIVersion, Kind string
	Name             string
}

// inScope reports whether a resource with these scopes concerns appID.
func inScope(scopes []string, appID string) bool {
	return len(scopes) == 0 || appID == "" || slices.Contains(scopes, appID)
}

// NameValue is one entry of a metadata or headers list: a value, or a
// reference to where the value is kept.
type NameValue struct {
	Name         string             `yaml:"name"`
	Value        Value              `yaml:"value"`
	SecretKeyRef SecretKeyRef       `yaml:"secretKeyRef"`
	EnvRef       string             `yaml:"envRef"`
	Pos          component.Position `yaml:"-"`
}

// SecretKeyRef names a secret and a key in it.
type SecretKeyRef struct {
	Name string             `yaml:"name"`
	Key  string             `yaml:"key"`
	Pos  component.Position `yaml:"-"`
}

// IsSet reports whether the reference names anything.
func (r SecretKeyRef) IsSet() bool { return r.Name != "" || r.Key != "" }

// Auth names the secret store that secretKeyRef entries are looked up in.
type Auth struct {
	SecretStore string `yaml:"secretStore"`
}

// checkNameValues reports entries without a name, with more than one source,
// and with references that can never be followed.
func checkNameValues(p *problems, res, path string, list []NameValue) {
	seen := map[string]component.Position{}
	for i, nv := range list {
		at := join(path, "["+itoa(i)+"]")
		if nv.Name == "" {
			p.addf(nv.Pos, res, at, "wants a name")
			continue
		}
		if first, dup := seen[nv.Name]; dup {
			p.addf(nv.Pos, res, at, "%q is set twice; first at %s", nv.Name, first)
		}
		seen[nv.Name] = nv.Pos
		sources := 0
		for _, has := range []bool{nv.Value.Set, nv.SecretKeyRef.IsSet(), nv.EnvRef != ""} {
			if has {
				sources++
			}
		}
		if sources > 1 {
			p.addf(nv.Pos, res, at, "%q has more than one of value, secretKeyRef and envRef; keep one", nv.Name)
		}
		if nv.SecretKeyRef.IsSet() && nv.SecretKeyRef.Name == "" {
			p.addf(nv.SecretKeyRef.Pos, res, join(at, "secretKeyRef"), "%q names no secret: add `name:`", nv.Name)
		}
		if nv.EnvRef != "" {
			if problem := envRefProblem(nv.EnvRef); problem != "" {
				p.addf(nv.Pos, res, join(at, "envRef"), "%s", problem)
			}
		}
	}
}
