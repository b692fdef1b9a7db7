package grpcapi

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/proa-io/proa/dialect/dapr"
)

// group is a part of the API that is allowed or denied as a whole.
type group struct {
	name, version string
	// absent names the building block that the methods belong to and that this
	// version does not have; empty for methods that are served.
	absent  string
	methods []string
}

// groups lists every method of the API.
var groups = [...]group{
	{"invoke", "v1", "", []string{"InvokeService"}},
	{"state", "v1", "", []string{
		"GetState", "GetBulkState", "SaveState", "DeleteState", "DeleteBulkState", "ExecuteStateTransaction"}},
	{"state", "v1alpha1", "", []string{"QueryStateAlpha1"}},
	{"publish", "v1", "", []string{"PublishEvent", "BulkPublishEvent"}},
	{"publish", "v1alpha1", "", []string{"BulkPublishEventAlpha1"}},
	{"subscribe", "v1alpha1", "", []string{"SubscribeTopicEventsAlpha1"}},
	{"bindings", "v1", "", []string{"InvokeBinding"}},
	{"secrets", "v1", "", []string{"GetSecret", "GetBulkSecret"}},
	{"actors", "v1", "actor", []string{
		"RegisterActorTimer", "UnregisterActorTimer", "RegisterActorReminder", "UnregisterActorReminder",
		"UnregisterActorRemindersByType", "ListActorReminders", "GetActorState", "GetActorReminder",
		"ExecuteActorStateTransaction", "InvokeActor"}},
	{"actors", "v1alpha1", "actor", []string{"SubscribeActorEventsAlpha1"}},
	{"metadata", "v1", "", []string{"GetMetadata", "SetMetadata"}},
	{"configuration", "v1", "", []string{"GetConfiguration", "SubscribeConfiguration", "UnsubscribeConfiguration"}},
	{"configuration", "v1alpha1", "", []string{
		"GetConfigurationAlpha1", "SubscribeConfigurationAlpha1", "UnsubscribeConfigurationAlpha1"}},
	{"lock", "v1alpha1", "", []string{"TryLockAlpha1"}},
	{"unlock", "v1alpha1", "", []string{"UnlockAlpha1"}},
	{"crypto", "v1alpha1", "", []string{"EncryptAlpha1", "DecryptAlpha1"}},
	{"subtlecrypto", "v1alpha1", "", []string{
		"SubtleGetKeyAlpha1", "SubtleEncryptAlpha1", "SubtleDecryptAlpha1", "SubtleWrapKeyAlpha1",
		"SubtleUnwrapKeyAlpha1", "SubtleSignAlpha1", "SubtleVerifyAlpha1"}},
	{"workflows", "v1alpha1", "workflow", []string{
		"StartWorkflowAlpha1", "GetWorkflowAlpha1", "PurgeWorkflowAlpha1", "TerminateWorkflowAlpha1",
		"PauseWorkflowAlpha1", "ResumeWorkflowAlpha1", "RaiseEventWorkflowAlpha1"}},
	{"workflows", "v1beta1", "workflow", []string{
		"StartWorkflowBeta1", "GetWorkflowBeta1", "PurgeWorkflowBeta1", "TerminateWorkflowBeta1",
		"PauseWorkflowBeta1", "ResumeWorkflowBeta1", "RaiseEventWorkflowBeta1"}},
	{"shutdown", "v1", "", []string{"Shutdown"}},
	{"jobs", "v1", "", []string{"ScheduleJob", "GetJob", "DeleteJob", "DeleteJobsByPrefix", "ListJobs"}},
	{"jobs", "v1alpha1", "", []string{
		"ScheduleJobAlpha1", "GetJobAlpha1", "DeleteJobAlpha1", "DeleteJobsByPrefixAlpha1", "ListJobsAlpha1"}},
	{"conversation", "v1alpha1", "", []string{"ConverseAlpha1"}},
	{"conversation", "v1alpha2", "", []string{"ConverseAlpha2"}},
}

// errNotServed tells of a method that the configuration forbids.
func errNotServed() error {
	return status.Error(codes.Unimplemented, "requested endpoint is not available")
}

// refusal returns what a method answers instead of being served; nil for one
// that is served.
func refusal(name string, allows func(group, version string) bool) error {
	i := slices.IndexFunc(groups[:], func(g group) bool { return slices.Contains(g.methods, name) })
	switch {
	case i < 0:
		return nil
	case !allows(groups[i].name, groups[i].version):
		return errNotServed()
	case groups[i].absent != "":
		return notBuilt(groups[i].absent)
	}
	return nil
}

// notBuilt tells of a building block that this version does not have.
func notBuilt(block string) error { return dapr.NotImplemented("the " + block + " building block") }

// served returns a copy of desc whose methods refuse what is not served.
func served(desc *grpc.ServiceDesc, allows func(group, version string) bool) *grpc.ServiceDesc {
	out := *desc
	out.Methods, out.Streams = slices.Clone(desc.Methods), slices.Clone(desc.Streams)
	for i := range out.Methods {
		if err := refusal(out.Methods[i].MethodName, allows); err != nil {
			out.Methods[i].Handler = refuseCall(err)
		} else if h := hot(out.Methods[i].MethodName); h != nil {
			out.Methods[i].Handler = h
		}
	}
	for i := range out.Streams {
		if err := refusal(out.Streams[i].StreamName, allows); err != nil {
			out.Streams[i].Handler = refuseStream(err)
		}
	}
	return &out
}

func refuseCall(err error) grpc.MethodHandler {
	return func(any, context.Context, func(any) error, grpc.UnaryServerInterceptor) (any, error) { return nil, err }
}

func refuseStream(err error) grpc.StreamHandler {
	return func(any, grpc.ServerStream) error { return err }
}

// workflowWorkers describes the service that workers of the workflow SDKs
// connect to, so that they are told what is missing.
func workflowWorkers() *grpc.ServiceDesc {
	desc := &grpc.ServiceDesc{ServiceName: "TaskHubSidecarService"}
	for _, name := range []string{
		"Hello", "StartInstance", "GetInstance", "RewindInstance", "WaitForInstanceStart", "WaitForInstanceCompletion",
		"RaiseEvent", "TerminateInstance", "SuspendInstance", "ResumeInstance", "PurgeInstances", "QueryInstances",
		"CompleteActivityTask", "CompleteOrchestratorTask", "CompleteWorkflowTask", "RerunWorkflowFromEvent",
		"ListInstanceIDs", "GetInstanceHistory",
	} {
		desc.Methods = append(desc.Methods, grpc.MethodDesc{MethodName: name, Handler: refuseCall(notBuilt("workflow"))})
	}
	desc.Streams = []grpc.StreamDesc{{StreamName: "GetWorkItems", ServerStreams: true, Handler: refuseStream(notBuilt("workflow"))}}
	return desc
}
