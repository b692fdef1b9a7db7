package balance

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/proa-io/proa/mesh/discovery"
)

// seeded returns random numbers that are the same in every run.
func seeded() func() uint64 { return rand.New(rand.NewPCG(1, 2)).Uint64 }

// endpoints returns n endpoints, "10.0.0.0:1" and so on, each changed by change.
func endpoints(n int, change func(i int, ep *discovery.Endpoint)) []discovery.Endpoint {
	out := make([]discovery.Endpoint, n)
	for i := range out {
		out[i].Address = fmt.Sprintf("10.0.%d.%d:1", i/250, i%250)
		if change != nil {
			change(i, &out[i])
		}
	}
	return out
}

// newCluster returns a cluster of endpoints with a changed default policy.
func newCluster(list []discovery.Endpoint, change func(*Policy)) *Cluster {
	p := DefaultPolicy()
	if change != nil {
		change(&p)
	}
	c := New(Options{Name: "shop", Policy: &p, Random: seeded()})
	c.Update(list)
	return c
}

// pick returns the address that a new request goes to, and ends the attempt.
func pick(t testing.TB, c *Cluster, r Request) string {
	t.Helper()
	a, err := c.Pick(&r)
	if err != nil {
		t.Fatal(err)
	}
	address := a.Host.Endpoint().Address
	a.Done(Result{Status: 200, GRPC: -1})
	return address
}

// counts returns how often each address is picked out of n times.
func counts(t testing.TB, c *Cluster, n int) map[string]int {
	t.Helper()
	out := map[string]int{}
	for range n {
		out[pick(t, c, Request{})]++
	}
	return out
}

// within fails when a count is not within a fraction of what was expected.
func within(t *testing.T, what string, got, want int, part float64) {
	t.Helper()
	if d := float64(got - want); d < -part*float64(want) || d > part*float64(want) {
		t.Errorf("%s was picked %d times, want %d ± %.0f %%", what, got, want, 100*part)
	}
}

func address(i int) string { return fmt.Sprintf("10.0.%d.%d:1", i/250, i%250) }
