package engine

import (
	"context"
	"strconv"
	"sync"
	"testing"
)

// BenchmarkReady is the time from Open to the first connection, on an empty
// directory.
func BenchmarkReady(b *testing.B) {
	for b.Loop() {
		e, err := Open(b.Context(), Options{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		var work sync.WaitGroup
		work.Go(func() { _ = e.Run(ctx) })
		if _, err := e.Conn(ctx); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		cancel()
		work.Wait()
		b.StartTimer()
	}
}

// BenchmarkBucket writes and reads 1 KiB in the process that holds the engine
// and in one that is its client, one call after the other and sixteen at once.
func BenchmarkBucket(b *testing.B) {
	dir := b.TempDir()
	holder, _ := run(b, Options{Dir: dir})
	if _, err := holder.Conn(b.Context()); err != nil {
		b.Fatal(err)
	}
	guest, _ := run(b, Options{Dir: dir})
	for name, e := range map[string]*Engine{"holder": holder, "client": guest} {
		store := bucket(b, b.Context(), e, BucketConfig{Name: "b"})
		value, keys := make([]byte, 1<<10), make([]string, 128)
		for i := range keys {
			keys[i] = "k." + strconv.Itoa(i)
			if _, err := store.Put(b.Context(), keys[i], value, PutOptions{}); err != nil {
				b.Fatal(err)
			}
		}
		calls := map[string]func(i int) error{
			"put": func(i int) error {
				_, err := store.Put(b.Context(), keys[i%len(keys)], value, PutOptions{})
				return err
			},
			"get": func(i int) error {
				_, err := store.Get(b.Context(), keys[i%len(keys)], Strong)
				return err
			},
		}
		for op, call := range calls {
			b.Run(name+"/"+op+"/1", func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if err := call(i); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run(name+"/"+op+"/16", func(b *testing.B) {
				b.SetParallelism(8)
				b.RunParallel(func(p *testing.PB) {
					for i := 0; p.Next(); i++ {
						if err := call(i); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}
