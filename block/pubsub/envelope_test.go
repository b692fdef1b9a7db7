package pubsub

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
)

// The golden files in testdata/envelope hold one envelope each, a member per
// line. Run with UPDATE_GOLDEN=1 to write them.
func checkGolden(t *testing.T, name string, envelope []byte) {
	t.Helper()
	var members map[string]json.RawMessage
	if err := json.Unmarshal(envelope, &members); err != nil {
		t.Fatalf("%s: %v", envelope, err)
	}
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(members)) {
		b.WriteString(k + ": " + string(members[k]) + "\n")
	}
	got := b.String()
	path := filepath.Join("testdata", "envelope", name+".txt")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil { //nolint:gosec // test data
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("envelope is\n%swant\n%s", got, want)
	}
}

func testEnvelope() envelope {
	now := time.Date(2026, 3, 4, 5, 6, 7, 890_000_000, time.FixedZone("CET", 3600))
	return envelope{appID: "shop", component: "pubsub", topic: "orders/new", now: now, expires: true}
}

const (
	parent      = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	otherParent = "00-11111111111111111111111111111111-2222222222222222-00"
)

func TestWrap(t *testing.T) {
	for _, tc := range []struct {
		name        string
		data        string
		contentType string
		metadata    map[string]string
		traceParent string
		traceState  string
		appID       string
	}{
		{name: "json_object", data: ` {"orderId": 12345678901234567890, "price": 1.10, "x": [1e400]} ` + "\n", contentType: "application/json"},
		{name: "json_with_charset", data: `[1,2]`, contentType: "Application/JSON; charset=utf-8"},
		{name: "json_string", data: `"hello"`, contentType: "application/json"},
		{name: "json_null", data: `null`, contentType: "application/json"},
		{name: "json_empty", data: ``, contentType: "application/json"},
		{name: "json_that_is_none", data: `{"orderId":`, contentType: "application/json"},
		{name: "vendor_json", data: `{"a":1}`, contentType: "application/vnd.shop+json"},
		{name: "no_content_type", data: "hi \"there\"\n\u2028<&>"},
		{name: "text_not_utf8", data: "caf\xe9", contentType: "text/plain; charset=latin1"},
		{name: "json_not_utf8", data: "\"caf\xe9\"", contentType: "application/json"},
		{name: "xml", data: "<a b='c'>d</a>", contentType: "application/xml"},
		{name: "octets", data: "\x00\x01\xff", contentType: "application/octet-stream"},
		{name: "protobuf_event", data: "\x0a\x01a", contentType: "application/cloudevents+protobuf"},
		{name: "traced", data: "x", traceParent: parent, traceState: "a=b,c=d"},
		{name: "no_app_id", data: "x", appID: "-"},
		{name: "ttl", data: "x", metadata: map[string]string{"ttlInSeconds": "90"}},
		{name: "ttl_beyond_time", data: "x", metadata: map[string]string{"TTLInSeconds": "9223372036854775807"}},
		{
			name: "overrides", data: "x", traceParent: otherParent, metadata: map[string]string{
				"cloudevent.id": "id-1", "cloudevent.source": "elsewhere", "CloudEvent.Type": "com.shop.order", "cloudevent.subject": "s\"1",
				"cloudevent.traceparent": parent, "cloudevent.tracestate": "k=v", "cloudevent.time": "2020-01-01T00:00:00Z",
				"cloudevent.datacontenttype": "text/other", "cloudevent.expiration": "2030-01-01T00:00:00Z", "ttlInSeconds": "1",
				"other": "is no attribute",
			},
		},
		{name: "override_trace_id", data: "x", traceParent: otherParent, metadata: map[string]string{"cloudevent.traceid": parent}},
		{
			name: "protected_attributes", data: "x", metadata: map[string]string{
				"cloudevent.data": "y", "cloudevent.data_base64": "eQ==", "cloudevent.topic": "t", "cloudevent.pubsubname": "p", "cloudevent.specversion": "0.3",
			},
		},
		{name: "extensions", data: "x", metadata: map[string]string{"cloudevent.priority": "high", "cloudevent.region": "eu \"west\"", "cloudevent.": "none"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o, err := readOptions(tc.metadata)
			if err != nil {
				t.Fatal(err)
			}
			if o.id == "" {
				o.id = "an-id"
			}
			v := testEnvelope()
			v.traceParent, v.traceState = tc.traceParent, tc.traceState
			if tc.appID == "-" {
				v.appID = ""
			}
			checkGolden(t, tc.name, v.wrap([]byte(tc.data), tc.contentType, &o))
		})
	}
}

func TestPassThrough(t *testing.T) {
	for _, tc := range []struct {
		name, event string
		metadata    map[string]string
	}{
		{name: "pass_complete", event: `{"specversion":"1.0","id":"a","source":"s","type":"t","time":"2020-01-01T00:00:00Z","subject":"x",
			"datacontenttype":"application/json","traceparent":"` + otherParent + `","traceid":"` + otherParent + `","tracestate":"x=y",
			"data":{"n":12345678901234567890.10},"ext":true,"topic":"lies","pubsubname":"lies"}`},
		{name: "pass_minimal", event: `{"data":"x","id":"a"}`},
		{name: "pass_nulls", event: `{"source":null,"type":null,"specversion":null,"data":null,"subject":null,"id":"a"}`},
		{name: "pass_ttl", event: `{"id":"a","expiration":"2020-01-01T00:00:00Z","data_base64":"AAE="}`, metadata: map[string]string{"ttlInSeconds": "60"}},
		{name: "pass_expiration", event: `{"id":"a","expiration":"2020-01-01T00:00:00Z"}`, metadata: map[string]string{"cloudevent.type": "not here"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o, err := readOptions(tc.metadata)
			if err != nil {
				t.Fatal(err)
			}
			v := testEnvelope()
			v.traceParent, v.traceState = parent, "a=b"
			got, err := v.passThrough([]byte(tc.event), &o)
			if err != nil {
				t.Fatal(err)
			}
			checkGolden(t, tc.name, got)
		})
	}
}

func TestPassThroughRefusesWhatIsNoEvent(t *testing.T) {
	v := testEnvelope()
	for _, event := range []string{"", "x", "[]", `"a"`, `{"id":`, "{\"id\":\"\xff\"}", "null"} {
		_, err := v.passThrough([]byte(event), &publishOptions{})
		if !fault.Is(err, fault.InvalidArgument) || fault.ReasonOf(err) != ReasonEnvelope {
			t.Errorf("event %q: error %v", event, err)
		}
	}
}

func TestANewIDIsARandomUUID(t *testing.T) {
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := map[string]bool{}
	v := testEnvelope()
	for range 100 {
		e := Event{JSON: v.wrap(nil, "", &publishOptions{})}
		if !e.parse() || !form.MatchString(e.ID()) || seen[e.ID()] {
			t.Fatalf("id %q in %s", e.ID(), e.JSON)
		}
		seen[e.ID()] = true
	}
}

func TestWrapRaw(t *testing.T) {
	d := &Delivery{Message: Message{Topic: "orders", Data: []byte("\x00\xff"), Metadata: map[string]string{"traceparent": parent, "tracestate": "a=b"}}}
	checkGolden(t, "raw", regexp.MustCompile(`"id":"[^"]*"`).ReplaceAll(wrapRaw("pubsub", d), []byte(`"id":"an-id"`)))
}

func TestOptionsOfAPublish(t *testing.T) {
	o, err := readOptions(map[string]string{"RAWPAYLOAD": "true", "ttl": "1m30s", "orderingKey": "second", "partitionKey": "first", "empty": ""})
	if err != nil || !o.raw || o.ttl != 90*time.Second || o.key != "first" {
		t.Errorf("options %+v, error %v", o, err)
	}
	for _, bad := range []map[string]string{
		{"rawPayload": "maybe"}, {"ttlInSeconds": "soon"}, {"ttlInSeconds": "0"}, {"ttlInSeconds": "-5"}, {"ttlInSeconds": "-1s"},
	} {
		_, err := readOptions(bad)
		if !fault.Is(err, fault.InvalidArgument) || fault.ReasonOf(err) != ReasonMetadata {
			t.Errorf("metadata %v: error %v", bad, err)
		}
	}
}

func TestDataOfAnEvent(t *testing.T) {
	for _, tc := range []struct{ event, want string }{
		{`{"datacontenttype":"application/json","data":{"a": 1.10}}`, `{"a": 1.10}`},
		{`{"datacontenttype":"application/json","data":"text"}`, `"text"`},
		{`{"data":{"a":1}}`, `{"a":1}`},
		{`{"datacontenttype":"text/plain","data":"a\nb"}`, "a\nb"},
		{`{"datacontenttype":"application/xml","data":"<a/>"}`, "<a/>"},
		{`{"datacontenttype":"text/plain","data":5}`, "5"},
		{`{"datacontenttype":"application/octet-stream","data_base64":"AP8="}`, "\x00\xff"},
		{`{"data":null,"data_base64":"AP8="}`, "\x00\xff"},
		{`{"data_base64":"not base64"}`, ""},
		{`{}`, ""},
	} {
		e := Event{JSON: []byte(tc.event)}
		if !e.parse() {
			t.Fatalf("%s is no event", tc.event)
		}
		if got := string(e.Data()); got != tc.want {
			t.Errorf("data of %s is %q, want %q", tc.event, got, tc.want)
		}
	}
}

func TestContentTypeOfTheDataOfAnEvent(t *testing.T) {
	for event, want := range map[string]string{
		`{"datacontenttype":"text/plain","data":"a"}`:                         "text/plain",
		`{"datacontenttype":"application/octet-stream","data_base64":"AP8="}`: "application/octet-stream",
		`{"data":{"a":1}}`:         "application/json",
		`{"data":"text"}`:          "application/json",
		`{"data":null}`:            "",
		`{"data_base64":"AP8="}`:   "",
		`{"subject":"no payload"}`: "",
	} {
		e := Event{JSON: []byte(event)}
		if !e.parse() {
			t.Fatalf("%s is no event", event)
		}
		if got := e.DataContentType(); got != want {
			t.Errorf("content type of the data of %s is %q, want %q", event, got, want)
		}
	}
}

func TestAttributesOfAnEvent(t *testing.T) {
	e := Event{
		JSON:     []byte(`{"id":"1","id":"2","source":5,"\u0074ype":"t","traceid":"old","ext":{"a":[1]},"time":"2020-01-01T00:00:00Z"}`),
		Metadata: map[string]string{"tracestate": "from=metadata"},
	}
	if !e.parse() {
		t.Fatal("no event")
	}
	if e.ID() != "2" || e.Source() != "" || string(e.Value("source")) != "5" || e.TraceParent() != "old" || e.TraceState() != "from=metadata" {
		t.Errorf("id %q, source %q, trace %q %q", e.ID(), e.Source(), e.TraceParent(), e.TraceState())
	}
	var names []string
	for name := range e.Attributes() {
		names = append(names, name)
	}
	if got := strings.Join(names, " "); got != "id id source type traceid ext time" {
		t.Errorf("attributes %s", got)
	}
}

func TestExpiryOfAnEvent(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for expiration, want := range map[string]bool{
		`"2025-12-31T23:59:59Z"`: true, `"2026-01-01T00:00:01Z"`: false, `"2026-01-01T00:59:59+01:00"`: true,
		`"soon"`: false, `5`: false, `""`: false, `null`: false,
	} {
		e := Event{JSON: []byte(`{"expiration":` + expiration + `}`)}
		if !e.parse() || e.expired(now) != want {
			t.Errorf("expiration %s at %s: expired %v, want %v", expiration, now, !want, want)
		}
	}
}

func TestBinaryModeBecomesAnEnvelope(t *testing.T) {
	d := &Delivery{Message: Message{Data: []byte(`{"n":1}`), Metadata: map[string]string{
		"ce_specversion": "1.0", "ce_id": "a", "Ce_Type": "t", "ce_source": "s", "ce_ext": "x", "ce_data": "no", "content-type": "application/json", "other": "y",
	}}}
	if !d.isBinaryMode() {
		t.Fatal("not taken for binary mode")
	}
	checkGolden(t, "binary_mode", d.structured())
	for name, d := range map[string]*Delivery{
		"structured by type":    {Message: Message{ContentType: ContentTypeCloudEvents, Data: d.Data, Metadata: d.Metadata}},
		"structured by content": {Message: Message{Data: []byte(`{"specversion":"1.0"}`), Metadata: d.Metadata}},
		"no headers":            {Message: Message{Data: d.Data, Metadata: map[string]string{"content-type": "application/json"}}},
	} {
		if d.isBinaryMode() {
			t.Errorf("%s is taken for binary mode", name)
		}
	}
}
