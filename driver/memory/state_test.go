package memory

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/block/state/statetest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

func openState(t testing.TB, cfg StateConfig) *State {
	t.Helper()
	d, err := OpenState(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestState(t *testing.T) {
	statetest.RunInVirtualTime(t, func(t *testing.T) state.Driver {
		return openState(t, StateConfig{MaxItems: 10_000, MaxBytes: 1 << 26})
	})
}

func TestAFullStoreRefusesNewItemsAndTakesSmallerOnes(t *testing.T) {
	ctx := t.Context()
	d := openState(t, StateConfig{MaxItems: 2, MaxBytes: 20})
	put := func(key, value string) error {
		_, err := d.Put(ctx, key, []byte(value), state.PutOptions{})
		return err
	}
	for _, step := range []struct {
		key, value string
		full       bool
	}{
		{"a", "12345", false}, // 6 bytes
		{"b", "12345", false}, // 12 bytes
		{"c", "", true},       // a third item
		{"a", "1234567890123", false},
		{"a", "12345678901234", true}, // 21 bytes
		{"a", "1", false},
		{"b", "123456789", false},
	} {
		if err := put(step.key, step.value); fault.Is(err, fault.ResourceExhausted) != step.full || err != nil && !step.full {
			t.Errorf("Put(%q, %q) = %v, want full %v", step.key, step.value, err, step.full)
		}
	}
	err := d.Transact(ctx, []state.Op{{Key: "a", Delete: true}, {Key: "c"}, {Key: "d"}}, state.TransactOptions{})
	if !fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("a transaction that ends with three items: %v, want resource_exhausted", err)
	}
	err = d.Transact(ctx, []state.Op{{Key: "c"}, {Key: "a", Delete: true}}, state.TransactOptions{})
	if err != nil {
		t.Errorf("a transaction that ends with two items: %v", err)
	}
	if err := d.Delete(ctx, "b", state.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if items, bytes := d.items.Load(), d.bytes.Load(); items != 1 || bytes != 1 {
		t.Errorf("the store counts %d items and %d bytes, want 1 and 1", items, bytes)
	}
}

func TestExpiredItemsMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openState(t, StateConfig{MaxItems: 100, MaxBytes: 1 << 20})
		for i := range 100 {
			if _, err := d.Put(t.Context(), fmt.Sprint("old ", i), nil, state.PutOptions{TTL: time.Duration(i%7+1) * time.Second}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(7 * time.Second)
		for i := range 100 {
			if _, err := d.Put(t.Context(), fmt.Sprint("new ", i), nil, state.PutOptions{}); err != nil {
				t.Fatalf("item %d: %v", i, err)
			}
		}
	})
}

// A store that always has room must not keep what has expired either.
func TestWritesBuryWhatHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openState(t, StateConfig{MaxItems: 1 << 20, MaxBytes: 1 << 30})
		for round := range 20 {
			for i := range 1000 {
				opt := state.PutOptions{TTL: time.Second}
				if _, err := d.Put(t.Context(), fmt.Sprint(round, " ", i), nil, opt); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Second)
		}
		if n := d.items.Load(); n > 2000 {
			t.Errorf("%d items are kept, want few more than one round's 1000", n)
		}
	})
}

func TestAnItemLivesExactlyAsLongAsItsTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openState(t, StateConfig{MaxItems: 10, MaxBytes: 1 << 20})
		if _, err := d.Put(t.Context(), "k", nil, state.PutOptions{TTL: 2 * time.Second}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*time.Second - 1)
		if _, found, err := d.Get(t.Context(), "k", state.GetOptions{}); err != nil || !found {
			t.Errorf("a nanosecond before: found %v, error %v", found, err)
		}
		time.Sleep(time.Nanosecond)
		if _, found, err := d.Get(t.Context(), "k", state.GetOptions{}); err != nil || found {
			t.Errorf("at the end: found %v, error %v", found, err)
		}
	})
}

func TestBadSettingsSayWhatIsWanted(t *testing.T) {
	for name, value := range map[string]string{"maxItems": "0", "maxBytes": "0"} {
		err := Specs()[0].Check(component.Settings{{Name: name, Value: value, Pos: component.Position{File: "c.yaml", Line: 7}}})
		if err == nil || !strings.HasPrefix(err.Error(), `c.yaml:7: "`+name+`": wants a `) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
}

func BenchmarkStateGet(b *testing.B) {
	benchmark(b, func(ctx context.Context, d *State, key string, _ []byte) error {
		_, _, err := d.Get(ctx, key, state.GetOptions{})
		return err
	})
}

func BenchmarkStatePut(b *testing.B) {
	benchmark(b, func(ctx context.Context, d *State, key string, value []byte) error {
		_, err := d.Put(ctx, key, value, state.PutOptions{})
		return err
	})
}

// benchmark has all cores use 1,000 items of 1 KiB.
func benchmark(b *testing.B, do func(ctx context.Context, d *State, key string, value []byte) error) {
	d := openState(b, StateConfig{MaxItems: 10_000, MaxBytes: 1 << 30})
	keys, value := make([]string, 1000), make([]byte, 1024)
	for i := range keys {
		keys[i] = fmt.Sprint("app||item-", i)
		if _, err := d.Put(b.Context(), keys[i], value, state.PutOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	ctx := b.Context()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if err := do(ctx, d, keys[i%len(keys)], value); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
