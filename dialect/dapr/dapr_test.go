package dapr

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/telemetry"
)

func TestEveryOperationDescribesEveryCode(t *testing.T) {
	for _, op := range Operations() {
		for _, code := range fault.Codes() {
			cause := fault.New(code, "the backend said no").WithRetryAfter(1500 * time.Millisecond)
			e := Describe(op, Subject{Component: "c", Key: "k"}, fault.Wrap(cause, code, "doing what"))
			where := fmt.Sprintf("operation %d, %s", op, code)
			if e.HTTPStatus < 400 || e.HTTPStatus > 599 || e.Code == codes.OK || e.Code == codes.Unknown {
				t.Errorf("%s: statuses %d and %s", where, e.HTTPStatus, e.Code)
			}
			if !strings.HasPrefix(e.Tag, "ERR_") && e.Tag != e.Reason || e.Tag == "ERR_INTERNAL" {
				t.Errorf("%s: tag %q", where, e.Tag)
			}
			if !strings.Contains(e.Message, "the backend said no") {
				t.Errorf("%s: the message %q hides the cause", where, e.Message)
			}
			if e.RetryAfterSeconds() != "2" {
				t.Errorf("%s: retry after %q", where, e.RetryAfterSeconds())
			}
			if want := e.HTTPStatus == 429; (code == fault.ResourceExhausted) != want {
				t.Errorf("%s: status %d", where, e.HTTPStatus)
			}
			checkJSON(t, where, e)
			checkStatus(t, where, e)
		}
	}
}

func checkJSON(t *testing.T, where string, e *Error) {
	t.Helper()
	var body struct {
		ErrorCode, Message string
		Details            []map[string]any
	}
	if err := json.Unmarshal(e.JSON(), &body); err != nil || body.ErrorCode != e.Tag || body.Message != e.Message {
		t.Errorf("%s: body %s (%v)", where, e.JSON(), err)
	}
	if e.Reason == "" && body.Details != nil {
		t.Errorf("%s: an error of the older generation has details: %s", where, e.JSON())
	}
}

func checkStatus(t *testing.T, where string, e *Error) {
	t.Helper()
	s := status.Convert(e)
	if s.Code() != e.Code || s.Message() != e.Message {
		t.Errorf("%s: status %v", where, s)
	}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			if want := e.Reason; info.Domain != "dapr.io" || info.Reason != want && (want != "" || info.Reason != e.Tag) {
				t.Errorf("%s: %v", where, info)
			}
			return
		}
	}
	t.Errorf("%s: status without an ErrorInfo: %v", where, s)
}

func TestAnErrorThatNobodyClassifiedKeepsItsTextToItself(t *testing.T) {
	for _, op := range Operations() {
		secret := errors.New("password hunter2 refused")
		for _, err := range []error{secret, fault.Wrap(secret, fault.Internal, "get %q", "k")} {
			e := Describe(op, Subject{Component: "c", Key: "k"}, err)
			if e.HTTPStatus != 500 || e.Code != codes.Internal || strings.Contains(string(e.JSON()), "hunter2") {
				t.Errorf("operation %d: %d %s %s", op, e.HTTPStatus, e.Code, e.JSON())
			}
			if !errors.Is(e, secret) {
				t.Errorf("operation %d: the cause is lost for the log", op)
			}
		}
	}
}

func TestDocumentedErrorsHaveTheirDocumentedForm(t *testing.T) {
	about := Subject{Component: "store", Key: "k1", Topic: "orders", AppID: "shop", Keys: []string{"fine", "a||b"}, Operation: "increment"}
	reason := func(code fault.Code, r fault.Reason) error { return fault.New(code, "why").WithReason(r) }
	missing := func(names ...string) error {
		all := map[string]io.Closer{}
		for _, n := range names {
			all[n] = nil
		}
		_, err := Lookup(state.Block, all, "store")
		return err
	}
	for name, test := range map[string]struct {
		op      Operation
		err     error
		status  int
		code    codes.Code
		tag     string
		reason  string
		message string
	}{
		"state not configured": {StateGet, missing(), 500, codes.FailedPrecondition, "ERR_STATE_STORE_NOT_CONFIGURED", "DAPR_STATE_NOT_CONFIGURED", "state store store is not configured"},
		"state not found":      {StateSave, missing("other"), 400, codes.InvalidArgument, "ERR_STATE_STORE_NOT_FOUND", "DAPR_STATE_NOT_FOUND", "state store store is not found"},
		"state nearly found":   {StateSave, missing("stor"), 400, codes.InvalidArgument, "ERR_STATE_STORE_NOT_FOUND", "DAPR_STATE_NOT_FOUND", `state store store is not found; did you mean "stor"?`},
		"state illegal key":    {StateSave, reason(fault.InvalidArgument, state.ReasonIllegalKey), 400, codes.InvalidArgument, "ERR_MALFORMED_REQUEST", "DAPR_STATE_ILLEGAL_KEY", "input key/keyPrefix 'a||b' can't contain '||'"},
		"state empty key":      {StateSave, reason(fault.InvalidArgument, state.ReasonEmptyKey), 400, codes.InvalidArgument, "ERR_MALFORMED_REQUEST", "", `"key" is a required field`},
		"save etag mismatch":   {StateSave, reason(fault.Aborted, state.ReasonETagMismatch), 409, codes.Aborted, "ERR_STATE_SAVE", "", "failed saving state in state store store: possible etag mismatch. error from state store: why"},
		"save bad etag":        {StateSave, reason(fault.InvalidArgument, state.ReasonETagInvalid), 400, codes.InvalidArgument, "ERR_STATE_SAVE", "", "failed saving state in state store store: invalid etag value: why"},
		"delete etag mismatch": {StateDelete, reason(fault.Aborted, state.ReasonETagMismatch), 409, codes.Aborted, "ERR_STATE_DELETE", "", "failed deleting state with key k1: possible etag mismatch. error from state store: why"},
		"transaction mismatch": {StateTransaction, reason(fault.Aborted, state.ReasonETagMismatch), 500, codes.Internal, "ERR_STATE_TRANSACTION", "", "error while executing state transaction: possible etag mismatch. error from state store: why"},
		"no transactions":      {StateTransaction, reason(fault.Unimplemented, state.ReasonTransactionsNotSupported), 500, codes.Unimplemented, "ERR_STATE_STORE_NOT_SUPPORTED", "DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED", "state store store doesn't support transactions"},
		"too many operations": {StateTransaction, fault.Wrap(&state.SizeError{Operations: 3, Max: 2}, fault.InvalidArgument, "why").WithReason(state.ReasonTooManyOperations), 400, codes.InvalidArgument,
			"ERR_STATE_STORE_TOO_MANY_TRANSACTIONS", "DAPR_STATE_TOO_MANY_TRANSACTIONS", "the transaction contains 3 operations, which is more than what the state store supports: 2"},
		"unknown operation":     {StateTransaction, reason(fault.InvalidArgument, state.ReasonBadOperation), 400, codes.Unimplemented, "ERR_NOT_SUPPORTED_STATE_OPERATION", "", "operation type increment not supported"},
		"pubsub not configured": {Publish, missing(), 400, codes.FailedPrecondition, "ERR_PUBSUB_NOT_CONFIGURED", "DAPR_PUBSUB_NOT_CONFIGURED", "pubsub store is not configured"},
		"pubsub not found":      {Publish, missing("other"), 404, codes.InvalidArgument, "ERR_PUBSUB_NOT_FOUND", "DAPR_PUBSUB_NOT_FOUND", "pubsub store is not found"},
		"topic empty":           {Publish, reason(fault.InvalidArgument, pubsub.ReasonTopicEmpty), 404, codes.InvalidArgument, "ERR_TOPIC_NAME_EMPTY", "DAPR_PUBSUB_TOPIC_NAME_EMPTY", "topic is empty in pubsub store"},
		"topic forbidden":       {Publish, reason(fault.PermissionDenied, pubsub.ReasonForbidden), 403, codes.PermissionDenied, "ERR_PUBSUB_FORBIDDEN", "DAPR_PUBSUB_FORBIDDEN", "topic orders is not allowed for app id shop"},
		"publish metadata":      {Publish, reason(fault.InvalidArgument, pubsub.ReasonMetadata), 400, codes.InvalidArgument, "ERR_PUBSUB_REQUEST_METADATA", "DAPR_PUBSUB_METADATA_DESERIALIZATION", "failed deserializing metadata. Error: why"},
		"publish envelope":      {Publish, reason(fault.InvalidArgument, pubsub.ReasonEnvelope), 500, codes.InvalidArgument, "ERR_PUBSUB_CLOUD_EVENTS_SER", "DAPR_PUBSUB_CLOUD_EVENT_CREATION", "cannot create cloudevent"},
		"bulk entries":          {BulkPublish, reason(fault.InvalidArgument, pubsub.ReasonMarshalEvents), 400, codes.InvalidArgument, "ERR_PUBSUB_EVENTS_SER", "DAPR_PUBSUB_MARSHAL_EVENTS", "error marshaling events to bytes for topic orders pubsub store. error: why"},
		"publish failed":        {Publish, reason(fault.Internal, pubsub.ReasonPublish), 500, codes.Internal, "ERR_PUBSUB_PUBLISH_MESSAGE", "DAPR_PUBSUB_PUBLISH_MESSAGE", "error when publishing to topic orders in pubsub store: why"},
		"binding not found":     {InvokeBinding, missing("other"), 500, codes.Internal, "ERR_INVOKE_OUTPUT_BINDING", "", "error invoking output binding store: couldn't find output binding store"},
		"binding operation":     {InvokeBinding, reason(fault.InvalidArgument, binding.ReasonBadOperation), 500, codes.Internal, "ERR_INVOKE_OUTPUT_BINDING", "", "error invoking output binding store: why"},
		"secrets none":          {SecretGet, missing(), 500, codes.FailedPrecondition, "ERR_SECRET_STORES_NOT_CONFIGURED", "", "secret store is not configured"},
		"secrets not found":     {SecretBulkGet, missing("other"), 401, codes.InvalidArgument, "ERR_SECRET_STORE_NOT_FOUND", "", "failed finding secret store with key store"},
		"secret denied":         {SecretGet, reason(fault.PermissionDenied, secret.ReasonDenied), 403, codes.PermissionDenied, "ERR_PERMISSION_DENIED", "", `access denied by policy to get "k1" from "store"`},
		"secret not there":      {SecretGet, reason(fault.NotFound, secret.ReasonNotFound), 500, codes.Internal, "ERR_SECRET_GET", "", "failed getting secret with key k1 from secret store store: why"},
		"config none":           {ConfigurationGet, missing(), 500, codes.FailedPrecondition, "ERR_CONFIGURATION_STORE_NOT_CONFIGURED", "", "configuration stores not configured"},
		"config not found":      {ConfigurationSubscribe, missing("other"), 400, codes.InvalidArgument, "ERR_CONFIGURATION_STORE_NOT_FOUND", "", "configuration store store not found"},
		"config get":            {ConfigurationGet, fault.New(fault.Internal, "why"), 500, codes.Internal, "ERR_CONFIGURATION_GET", "", "failed to get [fine a||b] from Configuration store store: why"},
		"config unsubscribe":    {ConfigurationUnsubscribe, reason(fault.NotFound, config.ReasonNoSubscription), 500, codes.Internal, "ERR_CONFIGURATION_UNSUBSCRIBE", "", "failed to unsubscribe to configuration request k1: why"},
		"locks none":            {TryLock, missing(), 500, codes.FailedPrecondition, "ERR_LOCK_STORE_NOT_CONFIGURED", "", "lock store is not configured"},
		"lock not found":        {Unlock, missing("other"), 400, codes.InvalidArgument, "ERR_LOCK_STORE_NOT_FOUND", "", "lock store store not found"},
		"lock resource":         {TryLock, reason(fault.InvalidArgument, lock.ReasonNoResource), 400, codes.InvalidArgument, "ERR_MALFORMED_REQUEST", "", "ResourceId is empty in lock store store"},
		"lock owner":            {Unlock, reason(fault.InvalidArgument, lock.ReasonNoOwner), 400, codes.InvalidArgument, "ERR_MALFORMED_REQUEST", "", "LockOwner is empty in lock store store"},
		"lock expiry":           {TryLock, reason(fault.InvalidArgument, lock.ReasonBadTTL), 400, codes.InvalidArgument, "ERR_MALFORMED_REQUEST", "", "ExpiryInSeconds is not positive in lock store store"},
		"invoke nobody":         {Invoke, reason(fault.NotFound, invoke.ReasonNoTarget), 404, codes.NotFound, "ERR_DIRECT_INVOKE", "", "failed getting app id either from the URL path or the header dapr-app-id"},
		"invoke denied":         {Invoke, fault.New(fault.PermissionDenied, "why"), 403, codes.PermissionDenied, "ERR_DIRECT_INVOKE", "", "failed to invoke, id: k1, err: why"},
		"job no store":          {JobSchedule, missing(), 500, codes.FailedPrecondition, "DAPR_SCHEDULER_SCHEDULE_JOB", "DAPR_SCHEDULER_SCHEDULE_JOB", "failed to schedule job due to: there is no state component"},
		"job missing":           {JobSchedule, reason(fault.InvalidArgument, reasonNoJob), 400, codes.InvalidArgument, "DAPR_SCHEDULER_EMPTY", "DAPR_SCHEDULER_EMPTY", "Job is empty"},
		"job without name":      {JobGet, reason(fault.InvalidArgument, job.ReasonNameEmpty), 400, codes.InvalidArgument, "DAPR_SCHEDULER_JOB_NAME_EMPTY", "DAPR_SCHEDULER_JOB_NAME_EMPTY", "Name is empty"},
		"job without schedule":  {JobSchedule, reason(fault.InvalidArgument, job.ReasonScheduleEmpty), 400, codes.InvalidArgument, "DAPR_SCHEDULER_SCHEDULE_EMPTY", "DAPR_SCHEDULER_SCHEDULE_EMPTY", "Schedule is empty"},
		"job exists":            {JobSchedule, reason(fault.AlreadyExists, job.ReasonExists), 409, codes.AlreadyExists, "DAPR_SCHEDULER_SCHEDULE_JOB", "DAPR_SCHEDULER_SCHEDULE_JOB", "failed to schedule job due to: why"},
		"job not there":         {JobGet, reason(fault.NotFound, job.ReasonNotFound), 500, codes.Internal, "DAPR_SCHEDULER_GET_JOB", "DAPR_SCHEDULER_GET_JOB", "failed to get job due to: why"},
		"job not deleted":       {JobDelete, fault.New(fault.Internal, "why"), 500, codes.Internal, "DAPR_SCHEDULER_DELETE_JOB", "DAPR_SCHEDULER_DELETE_JOB", "failed to delete job due to: why"},
		"jobs not listed":       {JobList, fault.New(fault.Unavailable, "why"), 503, codes.Unavailable, "DAPR_SCHEDULER_LIST_JOBS", "DAPR_SCHEDULER_LIST_JOBS", "failed to list jobs due to: why"},
		"backend denied":        {StateGet, fault.New(fault.PermissionDenied, "why"), 500, codes.Internal, "ERR_STATE_GET", "", "fail to get k1 from state store store: why"},
	} {
		e := Describe(test.op, about, fault.Wrap(test.err, fault.CodeOf(test.err), "state %q: get %q", "store", "k1"))
		if e.HTTPStatus != test.status || e.Code != test.code || e.Tag != test.tag || e.Reason != test.reason || e.Message != test.message {
			t.Errorf("%s: got %d %s %s %s %q\nwant %d %s %s %s %q", name, e.HTTPStatus, e.Code, e.Tag, e.Reason, e.Message,
				test.status, test.code, test.tag, test.reason, test.message)
		}
		checkJSON(t, name, e)
		checkStatus(t, name, e)
	}
}

func TestDetailsOfTheNewerErrorsAreNamedAsDaprNamesThem(t *testing.T) {
	err := fault.New(fault.InvalidArgument, "").WithReason(state.ReasonIllegalKey)
	got := string(Describe(StateGet, Subject{Component: "store", Key: "a||b"}, err).JSON())
	want := `{"errorCode":"ERR_MALFORMED_REQUEST","message":"input key/keyPrefix 'a||b' can't contain '||'","details":[` +
		`{"@type":"type.googleapis.com/google.rpc.BadRequest","field_violations":[{"field":"a||b","description":"input key/keyPrefix 'a||b' can't contain '||'"}]},` +
		`{"@type":"type.googleapis.com/google.rpc.ResourceInfo","description":"","owner":"","resource_name":"store","resource_type":"state"},` +
		`{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"dapr.io","metadata":null,"reason":"DAPR_STATE_ILLEGAL_KEY"}]}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestTextThatIsNotUTF8StillMakesAStatus(t *testing.T) {
	e := Describe(Publish, Subject{Component: "p\xff", Topic: "t\xff"}, fault.New(fault.Internal, "bad \xff"))
	if s := e.GRPCStatus(); len(s.Details()) != 2 || s.Message() == "" {
		t.Errorf("status %v", s)
	}
	if !json.Valid(e.JSON()) {
		t.Errorf("body %s", e.JSON())
	}
}

func TestSeveralFailedItemsAreAllNamed(t *testing.T) {
	several := &state.BulkError{Of: 3, Failed: []state.KeyError{{Key: "a", Err: fault.New(fault.Unavailable, "away")}}}
	err := fault.Wrap(several, fault.Unavailable, `state "store": 2 of 3 items were not saved: "b": away; "a"`)
	e := Describe(StateSave, Subject{Component: "store"}, err)
	if !strings.Contains(e.Message, "2 of 3 items") || e.HTTPStatus != 503 {
		t.Errorf("%d %s", e.HTTPStatus, e.Message)
	}
}

func TestMetadataHasTheFieldsThatSDKsRead(t *testing.T) {
	m := Metadata{
		AppID: "shop", Version: "1.18.0", Features: []string{"HotReload"},
		Components: []Component{
			{Name: "statestore", Type: "state.redis", Version: "v1", Capabilities: []string{"ETAG", "TTL"}},
			{Name: "cron", Type: "bindings.cron", Version: "v1"},
		},
		Subscriptions: []Subscription{{PubSub: "pubsub", Topic: "orders", Rules: []Rule{{`event.type == "x"`, "/x"}, {"", "/orders"}}, Type: "PROGRAMMATIC"}},
		HTTPEndpoints: []string{"github"}, Resiliencies: []string{"res"},
		Extended:   map[string]string{"cliPID": "12"},
		App:        AppConnection{Port: 3000, Protocol: "http", ChannelAddress: "127.0.0.1", Health: &AppHealth{"/healthz", "5s", "500ms", 3}},
		Schedulers: []string{"nats://engine:4222"},
	}
	got, err := m.JSON()
	want := `{"id":"shop","runtimeVersion":"1.18.0","enabledFeatures":["HotReload"],` +
		`"components":[{"name":"statestore","type":"state.redis","version":"v1","capabilities":["ETAG","TTL"]},{"name":"cron","type":"bindings.cron","version":"v1"}],` +
		`"extended":{"cliPID":"12","daprRuntimeVersion":"1.18.0"},` +
		`"subscriptions":[{"pubsubname":"pubsub","topic":"orders","rules":[{"match":"event.type == \"x\"","path":"/x"},{"path":"/orders"}],"deadLetterTopic":"","type":"PROGRAMMATIC"}],` +
		`"httpEndpoints":[{"name":"github"}],` +
		`"appConnectionProperties":{"port":3000,"protocol":"http","channelAddress":"127.0.0.1","health":{"healthCheckPath":"/healthz","healthProbeInterval":"5s","healthProbeTimeout":"500ms","healthThreshold":3}},` +
		`"actorRuntime":{"runtimeStatus":"DISABLED","hostReady":false},"scheduler":{"connected_addresses":["nats://engine:4222"]},"resiliencies":[{"name":"res"}]}`
	if err != nil || string(got) != want {
		t.Errorf("got  %s (%v)\nwant %s", got, err, want)
	}
	if p := m.Proto(); p.GetId() != "shop" || p.GetRegisteredComponents()[0].GetCapabilities()[1] != "TTL" ||
		p.GetSubscriptions()[0].GetType().String() != "PROGRAMMATIC" || p.GetSubscriptions()[0].GetRules().GetRules()[1].GetPath() != "/orders" ||
		p.GetExtendedMetadata()["daprRuntimeVersion"] != "1.18.0" || p.GetAppConnectionProperties().GetHealth().GetHealthThreshold() != 3 {
		t.Errorf("proto %v", p)
	}
	if len(m.Extended) != 1 {
		t.Error("the snapshot was changed")
	}
}

func TestTokenAdmitsOnlyItself(t *testing.T) {
	token := NewToken("s3cret")
	for shown, want := range map[string]bool{"s3cret": true, "": false, "s3cres": false, "s3cret ": false, "S3cret": false} {
		if token.Admits(shown) != want {
			t.Errorf("%q: %v", shown, !want)
		}
	}
	if open := NewToken(""); !open.Admits("") || !open.Admits("x") || open.Required() {
		t.Error("no token keeps callers out")
	}
	if s := fmt.Sprintf("%v %+v %#v", token, token, token); strings.Contains(s, "s3cret") {
		t.Errorf("printed as %s", s)
	}
}

func TestATraceIsTakenUpOrLeftAlone(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	f := TraceFields{Parent: parent, State: "a=b"}
	ctx, recorded := f.Begin(t.Context(), nil)
	if recorded {
		t.Error("recorded without tracing")
	}
	if tc, ok := telemetry.TraceFrom(ctx); !ok || tc.Traceparent() != parent || tc.State != "a=b" {
		t.Errorf("trace %v %v", tc, ok)
	}
	if p, s := f.Current(ctx); p != parent || s != "a=b" {
		t.Errorf("current %q %q", p, s)
	}
	for _, f := range []TraceFields{{}, {Parent: "nonsense"}} {
		ctx := t.Context()
		if same, _ := f.Begin(ctx, nil); same != ctx {
			t.Errorf("%v: a context was made for nothing", f)
		}
		if p, s := f.Current(ctx); p != "" || s != "" {
			t.Errorf("%v: current %q %q", f, p, s)
		}
	}
}

func TestATraceBeginsWhenItIsToBeRecorded(t *testing.T) {
	tracing, err := telemetry.NewTracing(t.Context(), telemetry.TracingOptions{Stdout: io.Discard, SamplingRate: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tracing.Shutdown(context.WithoutCancel(t.Context())) }()
	ctx, recorded := TraceFields{}.Begin(t.Context(), tracing)
	tc, ok := telemetry.TraceFrom(ctx)
	if p, _ := (TraceFields{}).Current(ctx); !ok || !recorded || !tc.Sampled() || p != tc.Traceparent() {
		t.Errorf("trace %v %v, current %q", tc, ok, p)
	}
}

func TestBaggageIsCheckedAsW3CAsks(t *testing.T) {
	for text, ok := range map[string]bool{
		"key1=value1,key2=value2": true, "a = b ; p = 1 ;q , c=d": true, "a=%20x": true, "a=": true,
		"": false, "invalid-baggage": false, "a=b,": false, "=b": false, "a b=c": false, "a=b c": false, `a="b"`: false, "a=b;=": false,
		"a=é": false, strings.Repeat("a=b,", 180) + "c=d": false, "a=" + strings.Repeat("x", 8191): false,
	} {
		if err := CheckBaggage(text); (err == nil) != ok {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

func TestLookupTellsNoneFromOther(t *testing.T) {
	all := map[string]int{"one": 1}
	if v, err := Lookup("state", all, "one"); v != 1 || err != nil {
		t.Errorf("%d %v", v, err)
	}
	_, err := Lookup("state", all, "oen")
	if fault.CodeOf(err) != fault.NotFound || fault.ReasonOf(err) != ReasonNotFound || !strings.Contains(fault.Message(err), `did you mean "one"`) {
		t.Errorf("%v", err)
	}
	_, err = Lookup("state", map[string]int(nil), "one")
	if fault.CodeOf(err) != fault.FailedPrecondition || fault.ReasonOf(err) != ReasonNotConfigured {
		t.Errorf("%v", err)
	}
}
