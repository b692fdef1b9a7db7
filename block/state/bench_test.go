package state_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/policy"
)

func BenchmarkStoreGet(b *testing.B) {
	benchmarkStore(b, func(ctx context.Context, s *state.Store, key string, _ []byte) error {
		_, _, err := s.Get(ctx, state.GetRequest{Key: key})
		return err
	})
}

func BenchmarkStoreSet(b *testing.B) {
	benchmarkStore(b, func(ctx context.Context, s *state.Store, key string, value []byte) error {
		_, err := s.Set(ctx, state.SetRequest{Key: key, Value: value})
		return err
	})
}

// benchmarkStore has all cores use 1,000 items of 1 KiB in memory, through six
// policies that do nothing: what is left is the price of the block.
func benchmarkStore(b *testing.B, do func(ctx context.Context, s *state.Store, key string, value []byte) error) {
	s := newStore(b, openMemory(b), state.Options{AppID: "shop", Chains: six{}})
	keys, value := make([]string, 1000), make([]byte, 1024)
	for i := range keys {
		keys[i] = fmt.Sprint("item-", i)
		mustSet(b, s, state.SetRequest{Key: keys[i], Value: value})
	}
	ctx := b.Context()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if err := do(ctx, s, keys[i%len(keys)], value); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

type six struct{}

func (six) Component(string, string, bool) policy.Chain {
	pass := func(_ policy.Op, next policy.Handler) policy.Handler {
		return func(ctx context.Context, c *policy.Call) error { return next(ctx, c) }
	}
	return policy.Chain{pass, pass, pass, pass, pass, pass}
}

func (six) App(string) policy.Chain { return nil }
