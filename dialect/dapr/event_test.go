package dapr

import (
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/mesh/proxy"
)

func event(tb testing.TB, envelope string) *pubsub.Event {
	tb.Helper()
	e, ok := pubsub.NewEvent("pubsub", "orders", []byte(envelope))
	if !ok {
		tb.Fatalf("%s is no event", envelope)
	}
	return e
}

func TestEventsAreTranslated(t *testing.T) {
	for _, tc := range []struct{ name, envelope, want string }{
		{"JSON", `{"id":"1","specversion":"1.0","type":"t","source":"s","datacontenttype":"application/json","topic":"other","pubsubname":"p",
			"data":{"a": 1},"traceparent":"00-x","n":1.5,"yes":true,"none":null,"list":[1,"x"],"deep":{"a":{"b":"\u00fc"}},"huge":1e999}`,
			`{"id":"1","specVersion":"1.0","type":"t","source":"s","dataContentType":"application/json","data":"eyJhIjogMX0=","topic":"orders",
			"pubsubName":"pubsub","path":"/p","extensions":{"topic":"other","pubsubname":"p","traceparent":"00-x","n":1.5,"yes":true,"none":null,
			"list":[1,"x"],"deep":{"a":{"b":"ü"}},"huge":"1e999"}}`},
		{"text", `{"id":"1","datacontenttype":"text/plain","data":"a\nb"}`,
			`{"id":"1","dataContentType":"text/plain","data":"YQpi","topic":"orders","pubsubName":"pubsub","path":"/p","extensions":{}}`},
		{"binary", `{"id":"1","datacontenttype":"application/octet-stream","data_base64":"AP8="}`,
			`{"id":"1","dataContentType":"application/octet-stream","data":"AP8=","topic":"orders","pubsubName":"pubsub","path":"/p","extensions":{}}`},
		{"not UTF-8", "{\"id\":\"a\xffb\",\"x\xff\":\"y\xff\"}",
			`{"id":"a�b","topic":"orders","pubsubName":"pubsub","path":"/p","extensions":{"x�":"y�"}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := &rtv1.TopicEventRequest{}
			if err := protojson.Unmarshal([]byte(tc.want), want); err != nil {
				t.Fatal(err)
			}
			got := TopicEvent(event(t, tc.envelope), "/p")
			if !proto.Equal(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
			entry := BulkTopicEvent(event(t, tc.envelope))
			if entry.GetId() != want.GetId() || string(entry.GetData()) != string(want.GetData()) || !proto.Equal(entry.GetExtensions(), want.GetExtensions()) {
				t.Errorf("as an entry it is %v", entry)
			}
		})
	}
}

func FuzzTopicEvent(f *testing.F) {
	f.Add([]byte(`{"id":"1","data":{"a":[1,2]},"x":{"y":null},"z":-0,"data_base64":"AA=="}`))
	f.Add([]byte("{\"a\":\"\xff\",\"\\u0000\":1e400}"))
	f.Fuzz(func(t *testing.T, envelope []byte) {
		e, ok := pubsub.NewEvent("c", "t", envelope)
		if !ok {
			return
		}
		if _, err := proto.Marshal(TopicEvent(e, "/")); err != nil {
			t.Errorf("%s: %v", envelope, err)
		}
		if !json.Valid(envelope) {
			t.Errorf("%s is taken for an envelope", envelope)
		}
	})
}

func TestStatusesMapBothWays(t *testing.T) {
	want := map[codes.Code]int{
		codes.OK: 200, codes.Canceled: 408, codes.Unknown: 500, codes.InvalidArgument: 400, codes.DeadlineExceeded: 504,
		codes.NotFound: 404, codes.AlreadyExists: 409, codes.PermissionDenied: 403, codes.ResourceExhausted: 429,
		codes.FailedPrecondition: 400, codes.Aborted: 409, codes.OutOfRange: 400, codes.Unimplemented: 501,
		codes.Internal: 500, codes.Unavailable: 503, codes.DataLoss: 500, codes.Unauthenticated: 401, 99: 500,
	}
	for code, st := range want {
		if got := HTTPStatus(code); got != st {
			t.Errorf("%v is %d, want %d", code, got, st)
		}
	}
	for st, code := range map[int]codes.Code{
		200: codes.OK, 204: codes.OK, 299: codes.OK, 301: codes.Unknown, 400: codes.Internal, 401: codes.Unauthenticated,
		403: codes.PermissionDenied, 404: codes.NotFound, 405: codes.Unknown, 408: codes.Canceled, 409: codes.AlreadyExists,
		429: codes.ResourceExhausted, 500: codes.Unknown, 501: codes.Unimplemented, 502: codes.Unknown, 503: codes.Unavailable,
		504: codes.DeadlineExceeded, 599: codes.Unknown,
	} {
		if got := CodeOfHTTP(st); got != code {
			t.Errorf("%d is %v, want %v", st, got, code)
		}
		if st >= 300 {
			if f := HTTPFailure(st, strings.Repeat("é", 2000)); f.Code() != code || f.Message() == "" || len(f.Details()) != 1 {
				t.Errorf("%d fails as %v", st, f)
			}
		}
	}
}

func TestAStatusTravelsInFields(t *testing.T) {
	for _, st := range []*status.Status{
		status.New(codes.OK, ""), status.New(codes.Aborted, "Ünïcode %"), HTTPFailure(404, "gone"),
	} {
		h := proxy.Header{{Name: "content-type", Value: "text/plain"}, {Name: "proa-other", Value: "x"}}
		AddStatus(&h, st)
		got, rest, ok := TakeStatus(h)
		if !ok || !proto.Equal(got.Proto(), st.Proto()) || len(rest) != 2 {
			t.Errorf("%v became %v; left are %v", st, got, rest)
		}
	}
	h := proxy.Header{{Name: "grpc-status", Value: "0"}}
	if st, rest, ok := TakeStatus(h); ok || len(rest) != 1 {
		t.Errorf("an HTTP answer has the status %v", st)
	}
}
