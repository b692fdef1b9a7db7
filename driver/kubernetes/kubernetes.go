// Package kubernetes reads the secrets of a Kubernetes cluster, uses the keys in
// them, and finds applications by the endpoints of their Services.
//
// It speaks HTTP to the API server itself. What it needs are four requests; the
// official client would make the program a quarter larger.
package kubernetes

import (
	"github.com/proa-io/proa/block/crypto"
	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/mesh/discovery"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		secret.Spec(component.Description{
			Name:    "kubernetes",
			Summary: "Reads secrets of a Kubernetes cluster.",
		}, Config{}, Open),
		crypto.Spec(component.Description{
			Name:    "dapr.kubernetes.secrets",
			Aliases: []string{"kubernetes.secrets"},
			Summary: "Uses the keys in secrets of a Kubernetes cluster. Tested on a stand-in; not tried on a cluster.",
		}, KeysConfig{}, OpenKeys),
		discovery.Spec(component.Description{
			Name:    "kubernetes.endpointslices",
			Summary: "Finds applications by the EndpointSlices of a Kubernetes cluster, which it watches. Tested on a stand-in; not tried on a cluster.",
		}, namesDefaults(), OpenNames),
	}
}

// Config configures a store of secrets in Kubernetes.
//
// In a pod the API server is reached with the service account that is mounted
// there, whose role must allow to "get" secrets; to "list" them for a bulk read,
// and to "watch" them so that changes are noticed at once. Elsewhere a kubeconfig
// says how.
//
// The namespace is that of the metadata "namespace" of the read, or else that of
// the environment variable NAMESPACE, or else defaultNamespace, or else the one
// that the pod is in or the kubeconfig's context names.
type Config struct {
	// DefaultNamespace is where to look for secrets unless something else names
	// a namespace.
	DefaultNamespace string `setting:"defaultNamespace"`
	// KubeconfigPath is the path of a kubeconfig. When empty, the service
	// account of the pod is used; outside of a pod the first file that the
	// environment variable KUBECONFIG names, or .kube/config in the home
	// folder.
	KubeconfigPath string `setting:"kubeconfigPath"`
}

// Validate reports settings that can never work.
func (c Config) Validate() error {
	if c.DefaultNamespace != "" && !validNamespace(c.DefaultNamespace) {
		return component.Invalid("defaultNamespace", "is no name of a namespace: it wants lower-case letters, digits and -, at most 63")
	}
	return nil
}

// validNamespace reports whether a namespace can have the name: a label of RFC
// 1123.
func validNamespace(name string) bool {
	for i := range len(name) {
		c := name[i]
		inside := c == '-' && i > 0 && i < len(name)-1
		if !inside && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return name != "" && len(name) <= 63
}
