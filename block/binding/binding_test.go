package binding_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// outputOnly is an output driver that answers with err and its request's data.
type outputOnly struct {
	got binding.Request
	err error
}

func (o *outputOnly) Operations() []string { return []string{"create", "get"} }

func (o *outputOnly) Invoke(_ context.Context, r binding.Request) (binding.Response, error) {
	o.got = r
	return binding.Response{Data: r.Data, Metadata: map[string]string{"statusCode": "418"}}, o.err
}

func (o *outputOnly) Repeatable(op string) bool { return op == "get" }
func (o *outputOnly) Close() error              { return nil }

// source is an input driver that hands over what is put into events, and
// fails when failure gets an error.
type source struct {
	events  chan binding.Event
	failure chan error
	acks    chan error
}

func newSource() *source {
	return &source{make(chan binding.Event), make(chan error), make(chan error, 100)}
}

func (s *source) Listen(ctx context.Context, handle binding.Handler) error {
	for {
		select {
		case e := <-s.events:
			s.acks <- handle(ctx, e)
		case err := <-s.failure:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *source) Close() error { return nil }

// app notes events and answers with answer and err.
type app struct {
	mu     sync.Mutex
	got    []string
	answer *binding.AppResponse
	err    error
	wait   time.Duration
}

func (a *app) OnBindingEvent(ctx context.Context, name, route string, e binding.Event) (*binding.AppResponse, error) {
	select {
	case <-time.After(a.wait):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got = append(a.got, fmt.Sprintf("%s %s %s", name, route, e.Data))
	return a.answer, a.err
}

// sink notes what answers ask for, and fails for the names in bad.
type sink struct {
	mu  sync.Mutex
	got []string
	bad []string
}

func (s *sink) SaveState(_ context.Context, store string, items []binding.StateItem) error {
	return s.note(store, fmt.Sprintf("save %d", len(items)))
}

func (s *sink) InvokeBinding(_ context.Context, name string, r binding.Request) error {
	return s.note(name, r.Operation+" "+string(r.Data))
}

func (s *sink) note(name, what string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, name+": "+what)
	if slices.Contains(s.bad, name) {
		return fault.New(fault.Unavailable, "%s is down", name)
	}
	return nil
}

func newBinding(d binding.Driver, c binding.Config, capabilities ...string) *binding.Binding {
	return binding.New(component.Opened("orders", d), binding.Options{
		Chains: policy.None{}, Config: c, Capabilities: capabilities,
	})
}

func TestInvokeCarriesOutTheOperation(t *testing.T) {
	d := &outputOnly{}
	b := newBinding(d, binding.Config{}, binding.CapabilityOutput)
	resp, err := b.Invoke(t.Context(), binding.Request{Operation: "Create", Data: []byte("x"), Metadata: map[string]string{"k": "v"}})
	if err != nil || string(resp.Data) != "x" || resp.Metadata["statusCode"] != "418" {
		t.Errorf("Invoke = %+v, %v", resp, err)
	}
	if d.got.Operation != "create" || d.got.Metadata["k"] != "v" {
		t.Errorf("the driver got %+v", d.got)
	}
	ops, err := b.Operations(t.Context())
	if err != nil || !slices.Equal(ops, []string{"create", "get"}) {
		t.Errorf("Operations = %v, %v", ops, err)
	}
}

func TestResponseComesWithTheError(t *testing.T) {
	b := newBinding(&outputOnly{err: fault.New(fault.Internal, "teapot")}, binding.Config{}, binding.CapabilityOutput)
	resp, err := b.Invoke(t.Context(), binding.Request{Operation: "create", Data: []byte("x")})
	if !fault.Is(err, fault.Internal) || err.Error() != `create on binding "orders": teapot` {
		t.Errorf("error %v", err)
	}
	if string(resp.Data) != "x" || resp.Metadata["statusCode"] != "418" {
		t.Errorf("the response %+v is lost", resp)
	}
}

func TestInvokeRefusesWhatCannotBe(t *testing.T) {
	out, in := &outputOnly{}, newSource()
	for _, c := range []struct {
		what      string
		b         *binding.Binding
		operation string
		code      fault.Code
		reason    fault.Reason
	}{
		{"no operation", newBinding(out, binding.Config{}, binding.CapabilityOutput), "", fault.InvalidArgument, binding.ReasonNoOperation},
		{"unknown operation", newBinding(out, binding.Config{}, binding.CapabilityOutput), "drop", fault.InvalidArgument, binding.ReasonBadOperation},
		{"input binding", newBinding(in, binding.Config{}, binding.CapabilityInput), "create", fault.Unimplemented, binding.ReasonNotOutput},
		{"direction input", newBinding(out, binding.Config{Direction: "input"}, binding.CapabilityOutput), "create", fault.Unimplemented, binding.ReasonNotOutput},
	} {
		_, err := c.b.Invoke(t.Context(), binding.Request{Operation: c.operation})
		if !fault.Is(err, c.code) || fault.ReasonOf(err) != c.reason {
			t.Errorf("%s: error %v, want %v with reason %q", c.what, err, c.code, c.reason)
		}
	}
	_, err := newBinding(out, binding.Config{}, binding.CapabilityOutput).Invoke(t.Context(), binding.Request{Operation: "drop"})
	if want := `binding "orders" does not support operation "drop"; it supports create, get`; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
}

func TestDirectionLimitsTheUse(t *testing.T) {
	both := []string{binding.CapabilityInput, binding.CapabilityOutput}
	for _, c := range []struct {
		direction             string
		capabilities          []string
		input, output, always bool
	}{
		{"", both, true, true, false},
		{"", both[:1], true, false, false},
		{"", both[1:], false, true, false},
		{"input", both, true, false, true},
		{"output", both, false, true, false},
		{"input, output", both, true, true, true},
		{"OUTPUT,Input", both, true, true, true},
		{"input", both[1:], false, false, false},
	} {
		b := newBinding(&outputOnly{}, binding.Config{Direction: c.direction}, c.capabilities...)
		if b.IsInput() != c.input || b.IsOutput() != c.output || b.ListensAlways() != c.always {
			t.Errorf("direction %q of %v: input %v, output %v, always %v", c.direction, c.capabilities,
				b.IsInput(), b.IsOutput(), b.ListensAlways())
		}
	}
}

func TestUnknownDirectionIsRefused(t *testing.T) {
	for _, bad := range []string{"in", "input;output", "input,", ","} {
		if err := (binding.Config{Direction: bad}).Validate(); err == nil || !strings.Contains(err.Error(), `"direction": wants "input", "output"`) {
			t.Errorf("direction %q: error %v", bad, err)
		}
	}
	for _, good := range []string{"", "input", "output", "input, output", "Input,OUTPUT"} {
		if err := (binding.Config{Direction: good}).Validate(); err != nil {
			t.Errorf("direction %q: error %v", good, err)
		}
	}
}

func TestPoliciesLearnWhichOperationsAreRepeatable(t *testing.T) {
	var seen []string
	b := binding.New(component.Opened[binding.Driver]("orders", &outputOnly{}), binding.Options{
		Capabilities: []string{binding.CapabilityOutput},
		Chains: spy(func(c *policy.Call) {
			seen = append(seen, fmt.Sprint(c.Op.Name, " ", c.Key, " ", c.Bytes, " ", c.Idempotent))
		}),
	})
	for _, op := range []string{"get", "create"} {
		if _, err := b.Invoke(t.Context(), binding.Request{Operation: op, Data: []byte("abc")}); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"invoke get 3 true", "invoke create 3 false"}; !slices.Equal(seen, want) {
		t.Errorf("the policies saw %q, want %q", seen, want)
	}
}

// start runs Listen beside the test and returns how to end it.
func start(t *testing.T, b *binding.Binding, a binding.App, o binding.Outlet) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Listen(ctx, a, o) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Listen = %v", err)
		}
	}
}

func TestEventsReachTheApplicationAtTheRoute(t *testing.T) {
	for _, route := range []string{"", "/on-order"} {
		synctest.Test(t, func(t *testing.T) {
			src, a := newSource(), &app{}
			stop := start(t, newBinding(src, binding.Config{Route: route}, binding.CapabilityInput), a, &sink{})
			src.events <- binding.Event{Data: []byte("1")}
			src.events <- binding.Event{Data: []byte("2")}
			stop()
			want := "orders " + route
			if route == "" {
				want = "orders orders"
			}
			if !slices.Equal(a.got, []string{want + " 1", want + " 2"}) {
				t.Errorf("the application got %q", a.got)
			}
			if err := errors.Join(<-src.acks, <-src.acks); err != nil {
				t.Errorf("the events were not acknowledged: %v", err)
			}
		})
	}
}

func TestEventIsNotAcknowledgedWhenTheApplicationFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		a := &app{err: fault.New(fault.Internal, "bug"), answer: &binding.AppResponse{To: []string{"x"}}}
		o := &sink{}
		stop := start(t, newBinding(src, binding.Config{}, binding.CapabilityInput), a, o)
		src.events <- binding.Event{}
		if err := <-src.acks; !fault.Is(err, fault.Internal) {
			t.Errorf("the source was told %v", err)
		}
		stop()
		if len(o.got) != 0 {
			t.Errorf("the answer of a failure was carried out: %q", o.got)
		}
	})
}

func TestAnswerOfTheApplicationIsCarriedOut(t *testing.T) {
	answer := binding.AppResponse{
		StoreName: "store", State: []binding.StateItem{{Key: "a"}, {Key: "b"}}, To: []string{"x", "y", "z"}, Data: []byte("d"),
	}
	for _, c := range []struct {
		parallel bool
		bad      []string
		want     []string
		failed   bool
	}{
		{false, nil, []string{"store: save 2", "x: create d", "y: create d", "z: create d"}, false},
		{true, nil, []string{"store: save 2", "x: create d", "y: create d", "z: create d"}, false},
		{false, []string{"y"}, []string{"store: save 2", "x: create d", "y: create d"}, true},
		{true, []string{"x"}, []string{"store: save 2", "x: create d", "y: create d", "z: create d"}, true},
		{false, []string{"store"}, []string{"store: save 2"}, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			answer.Parallel = c.parallel
			src, o := newSource(), &sink{bad: c.bad}
			stop := start(t, newBinding(src, binding.Config{}, binding.CapabilityInput), &app{answer: &answer}, o)
			src.events <- binding.Event{}
			err := <-src.acks
			stop()
			if (err != nil) != c.failed || err != nil && !fault.Is(err, fault.Unavailable) {
				t.Errorf("bad %v: the source was told %v", c.bad, err)
			}
			slices.Sort(o.got)
			if !slices.Equal(o.got, c.want) {
				t.Errorf("bad %v: carried out %q, want %q", c.bad, o.got, c.want)
			}
		})
	}
}

func TestBrokenSourceIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, a := newSource(), &app{}
		stop := start(t, newBinding(src, binding.Config{}, binding.CapabilityInput), a, &sink{})
		for range 20 {
			src.failure <- fault.New(fault.Unavailable, "reset")
		}
		src.failure <- nil // a driver that ends without being told to
		src.events <- binding.Event{Data: []byte("1")}
		stop()
		if len(a.got) != 1 {
			t.Errorf("the application got %q", a.got)
		}
	})
}

func TestEventsUnderWayMayFinishWithinTheGracePeriod(t *testing.T) {
	for _, c := range []struct {
		takes time.Duration
		done  bool
	}{{4 * time.Second, true}, {time.Hour, false}} {
		synctest.Test(t, func(t *testing.T) {
			src, a := newSource(), &app{wait: c.takes}
			stop := start(t, newBinding(src, binding.Config{}, binding.CapabilityInput), a, &sink{})
			src.events <- binding.Event{}
			synctest.Wait()
			begun := time.Now()
			stop()
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("stopping took %v", took)
			}
			if err := <-src.acks; (err == nil) != c.done {
				t.Errorf("an event that takes %v ended with %v", c.takes, err)
			}
		})
	}
}

func TestListenOnAnOutputFailsAtOnce(t *testing.T) {
	for _, capability := range []string{binding.CapabilityOutput, binding.CapabilityInput} {
		err := newBinding(&outputOnly{}, binding.Config{}, capability).Listen(t.Context(), &app{}, &sink{})
		if !fault.Is(err, fault.Unimplemented) || fault.ReasonOf(err) != binding.ReasonNotInput {
			t.Errorf("%s: Listen = %v, want unimplemented", capability, err)
		}
	}
}

func TestAnswersOfHTTPApplications(t *testing.T) {
	etag := "7"
	for _, c := range []struct {
		body string
		want *binding.AppResponse
	}{
		{"", nil},
		{"OK", nil},
		{"null", nil},
		{"{}", nil},
		{`[1]`, nil},
		{`"text"`, nil},
		{`{"data": 1}`, nil},
		{`{"to": "x"}`, nil},
		{`{"to": ["x"], "data": {"a": [1, "b"]}}`, &binding.AppResponse{To: []string{"x"}, Data: []byte(`{"a": [1, "b"]}`)}},
		{`{"to": ["x", "y"], "data": "d", "concurrency": "parallel"}`,
			&binding.AppResponse{To: []string{"x", "y"}, Data: []byte(`"d"`), Parallel: true}},
		{`{"to": ["x"], "concurrency": "sequential"}`, &binding.AppResponse{To: []string{"x"}}},
		{`{"storeName": "s", "state": [{"key": "k", "value": {"v": 1}, "etag": "7", "metadata": {"ttlInSeconds": "5"},
			"options": {"concurrency": "first-write", "consistency": "strong"}}, {"key": "l", "value": "text"}]}`,
			&binding.AppResponse{StoreName: "s", State: []binding.StateItem{
				{Key: "k", Value: []byte(`{"v": 1}`), ETag: &etag, Metadata: map[string]string{"ttlInSeconds": "5"},
					Concurrency: "first-write", Consistency: "strong"},
				{Key: "l", Value: []byte(`"text"`)},
			}}},
	} {
		if got := binding.ParseAppResponse([]byte(c.body)); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.body, got, c.want)
		}
	}
}

// spy is a Chains with one policy, which shows each call.
type spy func(*policy.Call)

func (s spy) Component(string, string, bool) policy.Chain {
	return policy.Chain{func(_ policy.Op, next policy.Handler) policy.Handler {
		return func(ctx context.Context, c *policy.Call) error {
			s(c)
			return next(ctx, c)
		}
	}}
}

func (s spy) App(string) policy.Chain { return nil }
