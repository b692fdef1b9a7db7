package api_test

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// A comparison that overlooks something is worth nothing, so this changes the
// descriptors in each way that matters and looks for the report.
func TestEveryKindOfChangeOnTheWireIsReported(t *testing.T) {
	const state, metadata, lock, dapr = "state.proto", "metadata.proto", "lock.proto", "dapr.proto"
	for _, test := range []struct {
		name   string
		file   string
		change func(*descriptorpb.FileDescriptorProto)
		want   []string
	}{
		{"a field has another number", state, func(f *descriptorpb.FileDescriptorProto) {
			field(f, "GetStateRequest", "key").Number = proto.Int32(9)
		}, []string{
			"missing: field dapr.proto.runtime.v1.GetStateRequest 2 (key key single string)",
			"not a fact: field dapr.proto.runtime.v1.GetStateRequest 9 (key key single string)",
		}},
		{"a field has another name", state, func(f *descriptorpb.FileDescriptorProto) {
			field(f, "GetStateRequest", "key").Name = proto.String("item_key")
		}, []string{
			`field dapr.proto.runtime.v1.GetStateRequest 2 is "item_key key single string", want "key key single string"`,
		}},
		{"a field has another name in JSON", state, func(f *descriptorpb.FileDescriptorProto) {
			field(f, "ExecuteStateTransactionRequest", "storeName").JsonName = proto.String("store_name")
		}, []string{
			`field dapr.proto.runtime.v1.ExecuteStateTransactionRequest 1 is "storeName store_name single string", want "storeName storeName single string"`,
		}},
		{"a field has another type", state, func(f *descriptorpb.FileDescriptorProto) {
			field(f, "GetStateRequest", "key").Type = descriptorpb.FieldDescriptorProto_TYPE_BYTES.Enum()
		}, []string{
			`field dapr.proto.runtime.v1.GetStateRequest 2 is "key key single bytes", want "key key single string"`,
		}},
		{"a field has a message of another type", state, func(f *descriptorpb.FileDescriptorProto) {
			field(f, "DeleteStateRequest", "etag").TypeName = proto.String(".dapr.proto.common.v1.StateItem")
		}, []string{
			`field dapr.proto.runtime.v1.DeleteStateRequest 3 is "etag etag single dapr.proto.common.v1.StateItem", want "etag etag single dapr.proto.common.v1.Etag"`,
		}},
		{"a field is repeated", state, func(f *descriptorpb.FileDescriptorProto) {
			field(f, "GetStateRequest", "key").Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
		}, []string{
			`field dapr.proto.runtime.v1.GetStateRequest 2 is "key key repeated string", want "key key single string"`,
		}},
		{"a field is gone", state, func(f *descriptorpb.FileDescriptorProto) {
			remove(&message(f, "GetStateResponse").Field, "etag")
		}, []string{
			"missing: field dapr.proto.runtime.v1.GetStateResponse 2 (etag etag single string)",
		}},
		{"a field is new", lock, func(f *descriptorpb.FileDescriptorProto) {
			m := message(f, "TryLockResponse")
			added := proto.Clone(m.Field[0]).(*descriptorpb.FieldDescriptorProto)
			added.Name, added.JsonName, added.Number = proto.String("token"), proto.String("token"), proto.Int32(2)
			m.Field = append(m.Field, added)
		}, []string{
			"not a fact: field dapr.proto.runtime.v1.TryLockResponse 2 (token token single bool)",
		}},
		{"a field is not deprecated any more", metadata, func(f *descriptorpb.FileDescriptorProto) {
			field(f, "GetMetadataResponse", "active_actors_count").Options = nil
		}, []string{
			`field dapr.proto.runtime.v1.GetMetadataResponse 2 is "active_actors_count actors repeated dapr.proto.runtime.v1.ActiveActorsCount", want "active_actors_count actors repeated dapr.proto.runtime.v1.ActiveActorsCount deprecated"`,
		}},
		{"an optional field is not", "ai.proto", func(f *descriptorpb.FileDescriptorProto) {
			m := message(f, "ConversationInputAlpha2")
			d := field(f, "ConversationInputAlpha2", "scrub_pii")
			d.Proto3Optional, d.OneofIndex, m.OneofDecl = nil, nil, nil
		}, []string{
			`field dapr.proto.runtime.v1.ConversationInputAlpha2 2 is "scrub_pii scrubPii single bool", want "scrub_pii scrubPii optional bool"`,
		}},
		{"a oneof has another name", "pubsub.proto", func(f *descriptorpb.FileDescriptorProto) {
			message(f, "SubscribeTopicEventsRequestAlpha1").OneofDecl[0].Name = proto.String("kind")
		}, []string{
			`field dapr.proto.runtime.v1.SubscribeTopicEventsRequestAlpha1 1 is "initial_request initialRequest oneof=kind dapr.proto.runtime.v1.SubscribeTopicEventsRequestInitialAlpha1", want "initial_request initialRequest oneof=subscribe_topic_events_request_type dapr.proto.runtime.v1.SubscribeTopicEventsRequestInitialAlpha1"`,
			`field dapr.proto.runtime.v1.SubscribeTopicEventsRequestAlpha1 2 is "event_processed eventProcessed oneof=kind dapr.proto.runtime.v1.SubscribeTopicEventsRequestProcessedAlpha1", want "event_processed eventProcessed oneof=subscribe_topic_events_request_type dapr.proto.runtime.v1.SubscribeTopicEventsRequestProcessedAlpha1"`,
		}},
		{"a map has values of another type", "secret.proto", func(f *descriptorpb.FileDescriptorProto) {
			entry := message(f, "SecretResponse").NestedType[0]
			entry.Field[1].Type = descriptorpb.FieldDescriptorProto_TYPE_BYTES.Enum()
		}, []string{
			`field dapr.proto.runtime.v1.SecretResponse 1 is "secrets secrets map string,bytes", want "secrets secrets map string,string"`,
		}},
		{"a message is gone", dapr, func(f *descriptorpb.FileDescriptorProto) {
			f.MessageType = nil
			method(f, "Dapr", "Shutdown").InputType = proto.String(".google.protobuf.Empty")
		}, []string{
			"missing: message dapr.proto.runtime.v1.ShutdownRequest (dapr/proto/runtime/v1/dapr.proto)",
			`rpc dapr.proto.runtime.v1.Dapr Shutdown is "unary google.protobuf.Empty google.protobuf.Empty", want "unary dapr.proto.runtime.v1.ShutdownRequest google.protobuf.Empty"`,
		}},
		{"a message is new", lock, func(f *descriptorpb.FileDescriptorProto) {
			f.MessageType = append(f.MessageType, &descriptorpb.DescriptorProto{Name: proto.String("RenewRequest")})
		}, []string{
			"not a fact: message dapr.proto.runtime.v1.RenewRequest (dapr/proto/runtime/v1/lock.proto)",
		}},
		{"an enum value has another number", lock, func(f *descriptorpb.FileDescriptorProto) {
			message(f, "UnlockResponse").EnumType[0].Value[3].Number = proto.Int32(4)
		}, []string{
			"missing: value dapr.proto.runtime.v1.UnlockResponse.Status 3 (INTERNAL_ERROR)",
			"not a fact: value dapr.proto.runtime.v1.UnlockResponse.Status 4 (INTERNAL_ERROR)",
		}},
		{"an enum value has another name", metadata, func(f *descriptorpb.FileDescriptorProto) {
			f.EnumType[0].Value[0].Name = proto.String("PUBSUB_SUBSCRIPTION_TYPE_UNSPECIFIED")
		}, []string{
			`value dapr.proto.runtime.v1.PubsubSubscriptionType 0 is "PUBSUB_SUBSCRIPTION_TYPE_UNSPECIFIED", want "UNKNOWN"`,
		}},
		{"an rpc is gone", dapr, func(f *descriptorpb.FileDescriptorProto) {
			remove(&f.Service[0].Method, "ConverseAlpha2")
		}, []string{
			"missing: rpc dapr.proto.runtime.v1.Dapr ConverseAlpha2 (unary dapr.proto.runtime.v1.ConversationRequestAlpha2 dapr.proto.runtime.v1.ConversationResponseAlpha2)",
		}},
		{"an rpc is new", dapr, func(f *descriptorpb.FileDescriptorProto) {
			added := proto.Clone(method(f, "Dapr", "Shutdown")).(*descriptorpb.MethodDescriptorProto)
			added.Name = proto.String("Restart")
			f.Service[0].Method = append(f.Service[0].Method, added)
		}, []string{
			"not a fact: rpc dapr.proto.runtime.v1.Dapr Restart (unary dapr.proto.runtime.v1.ShutdownRequest google.protobuf.Empty)",
		}},
		{"an rpc takes another message", dapr, func(f *descriptorpb.FileDescriptorProto) {
			method(f, "Dapr", "DeleteState").InputType = proto.String(".dapr.proto.runtime.v1.GetStateRequest")
		}, []string{
			`rpc dapr.proto.runtime.v1.Dapr DeleteState is "unary dapr.proto.runtime.v1.GetStateRequest google.protobuf.Empty", want "unary dapr.proto.runtime.v1.DeleteStateRequest google.protobuf.Empty"`,
		}},
		{"an rpc streams otherwise", dapr, func(f *descriptorpb.FileDescriptorProto) {
			method(f, "Dapr", "SubscribeConfiguration").ClientStreaming = proto.Bool(true)
		}, []string{
			`rpc dapr.proto.runtime.v1.Dapr SubscribeConfiguration is "bidi-stream dapr.proto.runtime.v1.SubscribeConfigurationRequest dapr.proto.runtime.v1.SubscribeConfigurationResponse", want "server-stream dapr.proto.runtime.v1.SubscribeConfigurationRequest dapr.proto.runtime.v1.SubscribeConfigurationResponse"`,
		}},
		{"an rpc is deprecated", dapr, func(f *descriptorpb.FileDescriptorProto) {
			method(f, "Dapr", "GetState").Options = &descriptorpb.MethodOptions{Deprecated: proto.Bool(true)}
		}, []string{
			`rpc dapr.proto.runtime.v1.Dapr GetState is "unary dapr.proto.runtime.v1.GetStateRequest dapr.proto.runtime.v1.GetStateResponse deprecated", want "unary dapr.proto.runtime.v1.GetStateRequest dapr.proto.runtime.v1.GetStateResponse"`,
		}},
		{"a service has another name", "appcallback.proto", func(f *descriptorpb.FileDescriptorProto) {
			f.Service[1].Name = proto.String("HealthCheckService")
		}, []string{
			"missing: rpc dapr.proto.runtime.v1.AppCallbackHealthCheck HealthCheck (unary google.protobuf.Empty dapr.proto.runtime.v1.HealthCheckResponse)",
			"missing: service dapr.proto.runtime.v1.AppCallbackHealthCheck (dapr/proto/runtime/v1/appcallback.proto)",
			"not a fact: rpc dapr.proto.runtime.v1.HealthCheckService HealthCheck (unary google.protobuf.Empty dapr.proto.runtime.v1.HealthCheckResponse)",
			"not a fact: service dapr.proto.runtime.v1.HealthCheckService (dapr/proto/runtime/v1/appcallback.proto)",
		}},
		{"a file has another path", dapr, func(f *descriptorpb.FileDescriptorProto) {
			f.Name = proto.String("runtime.proto")
		}, []string{
			`message dapr.proto.runtime.v1.ShutdownRequest is "runtime.proto", want "dapr/proto/runtime/v1/dapr.proto"`,
			"missing: file dapr/proto/runtime/v1/dapr.proto (dapr.proto.runtime.v1)",
			"not a fact: file runtime.proto (dapr.proto.runtime.v1)",
			`service dapr.proto.runtime.v1.Dapr is "runtime.proto", want "dapr/proto/runtime/v1/dapr.proto"`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := describe(changed(t, "dapr/proto/runtime/v1/"+test.file, test.change))
			if err != nil {
				t.Fatal(err)
			}
			differences := compare(wireFacts(t), got)
			slices.Sort(test.want)
			slices.Sort(differences)
			if !slices.Equal(differences, test.want) {
				t.Errorf("reported\n\t%s\nwant\n\t%s", strings.Join(differences, "\n\t"), strings.Join(test.want, "\n\t"))
			}
		})
	}
}

// changed returns a copy of all registered files, of which one is changed.
func changed(t *testing.T, path string, change func(*descriptorpb.FileDescriptorProto)) *protoregistry.Files {
	t.Helper()
	set := &descriptorpb.FileDescriptorSet{}
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		f := protodesc.ToFileDescriptorProto(file)
		if f.GetName() == path {
			change(f)
		}
		set.File = append(set.File, f)
		return true
	})
	files, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// named finds the declaration with a name. It panics when there is none.
func named[D interface{ GetName() string }](list []D, name string) D {
	return list[slices.IndexFunc(list, func(d D) bool { return d.GetName() == name })]
}

// remove takes the declaration with a name out of a list.
func remove[D interface{ GetName() string }](list *[]D, name string) {
	*list = slices.DeleteFunc(*list, func(d D) bool { return d.GetName() == name })
}

func message(f *descriptorpb.FileDescriptorProto, name string) *descriptorpb.DescriptorProto {
	return named(f.MessageType, name)
}

func field(f *descriptorpb.FileDescriptorProto, inMessage, name string) *descriptorpb.FieldDescriptorProto {
	return named(message(f, inMessage).Field, name)
}

func method(f *descriptorpb.FileDescriptorProto, inService, name string) *descriptorpb.MethodDescriptorProto {
	return named(named(f.Service, inService).Method, name)
}
