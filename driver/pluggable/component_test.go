package pluggable_test

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	componentsv1 "github.com/proa-io/proa/api/gen/dapr/proto/components/v1"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/memory"
	"github.com/proa-io/proa/fault"
)

// A process is everything that can be plugged in, in one process: each component
// that is plugged into it, known by x-component-instance, has memory of its own.
type process struct {
	mu        sync.Mutex
	instances map[string]*instance
	inits     map[string]int
}

// instance is what one component keeps.
type instance struct {
	properties map[string]string
	state      *memory.State
	pubsub     *memory.PubSub
	events     chan string
}

// plain serves a state store with nothing that is optional.
const plain = "plain"

// newProcess returns the server of a process; of kind plain or of everything.
func newProcess(kind string) *grpc.Server {
	p := &process{instances: map[string]*instance{}, inits: map[string]int{}}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20))
	if kind == plain {
		componentsv1.RegisterStateStoreServer(s, &plainStore{stateServer: stateServer{p: p}})
		reflection.RegisterV1(s)
		return s
	}
	store := &stateServer{p: p}
	componentsv1.RegisterStateStoreServer(s, store)
	componentsv1.RegisterTransactionalStateStoreServer(s, store)
	componentsv1.RegisterQueriableStateStoreServer(s, store)
	componentsv1.RegisterTransactionalStoreMultiMaxSizeServer(s, store)
	componentsv1.RegisterPubSubServer(s, &pubsubServer{p: p})
	componentsv1.RegisterInputBindingServer(s, &inputServer{p: p})
	componentsv1.RegisterOutputBindingServer(s, &outputServer{p: p})
	componentsv1.RegisterSecretStoreServer(s, &secretServer{p: p})
	reflection.Register(s)
	return s
}

// serve serves on a Unix socket and on a port, until one of them is closed, and
// tells the address of the latter.
func serve(kind, socket string, tell func(addr string)) error {
	unix, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := newProcess(kind)
	tell(tcp.Addr().String())
	ended := make(chan error, 2)
	for _, l := range []net.Listener{unix, tcp} {
		go func() { ended <- s.Serve(l) }()
	}
	return <-ended
}

func nameOf(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	return strings.Join(md.Get("x-component-instance"), ",")
}

// init makes an instance, as Init of all services does.
func (p *process) init(ctx context.Context, m *componentsv1.MetadataRequest) error {
	if m.GetProperties()["refuse"] != "" {
		return status.Error(codes.InvalidArgument, "refuse must not be set")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	name := nameOf(ctx)
	p.inits[name]++
	if p.instances[name] != nil {
		return nil
	}
	s, err := memory.OpenState(ctx, memory.StateConfig{MaxItems: 1 << 20, MaxBytes: 1 << 30}, component.Env{})
	if err != nil {
		return err
	}
	b, err := memory.OpenPubSub(ctx, memory.PubSubConfig{MaxMessages: 1 << 20, MaxBytes: 1 << 30, Concurrency: 1000}, component.Env{})
	if err != nil {
		return err
	}
	p.instances[name] = &instance{properties: m.GetProperties(), state: s, pubsub: b, events: make(chan string, 1000)}
	return nil
}

// of returns the instance that a call is for.
func (p *process) of(ctx context.Context) (*instance, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.instances[nameOf(ctx)]
	if i == nil {
		return nil, status.Error(codes.FailedPrecondition, "Init has not been called")
	}
	return i, nil
}

// statusOf makes a status of an error of a driver.
func statusOf(err error) error {
	if err == nil {
		return nil
	}
	etag := func(code codes.Code) error {
		st, _ := status.New(code, "the etag is wrong").WithDetails(&errdetails.BadRequest{
			FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "etag", Description: "wrong"}},
		})
		return st.Err()
	}
	switch fault.ReasonOf(err) {
	case state.ReasonETagMismatch:
		return etag(codes.FailedPrecondition)
	case state.ReasonETagInvalid:
		return etag(codes.InvalidArgument)
	case state.ReasonBadQuery:
		return status.Error(codes.InvalidArgument, err.Error())
	}
	switch fault.CodeOf(err) {
	case fault.Canceled:
		return status.Error(codes.Canceled, err.Error())
	case fault.DeadlineExceeded:
		return status.Error(codes.DeadlineExceeded, err.Error())
	case fault.InvalidArgument:
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return status.Error(codes.Unknown, err.Error())
}

// stateServer is a state store.
type stateServer struct {
	componentsv1.UnimplementedStateStoreServer
	componentsv1.UnimplementedTransactionalStateStoreServer
	componentsv1.UnimplementedQueriableStateStoreServer
	componentsv1.UnimplementedTransactionalStoreMultiMaxSizeServer
	p *process
}

func (s *stateServer) Init(ctx context.Context, r *componentsv1.InitRequest) (*componentsv1.InitResponse, error) {
	return &componentsv1.InitResponse{}, s.p.init(ctx, r.GetMetadata())
}

func (s *stateServer) Features(context.Context, *componentsv1.FeaturesRequest) (*componentsv1.FeaturesResponse, error) {
	return &componentsv1.FeaturesResponse{Features: []string{"ETAG", "TRANSACTIONAL", "QUERY_API", "TTL"}}, nil
}

func (s *stateServer) Ping(context.Context, *componentsv1.PingRequest) (*componentsv1.PingResponse, error) {
	return &componentsv1.PingResponse{}, nil
}

func (s *stateServer) Get(ctx context.Context, r *componentsv1.GetRequest) (*componentsv1.GetResponse, error) {
	i, err := s.p.of(ctx)
	if err != nil {
		return nil, err
	}
	item, found, err := i.state.Get(ctx, r.GetKey(), state.GetOptions{})
	if err != nil || !found {
		return &componentsv1.GetResponse{}, statusOf(err)
	}
	return &componentsv1.GetResponse{Data: item.Value, Etag: &componentsv1.Etag{Value: item.ETag}, Metadata: expiry(item)}, nil
}

func expiry(item state.Item) map[string]string {
	if item.Expires.IsZero() {
		return nil
	}
	return map[string]string{"ttlExpireTime": item.Expires.Format(time.RFC3339)}
}

func putOptions(r *componentsv1.SetRequest) state.PutOptions {
	seconds, _ := strconv.Atoi(r.GetMetadata()["ttlInSeconds"])
	return state.PutOptions{
		ETag: r.GetEtag().GetValue(), TTL: time.Duration(seconds) * time.Second,
		FirstWrite: r.GetOptions().GetConcurrency() == componentsv1.StateOptions_CONCURRENCY_FIRST_WRITE,
	}
}

func (s *stateServer) Set(ctx context.Context, r *componentsv1.SetRequest) (*componentsv1.SetResponse, error) {
	i, err := s.p.of(ctx)
	if err != nil {
		return nil, err
	}
	_, err = i.state.Put(ctx, r.GetKey(), r.GetValue(), putOptions(r))
	return &componentsv1.SetResponse{}, statusOf(err)
}

func (s *stateServer) Delete(ctx context.Context, r *componentsv1.DeleteRequest) (*componentsv1.DeleteResponse, error) {
	i, err := s.p.of(ctx)
	if err != nil {
		return nil, err
	}
	return &componentsv1.DeleteResponse{}, statusOf(i.state.Delete(ctx, r.GetKey(), state.DeleteOptions{ETag: r.GetEtag().GetValue()}))
}

func (s *stateServer) BulkGet(ctx context.Context, r *componentsv1.BulkGetRequest) (*componentsv1.BulkGetResponse, error) {
	var out componentsv1.BulkGetResponse
	for _, q := range r.GetItems() {
		a, err := s.Get(ctx, q)
		if err != nil {
			return nil, err
		}
		if a.GetEtag() != nil {
			out.Items = append(out.Items, &componentsv1.BulkStateItem{Key: q.GetKey(), Data: a.GetData(), Etag: a.GetEtag(), Metadata: a.GetMetadata()})
		}
	}
	return &out, nil
}

func (s *stateServer) BulkSet(ctx context.Context, r *componentsv1.BulkSetRequest) (*componentsv1.BulkSetResponse, error) {
	for _, q := range r.GetItems() {
		if _, err := s.Set(ctx, q); err != nil {
			return nil, err
		}
	}
	return &componentsv1.BulkSetResponse{}, nil
}

// BulkDelete removes nothing and says so, as some stores do in which something
// was not there.
func (s *stateServer) BulkDelete(ctx context.Context, r *componentsv1.BulkDeleteRequest) (*componentsv1.BulkDeleteResponse, error) {
	if _, err := s.p.of(ctx); err != nil {
		return nil, err
	}
	st, _ := status.New(codes.Internal, "fewer").WithDetails(&errdetails.ErrorInfo{
		Metadata: map[string]string{"expected": strconv.Itoa(len(r.GetItems())), "affected": "0"},
	})
	return nil, st.Err()
}

func (s *stateServer) MultiMaxSize(context.Context, *componentsv1.MultiMaxSizeRequest) (*componentsv1.MultiMaxSizeResponse, error) {
	return &componentsv1.MultiMaxSizeResponse{MaxSize: 5000}, nil
}

func (s *stateServer) Transact(ctx context.Context, r *componentsv1.TransactionalStateRequest) (*componentsv1.TransactionalStateResponse, error) {
	i, err := s.p.of(ctx)
	if err != nil {
		return nil, err
	}
	var ops []state.Op
	for _, o := range r.GetOperations() {
		if d := o.GetDelete(); d != nil {
			ops = append(ops, state.Op{Key: d.GetKey(), Delete: true, PutOptions: state.PutOptions{ETag: d.GetEtag().GetValue()}})
		} else {
			ops = append(ops, state.Op{Key: o.GetSet().GetKey(), Value: o.GetSet().GetValue(), PutOptions: putOptions(o.GetSet())})
		}
	}
	return &componentsv1.TransactionalStateResponse{}, statusOf(i.state.Transact(ctx, ops, state.TransactOptions{}))
}

func (s *stateServer) Query(ctx context.Context, r *componentsv1.QueryRequest) (*componentsv1.QueryResponse, error) {
	i, err := s.p.of(ctx)
	if err != nil {
		return nil, err
	}
	q, err := state.ParseQuery(queryText(r.GetQuery()))
	if err != nil {
		return nil, statusOf(err)
	}
	page, err := i.state.Query(ctx, state.Scope{}, q, state.QueryOptions{})
	out := &componentsv1.QueryResponse{Token: page.Token}
	for _, item := range page.Items {
		out.Items = append(out.Items, &componentsv1.QueryItem{Key: item.Key, Data: item.Value, Etag: &componentsv1.Etag{Value: item.ETag}})
	}
	return out, statusOf(err)
}

// queryText writes a query as it was before the sidecar took it apart.
func queryText(q *componentsv1.Query) []byte {
	var b strings.Builder
	b.WriteString(`{`)
	for operator, operand := range q.GetFilter() {
		b.WriteString(`"filter":{"` + operator + `":` + string(operand.GetValue()) + `},`)
	}
	b.WriteString(`"sort":[`)
	for i, s := range q.GetSort() {
		if i > 0 {
			b.WriteString(`,`)
		}
		b.WriteString(`{"key":` + strconv.Quote(s.GetKey()) + `,"order":"` + s.GetOrder().String() + `"}`)
	}
	b.WriteString(`],"page":{"limit":` + strconv.FormatInt(q.GetPagination().GetLimit(), 10) + `,"token":"` + q.GetPagination().GetToken() + `"}}`)
	return []byte(b.String())
}

// plainStore has what every state store must have and nothing else.
type plainStore struct{ stateServer }

func (s *plainStore) Features(context.Context, *componentsv1.FeaturesRequest) (*componentsv1.FeaturesResponse, error) {
	return &componentsv1.FeaturesResponse{}, nil
}

func (s *plainStore) BulkGet(context.Context, *componentsv1.BulkGetRequest) (*componentsv1.BulkGetResponse, error) {
	return nil, status.Error(codes.Unimplemented, "no")
}

func (s *plainStore) BulkSet(context.Context, *componentsv1.BulkSetRequest) (*componentsv1.BulkSetResponse, error) {
	return nil, status.Error(codes.Unimplemented, "no")
}

func (s *plainStore) BulkDelete(context.Context, *componentsv1.BulkDeleteRequest) (*componentsv1.BulkDeleteResponse, error) {
	return nil, status.Error(codes.Unimplemented, "no")
}

// pubsubServer is a broker.
type pubsubServer struct {
	componentsv1.UnimplementedPubSubServer
	p *process
}

func (s *pubsubServer) Init(ctx context.Context, r *componentsv1.PubSubInitRequest) (*componentsv1.PubSubInitResponse, error) {
	return &componentsv1.PubSubInitResponse{}, s.p.init(ctx, r.GetMetadata())
}

func (s *pubsubServer) Features(context.Context, *componentsv1.FeaturesRequest) (*componentsv1.FeaturesResponse, error) {
	return &componentsv1.FeaturesResponse{Features: []string{"BULK_PUBSUB"}}, nil
}

func (s *pubsubServer) Ping(context.Context, *componentsv1.PingRequest) (*componentsv1.PingResponse, error) {
	return &componentsv1.PingResponse{}, nil
}

func (s *pubsubServer) Publish(ctx context.Context, r *componentsv1.PublishRequest) (*componentsv1.PublishResponse, error) {
	i, err := s.p.of(ctx)
	if err != nil {
		return nil, err
	}
	return &componentsv1.PublishResponse{}, statusOf(i.pubsub.Publish(ctx, &pubsub.Message{
		Topic: r.GetTopic(), Data: r.GetData(), ContentType: r.GetContentType(), Metadata: r.GetMetadata(),
	}))
}

func (s *pubsubServer) BulkPublish(ctx context.Context, r *componentsv1.BulkPublishRequest) (*componentsv1.BulkPublishResponse, error) {
	var out componentsv1.BulkPublishResponse
	for _, e := range r.GetEntries() {
		_, err := s.Publish(ctx, &componentsv1.PublishRequest{
			Topic: r.GetTopic(), Data: e.GetEvent(), ContentType: e.GetContentType(), Metadata: e.GetMetadata(),
		})
		if err != nil {
			out.FailedEntries = append(out.FailedEntries, &componentsv1.BulkPublishResponseFailedEntry{EntryId: e.GetEntryId(), Error: err.Error()})
		}
	}
	return &out, nil
}

func (s *pubsubServer) PullMessages(stream grpc.BidiStreamingServer[componentsv1.PullMessagesRequest, componentsv1.PullMessagesResponse]) error {
	i, err := s.p.of(stream.Context())
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	d := desk{waiting: map[string]chan error{}}
	go func() {
		defer cancel()
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			var failed error
			if e := r.GetAckError(); e != nil {
				failed = errors.New(e.GetMessage())
			}
			d.answer(r.GetAckMessageId(), failed)
		}
	}()
	sub := pubsub.Subscription{Topic: first.GetTopic().GetName(), Group: first.GetTopic().GetMetadata()["consumerID"]}
	err = i.pubsub.Subscribe(ctx, sub, func(_ context.Context, m *pubsub.Delivery) error {
		id := rand.Text()
		return d.await(ctx, id, func() error {
			return stream.Send(&componentsv1.PullMessagesResponse{
				Data: m.Data, TopicName: m.Topic, Metadata: m.Metadata, ContentType: m.ContentType, Id: id,
			})
		})
	})
	return statusOf(err)
}

// desk brings answers to who waits for them.
type desk struct {
	mu      sync.Mutex
	waiting map[string]chan error
}

// await sends a message and waits for its answer.
func (d *desk) await(ctx context.Context, id string, send func() error) error {
	answer := make(chan error, 1)
	d.mu.Lock()
	d.waiting[id] = answer
	err := send()
	d.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-answer: // it came first
		return err
	default:
		return ctx.Err()
	}
}

func (d *desk) answer(id string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if answer := d.waiting[id]; answer != nil {
		answer <- err
		delete(d.waiting, id)
	}
}

// inputServer is the input binding that tells what the output binding was told.
type inputServer struct {
	componentsv1.UnimplementedInputBindingServer
	p *process
}

func (s *inputServer) Init(ctx context.Context, r *componentsv1.InputBindingInitRequest) (*componentsv1.InputBindingInitResponse, error) {
	return &componentsv1.InputBindingInitResponse{}, s.p.init(ctx, r.GetMetadata())
}

func (s *inputServer) Read(stream grpc.BidiStreamingServer[componentsv1.ReadRequest, componentsv1.ReadResponse]) error {
	i, err := s.p.of(stream.Context())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	go func() {
		defer cancel()
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			if e := r.GetResponseError(); e != nil {
				i.events <- "again: " + e.GetMessage()
			}
		}
	}()
	for {
		select {
		case text := <-i.events:
			if text == "end the stream" {
				return nil
			}
			if err := stream.Send(&componentsv1.ReadResponse{Data: []byte(text), Metadata: map[string]string{"from": "here"}, MessageId: rand.Text()}); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// outputServer is an output binding.
type outputServer struct {
	componentsv1.UnimplementedOutputBindingServer
	p *process
}

func (s *outputServer) Init(ctx context.Context, r *componentsv1.OutputBindingInitRequest) (*componentsv1.OutputBindingInitResponse, error) {
	return &componentsv1.OutputBindingInitResponse{}, s.p.init(ctx, r.GetMetadata())
}

func (s *outputServer) ListOperations(context.Context, *componentsv1.ListOperationsRequest) (*componentsv1.ListOperationsResponse, error) {
	return &componentsv1.ListOperationsResponse{Operations: []string{"Create", "fail", "exit", "inits"}}, nil
}

func (s *outputServer) Invoke(ctx context.Context, r *componentsv1.InvokeRequest) (*componentsv1.InvokeResponse, error) {
	i, err := s.p.of(ctx)
	if err != nil {
		return nil, err
	}
	switch r.GetOperation() {
	case "create":
		i.events <- string(r.GetData())
	case "fail":
		return nil, status.Error(codes.PermissionDenied, "not today")
	case "inits":
		s.p.mu.Lock()
		defer s.p.mu.Unlock()
		return &componentsv1.InvokeResponse{Data: []byte(strconv.Itoa(s.p.inits[nameOf(ctx)]))}, nil
	default:
		return nil, status.Error(codes.InvalidArgument, "no such operation")
	}
	return &componentsv1.InvokeResponse{Data: r.GetData(), Metadata: maps.Clone(r.GetMetadata())}, nil
}

// secretServer keeps the settings it was given as secrets.
type secretServer struct {
	componentsv1.UnimplementedSecretStoreServer
	p *process
}

func (s *secretServer) Init(ctx context.Context, r *componentsv1.SecretStoreInitRequest) (*componentsv1.SecretStoreInitResponse, error) {
	return &componentsv1.SecretStoreInitResponse{}, s.p.init(ctx, r.GetMetadata())
}

func (s *secretServer) Features(context.Context, *componentsv1.FeaturesRequest) (*componentsv1.FeaturesResponse, error) {
	return &componentsv1.FeaturesResponse{Features: []string{"MULTIPLE_KEY_VALUES_PER_SECRET"}}, nil
}

// all returns the secrets: a setting "name/key" is one value of one.
func (i *instance) all() map[string]*componentsv1.SecretResponse {
	out := map[string]*componentsv1.SecretResponse{}
	for setting, value := range i.properties {
		name, key, ok := strings.Cut(setting, "/")
		if !ok {
			continue
		}
		if out[name] == nil {
			out[name] = &componentsv1.SecretResponse{Secrets: map[string]string{}}
		}
		out[name].Secrets[key] = value
	}
	return out
}

func (s *secretServer) Get(ctx context.Context, r *componentsv1.GetSecretRequest) (*componentsv1.GetSecretResponse, error) {
	i, err := s.p.of(ctx)
	if err != nil {
		return nil, err
	}
	values := i.all()[r.GetKey()]
	if values == nil && r.GetKey() != "ABSENT" { // which gets an answer without data
		return nil, status.Error(codes.NotFound, "no such secret")
	}
	return &componentsv1.GetSecretResponse{Data: values.GetSecrets()}, nil
}

func (s *secretServer) BulkGet(ctx context.Context, _ *componentsv1.BulkGetSecretRequest) (*componentsv1.BulkGetSecretResponse, error) {
	i, err := s.p.of(ctx)
	if err != nil {
		return nil, err
	}
	return &componentsv1.BulkGetSecretResponse{Data: i.all()}, nil
}
