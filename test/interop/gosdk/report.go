package main

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"time"
)

// checkWithin bounds one check.
const checkWithin = 30 * time.Second

// A report prints the results of checks as lines of JSON.
type report struct {
	checks int
}

// check runs one check and prints its result.
func (r *report) check(name string, body func(context.Context, *t)) {
	ctx, cancel := context.WithTimeout(context.Background(), checkWithin)
	defer cancel()
	result := make(chan string, 1)
	go func() { result <- outcome(ctx, body) }()
	var failure string
	select {
	case failure = <-result:
	case <-time.After(checkWithin + time.Second):
		failure = fmt.Sprintf("not through after %v", checkWithin)
	}
	r.checks++
	fmt.Printf("{\"check\":%s,\"error\":%s}\n", quoted(name), quoted(failure))
}

// done prints the last line of the results.
func (r *report) done() { fmt.Printf("{\"done\":%d}\n", r.checks) }

// quoted returns a text as JSON has it.
func quoted(text string) []byte {
	out, err := json.Marshal(text)
	if err != nil {
		panic(err) // a string can always be marshalled
	}
	return out
}

// outcome returns why a check failed, or "".
func outcome(ctx context.Context, body func(context.Context, *t)) (failure string) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case failed:
			failure = string(p)
		default:
			failure = fmt.Sprintf("panic: %v", p)
		}
	}()
	body(ctx, &t{})
	return ""
}

// t ends a check that fails.
type t struct{}

type failed string

// fail ends the check.
func (t) fail(format string, args ...any) {
	panic(failed(where() + ": " + fmt.Sprintf(format, args...)))
}

// ok wants no error.
func (t t) ok(err error) {
	if err != nil {
		t.fail("%v", err)
	}
}

// equal wants the same value of the same type.
func (t t) equal(got, want any, what string) {
	if !reflect.DeepEqual(got, want) {
		t.fail("%s: got %#v, want %#v", what, got, want)
	}
}

// refused wants an error that says every one of the texts.
func (t t) refused(err error, texts ...string) {
	if err == nil {
		t.fail("a call that had to fail did not; the error would have said %q", texts)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.fail("the error is %q, and does not say %q", err, text)
		}
	}
}

// eventually asks until the answer is the wanted one.
func (t t) eventually(ctx context.Context, want any, what string, ask func() any) {
	ctx, cancel := context.WithTimeout(ctx, checkWithin/2)
	defer cancel()
	for {
		got := ask()
		if reflect.DeepEqual(got, want) {
			return
		}
		select {
		case <-ctx.Done():
			t.equal(got, want, what)
		case <-time.After(25 * time.Millisecond):
		}
	}
}

// where names the line of the check that calls a method of t.
func where() string {
	pc := make([]uintptr, 16)
	frames := runtime.CallersFrames(pc[:runtime.Callers(2, pc)])
	for {
		frame, more := frames.Next()
		if !strings.HasSuffix(frame.File, "/report.go") || !more {
			return fmt.Sprintf("%s:%d", frame.File[strings.LastIndex(frame.File, "/")+1:], frame.Line)
		}
	}
}

// inboxes keep what handlers receive, in order, until a check takes it. All are
// made before the first handler runs.
type inboxes map[string]chan any

// inbox returns the inbox of that name. It makes it while handlers are added.
func (i inboxes) inbox(name string) chan any {
	if i[name] == nil {
		i[name] = make(chan any, 1000)
	}
	return i[name]
}

// take returns the next item of an inbox, waiting for it if need be.
func take[T any](ctx context.Context, t *t, inbox <-chan any) T {
	select {
	case item := <-inbox:
		return item.(T)
	case <-ctx.Done():
		t.fail("nothing arrived")
		panic("unreachable")
	}
}
