package etcd

import (
	"context"
	"slices"
	"strconv"
	"time"

	mvcc "go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// StateConfig configures a state store on etcd.
type StateConfig struct {
	Config
	// MaxTxnOps is how many operations a transaction may have: what the cluster
	// is configured for with --max-txn-ops.
	MaxTxnOps int `setting:"maxTxnOps"`
}

func stateDefaults() StateConfig { return StateConfig{MaxTxnOps: 128} }

// Validate reports settings that can never work.
func (c StateConfig) Validate() error {
	if c.MaxTxnOps < 1 {
		return component.Invalid("maxTxnOps", "must be at least 1")
	}
	return c.Config.Validate()
}

// State is a state.Driver on etcd.
//
// The etag of an item is the revision of the cluster in which it was last
// written. A TTL is a lease of etcd, which ends up to two seconds late, and not
// before about two seconds. Reads are linearizable unless they ask for eventual
// consistency: then any member answers what it knows.
type State struct {
	client *client
	path   string
	format format
	maxOps int
	now    func() time.Time
}

// OpenStateV1 connects to etcd for items in format v1.
func OpenStateV1(ctx context.Context, cfg StateConfig, _ component.Env) (*State, error) {
	return openState(ctx, cfg, formatV1{})
}

// OpenStateV2 connects to etcd for items in format v2.
func OpenStateV2(ctx context.Context, cfg StateConfig, _ component.Env) (*State, error) {
	return openState(ctx, cfg, formatV2{})
}

func openState(ctx context.Context, cfg StateConfig, f format) (*State, error) {
	c, err := connect(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	return &State{client: c, path: cfg.path(), format: f, maxOps: cfg.MaxTxnOps, now: time.Now}, nil
}

// Close implements io.Closer.
func (s *State) Close() error {
	s.client.close()
	return nil
}

// Get implements state.Driver.
func (s *State) Get(ctx context.Context, key string, opt state.GetOptions) (state.Item, bool, error) {
	if err := s.client.ready(ctx); err != nil {
		return state.Item{}, false, err
	}
	res, err := s.client.KV.Do(ctx, s.read(key, opt))
	if err != nil {
		return state.Item{}, false, s.client.classify(ctx, err)
	}
	return s.found(ctx, res.Get().Kvs)
}

func (s *State) read(key string, opt state.GetOptions) clientv3.Op {
	if opt.Consistency == state.Eventual {
		return clientv3.OpGet(s.path+key, clientv3.WithSerializable())
	}
	return clientv3.OpGet(s.path + key)
}

// found returns the item that a read of one key has found, if any.
func (s *State) found(ctx context.Context, kvs []*mvcc.KeyValue) (state.Item, bool, error) {
	if len(kvs) == 0 {
		return state.Item{}, false, nil
	}
	item, err := s.item(ctx, kvs[0])
	return item, err == nil, err
}

func (s *State) item(ctx context.Context, kv *mvcc.KeyValue) (state.Item, error) {
	value, expires, err := s.format.decode(kv.Value)
	if err != nil {
		return state.Item{}, err
	}
	if kv.Lease != 0 && !s.format.knowsExpiry() {
		if expires, err = s.endOf(ctx, clientv3.LeaseID(kv.Lease)); err != nil {
			return state.Item{}, err
		}
	}
	return state.Item{Value: value, ETag: etagOf(kv.ModRevision), Expires: expires}, nil
}

// endOf returns when a lease ends.
func (s *State) endOf(ctx context.Context, id clientv3.LeaseID) (time.Time, error) {
	res, err := s.client.TimeToLive(ctx, id)
	if err != nil {
		return time.Time{}, s.client.classify(ctx, err)
	}
	return s.now().Add(time.Duration(max(0, res.TTL)) * time.Second), nil
}

// BulkGet implements state.BulkGetter.
func (s *State) BulkGet(ctx context.Context, keys []string, opt state.GetOptions) []state.GetResult {
	out := make([]state.GetResult, 0, len(keys))
	for some := range slices.Chunk(keys, s.maxOps) {
		out = append(out, s.bulkGet(ctx, some, opt)...)
	}
	return out
}

func (s *State) bulkGet(ctx context.Context, keys []string, opt state.GetOptions) []state.GetResult {
	out := make([]state.GetResult, len(keys))
	ops := make([]clientv3.Op, len(keys))
	for i, key := range keys {
		ops[i] = s.read(key, opt)
	}
	err := s.client.ready(ctx)
	if err == nil {
		var res *clientv3.TxnResponse
		if res, err = s.client.Txn(ctx).Then(ops...).Commit(); err == nil {
			for i := range out {
				out[i].Item, out[i].Found, out[i].Err = s.found(ctx, res.Responses[i].GetResponseRange().Kvs)
			}
			return out
		}
		err = s.client.classify(ctx, err)
	}
	for i := range out {
		out[i].Err = err
	}
	return out
}

// Put implements state.Driver.
func (s *State) Put(ctx context.Context, key string, value []byte, opt state.PutOptions) (string, error) {
	if err := s.client.ready(ctx); err != nil {
		return "", err
	}
	op := state.Op{Key: key, Value: value, PutOptions: opt}
	conditions, err := s.conditions(nil, &op)
	if err != nil {
		return "", err
	}
	put, lease, err := s.write(ctx, &op)
	if err != nil {
		return "", err
	}
	if len(conditions) == 0 {
		res, err := s.client.KV.Do(ctx, put)
		if err != nil {
			return "", s.client.classify(ctx, err)
		}
		return etagOf(res.Put().Header.Revision), nil
	}
	res, err := s.client.Txn(ctx).If(conditions...).Then(put).Commit()
	switch {
	case err != nil:
		return "", s.client.classify(ctx, err)
	case !res.Succeeded:
		s.revoke(ctx, lease)
		return "", op.Lost()
	}
	return etagOf(res.Header.Revision), nil
}

// write returns the operation that makes a change, and the lease that it has
// granted for that, if any.
func (s *State) write(ctx context.Context, op *state.Op) (clientv3.Op, clientv3.LeaseID, error) {
	if op.Delete {
		return clientv3.OpDelete(s.path + op.Key), clientv3.NoLease, nil
	}
	stored := string(s.format.encode(op.Value, s.now(), op.TTL))
	if op.TTL <= 0 {
		return clientv3.OpPut(s.path+op.Key, stored), clientv3.NoLease, nil
	}
	lease, err := s.client.Grant(ctx, seconds(op.TTL))
	if err != nil {
		return clientv3.Op{}, clientv3.NoLease, s.client.classify(ctx, err)
	}
	return clientv3.OpPut(s.path+op.Key, stored, clientv3.WithLease(lease.ID)), lease.ID, nil
}

// revoke removes a lease of a write that has certainly not happened: one whose
// answer was lost may have. If it fails, the lease ends by itself.
func (s *State) revoke(ctx context.Context, id clientv3.LeaseID) {
	if id != clientv3.NoLease && ctx.Err() == nil {
		_, _ = s.client.Revoke(ctx, id)
	}
}

// seconds returns a duration as etcd takes it: whole seconds, one at least.
func seconds(d time.Duration) int64 { return max(1, int64((d+time.Second-1)/time.Second)) }

// Delete implements state.Driver.
func (s *State) Delete(ctx context.Context, key string, opt state.DeleteOptions) error {
	if err := s.client.ready(ctx); err != nil {
		return err
	}
	op := state.Op{Key: key, Delete: true, PutOptions: state.PutOptions{ETag: opt.ETag}}
	conditions, err := s.conditions(nil, &op)
	if err != nil {
		return err
	}
	remove := clientv3.OpDelete(s.path + key)
	if len(conditions) == 0 {
		_, err := s.client.KV.Do(ctx, remove)
		return s.client.classify(ctx, err)
	}
	res, err := s.client.Txn(ctx).If(conditions...).Then(remove).Commit()
	switch {
	case err != nil:
		return s.client.classify(ctx, err)
	case !res.Succeeded:
		return op.Lost()
	}
	return nil
}

func etagOf(revision int64) string { return strconv.FormatInt(revision, 10) }

// revisionOf reads an etag. Revisions count from 1.
func revisionOf(etag string) (int64, error) {
	n, err := strconv.ParseInt(etag, 10, 64)
	if err != nil || n < 1 || etagOf(n) != etag {
		return 0, state.ErrETagInvalid("a whole number")
	}
	return n, nil
}

// conditions appends what an operation demands to a list.
func (s *State) conditions(list []clientv3.Cmp, op *state.Op) ([]clientv3.Cmp, error) {
	key := s.path + op.Key
	switch {
	case op.Check == state.CheckExists:
		return append(list, clientv3.Compare(clientv3.CreateRevision(key), ">", 0)), nil
	case op.Check == state.CheckAbsent, op.ETag == "" && op.FirstWrite && !op.Delete:
		return append(list, clientv3.Compare(clientv3.CreateRevision(key), "=", 0)), nil
	case op.ETag == "":
		return list, nil
	}
	revision, err := revisionOf(op.ETag)
	return append(list, clientv3.Compare(clientv3.ModRevision(key), "=", revision)), err
}

// List implements state.Lister.
func (s *State) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	if err := s.client.ready(ctx); err != nil {
		return nil, err
	}
	start, end := s.path+prefix, clientv3.GetPrefixRangeEnd(s.path+prefix)
	if after != "" {
		start = max(start, s.path+after+"\x00")
	}
	if start >= end && end != "\x00" { // "\x00" is no end at all
		return nil, nil
	}
	res, err := s.client.Client.Get(ctx, start, clientv3.WithRange(end), clientv3.WithKeysOnly(), clientv3.WithLimit(int64(limit)))
	if err != nil {
		return nil, s.client.classify(ctx, err)
	}
	keys := make([]string, len(res.Kvs))
	for i, kv := range res.Kvs {
		keys[i] = string(kv.Key[len(s.path):])
	}
	return keys, nil
}

// MaxTransaction implements state.Transactor.
func (s *State) MaxTransaction() int { return s.maxOps }

// Transact implements state.Transactor.
func (s *State) Transact(ctx context.Context, ops []state.Op, _ state.TransactOptions) error {
	if err := s.client.ready(ctx); err != nil || len(ops) == 0 {
		return err
	}
	var conditions []clientv3.Cmp
	last := make(map[string]int, len(ops)) // the write that stays, by key: etcd takes one of each
	for i := range ops {
		var err error
		if conditions, err = s.conditions(conditions, &ops[i]); err != nil {
			return &state.OpError{Index: i, Err: err}
		}
		if ops[i].Check == state.NoCheck {
			last[ops[i].Key] = i
		}
	}
	var writes []clientv3.Op
	var leases []clientv3.LeaseID
	defer func() {
		for _, id := range leases {
			s.revoke(ctx, id)
		}
	}()
	for i := range ops {
		if ops[i].Check != state.NoCheck || last[ops[i].Key] != i {
			continue
		}
		write, lease, err := s.write(ctx, &ops[i])
		if err != nil {
			return err
		}
		writes, leases = append(writes, write), append(leases, lease)
	}
	res, err := s.client.Txn(ctx).If(conditions...).Then(writes...).Else(s.revisions(ops)...).Commit()
	if err != nil {
		leases = nil // it may have happened
		return s.client.classify(ctx, err)
	}
	if !res.Succeeded {
		return blame(ops, res)
	}
	leases = nil
	return nil
}

// revisions returns reads of the keys of all operations, to find out which one
// is to blame when a condition does not hold.
func (s *State) revisions(ops []state.Op) []clientv3.Op {
	reads := make([]clientv3.Op, len(ops))
	for i := range ops {
		reads[i] = clientv3.OpGet(s.path+ops[i].Key, clientv3.WithKeysOnly())
	}
	return reads
}

// blame returns the error of the first operation whose condition did not hold.
func blame(ops []state.Op, res *clientv3.TxnResponse) error {
	for i := range ops {
		op, revision := &ops[i], int64(0)
		if kvs := res.Responses[i].GetResponseRange().Kvs; len(kvs) > 0 {
			revision = kvs[0].ModRevision
		}
		lost := false
		switch {
		case op.Check == state.CheckExists:
			lost = revision == 0
		case op.Check == state.CheckAbsent, op.ETag == "" && op.FirstWrite && !op.Delete:
			lost = revision != 0
		case op.ETag != "":
			lost = etagOf(revision) != op.ETag
		}
		if lost {
			return &state.OpError{Index: i, Err: op.Lost()}
		}
	}
	return fault.New(fault.Internal, "etcd did not carry out a transaction whose conditions hold")
}
