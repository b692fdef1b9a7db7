package ratelimit

import (
	"context"
	"io"
	"time"

	"github.com/proa-io/proa/component"
)

// Block is the first part of the type string of every component of this block.
const Block = "ratelimit"

// Driver is a store of token buckets that several sidecars share.
//
// A bucket is full when it is first asked for, and fills at its rate up to its
// burst. The tokens that a bucket gives in any time t are never more than
// burst + rate × t, whoever asks, by the clock of the store.
//
// A driver does I/O and names its errors with fault codes, nothing else.
// Methods are safe for concurrent use and return soon after ctx ends.
type Driver interface {
	// Take takes tokens from a bucket: as many as asked for, or those there
	// are. It never waits for tokens.
	Take(ctx context.Context, r Request) (Grant, error)

	io.Closer
}

// Bucket is what a bucket holds at the most and how fast it fills.
type Bucket struct {
	// Rate is in tokens per second: more than 0, at most MaxRate.
	Rate float64
	// Burst is the most tokens there can be; at least 1.
	Burst int64
}

// Limits of what stores keep exactly.
const (
	MaxRate  = 1e6
	MaxBurst = 1 << 40
)

// Request asks for tokens.
type Request struct {
	// Name is that of the bucket; any text. The same bucket is asked for with
	// the same Bucket, but for the moments in which that changes.
	Name string
	Bucket
	// Tokens is how many are wanted; at least 1.
	Tokens int64
	// Member is who asks: different for each sidecar.
	Member string
	// Remember is how long Member counts as one of those who use the bucket.
	Remember time.Duration
}

// Grant is what a bucket gave.
type Grant struct {
	// Tokens is how many were taken, 0 to Request.Tokens.
	Tokens int64
	// Wait is how long it takes, if nobody else asks, until there is a token.
	// It is 0 unless Tokens is.
	Wait time.Duration
	// Members is how many have asked for tokens of the bucket lately, each
	// within its own Request.Remember, who asks included; so it is 1 at least.
	// A driver may stop counting at 1000.
	Members int
}

// Spec describes a driver of type "ratelimit.<name>" to the catalog.
func Spec[C any, D Driver](d component.Description, defaults C,
	open func(context.Context, C, component.Env) (D, error)) component.Spec {
	return component.NewSpec(Block, d, defaults, struct{}{}, nil, open)
}

// Level is a bucket at one moment, for drivers that store it: the generic cell
// rate algorithm. Until is when the bucket will be full, by the store's clock,
// in microseconds since 1970.
type Level struct{ Until float64 }

// Take takes up to n tokens at the time now, in microseconds since 1970.
func (l *Level) Take(b Bucket, n int64, now float64) (tokens int64, wait time.Duration) {
	each := 1e6 / b.Rate // microseconds
	until := max(l.Until, now)
	// Half a token of a thousandth evens out what floating point loses.
	there := int64((float64(b.Burst)*each-(until-now))/each + 0.0005)
	if there < 1 {
		l.Until = until
		return 0, max(time.Microsecond, time.Duration((until-now-float64(b.Burst-1)*each)*1e3))
	}
	tokens = min(n, there)
	l.Until = until + float64(tokens)*each
	return tokens, 0
}
