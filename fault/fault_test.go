package fault_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
)

func TestCodeSurvivesWrapping(t *testing.T) {
	inner := fault.Wrap(io.ErrUnexpectedEOF, fault.Unavailable, "read answer").WithReason("x.y").WithRetryAfter(time.Second)
	err := fmt.Errorf("outer: %w", fault.Wrap(inner, fault.Aborted, "transaction"))
	if fault.CodeOf(err) != fault.Aborted {
		t.Errorf("code is %v, want the outermost", fault.CodeOf(err))
	}
	if fault.ReasonOf(err) != "x.y" || fault.RetryAfterOf(err) != time.Second {
		t.Errorf("reason %q, retry after %v", fault.ReasonOf(err), fault.RetryAfterOf(err))
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error("the cause is lost")
	}
	if got, want := fault.Message(err), "transaction: read answer"; got != want {
		t.Errorf("message is %q, want %q", got, want)
	}
}

func TestContextErrorsAreClassified(t *testing.T) {
	for err, want := range map[error]fault.Code{
		context.Canceled: fault.Canceled, context.DeadlineExceeded: fault.DeadlineExceeded, io.EOF: fault.Unknown,
	} {
		if got := fault.CodeOf(err); got != want {
			t.Errorf("CodeOf(%v) = %v, want %v", err, got, want)
		}
	}
}

func TestUnclassifiedTextIsNotForTheCaller(t *testing.T) {
	if got := fault.Message(errors.New("password=hunter2")); got != "internal error" {
		t.Errorf("message is %q", got)
	}
}

func TestEveryCodeHasAName(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range fault.Codes() {
		if c.String() == "" || seen[c.String()] {
			t.Errorf("code %d is called %q", c, c)
		}
		seen[c.String()] = true
	}
}
