package grpcapi

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/config/configtest"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/proxy"
)

func TestBindingsGetTheMetadataOfTheCall(t *testing.T) {
	leak.Check(t)
	c := connect(t, newWorld(t))
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	ctx := with(timeout(t), "traceparent", parent, "baggage", "k=v", "x-mine", "call", "raw-bin", "x", "dapr-api-token", "t")
	for _, op := range []string{"create", "fail"} {
		var header, trailer metadata.MD
		out, err := c.InvokeBinding(ctx, &rtv1.InvokeBindingRequest{Name: "echo", Operation: op, Data: []byte("\x00d"),
			Metadata: map[string]string{"to": "me", "Key": "v"}}, grpc.Header(&header), grpc.Trailer(&trailer))
		if op == "fail" {
			want{codes.Internal, "ERR_INVOKE_OUTPUT_BINDING", "error invoking output binding echo: the other side said 500"}.check(t, err)
			header = metadata.Join(header, trailer) // they come in one block
		} else if err != nil || string(out.GetData()) != "\x00d" {
			t.Errorf("got %v, %v", out, err)
		}
		for k, v := range map[string]string{
			"metadata.to": "me", "metadata.key": "v", "metadata.traceparent": parent, "metadata.baggage": "k=v", "metadata.x-mine": "call",
			"metadata.lines": "one two ?", "metadata.raw-bin": "", "metadata.dapr-api-token": "", "metadata.content-type": "", "metadata.user-agent": "",
		} {
			if got := strings.Join(header.Get(k), "|"); got != v {
				t.Errorf("%s: header %s is %q, want %q", op, k, got, v)
			}
		}
		if op == "create" && out.GetMetadata()["lines"] != "one\ntwo ü" {
			t.Errorf("the metadata is %q", out.GetMetadata())
		}
	}
	_, err := c.InvokeBinding(ctx, &rtv1.InvokeBindingRequest{Name: "none", Operation: "create"})
	want{codes.Internal, "ERR_INVOKE_OUTPUT_BINDING", "couldn't find output binding none"}.check(t, err)
	_, err = c.InvokeBinding(ctx, &rtv1.InvokeBindingRequest{Name: "echo", Operation: "dance"})
	want{codes.Internal, "ERR_INVOKE_OUTPUT_BINDING", "dance"}.check(t, err)
}

func TestSecretsAreRead(t *testing.T) {
	leak.Check(t)
	c, none, ctx := connect(t, newWorld(t)), connect(t, &world{}), timeout(t)
	get := func(c rtv1.DaprClient, store, key string) (map[string]string, error) {
		out, err := c.GetSecret(ctx, &rtv1.GetSecretRequest{StoreName: store, Key: key})
		return out.GetData(), err
	}
	if v, err := get(c, "vault", "db"); err != nil || v["password"] != "p&w" || len(v) != 2 {
		t.Errorf("got %v, %v", v, err)
	}
	all := must[*rtv1.GetBulkSecretResponse](t)(c.GetBulkSecret(ctx, &rtv1.GetBulkSecretRequest{StoreName: "vault"}))
	if len(all.GetData()) != 2 || all.GetData()["key"].GetSecrets()["key"] != "k" {
		t.Errorf("all are %v", all)
	}
	for _, tc := range []struct {
		c          rtv1.DaprClient
		store, key string
		want       want
	}{
		{c, "vault", "root", want{codes.PermissionDenied, "ERR_PERMISSION_DENIED", `access denied by policy to get "root" from "vault"`}},
		{c, "vault", "none", want{codes.Internal, "ERR_SECRET_GET", "failed getting secret with key none from secret store vault"}},
		{c, "vaul", "db", want{codes.InvalidArgument, "ERR_SECRET_STORE_NOT_FOUND", "failed finding secret store with key vaul"}},
		{none, "vault", "db", want{codes.FailedPrecondition, "ERR_SECRET_STORES_NOT_CONFIGURED", "secret store is not configured"}},
	} {
		_, err := get(tc.c, tc.store, tc.key)
		tc.want.check(t, err)
	}
	_, err := c.GetBulkSecret(ctx, &rtv1.GetBulkSecretRequest{StoreName: "none"})
	want{codes.InvalidArgument, "ERR_SECRET_STORE_NOT_FOUND", ""}.check(t, err)
}

// Every documented error of secrets, configuration and locks that the tests of
// what succeeds do not meet.
func TestTroublesOfStoresAreTold(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	a := New(Options{Blocks: w})
	c, none, ctx := rtv1.NewDaprClient(serve(t, a)), connect(t, &world{}), timeout(t)
	bulk := func(c rtv1.DaprClient, store string) error {
		_, err := c.GetBulkSecret(ctx, &rtv1.GetBulkSecretRequest{StoreName: store})
		return err
	}
	secret := func(store string) error {
		_, err := c.GetSecret(ctx, &rtv1.GetSecretRequest{StoreName: store, Key: "s"})
		return err
	}
	items := func(c rtv1.DaprClient, store string, keys ...string) error {
		_, err := c.GetConfiguration(ctx, &rtv1.GetConfigurationRequest{StoreName: store, Keys: keys})
		return err
	}
	subscribe := func(c rtv1.DaprClient, store string) error {
		s, err := c.SubscribeConfiguration(ctx, &rtv1.SubscribeConfigurationRequest{StoreName: store, Keys: []string{"a", "b"}})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	unsubscribe := func(c rtv1.DaprClient, store string) error {
		_, err := c.UnsubscribeConfiguration(ctx, &rtv1.UnsubscribeConfigurationRequest{StoreName: store, Id: "i"})
		return err
	}
	lock := func(c rtv1.DaprClient, store string) error {
		_, err := c.TryLockAlpha1(ctx, &rtv1.TryLockRequest{StoreName: store, ResourceId: "r", LockOwner: "o", ExpiryInSeconds: 1})
		return err
	}
	unlock := func(c rtv1.DaprClient, store, resource, owner string) error {
		_, err := c.UnlockAlpha1(ctx, &rtv1.UnlockRequest{StoreName: store, ResourceId: resource, LockOwner: owner})
		return err
	}
	notConfigured := want{codes.FailedPrecondition, "ERR_CONFIGURATION_STORE_NOT_CONFIGURED", "configuration stores not configured"}
	for name, tc := range map[string]struct {
		err  error
		want want
	}{
		"secret of a server that is away":          {secret("away"), want{codes.Unavailable, "ERR_SECRET_GET", "failed getting secret with key s from secret store away: connection refused"}},
		"secrets of a server that is away":         {bulk(c, "away"), want{codes.Unavailable, "ERR_SECRET_GET", "failed getting secrets from secret store away: connection refused"}},
		"secrets of a store that cannot list":      {bulk(c, "binary"), want{codes.Unimplemented, "ERR_SECRET_GET", `secret store "binary" () cannot list its secrets`}},
		"secret that is no text":                   {secret("binary"), want{codes.FailedPrecondition, "ERR_SECRET_GET", `key "store.jks" of secret "s" of store "binary" is not text (UTF-8)`}},
		"secrets without a store":                  {bulk(none, "vault"), want{codes.FailedPrecondition, "ERR_SECRET_STORES_NOT_CONFIGURED", "secret store is not configured"}},
		"items of a server that is away":           {items(c, "away", "a"), want{codes.Unavailable, "ERR_CONFIGURATION_GET", "failed to get [a] from Configuration store away: connection refused"}},
		"item that is no text":                     {items(c, "binary", "logo"), want{codes.FailedPrecondition, "ERR_CONFIGURATION_GET", `item "logo" of configuration store "binary" is not text (UTF-8)`}},
		"items without a store":                    {items(none, "configstore"), notConfigured},
		"subscription to a server that is away":    {subscribe(c, "away"), want{codes.Unavailable, "ERR_CONFIGURATION_SUBSCRIBE", "failed to subscribe [a b] from Configuration store away: connection refused"}},
		"subscription without a store":             {subscribe(none, "configstore"), notConfigured},
		"unsubscribe without a store":              {unsubscribe(none, "configstore"), notConfigured},
		"unsubscribe of a store that is not there": {unsubscribe(c, "other"), want{codes.InvalidArgument, "ERR_CONFIGURATION_STORE_NOT_FOUND", "configuration store other not found"}},
		"lock of a server that is away":            {lock(c, "away"), want{codes.Unavailable, "ERR_TRY_LOCK", "failed to try acquiring lock: connection refused"}},
		"lock without a store":                     {lock(none, "lockstore"), want{codes.FailedPrecondition, "ERR_LOCK_STORE_NOT_CONFIGURED", "lock store is not configured"}},
		"unlock of a server that is away":          {unlock(c, "away", "r", "o"), want{codes.Unavailable, "ERR_UNLOCK", "failed to release lock: connection refused"}},
		"unlock without a store":                   {unlock(none, "lockstore", "r", "o"), want{codes.FailedPrecondition, "ERR_LOCK_STORE_NOT_CONFIGURED", "lock store is not configured"}},
		"unlock without an owner":                  {unlock(c, "lockstore", "r", ""), want{codes.InvalidArgument, "ERR_MALFORMED_REQUEST", "LockOwner is empty in lock store lockstore"}},
	} {
		t.Run(name, func(t *testing.T) { tc.want.check(t, tc.err) })
	}
	all := must[*rtv1.GetConfigurationResponse](t)(c.GetConfiguration(ctx, &rtv1.GetConfigurationRequest{StoreName: "binary"}))
	if len(all.GetItems()) != 1 || all.GetItems()["color"].GetValue() != "red" {
		t.Errorf("all items are %v, want those that are text", all)
	}
}

func TestLocksAreTakenAndGivenBack(t *testing.T) {
	leak.Check(t)
	c, ctx := connect(t, newWorld(t)), timeout(t)
	lock := func(store, resource, owner string, seconds int32) (bool, error) {
		out, err := c.TryLockAlpha1(ctx, &rtv1.TryLockRequest{StoreName: store, ResourceId: resource, LockOwner: owner, ExpiryInSeconds: seconds})
		return out.GetSuccess(), err
	}
	unlock := func(owner string) rtv1.UnlockResponse_Status {
		return must[*rtv1.UnlockResponse](t)(c.UnlockAlpha1(ctx, &rtv1.UnlockRequest{StoreName: "lockstore", ResourceId: "r", LockOwner: owner})).GetStatus()
	}
	var got []string
	for _, owner := range []string{"a", "b", "a"} {
		ok, err := lock("lockstore", "r", owner, 60)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, map[bool]string{true: "got", false: "held"}[ok])
	}
	for _, owner := range []string{"b", "a", "a"} {
		got = append(got, unlock(owner).String())
	}
	if text := strings.Join(got, " "); text != "got held held LOCK_BELONGS_TO_OTHERS SUCCESS LOCK_DOES_NOT_EXIST" {
		t.Error(text)
	}
	for _, tc := range []struct {
		store, resource, owner string
		seconds                int32
		want                   want
	}{
		{"lockstore", "", "a", 1, want{codes.InvalidArgument, "ERR_MALFORMED_REQUEST", "ResourceId is empty in lock store lockstore"}},
		{"lockstore", "r", "", 1, want{codes.InvalidArgument, "ERR_MALFORMED_REQUEST", "LockOwner is empty in lock store lockstore"}},
		{"lockstore", "r", "a", 0, want{codes.InvalidArgument, "ERR_MALFORMED_REQUEST", "ExpiryInSeconds is not positive in lock store lockstore"}},
		{"other", "r", "a", 1, want{codes.InvalidArgument, "ERR_LOCK_STORE_NOT_FOUND", "lock store other not found"}},
	} {
		_, err := lock(tc.store, tc.resource, tc.owner, tc.seconds)
		tc.want.check(t, err)
	}
	_, err := c.UnlockAlpha1(ctx, &rtv1.UnlockRequest{StoreName: "other"})
	want{codes.InvalidArgument, "ERR_LOCK_STORE_NOT_FOUND", ""}.check(t, err)
	_, err = c.UnlockAlpha1(ctx, &rtv1.UnlockRequest{StoreName: "lockstore", LockOwner: "a"})
	want{codes.InvalidArgument, "ERR_MALFORMED_REQUEST", "ResourceId is empty"}.check(t, err)
}

func TestConfigurationItemsAreRead(t *testing.T) {
	leak.Check(t)
	c, ctx := connect(t, newWorld(t)), timeout(t)
	get := func(keys ...string) string {
		t.Helper()
		out := must[*rtv1.GetConfigurationResponse](t)(c.GetConfigurationAlpha1(ctx, &rtv1.GetConfigurationRequest{StoreName: "configstore", Keys: keys}))
		var all []string
		for k, v := range out.GetItems() {
			all = append(all, k+"="+v.GetValue())
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	if got := get(); got != "color=red size=big" {
		t.Errorf("all are %s", got)
	}
	if got := get("color", "none"); got != "color=red" {
		t.Errorf("color is %s", got)
	}
	_, err := c.GetConfiguration(ctx, &rtv1.GetConfigurationRequest{StoreName: "other"})
	want{codes.InvalidArgument, "ERR_CONFIGURATION_STORE_NOT_FOUND", "configuration store other not found"}.check(t, err)
}

func TestChangesOfConfigurationItemsAreStreamed(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	a := New(Options{Blocks: w})
	c, ctx := rtv1.NewDaprClient(serve(t, a)), timeout(t)
	open := func(keys ...string) (rtv1.Dapr_SubscribeConfigurationClient, string) {
		t.Helper()
		s := must[rtv1.Dapr_SubscribeConfigurationClient](t)(c.SubscribeConfiguration(ctx, &rtv1.SubscribeConfigurationRequest{StoreName: "configstore", Keys: keys}))
		first := must[*rtv1.SubscribeConfigurationResponse](t)(s.Recv())
		if first.GetId() == "" || len(first.GetItems()) != 0 {
			t.Fatalf("the first message is %v", first)
		}
		return s, first.GetId()
	}
	one, id := open("color")
	all, _ := open()
	for _, v := range []string{"blue", ""} {
		if v == "" {
			if err := configtest.Delete(ctx, w.items, "color"); err != nil {
				t.Fatal(err)
			}
		} else if _, err := configtest.Set(ctx, w.items, "color", v); err != nil {
			t.Fatal(err)
		}
		for _, s := range []rtv1.Dapr_SubscribeConfigurationClient{one, all} {
			m := must[*rtv1.SubscribeConfigurationResponse](t)(s.Recv())
			if item, ok := m.GetItems()["color"]; !ok || item.GetValue() != v {
				t.Errorf("got %v, want %q", m, v)
			}
		}
	}
	unsubscribe := func(id string) *rtv1.UnsubscribeConfigurationResponse {
		return must[*rtv1.UnsubscribeConfigurationResponse](t)(c.UnsubscribeConfiguration(ctx, &rtv1.UnsubscribeConfigurationRequest{StoreName: "configstore", Id: id}))
	}
	if out := unsubscribe(id); !out.GetOk() {
		t.Errorf("got %v", out)
	}
	if _, err := one.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
	if out := unsubscribe(id); out.GetOk() || !strings.Contains(out.GetMessage(), id) {
		t.Errorf("got %v", out)
	}
	a.Stop()
	_, err := all.Recv()
	want{codes.Unavailable, "", "shutting down"}.check(t, err)
	other := must[rtv1.Dapr_SubscribeConfigurationClient](t)(c.SubscribeConfigurationAlpha1(ctx, &rtv1.SubscribeConfigurationRequest{StoreName: "other"}))
	_, err = other.Recv()
	want{codes.InvalidArgument, "ERR_CONFIGURATION_STORE_NOT_FOUND", ""}.check(t, err)
	_, err = c.UnsubscribeConfigurationAlpha1(ctx, &rtv1.UnsubscribeConfigurationRequest{StoreName: "other"})
	want{codes.InvalidArgument, "ERR_CONFIGURATION_STORE_NOT_FOUND", ""}.check(t, err)
}

func TestMetadataIsKeptAndShown(t *testing.T) {
	leak.Check(t)
	c, ctx := connect(t, newWorld(t)), timeout(t)
	must[*emptypb.Empty](t)(c.SetMetadata(ctx, &rtv1.SetMetadataRequest{Key: "k", Value: "v"}))
	out := must[*rtv1.GetMetadataResponse](t)(c.GetMetadata(ctx, &rtv1.GetMetadataRequest{}))
	if out.GetId() != "shop" || out.GetRuntimeVersion() != "1.18.0" || out.GetExtendedMetadata()["k"] != "v" {
		t.Errorf("got %v", out)
	}
}

func TestShutdownIsPassedOn(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	c, ctx := connect(t, w), timeout(t)
	must[*emptypb.Empty](t)(c.Shutdown(ctx, &rtv1.ShutdownRequest{}))
	must[*emptypb.Empty](t)(c.Shutdown(with(ctx, "dapr-force-shutdown", "true"), &rtv1.ShutdownRequest{}))
	if !slices.Equal(w.stopped, []bool{false, true}) {
		t.Errorf("got %v", w.stopped)
	}
}

func TestBinaryTraceFieldsAreUnderstood(t *testing.T) {
	const binary = "AAAK92UZFs1D3YRI6yEcgDGcAbet" + "a3FpIDMxAgE"
	want := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for value, parent := range map[string]string{binary: want, binary + "=": want, "": "", "AAAA": "", "!": ""} {
		if got := traceFields(proxy.Header{{Name: "grpc-trace-bin", Value: value}}).Parent; got != parent {
			t.Errorf("%q is %q", value, got)
		}
	}
	f := traceFields(proxy.Header{{Name: "grpc-trace-bin", Value: binary}, {Name: "Traceparent", Value: "mine"}})
	if f.Parent != "mine" {
		t.Errorf("the parent is %q", f.Parent)
	}
}
