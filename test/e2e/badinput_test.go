package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"

	"github.com/proa-io/proa/internal/freeport"
)

// target is a sidecar with all its ports open, beside an application that
// answers everything with 200.
type target struct {
	*sidecar
	ports map[string]int
}

func newTarget(t *testing.T) *target {
	t.Helper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, "the application")
	}))
	t.Cleanup(app.Close)
	ports := map[string]int{}
	var flags []string
	for _, p := range []string{"dapr-internal-grpc-port", "dapr-public-port", "metrics-port", "profile-port"} {
		port, err := freeport.Pick()
		if err != nil {
			t.Fatal(err)
		}
		ports[p] = port
		flags = append(flags, "--"+p, strconv.Itoa(port))
	}
	flags = append(flags, "--enable-profiling", "--dapr-public-listen-address", "127.0.0.1")
	s := startSidecar(t, options{name: "shop", home: t.TempDir(), app: app.Listener.Addr().String(), flags: flags})
	ports["dapr-http-port"], ports["dapr-grpc-port"] = s.http, s.grpc
	if err := eventually(func() error {
		if status, answer, err := s.call("GET", "/v1.0/healthz", nil); err != nil || status != http.StatusNoContent {
			return fmt.Errorf("%d %s %w", status, answer, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	s.must(t, "POST", "/v1.0/state/statestore", `[{"key": "kept", "value": 1}]`, http.StatusNoContent)
	return &target{s, ports}
}

// gauge reads a metric of the process.
func (s *target) gauge(t *testing.T, name string) float64 {
	t.Helper()
	resp, err := http.Get("http://127.0.0.1:" + strconv.Itoa(s.ports["metrics-port"]) + "/metrics") //nolint:noctx // a test
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("there is no metric %s in\n%s", name, text)
	}
	n, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestBadInputIsAnsweredAndLeavesNothingBehind sends all kinds of bad input to
// one sidecar. Each gets the documented error; at the end the sidecar works as
// before, and has no more goroutines, memory or descriptors than before.
func TestBadInputIsAnsweredAndLeavesNothingBehind(t *testing.T) {
	long(t)
	t.Parallel()
	s := newTarget(t)
	limits := map[string]float64{} // metric → the most that it may have in the end
	for name, more := range map[string]float64{"go_goroutines": 8, "process_open_fds": 4, "process_resident_memory_bytes": 64 << 20} {
		limits[name] = s.gauge(t, name) + more
	}

	t.Run("MalformedHTTP", s.malformedHTTP)
	t.Run("Smuggling", s.smuggling)
	t.Run("TooMuch", s.tooMuch)
	t.Run("MalformedContent", s.malformedContent)
	t.Run("MalformedGRPC", s.malformedGRPC)
	t.Run("RandomBytes", s.randomBytes)

	client.CloseIdleConnections()
	for name, most := range limits {
		if err := eventually(func() error {
			if n := s.gauge(t, name); n > most {
				return fmt.Errorf("%s is %.0f; %.0f is the most", name, n, most)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	if got := s.must(t, "GET", "/v1.0/state/statestore/kept", "", http.StatusOK); got != "1" {
		t.Errorf("the state is %s now", got)
	}
	if strings.Contains(s.output(), "panic") {
		t.Error("the log tells of a panic")
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}

// raw sends bytes to a port, ends the sending, and returns all that comes back
// until the other side closes the connection, which it must.
func raw(t *testing.T, port int, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.WriteString(conn, text) // it may be closed before all is sent
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	answer, err := io.ReadAll(conn)
	if ne, ok := err.(net.Error); ok && ne.Timeout() { //nolint:errorlint // as ReadAll returns it
		t.Fatalf("after %q the connection stays open", text[:min(len(text), 200)])
	}
	return string(answer)
}

// answered wants one answer with a status, and nothing after it.
func answered(t *testing.T, answer string, want int) {
	t.Helper()
	r := bufio.NewReader(strings.NewReader(answer))
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Errorf("%v: %q", err, answer)
		return
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != want || len(content) == 0 {
		t.Errorf("it is answered with %s %q, %v; want %d and a reason", resp.Status, content, err, want)
	}
	if more, err := io.ReadAll(r); err != nil || len(more) > 0 {
		t.Errorf("after the answer there is %q, %v", more, err)
	}
}

func (s *target) malformedHTTP(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want int
	}{
		"NoRequestLine":      {"hello there\r\n\r\n", 400},
		"OneWord":            {"GET\r\n\r\n", 400},
		"NoTarget":           {"GET HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"BlankInTarget":      {"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"ControlInTarget":    {"GET /a\x01b HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"BadMethod":          {"G(T / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"Version9":           {"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505},
		"NoHost":             {"GET /v1.0/healthz HTTP/1.1\r\n\r\n", 400},
		"TwoHosts":           {"GET /v1.0/healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400},
		"BareLF":             {"GET /v1.0/healthz HTTP/1.1\nHost: x\n\n", 400},
		"FieldWithoutColon":  {"GET /v1.0/healthz HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n", 400},
		"BlankBeforeColon":   {"GET /v1.0/healthz HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400},
		"FoldedField":        {"GET /v1.0/healthz HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400},
		"NulInField":         {"GET /v1.0/healthz HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n", 400},
		"CRInField":          {"GET /v1.0/healthz HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", 400},
		"Connect":            {"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n", 403},
		"UnknownExpectation": {"GET /v1.0/healthz HTTP/1.1\r\nHost: x\r\nExpect: rain\r\n\r\n", 417},
	} {
		t.Run(name, func(t *testing.T) { answered(t, raw(t, s.http, c.text), c.want) })
	}
}

// smuggling sends requests whose length two servers may see differently, with a
// second request inside that must never be carried out.
func (s *target) smuggling(t *testing.T) {
	const content = `[{"key": "smuggled", "value": 1}]`
	inner := fmt.Sprintf("POST /v1.0/state/statestore HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(content), content)
	head := func(fields string) string {
		return "POST /v1.0/publish/pubsub/t HTTP/1.1\r\nHost: x\r\n" + fields + "\r\n\r\n"
	}
	for name, c := range map[string]struct {
		text string
		want int
	}{
		"LengthAndChunked":      {head("Content-Length: 4\r\nTransfer-Encoding: chunked") + "0\r\n\r\n" + inner, 400},
		"ChunkedAndLength":      {head("Transfer-Encoding: chunked\r\nContent-Length: 4") + "0\r\n\r\n" + inner, 400},
		"TwoLengths":            {head("Content-Length: 0\r\nContent-Length: 4") + inner, 400},
		"ListOfLengths":         {head("Content-Length: 0, 4") + inner, 400},
		"SignedLength":          {head("Content-Length: +0") + inner, 400},
		"NegativeLength":        {head("Content-Length: -1") + inner, 400},
		"HexadecimalLength":     {head("Content-Length: 0x0") + inner, 400},
		"HugeLength":            {head("Content-Length: 99999999999999999999") + inner, 400},
		"UnknownEncoding":       {head("Transfer-Encoding: xchunked") + "0\r\n\r\n" + inner, 501},
		"ChunkedTwice":          {head("Transfer-Encoding: chunked, chunked") + "0\r\n\r\n" + inner, 501},
		"ChunkedNotLast":        {head("Transfer-Encoding: chunked, identity") + "0\r\n\r\n" + inner, 501},
		"BlankBeforeColon":      {head("Transfer-Encoding : chunked") + "0\r\n\r\n" + inner, 400},
		"ChunkedInVersion10":    {strings.Replace(head("Transfer-Encoding: chunked"), "1.1", "1.0", 1) + "0\r\n\r\n" + inner, 400},
		"ChunkSizeNotANumber":   {head("Transfer-Encoding: chunked") + "zz\r\n\r\n" + inner, 400},
		"ChunkSizeOverflows":    {head("Transfer-Encoding: chunked") + "fffffffffffffffff\r\n\r\n" + inner, 400},
		"ChunkWithoutEnd":       {head("Transfer-Encoding: chunked") + "1\r\nabc\r\n0\r\n\r\n" + inner, 400},
		"ChunkExtensionWithLF":  {head("Transfer-Encoding: chunked") + "1;a\nb\r\nx\r\n0\r\n\r\n" + inner, 400},
		"TrailerIsNotAField":    {head("Transfer-Encoding: chunked") + "0\r\nnonsense\r\n\r\n" + inner, 400},
		"LengthLongerThanSent":  {head("Content-Length: 100000") + inner, 400},
		"ChunkLongerThanIsSent": {head("Transfer-Encoding: chunked") + "ffff\r\n" + inner, 400},
	} {
		t.Run(name, func(t *testing.T) { answered(t, raw(t, s.http, c.text), c.want) })
	}
	s.must(t, "GET", "/v1.0/state/statestore/smuggled", "", http.StatusNoContent)
}

func (s *target) tooMuch(t *testing.T) {
	const state = "POST /v1.0/state/statestore HTTP/1.1\r\nHost: x\r\n"
	const limit = 4 << 20
	chunk := fmt.Sprintf("%x\r\n%s\r\n", 1<<20, strings.Repeat(" ", 1<<20))
	for name, c := range map[string]struct {
		text string
		want int
	}{
		"Head":         {"GET /v1.0/healthz HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 80<<10) + "\r\n\r\n", 431},
		"Fields":       {"GET /v1.0/healthz HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 300) + "\r\n", 431},
		"EndlessHead":  {"GET /v1.0/healthz HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 1<<20), 431},
		"Target":       {"GET /v1.0/" + strings.Repeat("a", 20<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", 414},
		"Body":         {state + fmt.Sprintf("Content-Length: %d\r\n\r\n", limit+1) + strings.Repeat(" ", limit+1), 413},
		"BodyNotSent":  {state + fmt.Sprintf("Content-Length: %d\r\nExpect: 100-continue\r\n\r\n", limit+1), 413},
		"ChunkedBody":  {state + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat(chunk, 5) + "0\r\n\r\n", 413},
		"Trailers":     {state + "Transfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("A: b\r\n", 20000) + "\r\n", 400},
		"ChunkHeading": {state + "Transfer-Encoding: chunked\r\n\r\n1;" + strings.Repeat("a", 1<<20) + "\r\n", 400},
	} {
		t.Run(name, func(t *testing.T) { answered(t, raw(t, s.http, c.text), c.want) })
	}
	// What is passed on has no bound.
	if got := s.must(t, "POST", "/v1.0/invoke/shop/method/x", strings.Repeat("a", limit+1), http.StatusOK); got != "the application\n" {
		t.Errorf("the application answers %q", got)
	}
}

func (s *target) malformedContent(t *testing.T) {
	deep := strings.Repeat("[", 1<<20)
	for _, c := range []struct {
		name, method, path, contentType, body string
		want                                  int
		tag                                   string
	}{
		{"StateNoJSON", "POST", "/v1.0/state/statestore", "application/json", `{`, 400, "ERR_MALFORMED_REQUEST"},
		{"StateEmpty", "POST", "/v1.0/state/statestore", "application/json", ``, 400, "ERR_MALFORMED_REQUEST"},
		{"StateNoList", "POST", "/v1.0/state/statestore", "application/json", `{"key": "a"}`, 400, "ERR_MALFORMED_REQUEST"},
		{"StateWrongType", "POST", "/v1.0/state/statestore", "application/json", `[{"key": 5}]`, 400, "ERR_MALFORMED_REQUEST"},
		{"StateNotUTF8", "POST", "/v1.0/state/statestore", "application/json", "\xff\xfe\x00", 400, "ERR_MALFORMED_REQUEST"},
		{"StateDeep", "POST", "/v1.0/state/statestore", "application/json", deep, 400, "ERR_MALFORMED_REQUEST"},
		{"StateDeepValue", "POST", "/v1.0/state/statestore", "application/json", `[{"key": "a", "value": ` + deep, 400, "ERR_MALFORMED_REQUEST"},
		{"StateNoKey", "POST", "/v1.0/state/statestore", "application/json", `[{"value": 1}]`, 400, ""},
		{"StateBadKey", "POST", "/v1.0/state/statestore", "application/json", `[{"key": "a||b", "value": 1}]`, 400, ""},
		{"StateBadTTL", "POST", "/v1.0/state/statestore", "application/json", `[{"key": "a", "value": 1, "metadata": {"ttlInSeconds": "soon"}}]`, 400, ""},
		{"BulkNoJSON", "POST", "/v1.0/state/statestore/bulk", "application/json", `keys`, 400, "ERR_MALFORMED_REQUEST"},
		{"TransactionNoJSON", "POST", "/v1.0/state/statestore/transaction", "application/json", `[`, 400, "ERR_MALFORMED_REQUEST"},
		{"TransactionUnknownOperation", "POST", "/v1.0/state/statestore/transaction", "application/json",
			`{"operations": [{"operation": "burn", "request": {"key": "a"}}]}`, 400, ""},
		{"CloudEventNoJSON", "POST", "/v1.0/publish/pubsub/t", "application/cloudevents+json", `event`, 500, "ERR_PUBSUB_CLOUD_EVENTS_SER"},
		{"BulkPublishNoJSON", "POST", "/v1.0-alpha1/publish/bulk/pubsub/t", "application/json", `{`, 400, ""},
		{"BadMetadata", "POST", "/v1.0/publish/pubsub/t?metadata.ttlInSeconds=soon", "text/plain", `x`, 400, ""},
		{"LockNoJSON", "POST", "/v1.0-alpha1/lock/lockstore", "application/json", `lock it`, 400, ""},
		{"LockNoOwner", "POST", "/v1.0-alpha1/lock/lockstore", "application/json", `{"resourceId": "a", "expiryInSeconds": 1}`, 400, ""},
		{"UnknownStore", "GET", "/v1.0/state/nope/k", "", "", 400, "ERR_STATE_STORE_NOT_FOUND"},
		{"UnknownBroker", "POST", "/v1.0/publish/nope/t", "application/json", `{}`, 404, "ERR_PUBSUB_NOT_FOUND"},
		{"BadEscape", "GET", "/v1.0/state/statestore/%zz", "", "", 400, ""},
		{"WrongMethod", "PATCH", "/v1.0/state/statestore", "application/json", `[]`, 404, "ERR_DIRECT_INVOKE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
				c.method, c.path, c.contentType, len(c.body), c.body)
			answer := raw(t, s.http, text)
			answered(t, answer, c.want)
			if !strings.Contains(answer, c.tag) {
				t.Errorf("the answer is not about %s: %s", c.tag, tail(answer))
			}
		})
	}
}

// bytesCodec sends bytes as they are in place of messages.
type bytesCodec struct{}

func (bytesCodec) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (bytesCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = bytes.Clone(data); return nil }
func (bytesCodec) Name() string                       { return "proto" }

var _ encoding.Codec = bytesCodec{}

func (s *target) malformedGRPC(t *testing.T) {
	conn, err := grpc.NewClient("127.0.0.1:"+strconv.Itoa(s.grpc), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const service = "/dapr.proto.runtime.v1.Dapr/"
	garbage := []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
	for name, c := range map[string]struct {
		method  string
		message []byte
		want    codes.Code
	}{
		"NoMessage":       {service + "SaveState", garbage, codes.InvalidArgument},
		"TruncatedString": {service + "GetState", []byte("\x0a\x20statestore"), codes.InvalidArgument},
		"WrongWireType":   {service + "PublishEvent", []byte("\x08"), codes.InvalidArgument},
		"NotUTF8":         {service + "GetState", []byte("\x0a\x02\xff\xfe"), codes.InvalidArgument},
		"UnknownStore":    {service + "GetState", []byte("\x0a\x04nope\x12\x01k"), codes.InvalidArgument},
		"TooLarge":        {service + "SaveState", make([]byte, 5<<20), codes.ResourceExhausted},
		"UnknownMethod":   {service + "Fly", nil, codes.Unimplemented},
		"UnknownService":  {"/nobody.Nothing/Do", nil, codes.Unknown}, // as Dapr says that nobody was named to pass it on to
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			var reply []byte
			err := conn.Invoke(ctx, c.method, &c.message, &reply)
			if status.Code(err) != c.want || status.Convert(err).Message() == "" {
				t.Errorf("it ends with %v, want %s and a reason", err, c.want)
			}
		})
	}
	t.Run("GarbageInAStream", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, service+"SubscribeTopicEventsAlpha1")
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.SendMsg(&garbage); err != nil {
			t.Fatal(err)
		}
		var reply []byte
		if err := stream.RecvMsg(&reply); status.Code(err) != codes.InvalidArgument {
			t.Errorf("it ends with %v, want InvalidArgument", err)
		}
	})
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	const settings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for name, text := range map[string]string{
		"PrefaceOnly":      preface,
		"HalfAPreface":     preface[:20],
		"GarbageFrames":    preface + strings.Repeat("garbage!", 100),
		"NoSettings":       preface + "\x00\x00\x08\x06\x00\x00\x00\x00\x00pingping",
		"HugeFrame":        preface + settings + "\xff\xff\xff\x00\x00\x00\x00\x00\x01",
		"DataOnStreamZero": preface + settings + "\x00\x00\x01\x00\x00\x00\x00\x00\x00x",
		"BadHeaderBlock":   preface + settings + "\x00\x00\x04\x01\x05\x00\x00\x00\x01\xff\xff\xff\xff",
	} {
		t.Run(name, func(t *testing.T) {
			for _, port := range []string{"dapr-grpc-port", "dapr-http-port", "dapr-internal-grpc-port"} {
				raw(t, s.ports[port], text) // wants the connection to be closed
			}
		})
	}
}

// randomBytes sends the same random bytes in every run.
func (s *target) randomBytes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // bytes to fail on
	for name, port := range s.ports {
		t.Run(name, func(t *testing.T) {
			for range 30 {
				b := make([]byte, 1+random.IntN(4096))
				for i := range b {
					b[i] = byte(random.Uint32())
				}
				raw(t, port, string(b))
			}
		})
	}
}
