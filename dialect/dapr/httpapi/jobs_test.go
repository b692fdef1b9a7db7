package httpapi

import (
	"testing"

	"google.golang.org/protobuf/types/known/anypb"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
)

func TestAJobOfTheOtherAPIIsShownWhateverItsData(t *testing.T) {
	for want, data := range map[string]*anypb.Any{
		`{"data":{"@type":"dapr.io/schedule/jobpayload","value":"eAA="},"name":"j"}`:                             {TypeUrl: "dapr.io/schedule/jobpayload", Value: []byte("x\x00")},
		`{"data":{"@type":"","value":"eA=="},"name":"j"}`:                                                        {Value: []byte("x")},
		`{"data":{"@type":"type.googleapis.com/google.protobuf.Value","value":"/w=="},"name":"j"}`:               {TypeUrl: "type.googleapis.com/google.protobuf.Value", Value: []byte("\xff")},
		`{"data":{"@type":"type.googleapis.com/google.protobuf.StringValue","value":"<x>"},"name":"j"}`:          {TypeUrl: "type.googleapis.com/google.protobuf.StringValue", Value: []byte("\n\x03<x>")},
		`{"data":{"@type":"type.googleapis.com/google.protobuf.Duration","value":"1s"},"name":"j"}`:              {TypeUrl: "type.googleapis.com/google.protobuf.Duration", Value: []byte("\x08\x01")},
		`{"data":{"@type":"type.googleapis.com/dapr.proto.runtime.v1.GetJobRequest","name":"other"},"name":"j"}`: {TypeUrl: "type.googleapis.com/dapr.proto.runtime.v1.GetJobRequest", Value: []byte("\n\x05other")},
		`{"data":{"@type":"type.googleapis.com/google.protobuf.Value","value":"EQEAAAAAAPh/"},"name":"j"}`:       {TypeUrl: "type.googleapis.com/google.protobuf.Value", Value: []byte("\x11\x01\x00\x00\x00\x00\x00\xf8\x7f")},
	} {
		got, err := jobJSON(&rtv1.Job{Name: "j", Data: data})
		if err != nil || string(got) != want {
			t.Errorf("%v: %s (%v), want %s", data, got, err, want)
		}
	}
}
