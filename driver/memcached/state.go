package memcached

import (
	"bufio"
	"context"
	"errors"
	"hash/crc32"
	"slices"
	"strconv"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// State is a state.Driver on memcached. An etag is the CAS of an item.
//
// Memcached counts in whole seconds that begin when its clock says so: an item
// can go up to a second early. A value that is too large also removes the item
// it should have replaced, which is memcached's way not to keep a stale one.
type State struct {
	servers []*server
}

// OpenState connects to all servers.
func OpenState(ctx context.Context, cfg StateConfig, _ component.Env) (*State, error) {
	s := &State{}
	for _, host := range cfg.Hosts {
		s.servers = append(s.servers, newServer(host, cfg))
	}
	for _, srv := range s.servers {
		if err := srv.check(ctx); err != nil {
			_ = s.Close()
			return nil, fault.Wrap(err, fault.CodeOf(err), "%s", srv.addr)
		}
	}
	return s, nil
}

// place returns the number of the server of a key: the same as other clients
// choose that spread keys by CRC-32, if they list the servers in the same order.
func (s *State) place(t token) int {
	if len(s.servers) == 1 {
		return 0
	}
	return int(crc32.ChecksumIEEE([]byte(t.text)) % uint32(len(s.servers)))
}

// ask sends one request and returns its reply.
func (s *State) ask(ctx context.Context, t token, write func(*bufio.Writer)) (out reply, err error) {
	err = s.servers[s.place(t)].do(ctx, func(c *conn) error {
		write(c.w)
		if err := c.w.Flush(); err != nil {
			return err
		}
		var err error
		out, err = readReply(c.r)
		if out.err != nil && err == nil {
			return nil // the connection is all right
		}
		return errors.Join(out.err, err)
	})
	if err != nil {
		return reply{}, err
	}
	return out, out.err
}

// Get implements state.Driver.
func (s *State) Get(ctx context.Context, key string, _ state.GetOptions) (state.Item, bool, error) {
	t := newToken(key)
	r, err := s.ask(ctx, t, func(w *bufio.Writer) { writeGet(w, t) })
	if err != nil {
		return state.Item{}, false, err
	}
	return item(r)
}

func item(r reply) (state.Item, bool, error) {
	switch r.status {
	case statusMiss:
		return state.Item{}, false, nil
	case statusValue:
		it := state.Item{Value: r.value, ETag: r.cas}
		if r.ttl >= 0 {
			it.Expires = time.Now().Add(time.Duration(r.ttl) * time.Second)
		}
		return it, true, nil
	}
	return state.Item{}, false, unexpected(r)
}

func unexpected(r reply) error {
	return fault.Wrap(errProtocol, fault.Internal, "memcached answered %q, which does not fit the request", string(r.status))
}

// Put implements state.Driver.
func (s *State) Put(ctx context.Context, key string, value []byte, opt state.PutOptions) (string, error) {
	flags, err := putFlags(opt)
	if err != nil {
		return "", early(ctx, err)
	}
	t := newToken(key)
	r, err := s.ask(ctx, t, func(w *bufio.Writer) { writeSet(w, t, value, flags) })
	if err != nil {
		return "", err
	}
	return stored(r)
}

// early gives the end of ctx precedence over an error found without asking.
func early(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func stored(r reply) (etag string, err error) {
	switch r.status {
	case statusDone:
		return r.cas, nil
	case statusNotStored:
		return "", state.ErrExists()
	case statusExists, statusNotFound:
		return "", state.ErrETagMismatch()
	}
	return "", unexpected(r)
}

// putFlags returns the flags of a write: tell the CAS, and the conditions.
func putFlags(opt state.PutOptions) (string, error) {
	flags := " c"
	switch {
	case opt.ETag != "":
		cas, err := casOf(opt.ETag)
		if err != nil {
			return "", err
		}
		flags += cas
	case opt.FirstWrite:
		flags += " ME"
	}
	if opt.TTL > 0 {
		at, err := expiration(opt.TTL)
		if err != nil {
			return "", err
		}
		flags += " T" + strconv.FormatInt(at, 10)
	}
	return flags, nil
}

// casOf returns the flag that compares the CAS. A CAS of 0 would compare
// nothing, and is none that a server hands out.
func casOf(etag string) (string, error) {
	n, err := strconv.ParseUint(etag, 10, 64)
	if err != nil {
		return "", state.ErrETagInvalid("a whole number")
	}
	if n == 0 || strconv.FormatUint(n, 10) != etag {
		return "", state.ErrETagMismatch()
	}
	return " C" + etag, nil
}

// month is from when on memcached takes a time to live for a point in time.
const month = 30 * 24 * time.Hour

// lastSecond is the last point in time memcached knows.
const lastSecond = 1<<31 - 1

// expiration returns a time to live as memcached wants it.
func expiration(ttl time.Duration) (int64, error) {
	if ttl <= month {
		return int64(ttl / time.Second), nil
	}
	at := time.Now().Add(ttl).Unix()
	if at > lastSecond {
		return 0, fault.New(fault.InvalidArgument, "memcached cannot count beyond %s: the item would live longer",
			time.Unix(lastSecond, 0).UTC().Format(time.RFC3339)).WithReason(state.ReasonBadTTL)
	}
	return at, nil
}

// Delete implements state.Driver.
func (s *State) Delete(ctx context.Context, key string, opt state.DeleteOptions) error {
	flags, err := deleteFlags(opt)
	if err != nil {
		return early(ctx, err)
	}
	t := newToken(key)
	r, err := s.ask(ctx, t, func(w *bufio.Writer) { writeDelete(w, t, flags) })
	if err != nil {
		return err
	}
	return deleted(r, opt)
}

func deleteFlags(opt state.DeleteOptions) (string, error) {
	if opt.ETag == "" {
		return "", nil
	}
	return casOf(opt.ETag)
}

func deleted(r reply, opt state.DeleteOptions) error {
	switch {
	case r.status == statusDone, r.status == statusNotFound && opt.ETag == "":
		return nil
	case r.status == statusNotFound, r.status == statusExists:
		return state.ErrETagMismatch()
	}
	return unexpected(r)
}

// Close ends the connections.
func (s *State) Close() error {
	for _, srv := range s.servers {
		srv.close()
	}
	return nil
}

// A batch of requests goes out together. It is small enough for the system's
// buffers, because the server answers while we are still writing and nobody
// reads.
const batch = 100

// A request is one of many.
type request struct {
	index int // in the caller's list
	token token
	write func(*bufio.Writer)
}

// askMany sends the requests in batches, those to one server in order over one
// connection, and calls done with the reply or the error of each.
func (s *State) askMany(ctx context.Context, all []request, done func(index int, r reply, err error)) {
	byServer := make([][]request, len(s.servers))
	for _, q := range all {
		p := s.place(q.token)
		byServer[p] = append(byServer[p], q)
	}
	for p, requests := range byServer {
		for part := range slices.Chunk(requests, batch) {
			answered := 0
			err := s.servers[p].do(ctx, func(c *conn) error {
				return converse(c, part, func(r reply) {
					done(part[answered].index, r, r.err)
					answered++
				})
			})
			for ; answered < len(part); answered++ {
				done(part[answered].index, reply{}, err)
			}
		}
	}
}

// converse writes all requests and reads all replies.
func converse(c *conn, requests []request, answer func(reply)) error {
	for _, q := range requests {
		q.write(c.w)
	}
	if err := c.w.Flush(); err != nil {
		return err
	}
	for range requests {
		r, err := readReply(c.r)
		if err != nil {
			return errors.Join(r.err, err)
		}
		answer(r)
	}
	return nil
}

// BulkGet implements state.BulkGetter.
func (s *State) BulkGet(ctx context.Context, keys []string, _ state.GetOptions) []state.GetResult {
	out := make([]state.GetResult, len(keys))
	all := make([]request, len(keys))
	for i, key := range keys {
		t := newToken(key)
		all[i] = request{i, t, func(w *bufio.Writer) { writeGet(w, t) }}
	}
	s.askMany(ctx, all, func(i int, r reply, err error) {
		if out[i].Err = err; err == nil {
			out[i].Item, out[i].Found, out[i].Err = item(r)
		}
	})
	return out
}

// BulkPut implements state.BulkPutter.
func (s *State) BulkPut(ctx context.Context, puts []state.PutOp) []state.PutResult {
	out := make([]state.PutResult, len(puts))
	var all []request
	for i, p := range puts {
		flags, err := putFlags(p.PutOptions)
		if err != nil {
			out[i].Err = early(ctx, err)
			continue
		}
		t := newToken(p.Key)
		all = append(all, request{i, t, func(w *bufio.Writer) { writeSet(w, t, p.Value, flags) }})
	}
	s.askMany(ctx, all, func(i int, r reply, err error) {
		if out[i].Err = err; err == nil {
			out[i].ETag, out[i].Err = stored(r)
		}
	})
	return out
}

// BulkDelete implements state.BulkDeleter.
func (s *State) BulkDelete(ctx context.Context, deletes []state.DeleteOp) []error {
	out := make([]error, len(deletes))
	var all []request
	for i, d := range deletes {
		flags, err := deleteFlags(d.DeleteOptions)
		if err != nil {
			out[i] = early(ctx, err)
			continue
		}
		t := newToken(d.Key)
		all = append(all, request{i, t, func(w *bufio.Writer) { writeDelete(w, t, flags) }})
	}
	s.askMany(ctx, all, func(i int, r reply, err error) {
		if out[i] = err; err == nil {
			out[i] = deleted(r, deletes[i].DeleteOptions)
		}
	})
	return out
}
