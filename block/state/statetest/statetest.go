// Package statetest is the contract of state.Driver, as tests.
//
// [Run] proves what the comments of the interface say, one property per
// function. [RunBadNetwork] proves that a driver behaves when the network does
// not. A driver passes both against the real server.
package statetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

// Open returns a driver on an empty store for one test. Run closes it. When
// several empty stores can be had at a time, Open calls t.Parallel first: most
// tests wait for items to expire.
type Open func(t *testing.T) state.Driver

// A property is one sentence of the contract.
type property struct {
	name string
	test func(*testing.T, state.Driver)
}

// Run proves that a driver keeps the contract. Properties of optional
// interfaces are skipped for drivers without them.
func Run(t *testing.T, open Open) {
	run(t, open, func(t *testing.T, f func(*testing.T)) { f(t) })
}

// RunInVirtualTime is Run for drivers that talk to nobody: no time passes while
// an item expires.
func RunInVirtualTime(t *testing.T, open Open) { run(t, open, synctest.Test) }

func run(t *testing.T, open Open, within func(*testing.T, func(*testing.T))) {
	for _, p := range slices.Concat(values(), etags(), ttls(), bulks(), transactions(), lists(), queries(), watches(), lives()) {
		t.Run(p.name, func(t *testing.T) {
			within(t, func(t *testing.T) {
				d := open(t)
				t.Cleanup(func() {
					if err := d.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
				})
				p.test(t, d)
			})
		})
	}
}

// put stores a value and fails the test if that fails.
func put(t *testing.T, d state.Driver, key, value string, opt state.PutOptions) (etag string) {
	t.Helper()
	etag, err := d.Put(t.Context(), key, []byte(value), opt)
	if err != nil {
		t.Fatalf("Put(%s): %v", brief(key), err)
	}
	return etag
}

// get returns an item and fails the test if there is none.
func get(t *testing.T, d state.Driver, key string) state.Item {
	t.Helper()
	item, found, err := d.Get(t.Context(), key, state.GetOptions{Consistency: state.Strong})
	if err != nil || !found {
		t.Fatalf("Get(%s): found %v, error %v", brief(key), found, err)
	}
	return item
}

// etagOf returns the present etag.
func etagOf(t *testing.T, d state.Driver, key string) string {
	t.Helper()
	return get(t, d, key).ETag
}

func wantValue(t *testing.T, d state.Driver, key, want string) {
	t.Helper()
	if got := string(get(t, d, key).Value); got != want {
		t.Fatalf("Get(%s) = %s, want %s", brief(key), brief(got), brief(want))
	}
}

func wantMissing(t *testing.T, d state.Driver, key string) {
	t.Helper()
	item, found, err := d.Get(t.Context(), key, state.GetOptions{Consistency: state.Strong})
	if err != nil || found {
		t.Fatalf("Get(%s) = %s, found %v, error %v; want none", brief(key), brief(string(item.Value)), found, err)
	}
}

// wantMismatch expects the error of a write that lost.
func wantMismatch(t *testing.T, err error) {
	t.Helper()
	if !fault.Is(err, fault.Aborted) || fault.ReasonOf(err) != state.ReasonETagMismatch {
		t.Fatalf("error %v (reason %q), want aborted for an etag mismatch", err, reason(err))
	}
}

// wantRefused expects the error of an etag that is not one: stores that can
// tell say invalid, others that it does not match.
func wantRefused(t *testing.T, err error) {
	t.Helper()
	if fault.Is(err, fault.InvalidArgument) && fault.ReasonOf(err) == state.ReasonETagInvalid {
		return
	}
	wantMismatch(t, err)
}

func reason(err error) fault.Reason {
	if err == nil {
		return ""
	}
	return fault.ReasonOf(err)
}

// brief quotes a value, shortened.
func brief(value string) string {
	if len(value) > 60 {
		return fmt.Sprintf("%q... (%d bytes)", value[:60], len(value))
	}
	return fmt.Sprintf("%q", value)
}

// eventually polls what a real server gives no signal for.
func eventually(t *testing.T, what string, within time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, within)
		}
	}
}

// canceled returns a context that has ended.
func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// A call is one operation of a driver, for properties that hold for all.
type call struct {
	name string
	do   func(ctx context.Context, d state.Driver) error
}

// able returns the operations that d and its server have: a server may be too
// old for some.
func able(t *testing.T, d state.Driver) []call {
	t.Helper()
	return slices.DeleteFunc(calls(d), func(c call) bool { return fault.Is(c.do(t.Context(), d), fault.Unimplemented) })
}

// calls returns every operation that the type of d has.
func calls(d state.Driver) []call {
	opt := state.PutOptions{ETag: "1"}
	all := []call{
		{"Get", func(ctx context.Context, d state.Driver) error {
			_, _, err := d.Get(ctx, "k", state.GetOptions{})
			return err
		}},
		{"strong Get", func(ctx context.Context, d state.Driver) error {
			_, _, err := d.Get(ctx, "k", state.GetOptions{Consistency: state.Strong})
			return err
		}},
		{"Put", func(ctx context.Context, d state.Driver) error {
			_, err := d.Put(ctx, "k", []byte("v"), state.PutOptions{})
			return err
		}},
		{"Put with a TTL", func(ctx context.Context, d state.Driver) error {
			_, err := d.Put(ctx, "k", []byte("v"), state.PutOptions{TTL: time.Hour})
			return err
		}},
		{"Put with an etag", func(ctx context.Context, d state.Driver) error {
			_, err := d.Put(ctx, "k", []byte("v"), opt)
			return err
		}},
		{"first Put", func(ctx context.Context, d state.Driver) error {
			_, err := d.Put(ctx, "k", []byte("v"), state.PutOptions{FirstWrite: true})
			return err
		}},
		{"Delete", func(ctx context.Context, d state.Driver) error {
			return d.Delete(ctx, "k", state.DeleteOptions{})
		}},
		{"Delete with an etag", func(ctx context.Context, d state.Driver) error {
			return d.Delete(ctx, "k", state.DeleteOptions{ETag: "1"})
		}},
	}
	return append(all, optionalCalls(d)...)
}

// errSeen ends a watch that stands.
var errSeen = errors.New("seen")

func optionalCalls(d state.Driver) (all []call) {
	if _, ok := d.(state.BulkGetter); ok {
		all = append(all, call{"BulkGet", func(ctx context.Context, d state.Driver) error {
			return d.(state.BulkGetter).BulkGet(ctx, []string{"k", "l"}, state.GetOptions{})[1].Err
		}})
	}
	if _, ok := d.(state.BulkPutter); ok {
		all = append(all, call{"BulkPut", func(ctx context.Context, d state.Driver) error {
			return d.(state.BulkPutter).BulkPut(ctx, []state.PutOp{{Key: "k"}, {Key: "l"}})[1].Err
		}})
	}
	if _, ok := d.(state.BulkDeleter); ok {
		all = append(all, call{"BulkDelete", func(ctx context.Context, d state.Driver) error {
			return d.(state.BulkDeleter).BulkDelete(ctx, []state.DeleteOp{{Key: "k"}, {Key: "l"}})[1]
		}})
	}
	if _, ok := d.(state.Transactor); ok {
		all = append(all, call{"Transact", func(ctx context.Context, d state.Driver) error {
			return d.(state.Transactor).Transact(ctx, []state.Op{{Key: "k"}, {Key: "l"}}, state.TransactOptions{})
		}})
	}
	if _, ok := d.(state.Watcher); ok {
		all = append(all, call{"Watch", func(ctx context.Context, d state.Driver) error {
			err := d.(state.Watcher).Watch(ctx, "app||", state.WatchOptions{}, func(state.Change) error { return errSeen })
			if errors.Is(err, errSeen) {
				return nil
			}
			return err
		}})
	}
	if _, ok := d.(state.Querier); ok {
		all = append(all, call{"Query", func(ctx context.Context, d state.Driver) error {
			_, err := d.(state.Querier).Query(ctx, state.Scope{Prefix: "app||"}, &state.Query{Limit: 10}, state.QueryOptions{})
			return err
		}})
	}
	if _, ok := d.(state.Lister); ok {
		all = append(all, call{"List", func(ctx context.Context, d state.Driver) error {
			_, err := d.(state.Lister).List(ctx, "", "", 10)
			return err
		}})
	}
	return all
}
