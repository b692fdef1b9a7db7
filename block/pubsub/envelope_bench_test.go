package pubsub

import (
	"bytes"
	"testing"
	"time"
)

// order is a payload of 1 KiB of JSON.
func order() []byte {
	return append(append([]byte(`{"orderId":12345,"note":"`), bytes.Repeat([]byte("x"), 1000)...), `"}`...)
}

func BenchmarkWrap(b *testing.B) {
	for name, contentType := range map[string]string{"JSON": contentTypeJSON, "Text": contentTypeText, "Bytes": contentTypeBinary} {
		b.Run(name, func(b *testing.B) {
			data := order()
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				o, err := readOptions(nil)
				if err != nil {
					b.Fatal(err)
				}
				v := envelope{appID: "shop", component: "pubsub", topic: "orders", now: time.Now(), traceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
				_ = v.wrap(data, contentType, &o)
			}
		})
	}
}

func BenchmarkPassThrough(b *testing.B) {
	v := envelope{appID: "shop", component: "pubsub", topic: "orders", now: time.Now()}
	event := v.wrap(order(), contentTypeJSON, &publishOptions{})
	b.ReportAllocs()
	b.SetBytes(int64(len(event)))
	for b.Loop() {
		if _, err := v.passThrough(event, &publishOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecode is what a delivery costs before the application is called:
// scanning the envelope and looking for an expiration.
func BenchmarkDecode(b *testing.B) {
	v := envelope{appID: "shop", component: "pubsub", topic: "orders", now: time.Now()}
	event := v.wrap(order(), contentTypeJSON, &publishOptions{})
	b.ReportAllocs()
	b.SetBytes(int64(len(event)))
	for b.Loop() {
		e := &Event{JSON: event}
		if !e.parse() || e.expired(time.Now()) {
			b.Fatal("no event")
		}
	}
}
