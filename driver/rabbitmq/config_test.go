package rabbitmq

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// decode reads settings, "name=value" each, as a component's are read.
func decode(settings ...string) (PubSubConfig, error) {
	cfg := pubSubDefaults()
	var all component.Settings
	for _, s := range settings {
		name, v, _ := strings.Cut(s, "=")
		all = append(all, component.Setting{Name: name, Value: v})
	}
	err := all.Decode(&cfg, &pubsub.Config{})
	return cfg, err
}

func TestSettingsOfDaprAreUnderstood(t *testing.T) {
	c, err := decode("host=amqp://u:p@h:1/v", "protocol=amqp", "consumerID=c", "durable=false", "deletedWhenUnused=false", "autoAck=false",
		"deliveryMode=0", "requeueInFailure=false", "prefetchCount=2", "reconnectWait=0", "concurrencyMode=single", "publisherConfirm=false",
		"enableDeadLetter=true", "maxLen=3000", "maxLenBytes=10485760", "exchangeKind=topic", "saslExternal=false", "ttlInSeconds=60",
		"clientName=name", "heartBeat=10s", "publishMessagePropertiesToMetadata=true", "exchangeDeclareMode=passive",
		"backOffPolicy=exponential", "backOffMaxRetries=16")
	if err != nil {
		t.Fatal(err)
	}
	if c.ConnectionString.Reveal() != "amqp://u:p@h:1/v" || c.Durable || c.DeletedWhenUnused || c.deliveryMode() != 0 || !c.rejects() ||
		c.confirms() || c.MaxLen != 3000 || c.MaxLenBytes != 10485760 || c.TTL.Std() != time.Minute || c.HeartBeat.Std() != 10*time.Second {
		t.Errorf("settings %+v", c)
	}
	if limit, prefetch := c.limits(0); limit != 1 || prefetch != 2 {
		t.Errorf("limit %d prefetch %d", limit, prefetch)
	}
	if c, err = decode("hostname=h:1", "username=u", "password=p/", "protocol=amqps"); err != nil {
		t.Fatal(err)
	}
	at, err := c.target("app")
	if err != nil || at.uri.Reveal() != "amqps://u:p%2F@h:1" || at.name != "app" {
		t.Errorf("target %+v %s, %v", at, at.uri.Reveal(), err)
	}
	if c, err = decode(); err != nil || !c.Durable || !c.DeletedWhenUnused || c.deliveryMode() != amqp.Persistent || c.rejects() || !c.confirms() {
		t.Errorf("defaults %+v, %v", c, err)
	}
	if limit, prefetch := c.limits(0); limit != parallelLimit || prefetch != parallelLimit {
		t.Errorf("limit %d prefetch %d", limit, prefetch)
	}
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	for settings, want := range map[string]string{
		"connectionString=http://u:hunter2@h":                 "wants amqp://",
		"connectionString=amqp://u:hunter2%ZZ@h":              "wants amqp://",
		"hostname=a b":                                        "wants amqp://",
		"connectionString=amqp://h,protocol=amqps":            "begins with amqp://",
		"clientCert=x":                                        "go together",
		"saslExternal=true":                                   "wants clientCert",
		"caCert=hunter2,protocol=amqps":                       "no certificate",
		"clientCert=hunter2,clientKey=hunter2,protocol=amqps": "not a PEM certificate",
		"heartBeat=10ms":                                      "1s at least",
		"exchangeKind=odd":                                    "exchangeDeclareMode",
		"exchangeKind=,exchangeDeclareMode=passive":           "exchangeKind",
		"exchangeDeclareMode=maybe":                           "declare",
		"maxLen=-1":                                           "negative",
		"maxLenBytes=-1":                                      "negative",
		"deliveryMode=3":                                      "0, 1 or 2",
		"ttlInSeconds=-1":                                     "negative",
		"prefetchCount=65536":                                 "65535",
		"concurrencyMode=both":                                "single",
		"requeueInFailure=perhaps":                            "true or false",
	} {
		_, err := decode(strings.Split(settings, ",")...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", settings, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error holds a secret: %v", settings, err)
		}
	}
}

func TestSubscriptionsThatCanNeverWorkAreRefused(t *testing.T) {
	p := &PubSub{cfg: pubSubDefaults()}
	for name, metadata := range map[string]map[string]string{
		"queue type":            {"queueType": "stream"},
		"quorum, auto delete":   {"queueType": "quorum"},
		"priority":              {"maxPriority": "high"},
		"no priority":           {"maxPriority": "0"},
		"length":                {"maxLen": "-1"},
		"bytes":                 {"MAXLENBYTES": "x"},
		"single active":         {"singleActiveConsumer": "maybe"},
		"routing key, too long": {"routingKey": "a," + strings.Repeat("x", 256)},
	} {
		err := p.Subscribe(t.Context(), pubsub.Subscription{Topic: "t", Group: "g", Metadata: metadata}, nil)
		if !fault.Is(err, fault.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p.cfg.DeletedWhenUnused = false
	if _, err := p.cfg.placeOf(pubsub.Subscription{Metadata: map[string]string{"queueType": "quorum", "maxPriority": "2"}}); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("a quorum queue with priorities: %v", err)
	}
}

func FuzzNames(f *testing.F) {
	for _, seed := range []string{"t", "a\r\nb", strings.Repeat("ä", 200), "\xff", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name := nameOf(text)
		if len(name) > maxName || strings.ContainsAny(name, "\r\n") {
			t.Errorf("%q is no name", name)
		}
		if len(text) <= maxName && !strings.ContainsAny(text, "\r\n") && name != text {
			t.Errorf("%q became %q", text, name)
		}
		if utf8.ValidString(text) && !utf8.ValidString(name) {
			t.Errorf("%q is not valid UTF-8", name)
		}
		if text != "" && nameOf(text+"\n") == name {
			t.Errorf("%q and the same with a line end have one name", text)
		}
	})
}

func FuzzReplies(f *testing.F) {
	f.Add("PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'")
	f.Add("inequivalent arg '' for exchange '' in vhost '': received none but current is ")
	f.Fuzz(func(t *testing.T, reply string) {
		for _, code := range []int{403, 404, 405, 406, 320, 530} {
			if err := classifyReply(&amqp.Error{Code: code, Reason: reply, Server: true}); fault.CodeOf(err) == fault.Unknown {
				t.Errorf("%d %q is not classified", code, reply)
			}
		}
	})
}
