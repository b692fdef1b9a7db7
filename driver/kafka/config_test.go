package kafka

import (
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/component"
)

// settings returns the settings of a component from names and values.
func settings(pairs ...string) component.Settings {
	var out component.Settings
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, component.Setting{Name: pairs[i], Value: pairs[i+1], Pos: component.Position{File: "kafka.yaml", Line: i/2 + 1}})
	}
	return out
}

func TestDaprsSettingsAreRead(t *testing.T) {
	cfg := pubSubDefaults()
	err := settings(
		"brokers", "dapr-kafka.myapp.svc.cluster.local:9092, other", "consumerGroup", "group1", "clientID", "my-dapr-app",
		"authType", "password", "saslUsername", "adminuser", "saslPassword", "KeFg23!", "saslMechanism", "SHA-512",
		"initialOffset", "oldest", "maxMessageBytes", "2048", "consumeRetryInterval", "200", "consumeRetryEnabled", "true",
		"version", "2.0.0", "disableTls", "true", "skipVerify", "false", "heartbeatInterval", "5s", "sessionTimeout", "15s",
		"clientConnectionTopicMetadataRefreshInterval", "4m", "clientConnectionKeepAliveInterval", "30m",
		"consumerFetchMin", "2", "consumerFetchDefault", "2097152", "channelBufferSize", "512",
		"consumerGroupRebalanceStrategy", "sticky", "compression", "zstd", "escapeHeaders", "true",
		"excludeHeaderMetaRegex", "^valueSchemaType$", "schemaCachingEnabled", "true", "schemaLatestVersionCacheTTL", "5m",
		"useAvroJson", "true", "numPartitions", "6", "replicationFactor", "3", "backOffDuration", "50ms", "backOffMaxRetries", "3",
		"oidcScopes", "openid,kafka-prod",
	).Decode(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(cfg.brokers(), " "); got != "dapr-kafka.myapp.svc.cluster.local:9092 other:9092" {
		t.Errorf("brokers %q", got)
	}
	if cfg.ConsumeRetryInterval.Std() != 200*time.Millisecond || cfg.SessionTimeout.Std() != 15*time.Second || cfg.MaxMessageBytes != 2048 ||
		cfg.FetchDefault != 2<<20 || len(cfg.Scopes) != 2 || !cfg.fromOldest() || !cfg.EscapeHeaders {
		t.Errorf("settings are read as %+v", cfg)
	}
	if _, err := cfg.options(usualNetwork(), component.Env{}); err != nil {
		t.Errorf("options: %v", err)
	}
}

func TestTheOldAuthRequiredStillMeansWhatItMeant(t *testing.T) {
	for _, tc := range []struct {
		settings []string
		want     string
	}{
		{[]string{"authRequired", "false"}, authNone},
		{[]string{"authRequired", "true", "saslUsername", "u", "saslPassword", "p"}, authPassword},
		{[]string{"authRequired", "true"}, authMTLS},
		{[]string{"authRequired", "true", "authType", "none"}, authNone},
		{nil, ""},
	} {
		cfg := pubSubDefaults()
		err := settings(append([]string{"brokers", "b"}, tc.settings...)...).Decode(&cfg)
		if got := cfg.kind(); got != tc.want {
			t.Errorf("%v means %q, want %q (%v)", tc.settings, got, tc.want, err)
		}
	}
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	base := []string{"brokers", "localhost:9092", "authType", "none"}
	for _, tc := range []struct {
		settings []string
		want     string // in the error
	}{
		{[]string{"brokers", " , "}, "brokers"},
		{[]string{"brokers", "a:"}, "brokers"},
		{[]string{"authType", ""}, `"authType": is required`},
		{[]string{"authType", "kerberos"}, "authType"},
		{[]string{"authType", "awsiam", "awsRegion", "us-west-1"}, "awsiam is not supported"},
		{[]string{"authType", "password"}, "saslUsername"},
		{[]string{"authType", "password", "saslUsername", "u"}, "saslPassword"},
		{[]string{"authType", "password", "saslUsername", "u", "saslPassword", "p", "saslMechanism", "GSSAPI"}, "saslMechanism"},
		{[]string{"authType", "mtls"}, "clientCert"},
		{[]string{"authType", "mtls", "clientCert", "x", "clientKey", "y"}, "clientCert"},
		{[]string{"authType", "mtls", "clientCert", "x", "clientKey", "y", "disableTls", "true"}, "disableTls"},
		{[]string{"authType", "certificate"}, "caCert"},
		{[]string{"authType", "certificate", "caCert", "x"}, "caCert"},
		{[]string{"authType", "oidc"}, "oidcTokenEndpoint"},
		{[]string{"authType", "oidc", "oidcTokenEndpoint", "nowhere"}, "oidcTokenEndpoint"},
		{[]string{"authType", "oidc", "oidcTokenEndpoint", "https://i/t"}, "oidcClientID"},
		{[]string{"authType", "oidc", "oidcTokenEndpoint", "https://i/t", "oidcClientID", "c"}, "oidcClientSecret"},
		{[]string{"authType", "oidc", "oidcTokenEndpoint", "https://i/t", "oidcClientID", "c", "oidcClientSecret", "s", "oidcExtensions", "[]"}, "oidcExtensions"},
		{[]string{"authType", "oidc_private_key_jwt", "oidcTokenEndpoint", "https://i/t", "oidcClientID", "c"}, "oidcClientAssertionCert"},
		{[]string{"authType", "oidc_private_key_jwt", "oidcTokenEndpoint", "https://i/t", "oidcClientID", "c", "oidcClientAssertionCert", "x", "oidcClientAssertionKey", "y"}, "oidcClientAssertionCert"},
		{[]string{"initialOffset", "earliest"}, "initialOffset"},
		{[]string{"ordering", "none"}, "ordering"},
		{[]string{"concurrency", "0"}, "concurrency"},
		{[]string{"maxMessageBytes", "10"}, "maxMessageBytes"},
		{[]string{"compression", "brotli"}, "compression"},
		{[]string{"numPartitions", "-1"}, "numPartitions"},
		{[]string{"replicationFactor", "-1"}, "replicationFactor"},
		{[]string{"consumeRetryInterval", "-1"}, "consumeRetryInterval"},
		{[]string{"sessionTimeout", "1ms"}, "sessionTimeout"},
		{[]string{"heartbeatInterval", "11s"}, "heartbeatInterval"},
		{[]string{"consumerFetchMin", "0"}, "consumerFetchMin"},
		{[]string{"consumerFetchDefault", "0"}, "consumerFetchDefault"},
		{[]string{"channelBufferSize", "-1"}, "channelBufferSize"},
		{[]string{"consumerGroupRebalanceStrategy", "random"}, "consumerGroupRebalanceStrategy"},
		{[]string{"excludeHeaderMetaRegex", "("}, "excludeHeaderMetaRegex"},
		{[]string{"consumerIsolationLevel", "serializable"}, "consumerIsolationLevel"},
		{[]string{"clientConnectionKeepAliveInterval", "-1s"}, "clientConnectionKeepAliveInterval"},
		{[]string{"clientConnectionTopicMetadataRefreshInterval", "-1s"}, "clientConnectionTopicMetadataRefreshInterval"},
		{[]string{"schemaRegistryURL", "http://localhost:8081"}, "schemaRegistryURL"},
		{[]string{"schemaRegistryAPIKey", "k"}, "schemaRegistryURL"},
		{[]string{"producerTransactionsEnabled", "true"}, "producerTransactionsEnabled"},
		{[]string{"consumerTransactionsEnabled", "true"}, "consumerTransactionsEnabled"},
		{[]string{"noSuchSetting", "x"}, "noSuchSetting"},
	} {
		named := map[string]bool{}
		for i := 0; i < len(tc.settings); i += 2 {
			named[tc.settings[i]] = true
		}
		all := tc.settings
		for i := 0; i < len(base); i += 2 {
			if !named[base[i]] {
				all = append(all, base[i], base[i+1])
			}
		}
		cfg := pubSubDefaults()
		if err := settings(all...).Decode(&cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: %v, want an error with %s", tc.settings, err, tc.want)
		}
	}
}
