package proa

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	proav1 "github.com/proa-io/proa/api/gen/proa/v1"
	"github.com/proa-io/proa/fault"
)

func TestTheErrorTableIsTotal(t *testing.T) {
	for _, code := range fault.Codes() {
		o := outcomeOf(code)
		internal := code == fault.Unknown || code == fault.Internal || code == fault.Unauthenticated
		if (o.code == codes.Internal) != internal || (o.http == 500) != internal {
			t.Errorf("%v is told as %v and %d", code, o.code, o.http)
		}
		if !internal && o.name != code.String() {
			t.Errorf("%v is called %q", code, o.name)
		}
		if back := faultOf(o.code); !internal && back != code {
			t.Errorf("%v comes back as %v", code, back)
		}
	}
}

// Every service must be in the package whose paths Serves takes, and no message
// of a stream may have a field that a line with an error could be mistaken for.
func TestServicesFitTheHTTPForm(t *testing.T) {
	for _, s := range New(Options{}).services() {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(s.desc.ServiceName))
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			if p := path(s.desc.ServiceName, string(m.Name())); !New(Options{}).Serves(p) {
				t.Errorf("%s is not served", p)
			}
			if m.IsStreamingServer() && m.Output().Fields().ByJSONName("error") != nil {
				t.Errorf("%s has a field called error", m.Output().FullName())
			}
		}
	}
}

func TestRequestsThatAreNotCallsAreToldSo(t *testing.T) {
	addr := serve(t, New(Options{Blocks: newWorld(t), MaxBody: 1000}))
	for _, tc := range []struct {
		method, path, contentType, body string
		status                          int
		want                            string
	}{
		{"GET", "/proa.v1.State/List", "", "", 405, `{"code":"unimplemented","message":"/proa.v1.State/List is called with POST, not GET"}`},
		{"POST", "/proa.v1.State/Drop", "", "", 404, `{"code":"unimplemented","message":"the service proa.v1.State has no method \"Drop\": there are List, Transact, Watch"}`},
		{"POST", "/proa.v1.Stat/List", "", "", 404, `{"code":"unimplemented","message":"there is no service \"proa.v1.Stat\""}`},
		{"POST", "/proa.v1.State", "", "", 404, `{"code":"unimplemented","message":"the service proa.v1.State has no method \"\": there are List, Transact, Watch"}`},
		{"POST", "/proa.v1.State/List", "application/proto", "", 415, `{"code":"unimplemented","message":"over HTTP, messages are JSON (application/json), not application/proto"}`},
		{"POST", "/proa.v1.State/List", "application/json", `{`, 400, `{"code":"invalid_argument","message":"the body is no StateListRequest: `},
		{"POST", "/proa.v1.State/List", "application/json", `{"storeName":"store","limit":1}`, 400, `unknown field \"limit\"`},
		{"POST", "/proa.v1.State/List", "application/json", `{"pageSize":"many"}`, 400, `"code":"invalid_argument"`},
		{"POST", "/proa.v1.State/List", "application/json", `{"prefix":"` + strings.Repeat("x", 1000) + `"}`, 413,
			`{"code":"resource_exhausted","message":"the body has more than 1000 bytes, the most allowed"}`},
		{"POST", "/proa.v1.State/List", "application/json", "", 404, `{"code":"not_found","message":"there is no state component \"\"","reason":"dapr.not_found"}`},
		{"POST", "/proa.v1.State/List", "application/x-www-form-urlencoded", `{"storeName":"store"}`, 200, `{}`},
		{"POST", "/proa.v1.State/List", "application/json; charset=utf-8", `{"store_name":"store"}`, 200, `{}`},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tc.method, "http://"+addr+tc.path, strings.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", tc.contentType)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != tc.status || !strings.Contains(string(body), tc.want) {
			t.Errorf("%s %s (%s) %.50s\nanswers %d %s\nwant    %d %s", tc.method, tc.path, tc.contentType, tc.body, res.StatusCode, body, tc.status, tc.want)
		}
		if tc.status == 405 && res.Header.Get("Allow") != "POST" {
			t.Errorf("Allow: %q", res.Header.Get("Allow"))
		}
	}
}

func TestAGroupThatIsNotAllowedIsNotServed(t *testing.T) {
	denied := func(group, version string) bool { return group != "state" || version != "proa.v1" }
	addr := serve(t, New(Options{Blocks: newWorld(t), AllowsHTTP: denied, AllowsGRPC: denied}))
	code, _, body := post(t, "http://"+addr+"/proa.v1.State/List", `{"storeName":"store"}`)
	if want := `{"code":"unimplemented","message":"requested endpoint is not available"}`; code != 404 || body != want {
		t.Errorf("%d %s", code, body)
	}
	client := proav1.NewStateClient(dial(t, addr))
	_, err := client.List(t.Context(), &proav1.StateListRequest{StoreName: "store"})
	if status.Code(err) != codes.Unimplemented || status.Convert(err).Message() != "requested endpoint is not available" {
		t.Errorf("List: %v", err)
	}
	stream, err := client.Watch(t.Context(), &proav1.StateWatchRequest{StoreName: "store"})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("Watch: %v", err)
	}
}

func TestStoppingEndsStreams(t *testing.T) {
	a := New(Options{Blocks: newWorld(t)})
	addr := serve(t, a)
	overGRPC, err := proav1.NewStateClient(dial(t, addr)).Watch(t.Context(), &proav1.StateWatchRequest{StoreName: "store"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := overGRPC.Recv(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	overHTTP := lines{t, bufio.NewReader(open(t, ctx, "http://"+addr+"/proa.v1.State/Watch", `{"storeName":"store"}`).Body)}
	overHTTP.next()
	a.Stop()
	a.Stop() // again does no harm
	if _, err := overGRPC.Recv(); status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "the sidecar is shutting down" {
		t.Errorf("over gRPC: %v", err)
	}
	if line, want := overHTTP.next(), `{"error":{"code":"unavailable","message":"the sidecar is shutting down"}}`; line != want {
		t.Errorf("over HTTP: %s", line)
	}
	if _, err := overHTTP.r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last line: %v", err)
	}
	// A stream that begins now ends at once.
	code, _, body := post(t, "http://"+addr+"/proa.v1.State/Watch", `{"storeName":"store"}`)
	if !strings.Contains(body, "the sidecar is shutting down") {
		t.Errorf("%d %s", code, body)
	}
}

func FuzzHTTPBody(f *testing.F) {
	a := New(Options{Blocks: &world{}})
	for _, body := range []string{`{"storeName":"s","operations":[{"upsert":{"key":"k","value":"dg=="}},{"check":{"key":"k","exists":false}}]}`, `{"pageSize":1e9}`, `[]`, ``} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, m := range a.rules.Load().methods {
			if m.unary == nil {
				continue
			}
			_, err := m.unary.Handler(m.impl, t.Context(), func(v any) error { return decode(body, v) }, nil)
			if err == nil {
				t.Error("a store that does not exist has answered")
				continue
			}
			if code, text, _ := jsonOf(err); code == 500 || len(text) == 0 {
				t.Errorf("%s: %d %s", body, code, text)
			}
		}
	})
}
