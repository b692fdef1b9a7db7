package api_test

import (
	"bufio"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	componentsv1 "github.com/proa-io/proa/api/gen/dapr/proto/components/v1"
	runtimev1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
)

// facts says what there is on the wire: it maps the identity of a declaration,
// such as "field dapr.proto.common.v1.Etag 1", to everything else that matters
// about it, written as in testdata/wire.txt.
type facts map[string]string

// add records a declaration. It reports an error when there is one already.
func (f facts) add(identity, rest string) error {
	if _, ok := f[identity]; ok {
		return fmt.Errorf("%s is declared twice", identity)
	}
	f[identity] = rest
	return nil
}

// readFacts reads the format that testdata/wire.txt describes.
func readFacts(r io.Reader) (facts, error) {
	p := factsParser{facts: facts{}}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		words := strings.Fields(lines.Text())
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if err := p.line(words); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	return p.facts, lines.Err()
}

// factsParser keeps what the lines that follow refer to.
type factsParser struct {
	facts
	file, pkg string
	kind      string // of the declaration that members belong to
	owner     string // its full name
}

// owners says which declaration each kind of member belongs to.
var owners = map[string]string{"field": "message", "value": "enum", "rpc": "service"}

func (p *factsParser) line(words []string) error {
	kind, args := words[0], words[1:]
	switch kind {
	case "file":
		if len(args) != 2 {
			return fmt.Errorf("want file PATH PACKAGE, got %q", words)
		}
		p.file, p.pkg, p.kind = args[0], args[1], ""
		return p.add("file "+p.file, p.pkg)
	case "message", "enum", "service":
		if len(args) != 1 || p.file == "" {
			return fmt.Errorf("want %s NAME below a file, got %q", kind, words)
		}
		p.kind, p.owner = kind, p.pkg+"."+args[0]
		return p.add(kind+" "+p.owner, p.file)
	case "field", "value", "rpc":
		if owners[kind] != p.kind {
			return fmt.Errorf("a %s belongs below a %s, not below %q", kind, owners[kind], p.kind)
		}
		if len(args) < 2 {
			return fmt.Errorf("want more arguments than %q", words)
		}
		return p.add(kind+" "+p.owner+" "+args[0], strings.Join(args[1:], " "))
	}
	return fmt.Errorf("unknown kind of fact %q", kind)
}

// describe writes down what the files of the package tree "dapr" declare.
func describe(files *protoregistry.Files) (facts, error) {
	f := facts{}
	var failed error
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if strings.HasPrefix(string(file.Package()), "dapr.") {
			failed = f.file(file)
		}
		return failed == nil
	})
	return f, failed
}

func (f facts) file(file protoreflect.FileDescriptor) error {
	if err := f.add("file "+file.Path(), string(file.Package())); err != nil {
		return err
	}
	if file.Syntax() != protoreflect.Proto3 {
		return fmt.Errorf("%s has syntax %v, want proto3", file.Path(), file.Syntax())
	}
	if err := f.types(file); err != nil {
		return err
	}
	for s := range each(file.Services()) {
		if err := f.service(s); err != nil {
			return err
		}
	}
	return nil
}

// types writes down the messages and enums in a file or in a message.
func (f facts) types(in interface {
	Messages() protoreflect.MessageDescriptors
	Enums() protoreflect.EnumDescriptors
}) error {
	for m := range each(in.Messages()) {
		if m.IsMapEntry() {
			continue
		}
		if err := f.message(m); err != nil {
			return err
		}
	}
	for e := range each(in.Enums()) {
		if err := f.add("enum "+string(e.FullName()), e.ParentFile().Path()); err != nil {
			return err
		}
		for v := range each(e.Values()) {
			if err := f.add(fmt.Sprintf("value %s %d", e.FullName(), v.Number()), string(v.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f facts) message(m protoreflect.MessageDescriptor) error {
	if err := f.add("message "+string(m.FullName()), m.ParentFile().Path()); err != nil {
		return err
	}
	for d := range each(m.Fields()) {
		words := []string{string(d.Name()), d.JSONName(), presence(d), typeOf(d)}
		if d.Options().(*descriptorpb.FieldOptions).GetDeprecated() {
			words = append(words, "deprecated")
		}
		if err := f.add(fmt.Sprintf("field %s %d", m.FullName(), d.Number()), strings.Join(words, " ")); err != nil {
			return err
		}
	}
	return f.types(m)
}

func (f facts) service(s protoreflect.ServiceDescriptor) error {
	if err := f.add("service "+string(s.FullName()), s.ParentFile().Path()); err != nil {
		return err
	}
	for m := range each(s.Methods()) {
		words := []string{kindOfStream(m.IsStreamingClient(), m.IsStreamingServer()), string(m.Input().FullName()), string(m.Output().FullName())}
		if m.Options().(*descriptorpb.MethodOptions).GetDeprecated() {
			words = append(words, "deprecated")
		}
		if err := f.add(fmt.Sprintf("rpc %s %s", s.FullName(), m.Name()), strings.Join(words, " ")); err != nil {
			return err
		}
	}
	return nil
}

func presence(d protoreflect.FieldDescriptor) string {
	switch {
	case d.IsMap():
		return "map"
	case d.IsList():
		return "repeated"
	case d.HasOptionalKeyword():
		return "optional"
	case d.ContainingOneof() != nil:
		return "oneof=" + string(d.ContainingOneof().Name())
	}
	return "single"
}

func typeOf(d protoreflect.FieldDescriptor) string {
	switch {
	case d.IsMap():
		return typeOf(d.MapKey()) + "," + typeOf(d.MapValue())
	case d.Message() != nil:
		return string(d.Message().FullName())
	case d.Enum() != nil:
		return string(d.Enum().FullName())
	}
	return d.Kind().String()
}

// kindOfStream says which sides of a method send more than one message.
func kindOfStream(client, server bool) string {
	switch {
	case client && server:
		return "bidi-stream"
	case client:
		return "client-stream"
	case server:
		return "server-stream"
	}
	return "unary"
}

// each ranges over one of protoreflect's lists.
func each[D any](list interface {
	Len() int
	Get(int) D
}) iter.Seq[D] {
	return func(yield func(D) bool) {
		for i := range list.Len() {
			if !yield(list.Get(i)) {
				return
			}
		}
	}
}

// compare reports every difference between what must be on the wire and what
// is, in the order of the identities.
func compare(want, got facts) []string {
	identities := slices.Collect(maps.Keys(want))
	for id := range got {
		if _, ok := want[id]; !ok {
			identities = append(identities, id)
		}
	}
	slices.Sort(identities)
	var differences []string
	for _, id := range identities {
		w, wanted := want[id]
		g, declared := got[id]
		switch {
		case !declared:
			differences = append(differences, fmt.Sprintf("missing: %s (%s)", id, w))
		case !wanted:
			differences = append(differences, fmt.Sprintf("not a fact: %s (%s)", id, g))
		case w != g:
			differences = append(differences, fmt.Sprintf("%s is %q, want %q", id, g, w))
		}
	}
	return differences
}

// wireFacts reads the facts that this project holds itself to.
func wireFacts(t *testing.T) facts {
	t.Helper()
	file, err := os.Open("testdata/wire.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	want, err := readFacts(file)
	if err != nil {
		t.Fatalf("testdata/wire.txt: %v", err)
	}
	return want
}

func TestGeneratedCodeAgreesWithTheWireFacts(t *testing.T) {
	// Generated packages register their descriptors here when they are linked in;
	// that of the services brings in the others.
	got, err := describe(protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	for _, difference := range compare(wireFacts(t), got) {
		t.Error(difference)
	}
}

// The descriptors and the gRPC code come from two generators.
func TestEveryMethodHasAHandler(t *testing.T) {
	const daprMethods = 72
	if n := len(runtimev1.Dapr_ServiceDesc.Methods) + len(runtimev1.Dapr_ServiceDesc.Streams); n != daprMethods {
		t.Errorf("the server of Dapr has %d methods, want %d", n, daprMethods)
	}
	for _, service := range []grpc.ServiceDesc{
		runtimev1.Dapr_ServiceDesc,
		runtimev1.AppCallback_ServiceDesc,
		runtimev1.AppCallbackAlpha_ServiceDesc,
		runtimev1.AppCallbackHealthCheck_ServiceDesc,
		componentsv1.StateStore_ServiceDesc,
		componentsv1.TransactionalStateStore_ServiceDesc,
		componentsv1.QueriableStateStore_ServiceDesc,
		componentsv1.TransactionalStoreMultiMaxSize_ServiceDesc,
		componentsv1.PubSub_ServiceDesc,
		componentsv1.InputBinding_ServiceDesc,
		componentsv1.OutputBinding_ServiceDesc,
		componentsv1.SecretStore_ServiceDesc,
	} {
		handlers := map[string]string{}
		for _, m := range service.Methods {
			handlers[m.MethodName] = "unary"
		}
		for _, s := range service.Streams {
			handlers[s.StreamName] = kindOfStream(s.ClientStreams, s.ServerStreams)
		}
		descriptor, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service.ServiceName))
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		for m := range each(descriptor.(protoreflect.ServiceDescriptor).Methods()) {
			want[string(m.Name())] = kindOfStream(m.IsStreamingClient(), m.IsStreamingServer())
		}
		if !maps.Equal(handlers, want) {
			t.Errorf("%s has the handlers %v, want %v", service.ServiceName, handlers, want)
		}
	}
}

func TestBrokenFactsAreRefusedWithTheirLine(t *testing.T) {
	const file = "file a.proto a.v1\n"
	for _, test := range []struct{ name, text, want string }{
		{"a declaration without a file", "message M", `line 1: want message NAME below a file, got ["message" "M"]`},
		{"a file without a package", "file a.proto", `line 1: want file PATH PACKAGE, got ["file" "a.proto"]`},
		{"a field of an enum", file + "enum E\n  field 1 a a single string", `line 3: a field belongs below a message, not below "enum"`},
		{"a value of nothing", file + "enum E\nfile b.proto b.v1\n  value 0 ZERO", `line 4: a value belongs below a enum, not below ""`},
		{"the same file twice", file + file, "line 2: file a.proto is declared twice"},
		{"a field without a name", file + "message M\n  field 1", `line 3: want more arguments than ["field" "1"]`},
		{"the same number twice", file + "message M\n  field 1 a a single string\n  field 1 b b single string", "line 4: field a.v1.M 1 is declared twice"},
		{"an unknown kind", file + "\n# comment\nmesage M", `line 4: unknown kind of fact "mesage"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := readFacts(strings.NewReader(test.text))
			if err == nil || err.Error() != test.want {
				t.Errorf("got the error %v, want %s", err, test.want)
			}
		})
	}
}
