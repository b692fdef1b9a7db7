package interop_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/config/configtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/nats"
	"github.com/proa-io/proa/driver/redis"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/internal/testserver"
)

// A backend is what stands behind the components of the applications.
type backend struct {
	// resources are further resources.
	resources []string
	// env is further environment for the sidecars.
	env []string
	// components are the types of the components by name, as the sidecar has
	// to report them.
	components map[string]string
	// configuration opens the store behind configstore the way an operator
	// would.
	configuration func(*testing.T) config.Writer
	// recorded: which parts of the API the applications use is compared with
	// the record in testdata/calls. That is done on one backend only.
	recorded bool
}

// embedded is the engine in the sidecars themselves, which nothing configures.
func embedded(_ *testing.T, home string) backend {
	return backend{
		recorded: true,
		components: map[string]string{
			"statestore": "state.nats", "pubsub": "pubsub.nats", "lockstore": "lock.nats", "configstore": "configuration.nats",
			"secretstore": "secretstores.local.env",
		},
		configuration: func(t *testing.T) config.Writer {
			e, err := engine.Open(t.Context(), engine.Options{Dir: home, Name: "operator"})
			if err != nil {
				t.Fatal(err)
			}
			running := make(chan error, 1)
			go func() { running <- e.Run(t.Context()) }()
			t.Cleanup(func() {
				if err := <-running; err != nil {
					t.Errorf("the operator's engine: %v", err)
				}
			})
			c, err := nats.OpenConfig(t.Context(), e, nats.ConfigConfig{}, component.Env{})
			if err != nil {
				t.Fatal(err)
			}
			return c
		},
	}
}

// onRedis is a server behind the same names.
func onRedis(t *testing.T, _ string) backend {
	server := testserver.Redis(t, testserver.RedisOptions{Config: []string{"notify-keyspace-events KEA"}})
	return backend{
		resources: []string{"testdata/redis"},
		env:       []string{"INTEROP_REDIS=" + server.Addr()},
		components: map[string]string{
			"statestore": "state.redis", "pubsub": "pubsub.redis", "lockstore": "lock.redis", "configstore": "configuration.redis",
			"secretstore": "secretstores.local.env",
		},
		configuration: func(t *testing.T) config.Writer {
			within := component.Millis(10 * time.Second)
			c, err := redis.OpenConfig(t.Context(), redis.ConfigConfig{
				Config: redis.Config{Host: server.Addr(), DB: 1, DialTimeout: within, ReadTimeout: within},
			}, component.Env{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			return c
		},
	}
}

// control serves what applications ask of the world outside: an endpoint to
// call, and an operator who changes the configuration once store is set.
type control struct {
	url   string
	store config.Writer
}

func newControl(t *testing.T) *control {
	c := &control{}
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", echo)
	mux.HandleFunc("PUT /configuration/{key}", func(w http.ResponseWriter, r *http.Request) {
		value, err := io.ReadAll(r.Body)
		if err == nil {
			_, err = configtest.Set(r.Context(), c.store, r.PathValue("key"), string(value))
		}
		answer(w, err)
	})
	mux.HandleFunc("DELETE /configuration/{key}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, configtest.Delete(r.Context(), c.store, r.PathValue("key")))
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

// echo answers with what it was asked.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		answer(w, err)
		return
	}
	header := map[string]string{}
	for name := range r.Header {
		header[strings.ToLower(name)] = r.Header.Get(name)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"method": r.Method, "query": r.URL.RawQuery, "body": string(body), "header": header})
}

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
