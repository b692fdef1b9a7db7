package state_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/memory"
)

func memorySpec(t *testing.T) component.Spec {
	t.Helper()
	for _, s := range memory.Specs() {
		if s.Block == state.Block {
			return s
		}
	}
	t.Fatal("no state driver in memory")
	return component.Spec{}
}

func settings(name, value string) component.Settings {
	return component.Settings{{Name: name, Value: value, Pos: component.Position{File: "store.yaml", Line: 9}}}
}

func TestSettingsOfTheBlockAreDecodedNextToTheDrivers(t *testing.T) {
	spec := memorySpec(t)
	all := slices.Concat(settings("keyPrefix", "name"), settings("TTLInSeconds", "60"), settings("actorStateStore", "true"), settings("maxItems", "5"))
	cfg, err := component.BlockConfig[state.Config](spec, all)
	if err != nil || cfg.KeyPrefix != "name" || cfg.TTLInSeconds != 60 || !cfg.ActorStateStore {
		t.Errorf("config %+v, error %v", cfg, err)
	}
	d, err := component.Opener[state.Driver](spec, all, component.Env{})(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestSettingsThatCannotBeKeptStopTheComponent(t *testing.T) {
	for _, tc := range []struct{ name, value, want string }{
		{"keyPrefix", "a||b", `must not contain "||"`},
		{"ttlInSeconds", "-2", "wants a number of seconds"},
		{"ttlInSeconds", "soon", "wants a whole number"},
		{"primaryEncryptionKey", "001122334455", "wants a key of 16, 24 or 32 bytes (32, 48 or 64 hexadecimal digits), and has 6"},
		{"primaryEncryptionKey", "00112233-not-hexadecimal", "wants a key in hexadecimal: 32, 48 or 64 digits"},
		{"secondaryEncryptionKey", "00112233445566778899aabbccddeeff", "wants a primaryEncryptionKey beside it"},
		{"outboxPublishPubsub", "orders", "wants an outboxPublishTopic"},
		{"outboxPublishTopic", "orders", "wants an outboxPublishPubsub"},
	} {
		_, err := component.Opener[state.Driver](memorySpec(t), settings(tc.name, tc.value), component.Env{})(t.Context())
		if err == nil || !strings.HasPrefix(err.Error(), `store.yaml:9: "`+tc.name+`": `) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s=%s: %v, want place, name and %q", tc.name, tc.value, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "00112233") {
			t.Errorf("%s: the error shows the secret", tc.name)
		}
	}
}

func TestCapabilitiesComeFromTheDriversType(t *testing.T) {
	want := []string{"ETAG", "TTL", "TRANSACTIONAL", "BULK_GET", "BULK_SET", "BULK_DELETE", "LIST", "QUERY_API", "WATCH"}
	if got := memorySpec(t).Capabilities; !slices.Equal(got, want) {
		t.Errorf("capabilities %v, want %v", got, want)
	}
}
