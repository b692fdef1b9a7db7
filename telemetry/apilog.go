package telemetry

import (
	"context"
	"log/slog"
	"time"
)

// APICall is a call of the API that was answered, as the log tells of it when
// that is asked for. Texts are cut to what has room in a record.
type APICall struct {
	Time      time.Time // when it was answered
	Protocol  string    // "HTTP" or "gRPC"
	Method    string    // "GET /v1.0/state/store/key", or the gRPC method
	UserAgent string
	Code      int
	Size      int64 // of the answer, in bytes; negative when it is not told
	Duration  time.Duration
}

// APILog writes a line into the log for each call of the API. A call only copies
// its record into a queue, which has the bounds of that of AccessLog; one
// goroutine writes. It is safe for concurrent use.
type APILog struct {
	queue

	log     *slog.Logger
	metrics *Metrics
}

// NewAPILog returns a log that writes to log; what it drops is counted in m,
// which may be nil.
func NewAPILog(log *slog.Logger, m *Metrics) *APILog {
	l := &APILog{queue: newQueue(), log: log, metrics: m}
	l.enable(true)
	return l
}

// Add puts a call into the log. It never waits and allocates nothing.
func (l *APILog) Add(c APICall) {
	a := Access{
		Time: c.Time, Method: c.Protocol, Path: c.Method, Caller: c.UserAgent, Status: c.Code, Sent: c.Size, Duration: c.Duration,
	}
	if !l.add(&a) {
		l.metrics.apiCallDropped()
	}
}

// Run writes until ctx ends, and then what is left. Call it once.
func (l *APILog) Run(ctx context.Context) error {
	drain := func() bool { return l.drain(context.WithoutCancel(ctx)) }
	for {
		l.rest(drain)
		select {
		case <-l.wake:
		case <-ctx.Done():
			drain()
			return nil
		}
	}
}

func (l *APILog) drain(ctx context.Context) (any bool) {
	for l.ring.take(func(r *record) { l.write(ctx, r) }) {
		any = true
	}
	return any
}

// write writes a line. Names of fields and messages are Dapr's.
func (l *APILog) write(ctx context.Context, r *record) {
	h := l.log.Handler()
	if !h.Enabled(ctx, slog.LevelInfo) {
		return
	}
	line := slog.NewRecord(time.Unix(0, r.at), slog.LevelInfo, string(r.get(textMethod))+" API Called", 0)
	line.AddAttrs(slog.String("method", string(r.get(textPath))), slog.String("useragent", string(r.get(textCaller))), slog.Int("code", int(r.status)))
	if r.sent >= 0 {
		line.AddAttrs(slog.Int64("size", r.sent))
	}
	line.AddAttrs(slog.Int64("duration", r.duration.Milliseconds()))
	_ = h.Handle(ctx, line) // there is nowhere to say so
}
