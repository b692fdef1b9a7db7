package discovery

import (
	"context"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/engine"
)

// NoConfig is for what has no settings.
type NoConfig struct{}

// DefaultResolution is how applications find each other where nothing else is
// said.
const DefaultResolution = "registry"

// Specs lists the ways to find applications that need nothing but the engine,
// which may be nil where nothing is opened.
func Specs(eng *engine.Engine) []component.Spec {
	return []component.Spec{
		Spec(component.Description{
			Name: DefaultResolution, Aliases: []string{"proa"},
			Summary: "Finds applications in the registry of the engine, and announces this one there. It is the default.",
		}, NoConfig{}, func(context.Context, NoConfig, component.Env) (*Registry, error) { return NewRegistry(eng), nil }),
		Spec(component.Description{
			Name:    "mdns",
			Summary: "Finds applications in the local network by multicast DNS, and announces this one there.",
		}, NoConfig{}, func(context.Context, NoConfig, component.Env) (*MDNS, error) { return &MDNS{}, nil }),
		Spec(component.Description{
			Name: "dns", Aliases: []string{"nameformat"},
			Summary: "Finds applications by a name in the DNS: addresses (A, AAAA) or services (SRV) with ports, weights and priorities.",
		}, dnsDefaults(), openDNS),
		Spec(component.Description{
			Name:    "kubernetes",
			Summary: "Finds applications of a Kubernetes cluster in its DNS, by the headless Service app-dapr of each.",
		}, KubernetesDNSConfig{ClusterDomain: clusterDomain, Port: defaultInternalPort}, openKubernetesDNS),
		Spec(component.Description{
			Name:    "static",
			Summary: "Knows the endpoints of applications that stand in the Configuration.",
		}, StaticConfig{}, openStatic),
		Spec(component.Description{
			Name: "file", Aliases: []string{"static.file"},
			Summary: "Knows the endpoints of applications that stand in a file, and follows its changes.",
		}, FileConfig{}, openFile),
	}
}
