package appchannel_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/dialect/dapr/appchannel"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/surface"
	"github.com/proa-io/proa/mesh/proxy"
)

// The files in testdata are what the sidecar sends to applications, and what it
// makes of their answers: they pin the callbacks. A line that begins with "@ "
// is what happens, with arguments; lines with "> " are what the application gets
// (requests are parted by "> --"); lines with "< " are its answers, one for each
// request; a line with "= " is what comes of it. "# " begins a comment, a line of
// dashes ends an exchange. With PROA_UPDATE=1 what the application gets, and what
// comes of it, is written instead of compared.
//
// The answer of an HTTP application is a status and content, that of a gRPC
// application a message as JSON, or a code and its text.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			replay(t, file)
		})
	}
}

func replay(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	p := newPlayer(t, strings.Contains(first, "grpc"), regexp.MustCompile(`token=(\S+)`).FindStringSubmatch(first))
	var out strings.Builder
	step, answers := "", []string(nil)
	exchange := func() {
		if step == "" {
			return
		}
		got, outcome := p.play(t, step, answers)
		for i, request := range got {
			if i > 0 {
				out.WriteString("> --\n")
			}
			for line := range strings.SplitSeq(request, "\n") {
				out.WriteString(strings.TrimRight("> "+line, " ") + "\n")
			}
		}
		for _, a := range answers {
			out.WriteString("< " + a + "\n")
		}
		out.WriteString(strings.TrimSpace("= "+outcome) + "\n")
		step, answers = "", nil
	}
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.HasPrefix(line, "@ "):
			step = strings.TrimSpace(line[2:])
		case strings.HasPrefix(line, "< "):
			answers = append(answers, strings.TrimSpace(line[2:]))
			continue
		case strings.HasPrefix(line, ">"), strings.HasPrefix(line, "="):
			continue
		default:
			exchange()
		}
		out.WriteString(line)
	}
	exchange()
	compareWith(t, file, string(text), out.String())
}

func compareWith(t *testing.T, file, want, got string) {
	t.Helper()
	if os.Getenv("PROA_UPDATE") == "1" {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			t.Fatalf("line %d (PROA_UPDATE=1 writes the file anew)\nwant %s\ngot  %s", i+1, w[i], g[i])
		}
	}
	if len(w) != len(g) {
		t.Errorf("want %d lines, got %d", len(w), len(g))
	}
}

// player is an application that answers by the book, and the channel to it.
type player struct {
	app *appchannel.Channel
	log lines

	mu      sync.Mutex
	got     []string
	answers []string
}

func newPlayer(t *testing.T, overGRPC bool, token []string) *player {
	t.Helper()
	p := &player{log: make(lines, 1000)}
	change := func(o *appchannel.Options) {
		o.Log = slog.New(slog.NewTextHandler(p.log, nil))
		o.Health = appchannel.Health{Interval: time.Hour, Threshold: 1}
		if token != nil {
			o.Token = component.NewSecret(token[1])
		}
	}
	if overGRPC {
		srv := grpc.NewServer(grpc.UnknownServiceHandler(p.rpc))
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.Serve(l) }()
		t.Cleanup(func() { srv.Stop(); <-done })
		p.app = (&grpcApp{addr: l.Addr().String()}).channel(t, change)
		return p
	}
	srv := httptest.NewServer(p)
	t.Cleanup(srv.Close)
	p.app = (&httpApp{addr: srv.Listener.Addr().String()}).channel(t, change)
	return p
}

// play carries out a step, and returns what the application got and what came of
// it.
func (p *player) play(t *testing.T, step string, answers []string) (got []string, outcome string) {
	t.Helper()
	p.mu.Lock()
	p.got, p.answers = nil, slices.Clone(answers)
	p.mu.Unlock()
	words := strings.SplitN(step, " ", 3)
	name, args := words[0], append(words[1:], "", "")
	result, err := p.do(t, name, args)
	outcome = result
	if err != nil {
		outcome = strings.TrimSpace(fmt.Sprintf("%s %s: %s", result, fault.CodeOf(err), fault.Message(err)))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got, strings.ReplaceAll(outcome, "\n", " ")
}

// do carries out a step by its name.
func (p *player) do(t *testing.T, name string, args []string) (string, error) {
	t.Helper()
	ctx := t.Context()
	switch name {
	case "subscriptions":
		specs, err := p.app.Subscriptions(ctx)
		return plain(specs), err
	case "config":
		c, err := p.app.Config(ctx)
		return plain(c), err
	case "takes-binding":
		takes, err := p.app.TakesBinding(ctx, args[0], args[1])
		return fmt.Sprint(takes), err
	case "binding":
		answer, err := p.app.OnBindingEvent(ctx, "tick", args[0], binding.Event{
			Data: []byte(args[1]), Metadata: map[string]string{"ReadTimeUTC": "now", "traceparent": parent},
		})
		return plain(answer), err
	case "event":
		st, err := p.app.Deliver(ctx, args[0], fixedEvent(t, args[1]))
		return st.String(), err
	case "bulk-event":
		enveloped := fixedEvent(t, args[1])
		st, err := p.app.DeliverBulk(ctx, args[0], &pubsub.BulkEvent{ID: "b1", Component: "bus", Topic: "orders", Entries: []pubsub.BulkEntry{
			{EntryID: "1", Event: enveloped, ContentType: "application/cloudevents+json"},
			{EntryID: "2", Event: event(t, "\x00\xff", "", map[string]string{"rawPayload": "true"}, true), ContentType: "application/octet-stream"},
		}})
		var out []string
		for _, e := range st {
			out = append(out, e.EntryID+" "+e.Status.String())
		}
		return strings.Join(out, ", "), err
	case "configuration":
		return "", p.app.OnConfigurationUpdate(ctx, "store", config.Update{ID: "s1", Items: changes(t, args[0])})
	case "job":
		var data *job.Data
		if args[1] != "" {
			var v any
			if err := json.Unmarshal([]byte(args[1]), &v); err != nil {
				t.Fatal(err)
			}
			data = value(t, v)
		}
		return "", p.app.OnJobEvent(ctx, job.Event{Name: args[0], Data: data})
	case "health":
		return p.probed(t), nil
	case "invoke":
		return p.invoke(t, args[0], args[1])
	}
	t.Fatalf("there is no step %q", name)
	return "", nil
}

// changes reads changes of configuration items, {"key":"value"}.
func changes(t *testing.T, text string) map[string]config.Change {
	t.Helper()
	values := map[string]string{}
	if err := json.Unmarshal([]byte(text), &values); err != nil {
		t.Fatal(err)
	}
	out := map[string]config.Change{}
	for k, v := range values {
		out[k] = config.Change{Item: config.Item{Value: v, Version: "7", Metadata: map[string]string{"label": "x"}}}
	}
	return out
}

// probed makes one health probe and returns what it found.
func (p *player) probed(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- p.app.RunHealth(ctx, func(bool) {}) }()
	defer func() { cancel(); <-ran }()
	for line := range p.log { // which tells of both
		if strings.Contains(line, "the application is not well") {
			return "not well"
		}
		if strings.Contains(line, "the application is well") {
			return "well"
		}
	}
	return ""
}

// lines is a writer of a log whose lines go to a channel with room for them all.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}

// fixedEvent returns an event that is the same every time.
func fixedEvent(t *testing.T, data string) *pubsub.Event {
	t.Helper()
	e := event(t, data, "application/json", map[string]string{
		"cloudevent.id": "e1", "cloudevent.time": "2026-08-01T00:00:00Z", "cloudevent.traceparent": parent, "cloudevent.tracestate": "a=b",
	}, false)
	e.Metadata = map[string]string{"Tenant": "acme", "content-length": "3", "grpc-timeout": "1S"}
	return e
}

// invoke sends an HTTP request to a gRPC application.
func (p *player) invoke(t *testing.T, target, body string) (string, error) {
	t.Helper()
	resp, err := p.app.HTTPAdapter().RoundTrip(t.Context(), &proxy.Request{
		Method: "PUT", Target: target, ContentLength: int64(len(body)), Body: strings.NewReader(body),
		Header: proxy.Header{{Name: "Content-Type", Value: "text/plain"}, {Name: "X-Tenant", Value: "acme"}, {Name: "dapr-caller-app-id", Value: "web"}},
	}, proxy.RoundTripOptions{})
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	var compact bytes.Buffer
	if json.Compact(&compact, text) == nil { // protojson adds spaces by chance
		text = compact.Bytes()
	}
	return fmt.Sprintf("%d %s %q", resp.Status, resp.Header.Get("content-type"), text), err
}

// plain returns what is set in a value.
func plain(v any) string {
	text, err := json.Marshal(v)
	var tree any
	if err = errors.Join(err, json.Unmarshal(text, &tree)); err != nil {
		return err.Error()
	}
	text, err = json.Marshal(pruned(tree))
	if err != nil || string(text) == "null" {
		return "nothing"
	}
	return string(text)
}

// pruned leaves out of JSON what is not set.
func pruned(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			if v[k] = pruned(v[k]); v[k] == nil {
				delete(v, k)
			}
		}
		if len(v) == 0 {
			return nil
		}
	case []any:
		for i := range v {
			v[i] = pruned(v[i])
		}
	case string:
		if v == "" {
			return nil
		}
	case float64:
		if v == 0 {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	}
	return v
}

// next notes a request and returns the answer to it.
func (p *player) next(request string) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got = append(p.got, request)
	if len(p.answers) == 0 {
		return "", false
	}
	answer := p.answers[0]
	p.answers = p.answers[1:]
	return answer, true
}

// ServeHTTP answers as an HTTP application.
func (p *player) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	text := r.Method + " " + r.RequestURI
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if name != "Content-Length" && name != "User-Agent" && name != "Accept-Encoding" {
			text += "\n" + name + ": " + strings.Join(r.Header.Values(name), ", ")
		}
	}
	if len(body) > 0 {
		text += "\n\n" + string(body)
	}
	answer, ok := p.next(text)
	if !ok {
		answer = "599 no answer in the transcript"
	}
	var code int
	content := ""
	if _, err := fmt.Sscanf(answer, "%d", &code); err != nil {
		code, content = 599, err.Error()
	}
	if _, after, ok := strings.Cut(answer, " "); ok {
		content = after
	}
	w.WriteHeader(code)
	_, _ = io.WriteString(w, content)
}

// rpc answers as a gRPC application.
func (p *player) rpc(_ any, stream grpc.ServerStream) error {
	full, _ := grpc.Method(stream.Context())
	service, name, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return err
	}
	method := d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(name))
	in, errIn := protoregistry.GlobalTypes.FindMessageByName(method.Input().FullName())
	out, errOut := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	if err := errors.Join(errIn, errOut); err != nil {
		return err
	}
	request, answer := in.New().Interface(), out.New().Interface()
	if err := stream.RecvMsg(request); err != nil {
		return err
	}
	text, ok := p.next(service + "/" + name + fieldsOf(stream.Context()) + "\n\n" + compactJSON(request))
	switch {
	case !ok:
		return status.Error(codes.Unimplemented, "no answer in the transcript")
	case strings.HasPrefix(text, "{"):
		if err := protojson.Unmarshal([]byte(text), answer); err != nil {
			return err
		}
		return stream.SendMsg(answer)
	}
	var code codes.Code
	word, why, _ := strings.Cut(text, " ")
	if err := code.UnmarshalJSON([]byte(strconv.Quote(word))); err != nil {
		return err
	}
	return status.Error(code, why)
}

// fieldsOf lists the metadata of a call, but for what every call has.
func fieldsOf(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	text := ""
	for _, name := range slices.Sorted(maps.Keys(md)) {
		switch name {
		case ":authority", "content-length", "content-type", "user-agent", "grpc-accept-encoding", "grpc-timeout", "te":
		default:
			text += "\n" + name + ": " + strings.Join(md.Get(name), ", ")
		}
	}
	return text
}

// compactJSON returns a message as JSON without the spaces that protojson adds
// by chance. Data of an invocation without a type, for which JSON has no form,
// is in front, as text.
func compactJSON(m proto.Message) string {
	if r, ok := m.(*commonv1.InvokeRequest); ok && r.GetData() != nil && r.GetData().GetTypeUrl() == "" {
		bare := r.GetData().GetValue()
		r.Data = nil
		return string(bare) + " " + compactJSON(r)
	}
	text, err := protojson.Marshal(m)
	if err != nil {
		return err.Error()
	}
	var out bytes.Buffer
	if err := json.Compact(&out, text); err != nil {
		return err.Error()
	}
	return out.String()
}

// Every documented callback that this version makes has a transcript.
func TestEveryCallbackHasATranscript(t *testing.T) {
	http, err := os.ReadFile("testdata/http.txt")
	if err != nil {
		t.Fatal(err)
	}
	rpc, err := os.ReadFile("testdata/grpc.txt")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{surface.CallInvocation: true} // a request passed on by the mesh, not a callback of the channel
	for exchange := range strings.SplitSeq(string(http), "-----") {
		for request := range strings.SplitSeq(exchange, "\n> --") {
			found := regexp.MustCompile(`(?m)^> ([A-Z]+) (\S+)$`).FindStringSubmatch(request)
			if found == nil {
				continue
			}
			field := func(name string) string {
				if f := regexp.MustCompile(`(?mi)^> ` + regexp.QuoteMeta(name) + `: (.*)$`).FindStringSubmatch(request); f != nil {
					return f[1]
				}
				return ""
			}
			seen[surface.FindCallback(found[1], found[2], field)] = true
		}
	}
	for _, c := range surface.Callbacks() {
		if c.Section != "actors" && !seen[c.Name] {
			t.Errorf("no transcript shows %s", c.Name)
		}
	}
	file := rtv1.File_dapr_proto_runtime_v1_appcallback_proto
	for i := range file.Services().Len() {
		s := file.Services().Get(i)
		for j := range s.Methods().Len() {
			if name := string(s.FullName()) + "/" + string(s.Methods().Get(j).Name()); !strings.Contains(string(rpc), "> "+name) {
				t.Errorf("no transcript shows %s", name)
			}
		}
	}
}
