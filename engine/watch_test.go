package engine

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/proa-io/proa/fault"
)

func TestAHeartbeatEndsTheSyncOfAWatchWhoseValuesHaveEnded(t *testing.T) {
	var got []Op
	s := feed{expect: 2, receiver: &pass{
		watch: &watch{known: map[string]uint64{"gone": 3}, fn: func(u Update) error { got = append(got, u.Op); return nil }},
		seen:  map[string]struct{}{},
	}}
	beat := func(last string) *nats.Msg {
		return &nats.Msg{Header: nats.Header{"Status": {"100"}, "Nats-Last-Consumer": {last}}}
	}
	if err := s.take(nil, beat("2")); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0] != OpDelete || got[1] != OpSynced {
		t.Fatalf("got %v", got)
	}
	if err := s.take(nil, beat("2")); err != nil || len(got) != 2 {
		t.Fatalf("a second heartbeat: %v, %v", got, err)
	}
	// The consumer has sent more than arrived.
	if err := s.take(nil, beat("3")); !fault.Is(err, fault.Unavailable) {
		t.Fatalf("got %v", err)
	}
}
