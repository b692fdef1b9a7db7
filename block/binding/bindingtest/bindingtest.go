// Package bindingtest is the contract of binding.Output and binding.Input as
// tests.
package bindingtest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/fault"
)

// Output makes the output drivers under test.
type Output struct {
	// Open returns a driver. Use t.Cleanup for what must be undone.
	Open func(t testing.TB) binding.Output
	// Request is one that succeeds on a driver just opened.
	Request binding.Request
}

// RunOutput proves that a driver keeps the contract of binding.Output.
func RunOutput(t *testing.T, h Output) {
	for _, p := range []struct {
		name string
		test func(*testing.T, binding.Output, binding.Request)
	}{
		{"OperationsAreLowerCaseAndDistinct", operations},
		{"RequestSucceeds", succeeds},
		{"UnknownOperationIsInvalid", unknownOperation},
		{"UnknownMetadataIsIgnored", unknownMetadata},
		{"RequestIsNotChanged", requestIsNotChanged},
		{"CanceledContextReturnsCanceled", canceled},
	} {
		t.Run(p.name, func(t *testing.T) { p.test(t, h.Open(t), h.Request) })
	}
}

func operations(t *testing.T, d binding.Output, r binding.Request) {
	all := d.Operations()
	for i, op := range all {
		if op == "" || op != strings.ToLower(op) || slices.Contains(all[:i], op) {
			t.Errorf("operation %q of %q is empty, not in lower case or there twice", op, all)
		}
	}
	if !slices.Contains(all, r.Operation) {
		t.Errorf("%q is not among the operations %q", r.Operation, all)
	}
}

func succeeds(t *testing.T, d binding.Output, r binding.Request) {
	if _, err := d.Invoke(t.Context(), r); err != nil {
		t.Errorf("Invoke: %v", err)
	}
}

func unknownOperation(t *testing.T, d binding.Output, r binding.Request) {
	for _, op := range []string{"", "no-such-operation", strings.ToUpper(r.Operation) + "X"} {
		bad := r
		bad.Operation = op
		if _, err := d.Invoke(t.Context(), bad); !fault.Is(err, fault.InvalidArgument) {
			t.Errorf("Invoke of %q: error %v, want invalid_argument", op, err)
		}
	}
}

func unknownMetadata(t *testing.T, d binding.Output, r binding.Request) {
	metadata := map[string]string{"no_such_hint": "1"}
	for k, v := range r.Metadata {
		metadata[k] = v
	}
	r.Metadata = metadata
	if _, err := d.Invoke(t.Context(), r); err != nil {
		t.Errorf("Invoke: %v", err)
	}
}

func requestIsNotChanged(t *testing.T, d binding.Output, r binding.Request) {
	r.Data = append([]byte(nil), r.Data...)
	before, size := string(r.Data), len(r.Metadata)
	if _, err := d.Invoke(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if string(r.Data) != before || len(r.Metadata) != size {
		t.Errorf("Invoke changed the request")
	}
}

func canceled(t *testing.T, d binding.Output, r binding.Request) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Invoke(ctx, r); !fault.Is(err, fault.Canceled) {
		t.Errorf("Invoke: error %v, want canceled", err)
	}
}

// Input makes the input drivers under test.
type Input struct {
	// Open returns a driver. Use t.Cleanup for what must be undone.
	Open func(t testing.TB) binding.Input
	// Trigger makes the source produce at least one event some time after
	// the call. Nil when the source does so by itself.
	Trigger func(t testing.TB)
	// Bubble runs a test in a bubble of synctest or in another setting that
	// the driver needs. Nil runs it as it is.
	Bubble func(t *testing.T, test func(*testing.T))
}

// RunInput proves that a driver keeps the contract of binding.Input.
func RunInput(t *testing.T, h Input) {
	if h.Trigger == nil {
		h.Trigger = func(testing.TB) {}
	}
	if h.Bubble == nil {
		h.Bubble = func(t *testing.T, test func(*testing.T)) { test(t) }
	}
	for _, p := range []struct {
		name string
		test func(*testing.T, Input)
	}{
		{"EventsAreHandedOver", handedOver},
		{"FailureOfAHandlerDoesNotEndListen", failureIsSurvived},
		{"ListenEndsWithItsContext", endsWithContext},
		{"ListenWaitsForHandlersUnderWay", waitsForHandlers},
		{"ListenCanBeCalledAgain", listenAgain},
	} {
		t.Run(p.name, func(t *testing.T) {
			h.Bubble(t, func(t *testing.T) { p.test(t, h) })
		})
	}
}

// within bounds every wait for a source.
const within = 20 * time.Second

func handedOver(t *testing.T, h Input) {
	l := listen(t, h.Open(t), nil)
	for range 3 {
		h.Trigger(t)
		l.next()
	}
	l.stop()
}

func failureIsSurvived(t *testing.T, h Input) {
	l := listen(t, h.Open(t), func() error { return fault.New(fault.Unavailable, "the application is down") })
	for range 3 {
		h.Trigger(t)
		l.next()
	}
	l.stop()
}

func endsWithContext(t *testing.T, h Input) {
	d := h.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := d.Listen(ctx, func(context.Context, binding.Event) error { return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Listen with a context that has ended: %v, want its cause", err)
	}
	l := listen(t, d, nil)
	h.Trigger(t)
	l.next()
	l.stop()
}

func waitsForHandlers(t *testing.T, h Input) {
	var inside atomic.Int32
	release := make(chan struct{})
	l := listen(t, h.Open(t), func() error {
		inside.Add(1)
		defer inside.Add(-1)
		<-release
		return nil
	})
	h.Trigger(t)
	l.next()
	l.cancel()
	select {
	case <-l.done:
		t.Error("Listen has returned while a handler is under way")
	case <-time.After(200 * time.Millisecond):
	}
	close(release)
	l.stop()
	if n := inside.Load(); n != 0 {
		t.Errorf("Listen has returned while %d handlers are under way", n)
	}
}

func listenAgain(t *testing.T, h Input) {
	d := h.Open(t)
	for range 2 {
		l := listen(t, d, nil)
		h.Trigger(t)
		l.next()
		l.stop()
	}
}

// listening is a Listen that runs beside the test.
type listening struct {
	t      *testing.T
	cancel context.CancelFunc
	events chan binding.Event
	done   chan struct{}
	err    error // when done
}

// listen starts d; after an event has been noted, answer decides how the
// handler ends.
func listen(t *testing.T, d binding.Input, answer func() error) *listening {
	ctx, cancel := context.WithCancel(t.Context())
	l := &listening{t: t, cancel: cancel, events: make(chan binding.Event), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.err = d.Listen(ctx, func(ctx context.Context, e binding.Event) error {
			select {
			case <-l.done:
				t.Error("an event came after Listen had returned")
			case l.events <- e:
			case <-ctx.Done():
				return ctx.Err()
			}
			if answer == nil {
				return nil
			}
			return answer()
		})
	}()
	t.Cleanup(cancel)
	return l
}

func (l *listening) next() binding.Event {
	l.t.Helper()
	select {
	case e := <-l.events:
		return e
	case <-l.done:
		l.t.Fatalf("Listen has ended: %v", l.err)
	case <-time.After(within):
		l.t.Fatalf("no event within %v", within)
	}
	return binding.Event{}
}

// stop ends Listen, takes what still comes, and checks how it ended.
func (l *listening) stop() {
	l.t.Helper()
	l.cancel()
	for {
		select {
		case <-l.events:
		case <-l.done:
			if !errors.Is(l.err, context.Canceled) {
				l.t.Errorf("Listen = %v after the end of its context, want its cause", l.err)
			}
			return
		case <-time.After(within):
			l.t.Fatalf("Listen has not returned %v after the end of its context", within)
		}
	}
}
