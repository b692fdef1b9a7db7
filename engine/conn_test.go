package engine

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/proa-io/proa/fault"
)

func TestDoTriesAgainWhatWasNotDone(t *testing.T) {
	ctx := deadline(t)
	e, _ := run(t, Options{Dir: t.TempDir()})
	c, err := e.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		err   error
		fails int // times before it succeeds
		calls int
		code  fault.Code
	}{
		"busy for a moment":   {api(400, 10164), 3, 4, 0},
		"not ready to check":  {api(503, 10163), 1, 2, 0},
		"busy for ever":       {api(400, 10164), 1000, maxTries, fault.Unavailable},
		"a conflict":          {api(400, 10071), 1000, 1, fault.Aborted},
		"a timeout inside":    {context.DeadlineExceeded, 1000, 1, fault.Unavailable},
		"an unknown error":    {errors.New("odd"), 1000, 1, fault.Internal},
		"a classified error":  {fault.New(fault.NotFound, "x"), 1000, 1, fault.NotFound},
		"a store that closed": {api(503, 10076), 1000, 1, fault.Unavailable},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			calls := 0
			err := c.Do(ctx, func(context.Context) error {
				if calls++; calls > tt.fails {
					return nil
				}
				return tt.err
			})
			if calls != tt.calls {
				t.Errorf("%d calls, want %d", calls, tt.calls)
			}
			if (err == nil) != (tt.code == 0) || err != nil && fault.CodeOf(err) != tt.code {
				t.Errorf("got %v, want %v", err, tt.code)
			}
		})
	}
}

func TestWhatWasNotSentIsSentOnTheNextConnection(t *testing.T) {
	ctx := deadline(t)
	e, _ := run(t, Options{Dir: t.TempDir()})
	c, err := e.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	err = c.Do(ctx, func(context.Context) error {
		if calls++; calls > 1 {
			return nil
		}
		if err := c.NATS().ForceReconnect(); err != nil {
			return err
		}
		return nats.ErrReconnectBufExceeded
	})
	if err != nil || calls != 2 {
		t.Fatalf("%d calls, %v", calls, err)
	}
}

func TestACanceledCallIsCanceled(t *testing.T) {
	e, _ := run(t, Options{Dir: t.TempDir()})
	b := bucket(t, deadline(t), e, BucketConfig{Name: "b"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.Put(ctx, "k", nil, PutOptions{})
	wantCode(t, err, fault.Canceled, "")
	_, err = b.Get(ctx, "k", Strong)
	wantCode(t, err, fault.Canceled, "")
}

func TestOneKeyHasOneConnection(t *testing.T) {
	ctx := deadline(t)
	e, _ := run(t, Options{Dir: t.TempDir(), Conns: 3})
	used := make(map[*Conn]bool)
	for range 9 {
		c, err := e.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		used[c] = true
	}
	if len(used) != 3 {
		t.Errorf("%d of 3 connections are used", len(used))
	}
	first, err := e.ConnFor(ctx, "key")
	if err != nil {
		t.Fatal(err)
	}
	for range 9 {
		if again, err := e.ConnFor(ctx, "key"); err != nil || again != first {
			t.Fatalf("another connection for the same key, %v", err)
		}
	}
}

func TestALinkEndsExactlyTheFlightsInIt(t *testing.T) {
	var l link
	ended := make(map[int]bool)
	flights := make([]*flight, 5)
	for i := range flights {
		flights[i] = &flight{cancel: func(error) { ended[i] = true }}
		if !l.enter(flights[i]) {
			t.Fatal("a live link refuses")
		}
	}
	for _, i := range []int{0, 2, 4} { // the last, a middle one, the first
		l.leave(flights[i])
	}
	l.lose()
	l.lose()
	for i := range flights {
		if want := i == 1 || i == 3; ended[i] != want {
			t.Errorf("flight %d: ended %v, want %v", i, ended[i], want)
		}
	}
	if l.enter(&flight{}) {
		t.Error("a lost link takes a flight")
	}
	l.leave(flights[1])
}

func TestReplicasFollowTheCluster(t *testing.T) {
	tests := []struct {
		options Options
		facts   *serverFacts
		want    int
	}{
		{Options{Dir: "x"}, nil, 1},
		{Options{URL: "nats://h"}, &serverFacts{}, 1},
		{Options{URL: "nats://h"}, &serverFacts{cluster: "c", servers: 2}, 1},
		{Options{URL: "nats://h"}, &serverFacts{cluster: "c", servers: 3}, 3},
		{Options{URL: "nats://h"}, &serverFacts{cluster: "c", servers: 7}, 3},
		{Options{URL: "nats://h", Replicas: 5}, &serverFacts{cluster: "c", servers: 7}, 5},
		{Options{URL: "nats://h", Replicas: 1}, &serverFacts{cluster: "c", servers: 3}, 1},
	}
	for _, tt := range tests {
		e, err := Open(t.Context(), tt.options)
		if err != nil {
			t.Fatal(err)
		}
		e.server.Store(tt.facts)
		if got := e.Replicas(); got != tt.want {
			t.Errorf("%+v: %d replicas, want %d", tt.facts, got, tt.want)
		}
	}
}

func TestWeakDurabilityIsSeenWhereTheServerTells(t *testing.T) {
	tests := map[string]string{
		`{"data":{"config":{"sync_interval":120000000000}}}`:                    "2m0s",
		`{"data":{"config":{"sync_interval":120000000000,"sync_always":true}}}`: "",
		`{"data":{}}`: "", `{"error":{"code":403}}`: "", `nonsense`: "",
	}
	for in, want := range tests {
		if got := weakDurability([]byte(in)); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}
