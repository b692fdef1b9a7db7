package nats

import (
	"context"
	"testing"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/block/state/statetest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/internal/testserver"
)

func TestState(t *testing.T) {
	for _, kind := range engineKinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel() // most of the time items are waited for to expire
			e := kind.start(t)
			statetest.Run(t, func(t *testing.T) state.Driver {
				t.Parallel()
				s, err := OpenState(t.Context(), e, StateConfig{Bucket: newBucket()}, component.Env{})
				if err != nil {
					t.Fatal(err)
				}
				return s
			})
		})
	}
}

func TestStateOnABadNetwork(t *testing.T) {
	for name, o := range map[string]testserver.NATSOptions{"New": {}, "Old": {Installed: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testserver.NATS(t, o)
			statetest.RunBadNetwork(t, server.Addr(), func(ctx context.Context, _ *testing.T, addr string) (state.Driver, error) {
				s, err := OpenState(ctx, nil, StateConfig{Server: Server{URL: "nats://" + addr}, Bucket: "state"}, component.Env{})
				if err != nil {
					return nil, err
				}
				return s, nil
			})
		})
	}
}
