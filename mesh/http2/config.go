package http2

import "time"

// Config bounds what one connection may cost and how long its parts may take.
// A zero field takes the default that its comment gives; a negative duration
// means no bound.
type Config struct {
	// MaxStreams is how many streams the peer may have open at a time, and how
	// many handlers a connection runs at a time. Default 1000.
	MaxStreams int
	// MaxHeaderBytes bounds the field section of a message, in the measure of
	// SETTINGS_MAX_HEADER_LIST_SIZE: names, values and 32 bytes for each
	// field. A server answers 431 to more. Default 64 KiB.
	MaxHeaderBytes int
	// MaxHeaderFields bounds the number of fields of a message. Default 256.
	MaxHeaderFields int
	// MaxBodyBytes bounds the content of a request; reading more fails with
	// ResourceExhausted and is answered with 413. Default: no bound.
	MaxBodyBytes int64

	// StreamWindow is how much of a stream's content the peer may send ahead
	// of its reader to begin with, in bytes. Default 256 KiB.
	StreamWindow int
	// MaxStreamWindow is up to where that grows for streams whose readers
	// keep up. Default 1 MiB.
	MaxStreamWindow int
	// ConnWindow is how much the peer may send on the whole connection before
	// this side has seen it, in bytes. Default 1 MiB.
	ConnWindow int
	// ConnBuffer is how much unread content of all streams a connection may
	// hold, in bytes, before they hold up each other. At most ConnWindow more
	// than that is ever held. Default 8 MiB.
	ConnBuffer int

	// HandshakeTimeout bounds the time until the peer's preface and SETTINGS
	// have arrived, including a TLS handshake, and until it has acknowledged
	// ours. Default 10 s.
	HandshakeTimeout time.Duration
	// IdleTimeout is how long a connection without streams is kept. Default
	// 5 min.
	IdleTimeout time.Duration
	// FrameTimeout is how long the rest of a frame or of a header block may
	// take without a byte arriving. Default 30 s.
	FrameTimeout time.Duration
	// WriteTimeout is how long one write to the network may take, of some
	// 256 KiB at most. Default 30 s.
	WriteTimeout time.Duration
	// StallTimeout is how long a stream with content to send may wait for the
	// peer to open its window. Waits add up until the peer has taken 16 KiB, or
	// all there was: opening the window byte by byte gains no time. Default
	// 5 min.
	StallTimeout time.Duration

	// KeepAlive is after how long without anything from the peer a connection
	// that has streams is probed with a PING. The default is never: servers
	// on grpc-go end connections that are pinged more often than every five
	// minutes. Use PeerKeepAlive between two engines of this package.
	KeepAlive time.Duration
	// KeepAliveTimeout is how long the answer to a PING may take before the
	// connection counts as dead. Default 10 s.
	KeepAliveTimeout time.Duration

	// ResetBudget is how many streams the peer may reset in a burst, or have
	// reset by errors that it makes, before they are answered, until it is
	// taken for an attack. It refills each
	// second, and by one with each stream that ends well. Whatever the peer
	// resets, no more than MaxStreams handlers run. Default 1000.
	ResetBudget int
	// FrameBudget is how many frames that carry nothing (PING, SETTINGS,
	// PRIORITY, empty DATA, small WINDOW_UPDATEs, unknown ones, ...) the peer
	// may send in a burst. It refills each second, and with the frames and the
	// content that the peer is sent. Default 2000.
	FrameBudget int
}

// PeerKeepAlive is the KeepAlive for connections between two engines of this
// package.
const PeerKeepAlive = 15 * time.Second

// maxWindow is the largest window of flow control (RFC 9113, section 6.9.1).
const maxWindow = 1<<31 - 1

func (c Config) withDefaults() Config {
	number(&c.MaxStreams, 1000, maxWindow)
	number(&c.MaxHeaderBytes, 64<<10, 16<<20)
	number(&c.MaxHeaderFields, 256, maxWindow)
	number(&c.StreamWindow, 256<<10, maxWindow)
	number(&c.MaxStreamWindow, 1<<20, maxWindow)
	number(&c.ConnWindow, 1<<20, maxWindow)
	number(&c.ConnBuffer, 8<<20, maxWindow)
	number(&c.ResetBudget, 1000, maxWindow)
	number(&c.FrameBudget, 2000, maxWindow)
	c.MaxStreamWindow = max(c.MaxStreamWindow, c.StreamWindow)
	c.ConnWindow = max(c.ConnWindow, initialWindow)
	duration(&c.HandshakeTimeout, 10*time.Second)
	duration(&c.IdleTimeout, 5*time.Minute)
	duration(&c.FrameTimeout, 30*time.Second)
	duration(&c.WriteTimeout, 30*time.Second)
	duration(&c.StallTimeout, 5*time.Minute)
	duration(&c.KeepAliveTimeout, 10*time.Second)
	return c
}

func number(n *int, fallback, most int) {
	if *n <= 0 {
		*n = fallback
	}
	*n = min(*n, most)
}

// duration leaves 0 for no bound.
func duration(d *time.Duration, fallback time.Duration) {
	switch {
	case *d == 0:
		*d = fallback
	case *d < 0:
		*d = 0
	}
}
