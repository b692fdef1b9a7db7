package aws

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/binding/bindingtest"
	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/secret/secrettest"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/block/state/statetest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/internal/testserver"
)

var server = testserver.Share(func(tb testserver.TB) *testserver.MotoServer { return testserver.Moto(tb) })

func TestMain(m *testing.M) { testserver.Main(m, server) }

var names atomic.Int64

// fresh returns a name that nothing has yet.
func fresh() string { return fmt.Sprint("proa-", names.Add(1)) }

func at(endpoint string) Config {
	return Config{Region: "eu-central-1", Endpoint: endpoint, AccessKey: component.NewSecret("AKIAEXAMPLE"), SecretKey: component.NewSecret("secret-of-the-key")}
}

func local(t testing.TB) Config { return at(server.Get(t).URL()) }

// do carries out an operation that drivers do not.
func do(t testing.TB, d *client, operation string, in, out any) {
	t.Helper()
	if err := d.call(t.Context(), operation, in, out); err != nil {
		t.Fatalf("%s: %v", operation, err)
	}
}

func connect(t testing.TB, s service) *client {
	t.Helper()
	c, err := newClient(t.Context(), s, local(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

// table makes a table and returns how to open a store on it.
func table(t testing.TB) StateConfig {
	t.Helper()
	cfg := StateConfig{Config: local(t), Table: fresh(), PartitionKey: defaultPartitionKey, TTLAttributeName: "expires"}
	c := connect(t, service{"dynamodb", "DynamoDB_20120810.", "application/x-amz-json-1.0"})
	do(t, c, "CreateTable", map[string]any{
		"TableName": cfg.Table, "BillingMode": "PAY_PER_REQUEST",
		"AttributeDefinitions": []any{map[string]string{"AttributeName": "key", "AttributeType": "S"}},
		"KeySchema":            []any{map[string]string{"AttributeName": "key", "KeyType": "HASH"}},
	}, nil)
	return cfg
}

func TestState(t *testing.T) {
	t.Parallel()
	statetest.Run(t, func(t *testing.T) state.Driver {
		s, err := OpenState(t.Context(), table(t), component.Env{})
		if err != nil {
			t.Fatal(err)
		}
		return small{s}
	})
}

// small is a store whose values are no longer than moto takes: 400 KB as
// DynamoDB, but of the base64 of binary ones.
type small struct{ *State }

func (small) MaxValue() int { return 290_000 }

func TestStateOnABadNetwork(t *testing.T) {
	t.Parallel()
	cfg := table(t)
	statetest.RunBadNetwork(t, server.Get(t).Addr(), func(ctx context.Context, _ *testing.T, addr string) (state.Driver, error) {
		cfg := cfg
		cfg.Endpoint = "http://" + addr
		s, err := OpenState(ctx, cfg, component.Env{})
		if err != nil {
			return nil, err
		}
		return s, nil
	})
}

func TestItemsOfDaprAreRead(t *testing.T) {
	t.Parallel()
	cfg := table(t)
	s, err := OpenState(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	do(t, s.client, "PutItem", map[string]any{"TableName": cfg.Table, "Item": map[string]any{
		"key": map[string]string{"S": "app||k"}, "value": map[string]string{"S": `{"a":1}`}, "etag": map[string]string{"S": "7a"}, "expires": map[string]string{"N": "9999999999"},
	}}, nil)
	item, found, err := s.Get(t.Context(), "app||k", state.GetOptions{})
	if err != nil || !found || string(item.Value) != `{"a":1}` || item.ETag != "7a" || item.Expires.Unix() != 9999999999 {
		t.Errorf("Get = %+v, %v, %v", item, found, err)
	}
	if _, err := s.Put(t.Context(), "app||k", []byte("text"), state.PutOptions{ETag: "7a"}); err != nil {
		t.Error(err)
	}
	var out struct{ Item map[string]attribute }
	do(t, s.client, "GetItem", map[string]any{"TableName": cfg.Table, "Key": map[string]any{"key": map[string]string{"S": "app||k"}}}, &out)
	if len(out.Item) != 3 || *out.Item["value"].S != "text" {
		t.Errorf("the item is %v", out.Item)
	}
}

func TestNothingExpiresWithoutAnAttribute(t *testing.T) {
	t.Parallel()
	cfg := table(t)
	cfg.TTLAttributeName = ""
	s, err := OpenState(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "k", nil, state.PutOptions{TTL: 1e9}); !fault.Is(err, fault.FailedPrecondition) {
		t.Errorf("Put with a TTL: %v", err)
	}
	etag, err := s.Put(t.Context(), "k", nil, state.PutOptions{FirstWrite: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "k", state.DeleteOptions{ETag: etag}); err != nil {
		t.Error(err)
	}
}

func TestATableThatIsNotThereIsToldAtOnce(t *testing.T) {
	t.Parallel()
	_, err := OpenState(t.Context(), StateConfig{Config: local(t), Table: "none", PartitionKey: "key"}, component.Env{})
	if !fault.Is(err, fault.FailedPrecondition) || strings.Contains(err.Error(), "secret-of-the-key") {
		t.Errorf("OpenState: %v", err)
	}
	if _, err := OpenQueue(t.Context(), QueueConfig{Config: local(t), QueueName: "none"}, component.Env{}); !fault.Is(err, fault.FailedPrecondition) {
		t.Errorf("OpenQueue: %v", err)
	}
}

func queue(t testing.TB, attributes map[string]string) QueueConfig {
	t.Helper()
	cfg := QueueConfig{Config: local(t), QueueName: fresh()}
	c := connect(t, service{"sqs", "AmazonSQS.", "application/x-amz-json-1.0"})
	do(t, c, "CreateQueue", map[string]any{"QueueName": cfg.QueueName, "Attributes": attributes}, nil)
	return cfg
}

func openQueue(t testing.TB, cfg QueueConfig) *Queue {
	t.Helper()
	q, err := OpenQueue(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	return q
}

var create = binding.Request{Operation: opCreate, Data: []byte("hello")}

func TestQueue(t *testing.T) {
	t.Parallel()
	bindingtest.RunOutput(t, bindingtest.Output{
		Open: func(t testing.TB) binding.Output { return openQueue(t, queue(t, nil)) }, Request: create,
	})
	cfg := queue(t, map[string]string{"VisibilityTimeout": "1"})
	sender := openQueue(t, cfg)
	bindingtest.RunInput(t, bindingtest.Input{
		Open: func(t testing.TB) binding.Input { return openQueue(t, cfg) },
		Trigger: func(t testing.TB) {
			if _, err := sender.Invoke(t.Context(), create); err != nil {
				t.Error(err)
			}
		},
	})
}

func TestQueueOnABadNetwork(t *testing.T) {
	t.Parallel()
	cfg := queue(t, nil)
	bindingtest.RunNetwork(t, bindingtest.Network{Request: create, Open: func(t testing.TB) (binding.Output, *faultnet.Proxy) {
		p := faultnet.New(t, server.Get(t).Addr())
		cfg := cfg
		cfg.Endpoint = "http://" + p.Addr()
		return openQueue(t, cfg), p
	}})
}

// topic makes a topic whose notifications come to a queue.
func topic(t testing.TB, to QueueConfig) TopicConfig {
	t.Helper()
	c := connect(t, service{name: "sns"})
	name := fresh()
	arn := "arn:aws:sns:eu-central-1:123456789012:" + name
	for _, values := range []url.Values{
		{"Action": {"CreateTopic"}, "Name": {name}},
		{"Action": {"Subscribe"}, "TopicArn": {arn}, "Protocol": {"sqs"}, "Endpoint": {"arn:aws:sqs:eu-central-1:123456789012:" + to.QueueName}},
	} {
		values.Set("Version", "2010-03-31")
		if err := c.form(t.Context(), values); err != nil {
			t.Fatal(err)
		}
	}
	return TopicConfig{Config: local(t), TopicArn: arn}
}

func openTopic(t testing.TB, cfg TopicConfig) *Topic {
	t.Helper()
	d, err := OpenTopic(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestTopic(t *testing.T) {
	t.Parallel()
	to := queue(t, nil)
	cfg := topic(t, to)
	request := binding.Request{Operation: opCreate, Data: []byte(`{"message":"hello","subject":"greeting"}`)}
	bindingtest.RunOutput(t, bindingtest.Output{Open: func(t testing.TB) binding.Output { return openTopic(t, cfg) }, Request: request})
	ctx, cancel := context.WithCancel(t.Context())
	got := ""
	_ = openQueue(t, to).Listen(ctx, func(_ context.Context, e binding.Event) error {
		got = string(e.Data)
		cancel()
		return nil
	})
	if !strings.Contains(got, `"Message": "hello"`) || !strings.Contains(got, `"Subject": "greeting"`) {
		t.Errorf("the notification is %s", got)
	}
	d := openTopic(t, cfg)
	for _, data := range []string{"", "hello", "{}", "[]"} {
		if _, err := d.Invoke(t.Context(), binding.Request{Operation: opCreate, Data: []byte(data)}); !fault.Is(err, fault.InvalidArgument) {
			t.Errorf("Invoke with %q: %v", data, err)
		}
	}
	cfg.TopicArn += "-none"
	if _, err := openTopic(t, cfg).Invoke(t.Context(), request); !fault.Is(err, fault.FailedPrecondition) {
		t.Errorf("a topic that is not there: %v", err)
	}
}

// Secrets of several tests are in one place: names are told apart by a prefix,
// which the driver under test does not see.
type prefixed struct {
	*Secrets
	prefix string
}

func (p prefixed) Get(ctx context.Context, name string, metadata map[string]string) (map[string]string, error) {
	if name == "" {
		return p.Secrets.Get(ctx, "", metadata)
	}
	values, err := p.Secrets.Get(ctx, p.prefix+name, metadata)
	return p.without(values), err
}

func (p prefixed) List(ctx context.Context, metadata map[string]string, want func(string) bool) (map[string]map[string]string, error) {
	all, err := p.Secrets.List(ctx, metadata, func(name string) bool {
		name, ok := strings.CutPrefix(name, p.prefix)
		return ok && want(name)
	})
	out := map[string]map[string]string{}
	for name, values := range all {
		out[strings.TrimPrefix(name, p.prefix)] = p.without(values)
	}
	return out, err
}

func (p prefixed) without(values map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range values {
		out[strings.TrimPrefix(k, p.prefix)] = v
	}
	return out
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	secrettest.Run(t, secrettest.Harness{Open: func(t testing.TB, secrets map[string]map[string]string) secret.Driver {
		s, err := OpenSecrets(t.Context(), SecretsConfig{Config: local(t)}, component.Env{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		prefix := fresh() + "/"
		for name, values := range secrets {
			if values[name] == "" {
				t.Skip("a secret has one character at least")
			}
			do(t, s.client, "CreateSecret", map[string]string{"Name": prefix + name, "SecretString": values[name], "ClientRequestToken": strings.Repeat("t", 32)}, nil)
		}
		return prefixed{s, prefix}
	}})
}

func TestASecretCanHoldSeveralValues(t *testing.T) {
	t.Parallel()
	s, err := OpenSecrets(t.Context(), SecretsConfig{Config: local(t), MultipleKeyValuesPerSecret: true}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ text, key, want string }{
		fresh(): {`{"user":"scott","password":"tiger"}`, "password", "tiger"},
		fresh(): {"plain", "", "plain"},
	} {
		do(t, s.client, "CreateSecret", map[string]string{"Name": name, "SecretString": tc.text, "ClientRequestToken": strings.Repeat("t", 32)}, nil)
		if tc.key == "" {
			tc.key = name
		}
		if got, err := s.Get(t.Context(), name, nil); err != nil || got[tc.key] != tc.want {
			t.Errorf("Get = %v, %v", got, err)
		}
	}
}

func TestParameters(t *testing.T) {
	t.Parallel()
	secrettest.Run(t, secrettest.Harness{Open: func(t testing.TB, secrets map[string]map[string]string) secret.Driver {
		p, err := OpenParameters(t.Context(), ParametersConfig{Config: local(t), Prefix: "/" + fresh() + "/"}, component.Env{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Close() })
		for name, values := range secrets {
			if n := len(values[name]); n == 0 || n > 4096 {
				t.Skip("a parameter has from 1 to 4,096 characters")
			}
			do(t, p.client, "PutParameter", map[string]string{"Name": p.prefix + name, "Value": values[name], "Type": "SecureString"}, nil)
		}
		return p
	}})
}

func TestSecretsOnABadNetwork(t *testing.T) {
	t.Parallel()
	made, err := OpenSecrets(t.Context(), SecretsConfig{Config: local(t)}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	do(t, made.client, "CreateSecret", map[string]string{"Name": "S", "SecretString": "v", "ClientRequestToken": strings.Repeat("t", 32)}, nil)
	secrettest.RunNetwork(t, func(t testing.TB) (secret.Driver, *faultnet.Proxy) {
		p := faultnet.New(t, server.Get(t).Addr())
		s, err := OpenSecrets(t.Context(), SecretsConfig{Config: at("http://" + p.Addr())}, component.Env{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s, p
	})
}

func TestSettingsSayWhatIsWrongWithThem(t *testing.T) {
	for _, tc := range []struct{ settings, want string }{
		{"table=t region=eu-central-1", ""},
		{"table=t accessKey=a secretKey=b sessionToken=c endpoint=http://localhost:4566 ttlAttributeName=expires partitionKey=id", ""},
		{"", "table"},
		{"table=t accessKey=open-sesame", "secretKey"},
		{"table=t sessionToken=open-sesame", "sessionToken"},
		{"table=t endpoint=localhost:4566", "endpoint"},
		{"table=t partitionKey=value", "partitionKey"},
		{"table=t ttlAttributeName=key", "ttlAttributeName"},
	} {
		var settings component.Settings
		for _, text := range strings.Fields(tc.settings) {
			name, value, _ := strings.Cut(text, "=")
			settings = append(settings, component.Setting{Name: name, Value: value})
		}
		cfg := StateConfig{PartitionKey: defaultPartitionKey}
		err := settings.Decode(&cfg)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), `"`+tc.want+`"`)) {
			t.Errorf("%s: %v, want %q", tc.settings, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: the error %q shows a secret", tc.settings, err)
		}
	}
}

func TestErrorsAreNamed(t *testing.T) {
	for body, want := range map[string]fault.Code{
		`{"__type":"com.amazon.coral.service#UnrecognizedClientException"}`:                                                 fault.Unauthenticated,
		`{"__type":"com.amazon.coral.service#AccessDeniedException","Message":"secret"}`:                                    fault.PermissionDenied,
		`{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"}`:                              fault.ResourceExhausted,
		`{"__type":"com.amazonaws.dynamodb.v20120810#ResourceNotFoundException"}`:                                           fault.FailedPrecondition,
		`{"__type":"com.amazon.coral.validate#ValidationException"}`:                                                        fault.InvalidArgument,
		`<ErrorResponse><Error><Type>Sender</Type><Code>NotFound</Code><Message>secret</Message></Error></ErrorResponse>`:   fault.FailedPrecondition,
		`<ErrorResponse><Error><Type>Sender</Type><Code>Throttling</Code><Message>secret</Message></Error></ErrorResponse>`: fault.ResourceExhausted,
		`secret`: fault.Internal,
		``:       fault.Internal,
	} {
		if err := replyError(400, []byte(body)); !fault.Is(err, want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want %v", body, err, want)
		}
	}
	if err := replyError(503, nil); !fault.Is(err, fault.Unavailable) {
		t.Errorf("status 503: %v", err)
	}
}

func FuzzReplyError(f *testing.F) {
	f.Add(400, []byte(`{"__type":"x#TransactionCanceledException","CancellationReasons":[{"Code":"None"},{"Code":"ConditionalCheckFailed","Item":{"a":{"S":"b"}}}]}`))
	f.Add(400, []byte(`<ErrorResponse><Error><Code>NotFound</Code></Error></ErrorResponse>`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if err := replyError(status, body); fault.Is(err, fault.Unknown) {
			t.Errorf("%v", err)
		}
	})
}

func TestNothingIsLeftAfterClose(t *testing.T) {
	cfg := table(t)
	leak.Check(t)
	s, err := OpenState(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
