package balance

import (
	"fmt"
	"testing"
	"time"
)

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{1, 3, 100} {
		for _, a := range []Algorithm{PeakEWMA, RoundRobin, LeastRequest, Random, RingHash, Maglev} {
			b.Run(fmt.Sprintf("%s/%d", a, n), func(b *testing.B) {
				p := DefaultPolicy()
				p.Algorithm = a
				c := New(Options{Policy: &p})
				c.Update(endpoints(n, nil))
				b.ReportAllocs()
				key := uint64(0)
				for b.Loop() {
					key++
					r := Request{Key: mix(key), Keyed: true}
					at, _ := c.Pick(&r)
					at.Headed()
					at.Done(Result{Status: 200, GRPC: -1})
				}
			})
		}
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, a := range []Algorithm{PeakEWMA, RingHash, Maglev} {
		b.Run(a.String(), func(b *testing.B) {
			p := DefaultPolicy()
			p.Algorithm = a
			c := New(Options{Policy: &p})
			one, other := endpoints(5000, nil), endpoints(4999, nil)
			for b.Loop() {
				c.Update(one)
				one, other = other, one
			}
		})
	}
}

func TestAPickAllocatesNothing(t *testing.T) {
	for _, n := range []int{1, 3} {
		for _, a := range []Algorithm{PeakEWMA, RoundRobin, LeastRequest, Random, RingHash, Maglev} {
			for _, change := range []func(*Policy){
				func(*Policy) {},
				func(p *Policy) { p.Limits.Requests, p.Limits.PerEndpoint, p.Bounded = 100, 10, 2 },
				func(p *Policy) { p.SlowStart.Window = time.Hour; p.Outliers.Consecutive5xx = 5 },
			} {
				p := DefaultPolicy()
				p.Algorithm = a
				change(&p)
				c := New(Options{Policy: &p})
				c.Update(endpoints(1, nil))
				c.Update(endpoints(n, nil))
				got := testing.AllocsPerRun(200, func() {
					r := Request{Key: 42, Keyed: true}
					for range 2 { // and a retry
						at, err := c.Pick(&r)
						if err != nil {
							t.Fatal(err)
						}
						at.Headed()
						at.Done(Result{Status: 503, GRPC: -1})
					}
				})
				if got > 0 {
					t.Errorf("%s with %d endpoints: a request allocates %.1f times", a, n, got)
				}
			}
		}
	}
}
