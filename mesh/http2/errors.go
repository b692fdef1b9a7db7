package http2

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	wire "golang.org/x/net/http2"

	"github.com/proa-io/proa/fault"
)

// Code is an error code of RFC 9113, section 7.
type Code = wire.ErrCode

// ResetError is the cause of the fault that the reset of a stream or the end of
// a connection by an HTTP/2 error code turns into. A forwarder that finds one
// on one side passes its code on with proxy.Abort.
type ResetError struct {
	Code Code
	// ByPeer tells that the peer sent the code; otherwise this side did.
	ByPeer bool
	// Reason is what this side found wrong, or the debug data of the peer.
	Reason string
}

// Error names the code and the reason.
func (e *ResetError) Error() string {
	who := "sent"
	if e.ByPeer {
		who = "received"
	}
	if e.Reason == "" {
		return who + " " + e.Code.String()
	}
	return fmt.Sprintf("%s %s (%s)", who, e.Code, e.Reason)
}

// A connError ends the connection with a GOAWAY.
type connError struct {
	code   Code
	reason string
}

func (e *connError) Error() string { return e.reason }

func connErrorf(code Code, format string, args ...any) error {
	return &connError{code, fmt.Sprintf(format, args...)}
}

// A streamError ends one stream with a RST_STREAM.
type streamError struct {
	id     uint32
	code   Code
	reason string
}

func (e *streamError) Error() string { return e.reason }

// asConnError finds in an error what to tell the peer, or nil when there is
// nobody to tell.
func asConnError(err error) *connError {
	if ce, ok := errors.AsType[*connError](err); ok {
		return ce
	}
	return nil
}

// fault returns an error about the connection's peer.
func (c *conn) fault(code fault.Code, cause error, format string, args ...any) error {
	text := c.peer() + ": " + fmt.Sprintf(format, args...)
	if cause == nil {
		return fault.New(code, "%s", text)
	}
	return fault.Wrap(cause, code, "%s", text)
}

// faultOf maps an error code to the fault that a caller or handler gets.
func faultOf(code Code, client bool) fault.Code {
	switch code {
	case wire.ErrCodeCancel:
		if !client {
			return fault.Canceled
		}
	case wire.ErrCodeEnhanceYourCalm:
		return fault.ResourceExhausted
	case wire.ErrCodeInadequateSecurity:
		return fault.PermissionDenied
	}
	return fault.Unavailable
}

// lost describes why the connection ended to those who still use it.
func (c *conn) lost(err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	if ce, ok := errors.AsType[*connError](err); ok {
		return c.fault(faultOf(ce.code, c.client), &ResetError{Code: ce.code, Reason: ce.reason}, "the HTTP/2 connection ended: %s", ce.reason)
	}
	switch {
	case c.goneAway != nil && c.goneAway.Code != codeNo:
		return c.fault(faultOf(c.goneAway.Code, c.client), c.goneAway, "the server ended the HTTP/2 connection")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return c.fault(fault.Unavailable, err, "the peer closed the HTTP/2 connection")
	case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
		return c.fault(fault.Unavailable, err, "the HTTP/2 connection is closed")
	}
	return c.fault(fault.Unavailable, err, "the HTTP/2 connection broke")
}
