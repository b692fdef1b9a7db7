package redis

import (
	"fmt"
	"strings"
	"testing"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/binding/bindingtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
)

func openBinding(t testing.TB, cfg Config) *Binding {
	t.Helper()
	b, err := OpenBinding(t.Context(), BindingConfig{Config: cfg}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func TestBinding(t *testing.T) {
	addr := server.Get(t).Addr()
	create := binding.Request{Operation: "create", Data: []byte("x"), Metadata: map[string]string{"key": "of the suite"}}
	bindingtest.RunOutput(t, bindingtest.Output{
		Open:    func(t testing.TB) binding.Output { return openBinding(t, configOf(addr)) },
		Request: create,
	})
	t.Run("OnABadNetwork", func(t *testing.T) {
		bindingtest.RunNetwork(t, bindingtest.Network{
			Open: func(t testing.TB) (binding.Output, *faultnet.Proxy) {
				proxy := faultnet.New(t, addr)
				return openBinding(t, configOf(proxy.Addr())), proxy
			},
			Request:  create,
			CutAfter: 2,
		})
	})
}

func TestStringsAreSetReadAndDeleted(t *testing.T) {
	cfg := database(t, server.Get(t).Addr())
	b := openBinding(t, cfg)
	for i, step := range []struct {
		operation, data, metadata string
		want                      string
		ttl                       string // what the server says of the key afterwards: -2 none, -1 no end
	}{
		{"get", "", "", "", "-2"},
		{"create", "a\x00b\xff", "", "", "-1"},
		{"get", "", "", "a\x00b\xff", "-1"},
		{"create", "short", "ttlInSeconds=100", "", "100"},
		{"get", "", "delete=true", "short", "-2"},
		{"get", "", "delete=true", "", "-2"},
		{"increment", "", "", "", "-1"},
		{"increment", "", "ttlInSeconds=50", "", "50"},
		{"get", "", "delete=no", "2", "50"},
		{"delete", "", "", "", "-2"},
		{"delete", "", "", "", "-2"},
	} {
		r, err := b.Invoke(t.Context(), request(step.operation, step.data, step.metadata))
		if err != nil || string(r.Data) != step.want || len(r.Metadata) != 0 {
			t.Errorf("step %d, %s: %q, %v, %v; want %q", i, step.operation, r.Data, r.Metadata, err, step.want)
		}
		if got := fmt.Sprint(command(t, cfg, "TTL", "k")); got != step.ttl {
			t.Errorf("step %d, %s: the key has %s seconds to live, want %s", i, step.operation, got, step.ttl)
		}
	}
}

// request names the key k, and one metadata "name=value" more unless that is
// empty.
func request(operation, data, metadata string) binding.Request {
	r := binding.Request{Operation: operation, Data: []byte(data), Metadata: map[string]string{"key": "k"}}
	if name, value, ok := strings.Cut(metadata, "="); ok {
		r.Metadata[name] = value
	}
	return r
}

func TestRequestsThatCannotBeCarriedOut(t *testing.T) {
	cfg := database(t, server.Get(t).Addr())
	b := openBinding(t, cfg)
	command(t, cfg, "SET", "k", "no number")
	command(t, cfg, "HSET", "hash", "a", "b")
	for name, tc := range map[string]struct {
		r    binding.Request
		want fault.Code
		text string
	}{
		"no key":            {request("get", "", "key="), fault.InvalidArgument, `"key" is missing`},
		"a time of zero":    {request("create", "x", "ttlInSeconds=0"), fault.InvalidArgument, `1 at least, not "0"`},
		"a time of text":    {request("increment", "", "ttlInSeconds=soon"), fault.InvalidArgument, `"soon"`},
		"no number":         {request("increment", "", ""), fault.FailedPrecondition, "no whole number"},
		"no number to end":  {request("increment", "", "ttlInSeconds=5"), fault.FailedPrecondition, "no whole number"},
		"something else":    {request("get", "", "key=hash"), fault.FailedPrecondition, "something else"},
		"an operation more": {request("list", "", ""), fault.InvalidArgument, "create, delete, get and increment"},
	} {
		_, err := b.Invoke(t.Context(), tc.r)
		if !fault.Is(err, tc.want) || !strings.Contains(fault.Message(err), tc.text) {
			t.Errorf("%s: %v, want %v and %q", name, err, tc.want, tc.text)
		}
	}
}
