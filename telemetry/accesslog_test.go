package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/proa-io/proa/telemetry"
)

func access() telemetry.Access {
	return telemetry.Access{
		Time: time.Date(2026, 3, 1, 10, 0, 0, 123456789, time.UTC), Direction: "inbound", Method: "GET", Path: "/orders/{id}", Target: "shop", Caller: "cart",
		Status: 502, GRPCStatus: -1, Received: -1, Sent: 12, Duration: 1500 * time.Microsecond,
		TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Failure: "unavailable",
	}
}

// loggingTo returns an access log that goes to w.
func loggingTo(w io.Writer, o telemetry.AccessLogOptions) *telemetry.AccessLog {
	l := telemetry.NewAccessLog(o)
	l.Use(&telemetry.AccessFile{Writer: w})
	return l
}

// written runs the log until all that was added is written.
func written(t *testing.T, l *telemetry.AccessLog, add func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	add()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestEachRequestIsALineOfTheAccessLog(t *testing.T) {
	var out bytes.Buffer
	l := loggingTo(&out, telemetry.AccessLogOptions{})
	written(t, l, func() {
		l.Add(access())
		l.Add(telemetry.Access{Direction: "outbound", Upstream: "10.0.0.1:50002", Attempts: 2, Retried: "http_503", GRPCStatus: -1})
		l.Add(telemetry.Access{Direction: "api", Method: "gRPC", Path: "/a.B/C", GRPCStatus: 0, Received: 3, Sent: 4})
	})
	want := `{"time":"2026-03-01T10:00:00.123456Z","direction":"inbound","method":"GET","path":"/orders/{id}","target":"shop","caller":"cart",` +
		`"status":502,"bytes_out":12,"duration_ms":1.500,"trace_id":"0af7651916cd43dd8448eb211c80319c","failure":"unavailable"}`
	first, rest, _ := strings.Cut(out.String(), "\n")
	sent, second, _ := strings.Cut(rest, "\n")
	if first != want {
		t.Errorf("the line is\n%s, want\n%s", first, want)
	}
	if !strings.Contains(second, `"path":"/a.B/C","grpc_status":0,"bytes_in":3,"bytes_out":4,"duration_ms":0.000}`) {
		t.Errorf("the last line is %s", second)
	}
	if !strings.Contains(sent, `,"upstream":"10.0.0.1:50002","attempts":2,"retried":"http_503"}`) {
		t.Errorf("the line of two attempts is %s", sent)
	}
}

func TestWhateverCallersSendIsOneLineOfJSON(t *testing.T) {
	for _, text := range []string{"\"\\\n\r\x00\x7f", "\xff\xfe", strings.Repeat("é", 1000), strings.Repeat("\x01", 5000), "{}", "\u2028"} {
		var out bytes.Buffer
		l := loggingTo(&out, telemetry.AccessLogOptions{})
		written(t, l, func() {
			l.Add(telemetry.Access{Direction: text, Method: text, Path: text, Target: text, Caller: text, Failure: text, TraceParent: text, Upstream: text, Retried: text})
		})
		var got map[string]any
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || !utf8.Valid(out.Bytes()) || bytes.Count(out.Bytes(), []byte("\n")) != 1 {
			t.Errorf("%.20q gives %.200q: %v", text, out.String(), err)
		}
		if out.Len() > 8<<10 {
			t.Errorf("%.20q gives a line of %d bytes", text, out.Len())
		}
	}
}

// slow writes when it is told to.
type slow struct {
	began, goOn chan struct{}
	once        sync.Once
	lines       int
}

func (s *slow) Write(p []byte) (int, error) {
	s.once.Do(func() {
		close(s.began)
		<-s.goOn
	})
	s.lines += bytes.Count(p, []byte("\n"))
	return len(p), nil
}

func TestWhatIsNotWrittenInTimeIsDroppedAndCounted(t *testing.T) {
	m := telemetry.NewMetrics("shop", "default")
	s := &slow{began: make(chan struct{}), goOn: make(chan struct{})}
	l := loggingTo(s, telemetry.AccessLogOptions{Metrics: m})
	const n = 10_000
	written(t, l, func() {
		l.Add(access())
		<-s.began // nothing is taken out from here on
		for range n - 1 {
			l.Add(access())
		}
		close(s.goOn)
	})
	dropped := n - s.lines
	if dropped <= 0 || s.lines < 2000 {
		t.Errorf("%d lines were written and %d dropped", s.lines, dropped)
	}
	wantLines(t, m, `proa_access_log_dropped_total{app_id="shop",namespace="default"} `+itoa(dropped))
}

func itoa(n int) string {
	b, _ := json.Marshal(n) // of a number
	return string(b)
}

func TestNothingIsLostAtTheEndOfManyRequestsAtOnce(t *testing.T) {
	m := telemetry.NewMetrics("shop", "default")
	var out bytes.Buffer
	l := loggingTo(&out, telemetry.AccessLogOptions{Metrics: m})
	const each, many = 2000, 4
	written(t, l, func() {
		var wg sync.WaitGroup
		for w := range many {
			wg.Go(func() {
				for i := range each {
					a := access()
					a.Status, a.Sent = 200+w, int64(i)
					l.Add(a)
				}
			})
		}
		wg.Wait()
	})
	lines := 0
	last := map[float64]float64{}
	for line := range bytes.Lines(out.Bytes()) {
		var got struct {
			Status float64 `json:"status"`
			Sent   float64 `json:"bytes_out"`
		}
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if before, ok := last[got.Status]; ok && got.Sent <= before {
			t.Fatalf("%v came after %v", got.Sent, before)
		}
		last[got.Status] = got.Sent
		lines++
	}
	if dropped := each*many - lines; dropped > 0 {
		wantLines(t, m, `proa_access_log_dropped_total{app_id="shop",namespace="default"} `+itoa(dropped))
	}
}

func TestTheAccessLogIsAppendedToAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	for range 2 {
		f, err := telemetry.OpenAccessFile(path)
		if err != nil {
			t.Fatal(err)
		}
		l := telemetry.NewAccessLog(telemetry.AccessLogOptions{})
		l.Use(f)
		written(t, l, func() { l.Add(access()) })
	}
	text, err := os.ReadFile(path)
	if err != nil || bytes.Count(text, []byte("\n")) != 2 {
		t.Errorf("the file holds %s (%v)", text, err)
	}
	if _, err := telemetry.OpenAccessFile(filepath.Join(path, "x")); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("the error is %v", err)
	}
	for _, to := range []string{"", "off"} {
		if f, err := telemetry.OpenAccessFile(to); f != nil || err != nil {
			t.Errorf("%q opens %v, %v", to, f, err)
		}
	}
}

// closing is a file that tells when it is written to and closed.
type closing struct {
	bytes.Buffer
	began         sync.Once
	wrote, closed chan struct{}
}

func newClosing() *closing { return &closing{wrote: make(chan struct{}), closed: make(chan struct{})} }

func (c *closing) Write(p []byte) (int, error) {
	c.began.Do(func() { close(c.wrote) })
	return c.Buffer.Write(p)
}

func (c *closing) Close() error { close(c.closed); return nil }

func TestTheAccessLogGoesFromOneFileToAnotherAndLosesNothing(t *testing.T) {
	l := telemetry.NewAccessLog(telemetry.AccessLogOptions{})
	if l.Enabled() {
		t.Error("a log that goes nowhere is on")
	}
	l.Add(access()) // to nowhere
	first, second := newClosing(), newClosing()
	file := func(c *closing) *telemetry.AccessFile { return &telemetry.AccessFile{Writer: c, Closer: c} }
	written(t, l, func() {
		l.Use(file(first))
		for range 3 {
			l.Add(access())
		}
		<-first.wrote
		l.Use(nil)
		<-first.closed
		l.Add(access()) // to nowhere
		l.Use(file(second))
		l.Add(access())
	})
	<-second.closed
	if a, b := bytes.Count(first.Bytes(), []byte("\n")), bytes.Count(second.Bytes(), []byte("\n")); a != 3 || b != 1 {
		t.Errorf("%d lines in the first file and %d in the second, want 3 and 1", a, b)
	}
}

func TestAFileThatIsNeverWrittenToIsClosed(t *testing.T) {
	l := telemetry.NewAccessLog(telemetry.AccessLogOptions{})
	first, second := newClosing(), newClosing()
	l.Use(&telemetry.AccessFile{Writer: first, Closer: first})
	l.Use(&telemetry.AccessFile{Writer: second, Closer: second})
	<-first.closed
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	<-second.closed
}

func TestARequestInTheAccessLogAllocatesNothing(t *testing.T) {
	l := loggingTo(&bytes.Buffer{}, telemetry.AccessLogOptions{Metrics: telemetry.NewMetrics("shop", "default")})
	a := access()
	a.Upstream, a.Attempts, a.Retried = "10.0.0.1:50002", 3, "unavailable,http_503"
	if n := testing.AllocsPerRun(5000, func() { l.Add(a) }); n != 0 { // with a full ring too
		t.Errorf("it costs %v allocations", n)
	}
}

func BenchmarkAccessLog(b *testing.B) {
	l := loggingTo(nowhere{}, telemetry.AccessLogOptions{})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	a := access()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.Add(a)
		}
	})
	cancel()
	<-done
}

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
