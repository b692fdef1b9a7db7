package runtime

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/engine"
)

// BenchmarkStateGet reads from a store in memory as a dialect does: look-up,
// block, policies, driver.
func BenchmarkStateGet(b *testing.B) {
	dir := b.TempDir()
	text := "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: store\nspec:\n  type: state.in-memory\n  version: v1\n"
	if err := os.WriteFile(filepath.Join(dir, "store.yaml"), []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	rt, err := New(b.Context(), Config{
		AppID: "shop", ResourcesPaths: []string{dir}, Engine: engine.Options{Dir: b.TempDir()}, MetricsPort: -1, NoDefaultComponents: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- rt.Run(ctx) }()
	get := func() error {
		s, err := rt.State("store")
		if err == nil {
			_, _, err = s.Get(ctx, state.GetRequest{Key: "k"})
		}
		return err
	}
	if err := get(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := get(); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	cancel()
	<-done
}
