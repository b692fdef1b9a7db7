package memory

import (
	"testing"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/config/configtest"
	"github.com/proa-io/proa/component"
)

func TestConfig(t *testing.T) {
	configtest.Run(t, func(t testing.TB) configtest.Store { return openConfig(t, nil) })
}

func TestConfigBeginsWithTheItemsOfItsSettings(t *testing.T) {
	c := openConfig(t, map[string]string{"a": "1", "b": "2"})
	got, err := c.Get(t.Context(), config.Query{})
	if err != nil || len(got) != 2 || got["a"].Value != "1" || got["b"].Value != "2" {
		t.Fatalf("Get = %v, %v", got, err)
	}
}

func openConfig(t testing.TB, items map[string]string) *Config {
	t.Helper()
	c, err := OpenConfig(t.Context(), ConfigConfig{Items: items}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
