package appchannel

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/mesh/proxy"
)

func FuzzSubscriptions(f *testing.F) {
	for _, s := range []string{
		"", "null", "[]", "[null]", `[{"pubsubname":"b","topic":"t","route":"/r"}]`,
		`[{"pubsubname":"b","topic":"t","routes":{"rules":[{"match":"event.type == \"x\"","path":"/a"}],"default":"/d"},"metadata":{"a":1,"b":true,"c":null}}]`,
		`[{"routes":"/r"},{"routes":[{"path":"/x"}]}]`, `[{"bulkSubscribe":{"enabled":true,"maxAwaitDurationMs":9223372036854775807}}]`,
		`[{"bulkSubscribe":{"maxAwaitDurationMs":-9223372036854775808}}]`, `[{"metadata":{"a":[}}]`, strings.Repeat("[", 20000),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		specs, problems, err := parseSubscriptions(content)
		if err != nil && (specs != nil || problems != nil) {
			t.Error("an error and subscriptions")
		}
		for _, s := range specs {
			if s.PubSub == "" || s.Topic == "" || s.DefaultRoute == "" && len(s.Rules) == 0 || s.Type != pubsub.Programmatic {
				t.Errorf("a subscription that cannot work: %+v", s)
			}
			if s.Bulk.MaxAwait > 24*time.Hour {
				t.Errorf("a batch that waits for %v", s.Bulk.MaxAwait)
			}
		}
	})
}

func FuzzConfiguration(f *testing.F) {
	for _, s := range []string{
		"", "{}", "null", `{"entities":["a"],"actorIdleTimeout":"1h","reentrancy":{"enabled":true,"maxStackDepth":3}}`,
		`{"entitiesConfig":[{"entities":["a"],"drainOngoingCallTimeout":"1s"}]}`, `{"actorIdleTimeout":7}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		c, err := parseConfig(content)
		if (c == nil) != (err != nil) {
			t.Errorf("parseConfig = %v, %v", c, err)
		}
		if c != nil && (c.IdleTimeout < 0 || c.DrainOngoingCallTimeout < 0) {
			t.Errorf("a negative time: %+v", c)
		}
	})
}

func FuzzStatus(f *testing.F) {
	for _, s := range []string{
		"", "OK", `{"status":"SUCCESS"}`, `{"status":"DROP"} `, `{"status":"RETRY"}x`, `{"status":null}`, `{"STATUS":"drop"}`, `{"status":{}}`, "{",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		got := readStatus(content)
		if got != pubsub.Success && !strings.Contains(string(content), "{") {
			t.Errorf("%q is %v", content, got)
		}
	})
}

func FuzzStatuses(f *testing.F) {
	for _, s := range []string{"", "{}", `{"statuses":[{"entryId":"1","status":"SUCCESS"},{"entryId":"2"},{}]}`, `{"statuses":[7]}`, `{"statuses":null}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		got, err := readStatuses(content)
		if err != nil && got != nil {
			t.Errorf("readStatuses = %v, %v", got, err)
		}
	})
}

func FuzzBindingAnswer(f *testing.F) {
	for _, s := range []string{"", "{}", `{"storeName":"s","state":[{"key":"k","value":1,"etag":"2","options":{}}],"to":["a"],"data":{},"concurrency":"parallel"}`, `{"to":7}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		if r := binding.ParseAppResponse(content); r != nil && len(r.State)+len(r.To) == 0 {
			t.Errorf("an answer that asks for nothing: %+v", r)
		}
	})
}

func FuzzFields(f *testing.F) {
	f.Add("Name", "value")
	f.Add("grpc-timeout", "1S")
	f.Add(":path", "/")
	f.Add("x-bin", "\x00\xff")
	f.Add("bad name", "a\r\nb: c")
	f.Add("content-length", "7")
	f.Add("é", "\x7f é ")
	f.Fuzz(func(t *testing.T, name, value string) {
		for _, grpc := range []bool{false, true} {
			for _, field := range appendMetadata(nil, map[string]string{name: value}, grpc) {
				checkField(t, field, grpc)
			}
		}
		target := targetOf(name)
		if target[0] != '/' || strings.HasPrefix(target, "//") || strings.ContainsAny(target, " #\r\n\x00\x7f") {
			t.Errorf("the target of %q is %q", name, target)
		}
	})
}

func checkField(t *testing.T, f proxy.Field, grpc bool) {
	if !dapr.IsToken(f.Name) || f.Name != strings.ToLower(f.Name) || isOurs(f.Name) {
		t.Errorf("a field with the name %q", f.Name)
	}
	if !isPlain(f.Value) || strings.Trim(f.Value, " \t") != f.Value {
		t.Errorf("a field with the value %q", f.Value)
	}
	if grpc {
		for _, c := range []byte(f.Value) {
			if c < ' ' || c > '~' {
				t.Errorf("metadata with the value %q", f.Value)
			}
		}
	}
}

func FuzzBulkEnvelope(f *testing.F) {
	f.Add("id", "application/json", []byte("\x00"))
	f.Fuzz(func(t *testing.T, id, contentType string, raw []byte) {
		b := &pubsub.BulkEvent{ID: id, Component: id, Topic: id, Entries: []pubsub.BulkEntry{{
			EntryID: id, ContentType: contentType, Event: &pubsub.Event{Raw: append([]byte{}, raw...), Metadata: map[string]string{id: contentType}},
		}}}
		if content, err := bulkEnvelope(b); err != nil || !json.Valid(content) {
			t.Errorf("bulkEnvelope = %s, %v", content, err)
		}
		if _, err := proto.Marshal(bulkTopicEvent(id, b)); err != nil {
			t.Error(err)
		}
	})
}
