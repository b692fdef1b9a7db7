// Package all lists every driver of this repository. Adding a technology means
// adding one line here.
package all

import (
	"slices"
	"strings"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/aws"
	"github.com/proa-io/proa/driver/azure"
	"github.com/proa-io/proa/driver/consul"
	"github.com/proa-io/proa/driver/cron"
	"github.com/proa-io/proa/driver/echo"
	"github.com/proa-io/proa/driver/env"
	"github.com/proa-io/proa/driver/etcd"
	"github.com/proa-io/proa/driver/file"
	"github.com/proa-io/proa/driver/gcp"
	"github.com/proa-io/proa/driver/graphql"
	"github.com/proa-io/proa/driver/http"
	"github.com/proa-io/proa/driver/jwks"
	"github.com/proa-io/proa/driver/kafka"
	"github.com/proa-io/proa/driver/kubernetes"
	"github.com/proa-io/proa/driver/localstorage"
	"github.com/proa-io/proa/driver/memcached"
	"github.com/proa-io/proa/driver/memory"
	"github.com/proa-io/proa/driver/middleware/bearer"
	"github.com/proa-io/proa/driver/middleware/clientcredentials"
	"github.com/proa-io/proa/driver/middleware/oauth2"
	"github.com/proa-io/proa/driver/middleware/ratelimit"
	"github.com/proa-io/proa/driver/middleware/route"
	"github.com/proa-io/proa/driver/middleware/wasm"
	"github.com/proa-io/proa/driver/mongodb"
	"github.com/proa-io/proa/driver/mqtt"
	"github.com/proa-io/proa/driver/mysql"
	"github.com/proa-io/proa/driver/nats"
	"github.com/proa-io/proa/driver/openai"
	"github.com/proa-io/proa/driver/pluggable"
	"github.com/proa-io/proa/driver/postgres"
	"github.com/proa-io/proa/driver/rabbitmq"
	"github.com/proa-io/proa/driver/redis"
	"github.com/proa-io/proa/driver/s3"
	"github.com/proa-io/proa/driver/smtp"
	"github.com/proa-io/proa/driver/sqlite"
	"github.com/proa-io/proa/driver/vault"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/mesh/discovery"
)

// Deps is what drivers need that is not in the settings of a component.
type Deps struct {
	// Engine is the store of record of this process. Components of type nats
	// that name no server stand on it.
	Engine *engine.Engine
}

// Catalog returns every driver of this repository and, besides, those that plug
// in while the program runs.
func Catalog(d Deps) (*component.Catalog, error) {
	c, err := component.NewCatalog(Specs(d)...)
	if err != nil {
		return nil, err
	}
	return c.WithDiscoverer(discover), nil
}

// discover finds what plugs in, and says what to use in place of what others
// have and we do not.
func discover(block, name, version string) (component.Spec, bool, string) {
	switch strings.ToLower(block + "." + name) {
	case "middleware.http.opa":
		return component.Spec{}, false, "policies in Rego are not supported: use accessControl of the Configuration, " +
			"middleware.http.bearer, middleware.http.routerchecker, or a policy that is compiled for middleware.http.wasm"
	case "middleware.http.sentinel":
		return component.Spec{}, false, "rules of Sentinel are not supported: use middleware.http.ratelimit, and the circuit breakers of Resiliency"
	}
	return pluggable.Discover(block, name, version)
}

// Specs returns every driver of this repository.
func Specs(d Deps) []component.Spec {
	return slices.Concat(
		aws.Specs(),
		azure.Specs(),
		consul.Specs(),
		cron.Specs(),
		echo.Specs(),
		env.Specs(),
		etcd.Specs(),
		file.Specs(),
		gcp.Specs(),
		graphql.Specs(),
		http.Specs(),
		jwks.Specs(),
		kafka.Specs(),
		kubernetes.Specs(),
		localstorage.Specs(),
		memcached.Specs(),
		memory.Specs(),
		bearer.Specs(),
		clientcredentials.Specs(),
		oauth2.Specs(),
		ratelimit.Specs(),
		route.Specs(),
		wasm.Specs(),
		mongodb.Specs(),
		mqtt.Specs(),
		mysql.Specs(),
		nats.Specs(d.Engine),
		openai.Specs(),
		postgres.Specs(),
		rabbitmq.Specs(),
		redis.Specs(),
		s3.Specs(),
		smtp.Specs(),
		sqlite.Specs(),
		vault.Specs(),
		discovery.Specs(d.Engine),
	)
}
