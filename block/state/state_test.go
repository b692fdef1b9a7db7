package state_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/memory"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

func openMemory(t testing.TB) *memory.State {
	t.Helper()
	d, err := memory.OpenState(t.Context(), memory.StateConfig{MaxItems: 1000, MaxBytes: 1 << 24}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func newStore(t testing.TB, d state.Driver, o state.Options) *state.Store {
	t.Helper()
	if o.Chains == nil {
		o.Chains = policy.None{}
	}
	return state.New(component.Opened("orders", d), o)
}

func mustSet(t testing.TB, s *state.Store, r state.SetRequest) string {
	t.Helper()
	etag, err := s.Set(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return etag
}

func TestKeyPrefixesAreThoseOfTheReference(t *testing.T) {
	for _, tc := range []struct{ strategy, appID, namespace, want string }{
		{"", "shop", "default", "shop||k"},
		{"appid", "shop", "default", "shop||k"},
		{"APPID", "shop", "default", "shop||k"},
		{"", "", "default", "k"},
		{"name", "shop", "default", "orders||k"},
		{"namespace", "shop", "prod", "prod.shop||k"},
		{"namespace", "shop", "", "shop||k"},
		{"namespace", "", "prod", "k"},
		{"none", "shop", "default", "k"},
		{"Shared", "shop", "default", "shared||k"},
	} {
		d := openMemory(t)
		s := newStore(t, d, state.Options{AppID: tc.appID, Namespace: tc.namespace, Config: state.Config{KeyPrefix: tc.strategy}})
		mustSet(t, s, state.SetRequest{Key: "k", Value: []byte("v")})
		keys, err := d.List(t.Context(), "", "", 10)
		if err != nil || len(keys) != 1 || keys[0] != tc.want {
			t.Errorf("keyPrefix %q, app %q in %q: stored at %q (%v), want %q", tc.strategy, tc.appID, tc.namespace, keys, err, tc.want)
		}
		if got, err := s.List(t.Context(), state.ListRequest{}); err != nil || len(got.Items) != 1 || got.Items[0].Key != "k" {
			t.Errorf("keyPrefix %q: List = %q, %v; want the caller's key", tc.strategy, got.Items, err)
		}
	}
}

func TestBadRequestsAreRefusedWithAReason(t *testing.T) {
	s := newStore(t, openMemory(t), state.Options{AppID: "shop"})
	set := func(r state.SetRequest) error { _, err := s.Set(t.Context(), r); return err }
	ttl := func(text string) state.SetRequest {
		return state.SetRequest{Key: "k", Metadata: map[string]string{"ttlInSeconds": text}}
	}
	get := func(key string) error { _, _, err := s.Get(t.Context(), state.GetRequest{Key: key}); return err }
	getBulk := func(keys ...string) error {
		_, err := s.GetBulk(t.Context(), state.BulkGetRequest{Keys: keys})
		return err
	}
	_, badConcurrency := state.ParseConcurrency("second-write")
	_, badConsistency := state.ParseConsistency("Strong")
	_, badOperation := state.ParseOperation("increment")
	for _, tc := range []struct {
		name   string
		err    error
		reason fault.Reason
	}{
		{"get without a key", get(""), state.ReasonEmptyKey},
		{"get of an illegal key", get("a||b"), state.ReasonIllegalKey},
		{"set without a key", set(state.SetRequest{}), state.ReasonEmptyKey},
		{"set of an illegal key", set(state.SetRequest{Key: "||"}), state.ReasonIllegalKey},
		{"a TTL that is no number", set(ttl("soon")), state.ReasonBadTTL},
		{"a TTL below -1", set(ttl("-2")), state.ReasonBadTTL},
		{"a TTL with a fraction", set(ttl("1.5")), state.ReasonBadTTL},
		{"a TTL no store can count", set(ttl("99999999999")), state.ReasonBadTTL},
		{"delete without a key", s.Delete(t.Context(), state.DeleteRequest{}), state.ReasonEmptyKey},
		{"bulk get with an illegal key", getBulk("a", "a||b"), state.ReasonIllegalKey},
		{"bulk set with an empty key", s.Save(t.Context(), []state.SetRequest{{Key: "a"}, {}}), state.ReasonEmptyKey},
		{"bulk set with a bad TTL", s.Save(t.Context(), []state.SetRequest{{Key: "a"}, ttl("x")}), state.ReasonBadTTL},
		{"bulk delete with an empty key", s.DeleteBulk(t.Context(), []state.DeleteRequest{{Key: "a"}, {}}), state.ReasonEmptyKey},
		{"a transaction with an illegal key", s.Transact(t.Context(), state.TransactRequest{Operations: []state.Operation{
			{SetRequest: state.SetRequest{Key: "a||b"}}}}), state.ReasonIllegalKey},
		{"an unknown concurrency", badConcurrency, state.ReasonBadOption},
		{"an unknown consistency", badConsistency, state.ReasonBadOption},
		{"an unknown operation", badOperation, state.ReasonBadOperation},
	} {
		if !fault.Is(tc.err, fault.InvalidArgument) || fault.ReasonOf(tc.err) != tc.reason {
			t.Errorf("%s: %v (%s), want invalid_argument with reason %s", tc.name, tc.err, fault.ReasonOf(tc.err), tc.reason)
		}
	}
}

func TestAnETagIsCheckedWhateverTheConcurrency(t *testing.T) {
	s := newStore(t, openMemory(t), state.Options{AppID: "shop"})
	old := mustSet(t, s, state.SetRequest{Key: "k", Value: []byte("1")})
	mustSet(t, s, state.SetRequest{Key: "k", Value: []byte("2")})
	for _, c := range []state.Concurrency{state.DefaultConcurrency, state.FirstWrite, state.LastWrite} {
		_, err := s.Set(t.Context(), state.SetRequest{Key: "k", Value: []byte("3"), ETag: old, Concurrency: c})
		if !fault.Is(err, fault.Aborted) || fault.ReasonOf(err) != state.ReasonETagMismatch {
			t.Errorf("concurrency %d with a stale etag: %v, want aborted", c, err)
		}
	}
}

func TestTTLComesFromTheRequestOrTheComponent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, openMemory(t), state.Options{AppID: "shop", Config: state.Config{TTLInSeconds: 60}})
		for _, tc := range []struct {
			metadata map[string]string
			want     time.Duration
		}{
			{nil, time.Minute},
			{map[string]string{"ttlInSeconds": ""}, time.Minute},
			{map[string]string{"ttlInSeconds": "5"}, 5 * time.Second},
			{map[string]string{"TTLINSECONDS": " 5 "}, 5 * time.Second},
			{map[string]string{"ttlInSeconds": "-1"}, 0},
			{map[string]string{"ttlInSeconds": "0"}, 0},
		} {
			mustSet(t, s, state.SetRequest{Key: "k", Metadata: tc.metadata})
			item, _, err := s.Get(t.Context(), state.GetRequest{Key: "k"})
			if err != nil {
				t.Fatal(err)
			}
			text, expires := item.ExpireTime()
			if want := time.Now().Add(tc.want).UTC().Format(time.RFC3339); expires != (tc.want > 0) || expires && text != want {
				t.Errorf("metadata %v: expires %q (%v), want %v from now", tc.metadata, text, expires, tc.want)
			}
		}
	})
}

func TestErrorsShowTheCallersKeyAndNotThePrefixedOne(t *testing.T) {
	s := newStore(t, openMemory(t), state.Options{AppID: "shop"})
	stale := state.SetRequest{Key: "k", ETag: "stale"}
	_, setErr := s.Set(t.Context(), stale)
	for name, err := range map[string]error{
		"set":         setErr,
		"save":        s.Save(t.Context(), []state.SetRequest{{Key: "a"}, stale}),
		"delete":      s.Delete(t.Context(), state.DeleteRequest{Key: "k", ETag: "stale"}),
		"delete bulk": s.DeleteBulk(t.Context(), []state.DeleteRequest{{Key: "a"}, {Key: "k", ETag: "stale"}}),
		"transaction": s.Transact(t.Context(), state.TransactRequest{Operations: []state.Operation{
			{SetRequest: state.SetRequest{Key: "a"}}, {SetRequest: stale}}}),
	} {
		text := fault.Message(err)
		if !fault.Is(err, fault.Aborted) || fault.ReasonOf(err) != state.ReasonETagMismatch {
			t.Errorf("%s: %v, want an etag mismatch", name, err)
		}
		if strings.Contains(text, "shop") || !strings.Contains(text, `"k"`) || !strings.Contains(text, `"orders"`) {
			t.Errorf("%s: message %q should name store and key, and no prefix", name, text)
		}
	}
}

func TestSaveSaysWhichItemsFailedAndStoresTheOthers(t *testing.T) {
	for _, tc := range []struct {
		name   string
		driver state.Driver
	}{
		{"driver with bulk calls", openMemory(t)},
		{"driver without", plain{openMemory(t)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStore(t, tc.driver, state.Options{AppID: "shop"})
			err := s.Save(t.Context(), []state.SetRequest{{Key: "a"}, {Key: "b", ETag: "x"}, {Key: "c", Value: []byte("3")}, {Key: "d", ETag: "y"}})
			be, ok := errors.AsType[*state.BulkError](err)
			if !ok || be.Of != 4 || len(be.Failed) != 2 || be.Failed[0].Key != "b" || be.Failed[1].Key != "d" {
				t.Fatalf("Save = %v, want a BulkError for b and d", err)
			}
			want := `state "orders": 2 of 4 items were not saved: "d": the item has changed: its etag is not the one given; "b": ` +
				`the item has changed: its etag is not the one given`
			if got := fault.Message(err); got != want {
				t.Errorf("message\n%s, want\n%s", got, want)
			}
			items, err := s.GetBulk(t.Context(), state.BulkGetRequest{Keys: []string{"d", "c", "b", "a"}})
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range []bool{false, true, false, true} {
				if items[i].Found != want || items[i].Err != nil || items[i].Key != string("dcba"[i]) {
					t.Errorf("item %d = %+v, want found %v", i, items[i], want)
				}
			}
		})
	}
}

func TestTheLastOfTwoWritesToOneKeyStays(t *testing.T) {
	for _, d := range []state.Driver{openMemory(t), plain{openMemory(t)}} {
		s := newStore(t, d, state.Options{AppID: "shop"})
		for range 50 {
			if err := s.Save(t.Context(), []state.SetRequest{{Key: "k", Value: []byte("1")}, {Key: "x"}, {Key: "k", Value: []byte("2")}}); err != nil {
				t.Fatal(err)
			}
			if item, _, err := s.Get(t.Context(), state.GetRequest{Key: "k"}); err != nil || string(item.Value) != "2" {
				t.Fatalf("Get = %q, %v; want the later write", item.Value, err)
			}
		}
	}
}

func TestDriversWithoutACapabilitySaySo(t *testing.T) {
	s := newStore(t, plain{openMemory(t)}, state.Options{AppID: "shop"})
	err := s.Transact(t.Context(), state.TransactRequest{Operations: []state.Operation{{SetRequest: state.SetRequest{Key: "a"}}}})
	if !fault.Is(err, fault.Unimplemented) || fault.ReasonOf(err) != state.ReasonTransactionsNotSupported {
		t.Errorf("Transact = %v, want unimplemented", err)
	}
	_, err = s.List(t.Context(), state.ListRequest{})
	if !fault.Is(err, fault.Unimplemented) || fault.ReasonOf(err) != state.ReasonListNotSupported {
		t.Errorf("List = %v, want unimplemented", err)
	}
	if err := s.Transact(t.Context(), state.TransactRequest{}); fault.ReasonOf(err) != state.ReasonTransactionsNotSupported {
		t.Errorf("Transact of nothing = %v, want unimplemented", err)
	}
}

func TestATransactionBeyondTheDriversLimitIsRefused(t *testing.T) {
	s := newStore(t, limited{openMemory(t)}, state.Options{AppID: "shop"})
	ops := []state.Operation{{SetRequest: state.SetRequest{Key: "a"}}, {SetRequest: state.SetRequest{Key: "b"}}, {SetRequest: state.SetRequest{Key: "c"}}}
	if err := s.Transact(t.Context(), state.TransactRequest{Operations: ops[:2]}); err != nil {
		t.Errorf("two operations: %v", err)
	}
	err := s.Transact(t.Context(), state.TransactRequest{Operations: ops})
	if !fault.Is(err, fault.InvalidArgument) || fault.ReasonOf(err) != state.ReasonTooManyOperations {
		t.Errorf("three operations: %v, want too many", err)
	}
}

func TestAStoreThatIsNotOpenSaysWhichComponentAndWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := component.NewHandle(component.HandleOptions{Name: "orders", Type: "state.test"},
			func(context.Context) (state.Driver, error) { return nil, errors.New("no route to host") })
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- h.Run(ctx) }()
		s := state.New(h, state.Options{Chains: policy.None{}})
		for name, call := range map[string]func() error{
			"get":      func() error { _, _, err := s.Get(ctx, state.GetRequest{Key: "k"}); return err },
			"get bulk": func() error { _, err := s.GetBulk(ctx, state.BulkGetRequest{Keys: []string{"k"}}); return err },
			"set":      func() error { _, err := s.Set(ctx, state.SetRequest{Key: "k"}); return err },
			"save":     func() error { return s.Save(ctx, []state.SetRequest{{Key: "k"}, {Key: "l"}}) },
			"delete":   func() error { return s.Delete(ctx, state.DeleteRequest{Key: "k"}) },
		} {
			err := call()
			if !fault.Is(err, fault.Unavailable) || fault.ReasonOf(err) != component.ReasonNotReady ||
				!strings.Contains(fault.Message(err), `"orders" (state.test)`) || !strings.Contains(fault.Message(err), "no route to host") {
				t.Errorf("%s = %v, want not ready with the component and the cause", name, err)
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Retrying a bulk call must not repeat what has succeeded: another writer may
// have been there in between.
func TestARetryOfABulkCallTriesOnlyWhatMayStillSucceed(t *testing.T) {
	var calls []policy.Call
	chains := chainOf(func(_ policy.Op, next policy.Handler) policy.Handler {
		return func(ctx context.Context, c *policy.Call) error {
			calls = append(calls, *c)
			err := next(ctx, c)
			for fault.Is(err, fault.Unavailable) {
				c.Attempt++
				err = next(ctx, c)
			}
			return err
		}
	})
	d := &flaky{plain: plain{openMemory(t)}}
	s := newStore(t, d, state.Options{AppID: "shop", Chains: chains})
	err := s.Save(t.Context(), []state.SetRequest{{Key: "good", Value: []byte("12")}, {Key: "flaky", Value: []byte("3")}, {Key: "stale", ETag: "x"}})
	if !fault.Is(err, fault.Aborted) {
		t.Errorf("Save = %v, want aborted for the stale item", err)
	}
	if d.good.Load() != 1 || d.flaky.Load() != 3 || d.stale.Load() != 1 {
		t.Errorf("puts: good %d, flaky %d, stale %d; want 1, 3, 1", d.good.Load(), d.flaky.Load(), d.stale.Load())
	}
	if len(calls) != 1 || calls[0].Op.Name != "bulk_set" || calls[0].Bytes != 3 || calls[0].Idempotent {
		t.Errorf("policies saw %+v, want one bulk_set of 3 bytes, not idempotent because of the etag", calls)
	}
}

func TestPoliciesSeeWhatIsCalled(t *testing.T) {
	var got []policy.Call
	chains := chainOf(func(_ policy.Op, next policy.Handler) policy.Handler {
		return func(ctx context.Context, c *policy.Call) error {
			err := next(ctx, c)
			got = append(got, *c)
			return err
		}
	})
	s := newStore(t, openMemory(t), state.Options{AppID: "shop", Chains: chains})
	ctx := t.Context()
	etag := mustSet(t, s, state.SetRequest{Key: "k", Value: []byte("123")})
	mustSet(t, s, state.SetRequest{Key: "k", Value: []byte("1"), ETag: etag})
	mustSet(t, s, state.SetRequest{Key: "l", Concurrency: state.FirstWrite})
	_, _, _ = s.Get(ctx, state.GetRequest{Key: "k"})
	_, _ = s.GetBulk(ctx, state.BulkGetRequest{Keys: []string{"k", "l"}})
	_ = s.Delete(ctx, state.DeleteRequest{Key: "k"})
	_ = s.Delete(ctx, state.DeleteRequest{Key: "k", ETag: "1"})
	_ = s.Transact(ctx, state.TransactRequest{Operations: []state.Operation{{SetRequest: state.SetRequest{Key: "m", Value: []byte("12")}}}})
	_ = s.Transact(ctx, state.TransactRequest{Operations: []state.Operation{{Delete: true, SetRequest: state.SetRequest{Key: "m", ETag: "1"}}}})
	want := []struct {
		op, key    string
		bytes      int
		idempotent bool
	}{
		{"set", "k", 3, true}, {"set", "k", 1, false}, {"set", "l", 0, false}, {"get", "k", 0, true}, {"bulk_get", "", 0, true},
		{"delete", "k", 0, true}, {"delete", "k", 0, false}, {"transact", "", 2, true}, {"transact", "", 0, false},
	}
	if len(got) != len(want) {
		t.Fatalf("policies saw %d calls, want %d", len(got), len(want))
	}
	for i, w := range want {
		g := got[i]
		if g.Op != (policy.Op{Block: "state", Component: "orders", Name: w.op}) || g.Key != w.key || g.Bytes != w.bytes || g.Idempotent != w.idempotent {
			t.Errorf("call %d: %+v, want %+v", i, g, w)
		}
	}
}

func TestGetAllocatesLittleAboveTheDriver(t *testing.T) {
	s := newStore(t, openMemory(t), state.Options{AppID: "shop"})
	mustSet(t, s, state.SetRequest{Key: "k", Value: []byte("v")})
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() { _, _, _ = s.Get(ctx, state.GetRequest{Key: "k"}) }); n > 2 {
		t.Errorf("Get allocates %v times, want at most 2", n)
	}
}

// plain hides every optional interface of a driver.
type plain struct{ d state.Driver }

func (p plain) Get(ctx context.Context, key string, opt state.GetOptions) (state.Item, bool, error) {
	return p.d.Get(ctx, key, opt)
}
func (p plain) Put(ctx context.Context, key string, value []byte, opt state.PutOptions) (string, error) {
	return p.d.Put(ctx, key, value, opt)
}
func (p plain) Delete(ctx context.Context, key string, opt state.DeleteOptions) error {
	return p.d.Delete(ctx, key, opt)
}
func (p plain) Close() error { return p.d.Close() }

// limited has transactions of two operations.
type limited struct{ *memory.State }

func (limited) MaxTransaction() int { return 2 }

// flaky counts writes and refuses the first two to the key "flaky".
type flaky struct {
	plain
	good, flaky, stale atomic.Int32
}

func (f *flaky) Put(ctx context.Context, key string, value []byte, opt state.PutOptions) (string, error) {
	switch key {
	case "shop||good":
		f.good.Add(1)
	case "shop||stale":
		f.stale.Add(1)
	case "shop||flaky":
		if f.flaky.Add(1) < 3 {
			return "", fault.New(fault.Unavailable, "not now")
		}
	}
	return f.plain.Put(ctx, key, value, opt)
}

// chainOf puts one policy around every call.
func chainOf(p policy.Policy) policy.Chains { return chains{p} }

type chains struct{ p policy.Policy }

func (c chains) Component(string, string, bool) policy.Chain { return policy.Chain{c.p} }
func (c chains) App(string) policy.Chain                     { return nil }
