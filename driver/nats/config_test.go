package nats

import (
	"testing"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/config/configtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/testserver"
)

func TestConfig(t *testing.T) {
	for _, k := range engineKinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			e := k.start(t)
			configtest.Run(t, func(t testing.TB) configtest.Store { return openConfig(t, e, newBucket()) })
		})
	}
}

func TestConfigOnABadNetwork(t *testing.T) {
	server := testserver.NATS(t, testserver.NATSOptions{})
	direct := runEngine(t, engine.Options{URL: server.URL()})
	configtest.RunNetwork(t, func(t testing.TB) (configtest.Store, configtest.Store, *faultnet.Proxy) {
		proxy, bucket := faultnet.New(t, server.Addr()), newBucket()
		through := runEngine(t, engine.Options{URL: "nats://" + proxy.Addr()})
		return openConfig(t, through, bucket), openConfig(t, direct, bucket), proxy
	})
}

func TestItemsWrittenWithOtherToolsAreRead(t *testing.T) {
	c := openConfig(t, runEngine(t, engine.Options{Dir: t.TempDir()}), newBucket())
	kv := c.bucket.KV()
	for key, value := range map[string]string{"orderId1": "101", "app.colour": "red", "no=name": "x", "a.b/c-d_e": "y"} {
		if _, err := kv.PutString(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	got, err := c.Get(t.Context(), config.Query{})
	if err != nil || len(got) != 3 || got["orderId1"].Value != "101" || got["app.colour"].Value != "red" || got["a.b/c-d_e"].Value != "y" {
		t.Errorf("Get = %v, %v", got, err)
	}
	if _, err := configtest.Set(t.Context(), c, "app.colour", "blue"); err != nil {
		t.Fatal(err)
	}
	if e, err := kv.Get(t.Context(), "app.colour"); err != nil || string(e.Value()) != "blue" {
		t.Errorf("the other tool reads %v, %v", e, err)
	}
}

func openConfig(t testing.TB, e *engine.Engine, bucket string) *Config {
	t.Helper()
	c, err := OpenConfig(t.Context(), e, ConfigConfig{Bucket: bucket}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
