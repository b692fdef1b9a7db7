package grpcapi

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/config/configtest"
	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/surface"
	"github.com/proa-io/proa/mesh/proxy"
)

// The files in testdata are calls and what comes back: they pin the API. Lines
// of a call begin with "> ", lines of the answer with "< "; "# " begins a
// comment, a line of dashes ends an exchange. A call is the name of the method,
// entries of metadata, an empty line, and its messages as JSON, one a line. The
// answer is the header, the messages, the code with its text, the details of the
// status and the trailer. With PROA_UPDATE=1 the answers are written instead of
// compared.
//
// Among the messages of a call may be steps, which happen where they stand:
//
//	(receive)             take one message of the answer
//	(call Method {...})   make another call, which must succeed
//	(set key value)       change a configuration item
//	(cancel)              give up
//
// Messages that no step has taken are taken at the end.
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

// player makes the calls of a transcript.
type player struct {
	world *world
	conn  *grpc.ClientConn
	// varies holds what differs from run to run, by what stands for it: the
	// latest "<id>" of a subscription, "<signature>", and what was "<sealed>" by
	// EncryptAlpha1, of whose messages only the lengths are shown. Etags are
	// numbered as they appear: "<etag 1>".
	varies map[string]string
	etags  int
}

// playerFor returns a player for the options in the first line of a transcript.
func playerFor(t *testing.T, options string) *player {
	t.Helper()
	w := newWorld(t)
	o := Options{AppID: "shop", Invoker: echoInvoker()}
	for option := range strings.FieldsSeq(options) {
		name, value, _ := strings.Cut(option, "=")
		switch name {
		case "token":
			o.Token = dapr.NewToken(value)
		case "maxmessage":
			fmt.Sscan(value, &o.MaxMessage)
		case "deny":
			denied := strings.Split(value, ",")
			o.Allows = func(group, version string) bool { return !slices.Contains(denied, group+"."+version) }
		case "allow":
			allowed := strings.Split(value, ",")
			o.Allows = func(group, version string) bool { return slices.Contains(allowed, group+"."+version) }
		case "nothing":
			o.Invoker = nil
			w = &world{notReady: []string{"component statestore"}, extended: map[string]string{}}
		default:
			t.Fatalf("option %q is not known", option)
		}
	}
	o.Blocks = w
	return &player{world: w, conn: serve(t, New(o)), varies: map[string]string{}}
}

// echoInvoker answers for the application "cart", which speaks HTTP, and for
// "bank", which speaks gRPC.
func echoInvoker() Invoker {
	return fakeInvoker{
		call: func(id string, r invoke.Request) (*invoke.Reply, error) {
			switch id {
			case "cart":
				return cartReply(r), nil
			case "bank":
				return bankReply(r), nil
			case "forbidden":
				return nil, fault.New(fault.PermissionDenied, "access control of application \"forbidden\" denies POST /%s", strings.TrimPrefix(r.Path, "/"))
			}
			return nil, fault.New(fault.Unavailable, "no instance of application %q is known", id)
		},
		forward: func(ex proxy.Exchange, id, path string) error {
			if id == "bank" { // with an empty message
				head := proxy.Header{{Name: "content-type", Value: "application/grpc"}, {Name: "x-path", Value: path}}
				if err := ex.Respond(200, head, proxy.UnknownLength); err != nil {
					return err
				}
				if _, err := ex.Write(make([]byte, 5)); err != nil {
					return err
				}
				return ex.Trailer(proxy.Header{{Name: "grpc-status", Value: "0"}, {Name: "x-trailer", Value: "last"}})
			}
			return fault.New(fault.Unavailable, "no instance of application %q is known", id)
		},
	}
}

// cartReply is what an HTTP application answers: at /fail/{status} that status,
// elsewhere what it was asked.
func cartReply(r invoke.Request) *invoke.Reply {
	reply := &invoke.Reply{Status: 200, Body: fmt.Appendf(nil, "%s %s %s", r.Method, r.Path, r.Body)}
	if ct := r.Header.Get("content-type"); ct != "" {
		reply.Header.Add("Content-Type", ct)
	}
	reply.Header.Add("Cache-Control", "no-cache")
	reply.Header.Add("X-Answer", "42")
	if _, err := fmt.Sscanf(strings.TrimPrefix(r.Path, "/"), "fail/%d", &reply.Status); err == nil {
		reply.Body = []byte("the application says no")
	}
	return reply
}

// bankReply is what a gRPC application answers.
func bankReply(r invoke.Request) *invoke.Reply {
	reply := &invoke.Reply{Status: 200, Body: r.Body}
	st := status.New(codes.OK, "")
	if strings.HasSuffix(r.Path, "fail") {
		st = status.New(codes.AlreadyExists, "the account exists")
	}
	dapr.AddStatus(&reply.Header, st)
	reply.Header.Add("content-type", "text/plain")
	reply.Header.Add("x-answer", "42")
	reply.Header.Add(dapr.FieldTypeURL, r.Header.Get(dapr.FieldTypeURL))
	reply.Trailer.Add("x-trailer", "last")
	return reply
}

func replay(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	_, options, _ := strings.Cut(first, "options:")
	p := playerFor(t, options)
	var out strings.Builder
	var call []string
	exchange := func() {
		if len(call) > 0 {
			for line := range strings.SplitSeq(p.play(t, call), "\n") {
				out.WriteString(strings.TrimRight("< "+line, " ") + "\n")
			}
			call = nil
		}
	}
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.HasPrefix(line, ">"):
			call = append(call, strings.TrimSpace(line[1:]))
		case strings.HasPrefix(line, "<"):
			continue
		default:
			exchange()
		}
		out.WriteString(line)
	}
	exchange()
	if os.Getenv("PROA_UPDATE") == "1" {
		if err := os.WriteFile(file, []byte(out.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, got := strings.Split(string(text), "\n"), strings.Split(out.String(), "\n")
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			t.Fatalf("line %d (PROA_UPDATE=1 writes the file anew)\nwant %s\ngot  %s", i+1, want[i], got[i])
		}
	}
	if len(want) != len(got) {
		t.Errorf("want %d lines, got %d", len(want), len(got))
	}
}

// call is one call under way.
type call struct {
	stream  grpc.ClientStream
	cancel  context.CancelFunc
	in, out protoreflect.MessageType
	method  protoreflect.MethodDescriptor // nil for one of a service that is not described
	got     []string                      // messages
	sealed  []byte                        // what EncryptAlpha1 has made so far
	err     error                         // io.EOF once the call has ended well
}

// play makes one call and returns what came back.
func (p *player) play(t *testing.T, lines []string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(timeout(t))
	defer cancel()
	messages := len(lines)
	for i, line := range lines[1:] {
		if line == "" {
			messages = i + 2
			break
		}
		name, value, _ := strings.Cut(line, ": ")
		ctx = metadata.AppendToOutgoingContext(ctx, name, value)
	}
	c := p.begin(t, ctx, lines[0])
	c.cancel = cancel
	for _, line := range lines[min(messages, len(lines)):] {
		if line != "" && !p.step(t, c, line) {
			c.send(t, p.named(line))
		}
	}
	_ = c.stream.CloseSend()
	for c.err == nil {
		p.receive(c)
	}
	return p.mask(c.describe())
}

// begin opens the stream of a call. A method of the Dapr service goes by its
// name alone; one of a service that is not described has messages that are empty.
func (p *player) begin(t *testing.T, ctx context.Context, name string) *call {
	t.Helper()
	full := name
	if !strings.Contains(name, "/") {
		full = apiPrefix + name
	}
	c := &call{in: (&emptypb.Empty{}).ProtoReflect().Type(), out: (&emptypb.Empty{}).ProtoReflect().Type()}
	desc := &grpc.StreamDesc{}
	service, method, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	if d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service)); err == nil {
		if c.method = d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(method)); c.method == nil {
			t.Fatalf("there is no method %s", full)
		}
		c.in = must[protoreflect.MessageType](t)(protoregistry.GlobalTypes.FindMessageByName(c.method.Input().FullName()))
		c.out = must[protoreflect.MessageType](t)(protoregistry.GlobalTypes.FindMessageByName(c.method.Output().FullName()))
		desc.ClientStreams, desc.ServerStreams = c.method.IsStreamingClient(), c.method.IsStreamingServer()
	}
	c.stream = must[grpc.ClientStream](t)(p.conn.NewStream(ctx, desc, full))
	return c
}

// step carries out a step; false for a message.
func (p *player) step(t *testing.T, c *call, line string) bool {
	t.Helper()
	inner, ok := strings.CutPrefix(line, "(")
	if !ok {
		return false
	}
	words := strings.SplitN(strings.TrimSuffix(inner, ")"), " ", 3)
	switch words[0] {
	case "receive":
		p.receive(c)
	case "cancel":
		c.cancel()
	case "call":
		if got := p.play(t, []string{words[1], "", words[2]}); !strings.Contains(got, "OK") {
			t.Fatalf("%s answers %s", line, got)
		}
	case "set":
		if _, err := configtest.Set(t.Context(), p.world.items, words[1], words[2]); err != nil {
			t.Fatal(err)
		}
	default:
		t.Fatalf("there is no step %s", line)
	}
	return true
}

// named puts in what differs from run to run where a message has a name for it.
func (p *player) named(line string) string {
	for name, value := range p.varies {
		line = strings.ReplaceAll(line, name, value)
	}
	return line
}

func (c *call) send(t *testing.T, text string) {
	t.Helper()
	m := c.in.New().Interface()
	bare, text := takeBareAny(t, text)
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if in, ok := m.(*rtv1.InvokeServiceRequest); ok && bare != nil {
		in.Message.Data = &anypb.Any{Value: bare}
	}
	if err := c.stream.SendMsg(m); err != nil && err != io.EOF { // which tells that the answer is there
		t.Fatal(err)
	}
}

// varying finds what differs from run to run.
func varying() map[string]*regexp.Regexp {
	return map[string]*regexp.Regexp{
		"<id>":        regexp.MustCompile(`"id":"([A-Z2-7]{26})"`),
		"<signature>": regexp.MustCompile(`"signature":"([^"]{64,})"`),
	}
}

// receive takes one message, or the end.
func (p *player) receive(c *call) {
	if c.err != nil {
		return
	}
	m := c.out.New().Interface()
	if c.err = c.stream.RecvMsg(m); c.err != nil {
		return
	}
	text := compact(m)
	if part, ok := m.(*rtv1.EncryptResponse); ok {
		c.sealed = append(c.sealed, part.GetPayload().GetData()...)
		p.varies["<sealed>"] = base64.StdEncoding.EncodeToString(c.sealed)
		text = fmt.Sprintf(`{"payload":{"data":"(%d)","seq":"%d"}}`, len(part.GetPayload().GetData()), part.GetPayload().GetSeq())
	}
	c.got = append(c.got, text)
	for _, found := range regexp.MustCompile(`"etag":"([^"]+)"`).FindAllStringSubmatch(text, -1) {
		if !slices.Contains(slices.Collect(maps.Values(p.varies)), found[1]) {
			p.etags++
			p.varies[fmt.Sprintf("<etag %d>", p.etags)] = found[1]
		}
	}
	for name, pattern := range varying() {
		if found := pattern.FindStringSubmatch(text); found != nil {
			p.varies[name] = found[1]
		}
	}
	if c.method == nil || !c.method.IsStreamingServer() {
		c.err = io.EOF
	}
}

// takeBareAny removes "bare" from a message and returns what it says, from
// base64: the data of an invocation, which the SDKs send in an Any without a
// type. JSON has no form for one.
func takeBareAny(t *testing.T, text string) (bare []byte, rest string) {
	t.Helper()
	pattern := regexp.MustCompile(`"bare":"([^"]*)",`)
	found := pattern.FindStringSubmatch(text)
	if found == nil {
		return nil, text
	}
	return must[[]byte](t)(base64.StdEncoding.DecodeString(found[1])), pattern.ReplaceAllString(text, "")
}

// compact returns a message as JSON without spaces, of which protojson makes
// more or fewer by chance.
func compact(m proto.Message) string {
	if r, ok := m.(*commonv1.InvokeResponse); ok && r.GetData().GetTypeUrl() == "" {
		return fmt.Sprintf(`{"bare":%q,"contentType":%q}`, base64.StdEncoding.EncodeToString(r.GetData().GetValue()), r.GetContentType())
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

// describe tells what came back.
func (c *call) describe() string {
	var lines []string
	header, _ := c.stream.Header()
	lines = append(lines, fields("", header)...)
	lines = append(lines, c.got...)
	err := c.err
	if err == io.EOF {
		err = nil
	}
	st := status.Convert(err)
	lines = append(lines, strings.TrimSpace(st.Code().String()+" "+st.Message()))
	for _, d := range st.Details() {
		m, ok := d.(proto.Message)
		if !ok {
			lines = append(lines, fmt.Sprint(d))
			continue
		}
		lines = append(lines, string(m.ProtoReflect().Descriptor().Name())+" "+compact(m))
	}
	return strings.Join(append(lines, fields("trailer ", c.stream.Trailer())...), "\n")
}

// fields lists metadata, but for what every answer has.
func fields(prefix string, md metadata.MD) []string {
	var out []string
	for name, values := range md {
		if name == "content-type" || name == "grpc-status-details-bin" || name == "date" {
			continue
		}
		for _, v := range values {
			out = append(out, prefix+name+": "+v)
		}
	}
	slices.Sort(out)
	return out
}

// mask hides times and what else differs from run to run.
func (p *player) mask(text string) string {
	for name, value := range p.varies {
		text = strings.ReplaceAll(text, value, name)
	}
	return regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`).ReplaceAllString(text, "<time>")
}

// Every method of the API has a transcript in which it succeeds, or, when this
// version does not have it, says so.
func TestEveryMethodHasATranscript(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	well := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for exchange := range strings.SplitSeq(string(text), "-----") {
			name := regexp.MustCompile(`(?m)^> (\w+)$`).FindStringSubmatch(exchange)
			if name != nil && regexp.MustCompile(`(?m)^< (OK$|Canceled|Unimplemented this API is currently not implemented)`).MatchString(exchange) {
				well[name[1]] = true
			}
		}
	}
	methods := rtv1.File_dapr_proto_runtime_v1_dapr_proto.Services().ByName("Dapr").Methods()
	for i := range methods.Len() {
		if name := string(methods.Get(i).Name()); !well[name] {
			t.Errorf("no transcript shows %s at work", name)
		}
	}
	workers, err := os.ReadFile("testdata/workflows.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range surface.WorkerMethods() {
		if !strings.Contains(string(workers), "> /"+surface.WorkerService+"/"+name+"\n") {
			t.Errorf("no transcript shows %s", name)
		}
	}
}
