package redis

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// StateConfig configures a state store on Redis.
type StateConfig struct {
	Config
	// QueryIndexes describes indexes of the RediSearch module. It has no
	// effect, which the log says: queries need no index, and look at every
	// item of the application, of which there may be 100,000. Items that
	// Dapr keeps in the RedisJSON module for such an index are not read.
	QueryIndexes string `setting:"queryIndexes"`
}

// Validate reports settings that can never work.
func (c StateConfig) Validate() error {
	if c.QueryIndexes != "" && !json.Valid([]byte(c.QueryIndexes)) {
		return component.Invalid("queryIndexes", "wants a JSON array of indexes")
	}
	return c.Config.Validate()
}

// batch is how many items go to the server together: enough to pay for the
// trip, and few enough that no other caller waits long.
const batch = 200

// waitTimeout bounds how long a strong write waits for the replicas, as it does
// in Dapr.
const waitTimeout = time.Second

// State is a state.Driver on Redis.
//
// Reads go to the primary, so a read sees every acknowledged write whatever its
// consistency. A write with strong consistency waits, up to a second, until all
// replicas there were at the start have it too. List costs the server a scan of
// all its keys, and is not for every call.
type State struct {
	cfg                   Config
	client                *client
	put, remove, transact script
	replicas              int64
	// strong carries the writes that wait for replicas, and would hold up the
	// others; nil without replicas.
	strong *link
}

// OpenState connects to Redis.
func OpenState(ctx context.Context, cfg StateConfig, env component.Env) (*State, error) {
	if cfg.QueryIndexes != "" && env.Log != nil {
		env.Log.WarnContext(ctx, "queryIndexes has no effect: queries look at every item of the application, without an index")
	}
	c, err := connect(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	s := &State{cfg: cfg.Config, client: c}
	if err := s.prepare(ctx, cfg.Config); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

func (s *State) prepare(ctx context.Context, cfg Config) (err error) {
	if s.put, err = newScript(ctx, s.client, luaPut); err != nil {
		return err
	}
	if s.remove, err = newScript(ctx, s.client, luaDelete); err != nil {
		return err
	}
	if s.transact, err = newScript(ctx, s.client, luaTransact); err != nil {
		return err
	}
	if s.replicas, err = s.countReplicas(ctx); err != nil || s.replicas == 0 || s.client.cluster {
		return err
	}
	s.strong, err = newLink(ctx, cfg)
	return classify(ctx, err)
}

// countReplicas asks the primary how many replicas it has. A user that may not
// ask has none.
func (s *State) countReplicas(ctx context.Context) (int64, error) {
	res, err := s.client.do(ctx, s.client.build().Info().Section("replication").Build())
	if err != nil {
		return 0, err
	}
	info, err := res.ToString()
	if err != nil {
		return 0, nil //nolint:nilerr // not permitted, or a server without replication
	}
	for line := range strings.Lines(info) {
		if n, ok := strings.CutPrefix(line, "connected_slaves:"); ok {
			count, _ := strconv.ParseInt(strings.TrimSpace(n), 10, 64)
			return count, nil
		}
	}
	return 0, nil
}

// Get implements state.Driver.
func (s *State) Get(ctx context.Context, key string, _ state.GetOptions) (state.Item, bool, error) {
	res, err := s.client.doMulti(ctx, s.get(key)...)
	if err != nil {
		return state.Item{}, false, err
	}
	return s.item(ctx, key, res[0], res[1])
}

// get returns the two commands that read an item.
func (s *State) get(key string) []rueidis.Completed {
	b := s.client.build()
	return []rueidis.Completed{b.Hmget().Key(key).Field("data", "version").Build(), b.Pttl().Key(key).Build()}
}

// item puts together what get's commands answered.
func (s *State) item(ctx context.Context, key string, fields, ttl rueidis.RedisResult) (state.Item, bool, error) {
	values, err := fields.ToArray()
	if err != nil {
		if re, ok := rueidis.IsRedisErr(err); ok && strings.HasPrefix(re.Error(), "WRONGTYPE") {
			return s.plainItem(ctx, key, ttl)
		}
		return state.Item{}, false, classify(ctx, err)
	}
	if len(values) != 2 || values[0].IsNil() {
		return state.Item{}, false, nil
	}
	var item state.Item
	if item.Value, err = values[0].AsBytes(); err != nil {
		return state.Item{}, false, classify(ctx, err)
	}
	if !values[1].IsNil() {
		if item.ETag, err = values[1].ToString(); err != nil {
			return state.Item{}, false, classify(ctx, err)
		}
	}
	item.Expires = expiry(ttl)
	return item, true, nil
}

// plainItem reads what old versions of Dapr wrote: a plain string, which has no
// etag.
func (s *State) plainItem(ctx context.Context, key string, ttl rueidis.RedisResult) (state.Item, bool, error) {
	res, err := s.client.do(ctx, s.client.build().Get().Key(key).Build())
	if err != nil {
		return state.Item{}, false, err
	}
	value, err := res.AsBytes()
	if err != nil {
		if rueidis.IsRedisNil(err) {
			return state.Item{}, false, nil
		}
		return state.Item{}, false, classify(ctx, err)
	}
	return state.Item{Value: value, Expires: expiry(ttl)}, true, nil
}

// expiry returns when an item goes away that has so many milliseconds left.
func expiry(ttl rueidis.RedisResult) time.Time {
	if left, err := ttl.AsInt64(); err == nil && left >= 0 {
		return time.Now().Add(time.Duration(left) * time.Millisecond)
	}
	return time.Time{}
}

// Put implements state.Driver.
func (s *State) Put(ctx context.Context, key string, value []byte, opt state.PutOptions) (string, error) {
	if err := checkETag(opt.ETag); err != nil {
		return "", err
	}
	call := putCall(key, value, opt)
	if opt.Consistency == state.Strong && s.strong != nil {
		return s.putStrong(ctx, call)
	}
	res, err := s.put.run(ctx, s.client, call)
	if err != nil {
		return "", err
	}
	return written(ctx, res)
}

// putStrong waits for the replicas over a connection that only such writes
// share, because WAIT holds up what comes after it. That some replica does not
// answer is no error: the write has happened.
func (s *State) putStrong(ctx context.Context, call scriptCall) (string, error) {
	if err := s.strong.ensure(ctx); err != nil {
		return "", classify(ctx, err)
	}
	res, err := s.client.doMultiOn(ctx, s.strong, s.put.full(s.client, call),
		s.client.build().Wait().Numreplicas(s.replicas).Timeout(waitTimeout.Milliseconds()).Build())
	if err != nil {
		return "", err
	}
	return written(ctx, res[0])
}

func putCall(key string, value []byte, opt state.PutOptions) scriptCall {
	return scriptCall{[]string{key}, []string{string(value), opt.ETag, flag(opt.FirstWrite), seconds(opt.TTL)}}
}

func flag(set bool) string {
	if set {
		return "1"
	}
	return "0"
}

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }

// checkETag refuses what no version can look like.
func checkETag(etag string) error {
	if etag == "" {
		return nil
	}
	if _, err := strconv.ParseUint(etag, 10, 63); err != nil {
		return state.ErrETagInvalid("a whole number")
	}
	return nil
}

// written reads the answer of a script that wrote one item.
func written(ctx context.Context, res rueidis.RedisResult) (etag string, err error) {
	n, err := res.AsInt64()
	if err != nil {
		return "", classify(ctx, err)
	}
	if n < 0 {
		return "", refusal(n)
	}
	return strconv.FormatInt(n, 10), nil
}

func refusal(answer int64) error {
	switch answer {
	case answerMismatch:
		return state.ErrETagMismatch()
	case answerExists:
		return state.ErrExists()
	case answerForeign:
		return errForeign()
	}
	return fault.New(fault.Internal, "redis gave an answer of an unknown kind")
}

// Delete implements state.Driver. Without an etag it removes whatever the key
// holds.
func (s *State) Delete(ctx context.Context, key string, opt state.DeleteOptions) error {
	if opt.ETag == "" {
		res, err := s.client.do(ctx, s.client.build().Del().Key(key).Build())
		if err != nil {
			return err
		}
		return classify(ctx, res.Error())
	}
	if err := checkETag(opt.ETag); err != nil {
		return err
	}
	res, err := s.remove.run(ctx, s.client, scriptCall{[]string{key}, []string{opt.ETag}})
	if err != nil {
		return err
	}
	_, err = written(ctx, res)
	return err
}

// BulkGet implements state.BulkGetter.
func (s *State) BulkGet(ctx context.Context, keys []string, _ state.GetOptions) []state.GetResult {
	out := make([]state.GetResult, 0, len(keys))
	for part := range slices.Chunk(keys, batch) {
		var cmds []rueidis.Completed
		for _, key := range part {
			cmds = append(cmds, s.get(key)...)
		}
		res, err := s.client.doMulti(ctx, cmds...)
		for i, key := range part {
			r := state.GetResult{Err: err}
			if err == nil {
				r.Item, r.Found, r.Err = s.item(ctx, key, res[2*i], res[2*i+1])
			}
			out = append(out, r)
		}
	}
	return out
}

// BulkPut implements state.BulkPutter.
func (s *State) BulkPut(ctx context.Context, puts []state.PutOp) []state.PutResult {
	out := make([]state.PutResult, len(puts))
	if s.strong != nil || repeats(puts) {
		// One after the other: each waits for replicas, or for the one before.
		for i, p := range puts {
			out[i].ETag, out[i].Err = s.Put(ctx, p.Key, p.Value, p.PutOptions)
		}
		return out
	}
	var places []int
	var calls []scriptCall
	for i, p := range puts {
		if out[i].Err = checkETag(p.ETag); out[i].Err == nil {
			places, calls = append(places, i), append(calls, putCall(p.Key, p.Value, p.PutOptions))
		}
	}
	for len(calls) > 0 {
		n := min(batch, len(calls))
		res, err := s.put.runMulti(ctx, s.client, calls[:n])
		for j, i := range places[:n] {
			if out[i].Err = err; err == nil {
				out[i].ETag, out[i].Err = written(ctx, res[j])
			}
		}
		places, calls = places[n:], calls[n:]
	}
	return out
}

// repeats reports whether a key comes twice, so that order matters.
func repeats(puts []state.PutOp) bool {
	seen := make(map[string]struct{}, len(puts))
	for _, p := range puts {
		if _, dup := seen[p.Key]; dup {
			return true
		}
		seen[p.Key] = struct{}{}
	}
	return false
}

// BulkDelete implements state.BulkDeleter.
func (s *State) BulkDelete(ctx context.Context, deletes []state.DeleteOp) []error {
	out := make([]error, len(deletes))
	var places []int
	var cmds []rueidis.Completed
	flush := func() {
		if len(cmds) == 0 {
			return
		}
		res, err := s.client.doMulti(ctx, cmds...)
		for j, i := range places {
			if out[i] = err; err == nil {
				out[i] = classify(ctx, res[j].Error())
			}
		}
		places, cmds = nil, nil
	}
	for i, d := range deletes {
		if d.ETag != "" {
			out[i] = s.Delete(ctx, d.Key, d.DeleteOptions)
			continue
		}
		places, cmds = append(places, i), append(cmds, s.client.build().Del().Key(d.Key).Build())
		if len(cmds) == batch {
			flush()
		}
	}
	flush()
	return out
}

// MaxTransaction implements state.Transactor. The server does nothing else
// while it carries out a transaction.
func (s *State) MaxTransaction() int { return 10_000 }

// Transact implements state.Transactor. In a cluster all keys must be in one
// hash slot, which a common {tag} in them sees to.
func (s *State) Transact(ctx context.Context, ops []state.Op, _ state.TransactOptions) error {
	if len(ops) == 0 {
		return ctx.Err()
	}
	var call scriptCall
	for i, op := range ops {
		if err := checkETag(op.ETag); err != nil {
			return &state.OpError{Index: i, Err: err}
		}
		if s.client.cluster && slot(op.Key) != slot(ops[0].Key) {
			return &state.OpError{Index: i, Err: fault.New(fault.InvalidArgument,
				"in a redis cluster all keys of a transaction must have the same {tag}, so that they are in one hash slot")}
		}
		kind := kindOf(&op)
		call.keys = append(call.keys, op.Key)
		call.args = append(call.args, kind, string(op.Value), op.ETag, flag(op.FirstWrite && kind == "put"), seconds(op.TTL))
	}
	res, err := s.transact.run(ctx, s.client, call)
	if err != nil {
		return err
	}
	answer, err := res.AsIntSlice()
	switch {
	case err != nil:
		return classify(ctx, err)
	case len(answer) != 2:
		return refusal(0)
	case answer[0] != 0:
		return blame(ops, answer)
	}
	return nil
}

// kindOf returns what luaTransact calls an operation.
func kindOf(op *state.Op) string {
	switch op.Check {
	case state.CheckExists:
		return "exists"
	case state.CheckAbsent:
		return "absent"
	case state.CheckETag:
		return "etag"
	}
	if op.Delete {
		return "delete"
	}
	return "put"
}

// blame returns the error of the operation that luaTransact names.
func blame(ops []state.Op, answer []int64) error {
	i := int(answer[1]) - 1
	if i < 0 || i >= len(ops) {
		return refusal(0)
	}
	if answer[0] == answerForeign {
		return &state.OpError{Index: i, Err: errForeign()}
	}
	return &state.OpError{Index: i, Err: ops[i].Lost()}
}

// List implements state.Lister. It scans all keys of the server.
func (s *State) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	if s.client.cluster {
		return nil, fault.New(fault.Unimplemented, "listing the keys of a redis cluster is not supported").
			WithReason(state.ReasonListNotSupported)
	}
	var keys []string
	err := s.scan(ctx, prefix, func(page []string) error {
		for _, key := range page {
			if key > after {
				keys = append(keys, key)
			}
		}
		if len(keys) > 2*limit+scanCount { // keep those that may be wanted
			keys = first(keys, limit)
		}
		return nil
	})
	return first(keys, limit), err
}

// first returns the first keys in byte order, without duplicates: a scan may
// show a key twice.
func first(keys []string, limit int) []string {
	slices.Sort(keys)
	keys = slices.Compact(keys)
	return keys[:min(limit, len(keys))]
}

// scanCount is how many keys the server looks at in one step of a scan.
const scanCount = 1000

// scan calls page with the keys of items that start with prefix, in no order; a
// key may come twice.
func (s *State) scan(ctx context.Context, prefix string, page func([]string) error) error {
	for cursor := uint64(0); ; {
		b := s.client.build().Scan().Cursor(cursor).Match(escapePattern(prefix) + "*").Count(scanCount)
		res, err := s.client.do(ctx, b.Type("hash").Build())
		if err != nil {
			return err
		}
		entry, err := res.AsScanEntry()
		if err != nil {
			return classify(ctx, err)
		}
		if err := page(entry.Elements); err != nil {
			return err
		}
		if cursor = entry.Cursor; cursor == 0 {
			return nil
		}
	}
}

// escapePattern keeps the characters that mean something in a MATCH pattern
// from doing so.
func escapePattern(text string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`, `^`, `\^`).Replace(text)
}

// Close ends the connections.
func (s *State) Close() error {
	if s.strong != nil {
		s.strong.close()
	}
	s.client.close()
	return nil
}
