package pluggable

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	componentsv1 "github.com/proa-io/proa/api/gen/dapr/proto/components/v1"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/textkey"
)

// The features of state stores that matter here.
const (
	featureTransactional = "TRANSACTIONAL"
	featureQuery         = "QUERY_API"
	featureTTL           = "TTL"
)

// Metadata of the protocol.
const (
	metadataTTL     = "ttlInSeconds"
	metadataExpires = "ttlExpireTime" // RFC 3339
)

func stateSpec(p place) component.Spec {
	return state.Spec(describe(p, "Keeps items"), Config{},
		func(ctx context.Context, cfg Config, env component.Env) (state.Driver, error) {
			return openState(ctx, linkAt(p, env), cfg)
		})
}

// store is the state.Driver that every state store is.
type store struct {
	*link
	client   componentsv1.StateStoreClient
	features []string // as of the first connection
	services []string
	max      int // operations of a transaction
}

// Its optional parts. What a store can do shows in its type.
type (
	transactional struct {
		*store
		transactions
	}
	queriable struct {
		*store
		queries
	}
	fullStore struct {
		*store
		transactions
		queries
	}
)

func openState(ctx context.Context, l *link, cfg Config) (state.Driver, error) {
	s := &store{link: l, client: componentsv1.NewStateStoreClient(l)}
	l.ping = componentsv1.StateStore_Ping_FullMethodName
	first := true
	l.setup = func(ctx context.Context, cc grpc.ClientConnInterface) error {
		services, err := serves(ctx, cc, state.Block, serviceState)
		if err != nil {
			return err
		}
		client := componentsv1.NewStateStoreClient(cc)
		if _, err := client.Init(ctx, &componentsv1.InitRequest{Metadata: properties(cfg)}); err != nil {
			return initError(err)
		}
		if !first {
			return nil
		}
		features, err := client.Features(ctx, &componentsv1.FeaturesRequest{})
		if err != nil {
			return err
		}
		s.services, s.features = services, namesIn(features.GetFeatures())
		s.max, err = maxTransaction(ctx, cc, services)
		first = false
		return err
	}
	if _, err := l.session(ctx); err != nil {
		_ = l.Close()
		return nil, err
	}
	can := func(service, feature string) bool {
		return slices.Contains(s.services, service) && slices.Contains(s.features, feature)
	}
	tx := transactions{s, componentsv1.NewTransactionalStateStoreClient(l)}
	q := queries{s, componentsv1.NewQueriableStateStoreClient(l)}
	transacts, finds := can(serviceTransact, featureTransactional), can(serviceQuery, featureQuery)
	switch {
	case transacts && finds:
		return fullStore{s, tx, q}, nil
	case transacts:
		return transactional{s, tx}, nil
	case finds:
		return queriable{s, q}, nil
	}
	return s, nil
}

// maxTransaction returns how many operations a transaction may have; 0 for any
// number.
func maxTransaction(ctx context.Context, cc grpc.ClientConnInterface, services []string) (int, error) {
	if !slices.Contains(services, serviceMaxSize) {
		return 0, nil
	}
	r, err := componentsv1.NewTransactionalStoreMultiMaxSizeClient(cc).MultiMaxSize(ctx, &componentsv1.MultiMaxSizeRequest{})
	if err != nil && status.Code(err) != codes.Unimplemented {
		return 0, err
	}
	return int(min(max(r.GetMaxSize(), 0), 1<<30)), nil
}

func properties(cfg Config) *componentsv1.MetadataRequest {
	return &componentsv1.MetadataRequest{Properties: cfg.Properties}
}

// maxFeatures bounds what a component may say of itself.
const maxFeatures = 100

func namesIn(list []string) []string { return slices.Clone(list[:min(len(list), maxFeatures)]) }

// initError is the error of an Init that was refused; what the component says is
// for whoever wrote its settings.
func initError(err error) error {
	st := status.Convert(err)
	if unreachable(st.Code()) {
		return err
	}
	code := codeOf(st.Code())
	if code == fault.NotFound || code == fault.Unimplemented {
		code = fault.FailedPrecondition
	}
	return fault.New(code, "the component does not take its settings: %s", st.Message())
}

// Capabilities implements component.Capable.
func (s *store) Capabilities() []string { return s.features }

// Get implements state.Driver.
func (s *store) Get(ctx context.Context, key string, opt state.GetOptions) (state.Item, bool, error) {
	if err := texts(opt.Metadata); err != nil {
		return state.Item{}, false, err
	}
	r, err := s.client.Get(ctx, getRequest(key, opt))
	if err != nil {
		return state.Item{}, false, s.explain(ctx, err)
	}
	item, found := itemOf(r.GetData(), r.GetEtag(), r.GetMetadata())
	return item, found, nil
}

func getRequest(key string, opt state.GetOptions) *componentsv1.GetRequest {
	return &componentsv1.GetRequest{Key: textkey.Encode(key), Metadata: opt.Metadata, Consistency: consistency(opt.Consistency)}
}

// itemOf returns the item of an answer. The protocol has no other sign for none
// than that nothing is there.
func itemOf(data []byte, etag *componentsv1.Etag, md map[string]string) (state.Item, bool) {
	if len(data) == 0 && etag.GetValue() == "" {
		return state.Item{}, false
	}
	item := state.Item{Value: data, ETag: etag.GetValue()}
	if text := md[metadataExpires]; text != "" {
		if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
			item.Expires = at
		}
	}
	return item, true
}

// Put implements state.Driver. The protocol does not tell the new etag.
func (s *store) Put(ctx context.Context, key string, value []byte, opt state.PutOptions) (string, error) {
	if err := checkPut(opt); err != nil {
		return "", err
	}
	_, err := s.client.Set(ctx, setRequest(key, value, opt))
	return "", s.explain(ctx, err)
}

func checkPut(opt state.PutOptions) error {
	if err := checkETag(opt.ETag); err != nil {
		return err
	}
	return texts(opt.Metadata)
}

func checkETag(etag string) error {
	if !utf8.ValidString(etag) {
		return state.ErrETagInvalid("text in UTF-8")
	}
	return nil
}

func setRequest(key string, value []byte, opt state.PutOptions) *componentsv1.SetRequest {
	r := &componentsv1.SetRequest{
		Key: textkey.Encode(key), Value: value, Etag: etagOf(opt.ETag), Metadata: withTTL(opt.Metadata, opt.TTL),
		Options: &componentsv1.StateOptions{Consistency: consistency(opt.Consistency)}, ContentType: opt.Metadata["contentType"],
	}
	if opt.FirstWrite {
		r.Options.Concurrency = componentsv1.StateOptions_CONCURRENCY_FIRST_WRITE
	}
	return r
}

// withTTL returns the metadata of a write with that TTL.
func withTTL(md map[string]string, ttl time.Duration) map[string]string {
	if _, there := md[metadataTTL]; ttl <= 0 && !there {
		return md
	}
	out := make(map[string]string, len(md)+1)
	maps.Copy(out, md)
	delete(out, metadataTTL)
	if ttl > 0 {
		out[metadataTTL] = strconv.FormatInt(int64(ttl/time.Second), 10)
	}
	return out
}

// Delete implements state.Driver.
func (s *store) Delete(ctx context.Context, key string, opt state.DeleteOptions) error {
	if err := checkETag(opt.ETag); err != nil {
		return err
	}
	if err := texts(opt.Metadata); err != nil {
		return err
	}
	_, err := s.client.Delete(ctx, deleteRequest(key, opt))
	return s.explain(ctx, err)
}

func deleteRequest(key string, opt state.DeleteOptions) *componentsv1.DeleteRequest {
	return &componentsv1.DeleteRequest{
		Key: textkey.Encode(key), Etag: etagOf(opt.ETag), Metadata: opt.Metadata,
		Options: &componentsv1.StateOptions{Consistency: consistency(opt.Consistency)},
	}
}

func etagOf(etag string) *componentsv1.Etag {
	if etag == "" {
		return nil
	}
	return &componentsv1.Etag{Value: etag}
}

func consistency(c state.Consistency) componentsv1.StateOptions_StateConsistency {
	switch c {
	case state.Eventual:
		return componentsv1.StateOptions_CONSISTENCY_EVENTUAL
	case state.Strong:
		return componentsv1.StateOptions_CONSISTENCY_STRONG
	}
	return componentsv1.StateOptions_CONSISTENCY_UNSPECIFIED
}

// texts refuses metadata that the protocol cannot carry.
func texts(md map[string]string) error {
	for k, v := range md {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return fault.New(fault.InvalidArgument, "the metadata has a value that is not UTF-8")
		}
	}
	return nil
}

// explain names the error of a call that writes. It returns nil for nil.
func (s *store) explain(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return s.classify(ctx, err)
	}
	switch st := status.Convert(err); {
	case st.Code() == codes.FailedPrecondition && blamesETag(st):
		return state.ErrETagMismatch()
	case st.Code() == codes.InvalidArgument && blamesETag(st):
		return state.ErrETagInvalid("one that the component has handed out")
	}
	return s.classify(ctx, err)
}

// blamesETag reports whether the etag of a request is why it was refused.
func blamesETag(st *status.Status) bool {
	for _, detail := range st.Details() {
		bad, ok := detail.(*errdetails.BadRequest)
		if ok && slices.ContainsFunc(bad.GetFieldViolations(), func(v *errdetails.BadRequest_FieldViolation) bool {
			return v.GetField() == "etag"
		}) {
			return true
		}
	}
	return false
}
