package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/fault"
)

// BucketConfig describes a key-value bucket. The engine adds replicas and
// durability.
type BucketConfig struct {
	// Name has letters, digits, _ and - only.
	Name        string
	Description string
	// History is the number of revisions kept per key, 1 to 64; 1 when 0.
	History int
	// MaxAge ends every value after this time; 0 means never.
	MaxAge time.Duration
	// KeyTTL allows a TTL per value (PutOptions.TTL), lets tombstones of
	// deleted keys vanish, and tells watchers when a value ends. It needs a
	// History of 1, for the server keeps longer what has a past, and a server
	// of version 2.11; on an older one it fails with Unimplemented.
	KeyTTL bool
	// Atomic allows Commit of several writes. It needs a server of version
	// 2.12; on an older one it fails with Unimplemented.
	Atomic bool
	// Memory keeps the values in the memory of the server only: for what may
	// be lost with it.
	Memory bool
	// MaxValueSize bounds a value, in bytes; 0 means what the server allows.
	MaxValueSize int32
	// MaxBytes bounds the bucket, in bytes; 0 means what the server allows.
	MaxBytes int64
}

// tombstoneTTL is how long a bucket with KeyTTL remembers that a key was
// deleted or ended, for watchers that are behind. One that was disconnected
// compares, and needs no tombstone.
const tombstoneTTL = time.Minute

// MinTTL is the shortest TTL of a value; shorter ones are raised to it.
// Values end up to 250 ms late.
const MinTTL = time.Second

// Bucket is a key-value bucket on every connection of the engine. It is safe
// for concurrent use and survives what the engine survives.
//
// Keys are subjects: parts of any characters but blanks, control characters,
// *, >, joined by dots, without empty parts. Callers with free-form keys
// encode them; [Bucket.KV], for the client library's own operations, takes
// only letters, digits and -/_=. in keys.
type Bucket struct {
	engine  *Engine
	name    string
	stream  string // "KV_<name>"
	prefix  string // "$KV.<name>."
	direct  string // subject prefix of a direct get, up to the message subject
	keyTTL  bool
	kv      jetstream.KeyValue
	leaders bool // a direct get may be answered by a replica that lags
	directs bool // the stream answers direct gets
}

// Entry is one value.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64
	Created  time.Time
	// Expires is when the value ends; zero means never.
	Expires time.Time
	// Header is what was given to Put, with the headers of the engine.
	Header nats.Header
}

// Consistency says which answer to a read is good enough.
type Consistency uint8

// The consistencies.
const (
	// Strong reads see every write acknowledged before.
	Strong Consistency = iota
	// Eventual reads may be answered by any replica, which may lag. With one
	// replica they are as strong as Strong.
	Eventual
)

// KeyValue creates the bucket, or updates it when it exists with another
// configuration, and returns it. A write happens only when something differs.
func (e *Engine) KeyValue(ctx context.Context, cfg BucketConfig) (*Bucket, error) {
	if cfg.History < 0 || cfg.History > jetstream.KeyValueMaxHistory {
		return nil, invalid("bucket %q: the history must be 1 to %d, not %d", cfg.Name, jetstream.KeyValueMaxHistory, cfg.History)
	}
	if cfg.KeyTTL && cfg.History > 1 {
		return nil, invalid("bucket %q: a TTL per key needs a history of 1, not %d", cfg.Name, cfg.History)
	}
	for feature, wanted := range map[Feature]bool{MessageTTL: cfg.KeyTTL, AtomicBatch: cfg.Atomic} {
		if !wanted {
			continue
		}
		if err := e.Require(ctx, feature); err != nil {
			return nil, fault.Wrap(err, fault.CodeOf(err), "bucket %q", cfg.Name)
		}
	}
	s, err := e.Stream(ctx, bucketStream(cfg))
	if err != nil {
		return nil, fault.Wrap(err, fault.CodeOf(err), "bucket %q", cfg.Name)
	}
	return e.bucket(ctx, cfg.Name, s.CachedInfo().Config)
}

// OpenKeyValue returns a bucket as it is, whoever made it, and changes nothing.
// It fails with NotFound when there is none.
func (e *Engine) OpenKeyValue(ctx context.Context, name string) (*Bucket, error) {
	c, err := e.ConnFor(ctx, name)
	if err != nil {
		return nil, err
	}
	var cfg jetstream.StreamConfig
	err = c.Do(ctx, func(ctx context.Context) error {
		s, err := c.js.Stream(ctx, "KV_"+name)
		if err == nil {
			cfg = s.CachedInfo().Config
		}
		return err
	})
	if err != nil {
		return nil, fault.Wrap(err, fault.CodeOf(err), "bucket %q", name)
	}
	return e.bucket(ctx, name, cfg)
}

// bucket returns the handle on a bucket whose stream is configured as has says.
func (e *Engine) bucket(ctx context.Context, name string, has jetstream.StreamConfig) (*Bucket, error) {
	c, err := e.ConnFor(ctx, name)
	if err != nil {
		return nil, err
	}
	b := &Bucket{
		engine: e, name: name, stream: "KV_" + name, prefix: "$KV." + name + ".",
		direct: "$JS.API.DIRECT.GET.KV_" + name + ".$KV." + name + ".",
		keyTTL: has.AllowMsgTTL && has.MaxMsgsPerSubject == 1, leaders: has.Replicas > 1, directs: has.AllowDirect,
	}
	err = c.Do(ctx, func(ctx context.Context) (err error) {
		b.kv, err = c.js.KeyValue(ctx, name)
		return err
	})
	return b, err
}

// bucketStream is the stream of a bucket as the client libraries lay it out,
// so that other NATS programs can read and write it.
func bucketStream(cfg BucketConfig) jetstream.StreamConfig {
	s := jetstream.StreamConfig{
		Name: "KV_" + cfg.Name, Description: cfg.Description, Subjects: []string{"$KV." + cfg.Name + ".>"},
		MaxMsgsPerSubject: int64(max(cfg.History, 1)), MaxAge: cfg.MaxAge,
		MaxMsgSize: orDefault(cfg.MaxValueSize, -1), MaxBytes: orDefault(cfg.MaxBytes, -1), MaxMsgs: -1, MaxConsumers: -1,
		Discard: jetstream.DiscardNew, AllowRollup: true, DenyDelete: true, AllowDirect: true,
		Duplicates: 2 * time.Minute, AllowAtomicPublish: cfg.Atomic,
	}
	if cfg.Memory {
		s.Storage = jetstream.MemoryStorage
	}
	if cfg.MaxAge > 0 {
		s.Duplicates = min(s.Duplicates, cfg.MaxAge)
	}
	if cfg.KeyTTL {
		s.AllowMsgTTL, s.SubjectDeleteMarkerTTL = true, tombstoneTTL
	}
	return s
}

// Name returns the bucket's name.
func (b *Bucket) Name() string { return b.name }

// KeyTTL reports whether values can have a TTL (PutOptions.TTL).
func (b *Bucket) KeyTTL() bool { return b.keyTTL }

// KV returns the client library's handle on the bucket, for what Bucket does
// not do itself. Its calls are neither guarded nor classified: see [Conn.Do]
// and [Classify].
func (b *Bucket) KV() jetstream.KeyValue { return b.kv }

// conn returns the connection for a key: always the same, so that the writes
// of one key arrive in order.
func (b *Bucket) conn(ctx context.Context, key string) (*Conn, error) {
	return b.engine.ConnFor(ctx, key)
}

// Get returns the value of key, or NotFound.
func (b *Bucket) Get(ctx context.Context, key string, want Consistency) (Entry, error) {
	if err := b.checkKey(key); err != nil {
		return Entry{}, err
	}
	c, err := b.conn(ctx, key)
	if err != nil {
		return Entry{}, err
	}
	var last message
	err = c.Do(ctx, func(ctx context.Context) (err error) {
		last, err = b.last(ctx, c, key, want == Eventual || !b.leaders)
		return err
	})
	if err != nil {
		return Entry{}, err
	}
	if last.seq == 0 || isTombstone(last.header) {
		return Entry{}, notFound()
	}
	return newEntry(key, last), nil
}

func newEntry(key string, m message) Entry {
	e := Entry{Key: key, Value: m.data, Revision: m.seq, Created: m.at, Header: m.header}
	if len(m.header) > 0 {
		if ttl := parseTTL(m.header.Get(ttlHeader)); ttl > 0 {
			e.Expires = m.at.Add(ttl)
		}
	}
	return e
}

// parseTTL reads a TTL header: seconds, or a duration. It is 0 for none.
func parseTTL(text string) time.Duration {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Duration(min(n, math.MaxInt64/int64(time.Second))) * time.Second
	}
	d, _ := time.ParseDuration(text) // "never" and what is not a TTL do not end
	return d
}

func notFound() error { return fault.New(fault.NotFound, "not found") }

// Expect is what a write demands of the last revision of its key.
type Expect struct {
	set, present bool
	rev          uint64
}

// Anything demands nothing: the last write wins. It is the zero Expect.
func Anything() Expect { return Expect{} }

// Absent demands that the key has no value.
func Absent() Expect { return Expect{set: true} }

// Revision demands that the key's last revision is rev.
func Revision(rev uint64) Expect { return Expect{set: true, rev: rev} }

// Present demands that the key has a value, whatever its revision.
func Present() Expect { return Expect{set: true, present: true} }

// PutOptions are the options of Put.
type PutOptions struct {
	// Expect is checked atomically with the write.
	Expect Expect
	// TTL ends the value; 0 means never. It is rounded up to whole seconds.
	// The bucket must have KeyTTL.
	TTL time.Duration
	// Header is stored with the value. Names that begin with Nats- or KV- are
	// the engine's. Put takes it over and may change it.
	Header nats.Header
}

// Put stores value under key and returns its revision. When Expect is not
// met it fails with Aborted and ReasonConflict.
func (b *Bucket) Put(ctx context.Context, key string, value []byte, o PutOptions) (uint64, error) {
	msg, err := b.putMessage(key, value, o)
	if err != nil {
		return 0, err
	}
	return b.write(ctx, key, msg, o.Expect)
}

func (b *Bucket) putMessage(key string, value []byte, o PutOptions) (*nats.Msg, error) {
	msg := &nats.Msg{Subject: b.prefix + key, Data: value, Header: o.Header}
	if o.TTL > 0 {
		if !b.keyTTL {
			return nil, fault.New(fault.Unimplemented, "bucket %q keeps no TTL per key", b.name).WithReason(ReasonUnsupported)
		}
		setHeader(msg, ttlHeader, strconv.FormatInt(seconds(o.TTL), 10))
	}
	return msg, b.checkKey(key)
}

// Delete removes key; a missing key is no error unless expect names its
// revision. When expect is not met it fails with Aborted and ReasonConflict.
func (b *Bucket) Delete(ctx context.Context, key string, expect Expect) error {
	msg, err := b.deleteMessage(key, nil)
	if err != nil {
		return err
	}
	_, err = b.write(ctx, key, msg, expect)
	if fault.Is(err, fault.ResourceExhausted) && !expect.set {
		return b.purge(ctx, key)
	}
	return err
}

// purge removes key from a store that is too full for a tombstone. A watch
// learns of it only after its next interruption.
func (b *Bucket) purge(ctx context.Context, key string) error {
	c, err := b.conn(ctx, key)
	if err != nil {
		return err
	}
	return c.Do(ctx, func(ctx context.Context) error {
		s, err := c.js.Stream(ctx, b.stream)
		if err != nil {
			return err
		}
		return s.Purge(ctx, jetstream.WithPurgeSubject(b.prefix+key))
	})
}

func (b *Bucket) deleteMessage(key string, h nats.Header) (*nats.Msg, error) {
	msg := &nats.Msg{Subject: b.prefix + key, Header: h}
	if b.keyTTL {
		// A purge forgets the older revisions, and the TTL forgets the purge.
		setHeader(msg, "KV-Operation", "PURGE")
		setHeader(msg, "Nats-Rollup", "sub")
		setHeader(msg, ttlHeader, strconv.FormatInt(seconds(tombstoneTTL), 10))
	} else {
		setHeader(msg, "KV-Operation", "DEL")
	}
	return msg, b.checkKey(key)
}

func (b *Bucket) write(ctx context.Context, key string, msg *nats.Msg, expect Expect) (uint64, error) {
	if expect.present {
		return b.writePresent(ctx, key, msg)
	}
	c, err := b.conn(ctx, key)
	if err != nil {
		return 0, err
	}
	if expect.set {
		setHeader(msg, jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(expect.rev, 10))
	}
	ack, err := c.Publish(ctx, msg)
	if fault.ReasonOf(err) == ReasonConflict && expect == Absent() {
		return b.replaceTombstone(ctx, c, key, msg, err)
	}
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// replaceTombstone writes over the tombstone that a deleted key leaves: it
// counts as a revision, although the key has no value.
func (b *Bucket) replaceTombstone(ctx context.Context, c *Conn, key string, msg *nats.Msg, conflict error) (uint64, error) {
	last, err := b.lastStrong(ctx, c, key)
	if err != nil {
		return 0, err
	}
	if last.seq != 0 && !isTombstone(last.header) {
		return 0, conflict
	}
	setHeader(msg, jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(last.seq, 10))
	ack, err := c.Publish(ctx, msg)
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

func (b *Bucket) lastStrong(ctx context.Context, c *Conn, key string) (message, error) {
	var last message
	err := c.Do(ctx, func(ctx context.Context) (err error) {
		last, err = b.last(ctx, c, key, !b.leaders)
		return err
	})
	return last, err
}

// ttlHeader ends a message after a number of seconds.
const ttlHeader = "Nats-TTL"

func setHeader(m *nats.Msg, key, value string) {
	if m.Header == nil {
		m.Header = make(nats.Header, 3)
	}
	m.Header[key] = []string{value}
}

func seconds(d time.Duration) int64 {
	return int64(math.Ceil(max(d, MinTTL).Seconds()))
}

// message is the last message on a key's subject.
type message struct {
	seq    uint64 // 0 when there is none
	data   []byte
	at     time.Time
	header nats.Header
}

// last reads the last message of key: from any replica, or from the stream's
// leader, which alone is sure to know the last write.
func (b *Bucket) last(ctx context.Context, c *Conn, key string, direct bool) (message, error) {
	if direct && b.directs {
		return b.lastDirect(ctx, c, key)
	}
	return b.lastFromLeader(ctx, c, key)
}

func (b *Bucket) lastDirect(ctx context.Context, c *Conn, key string) (message, error) {
	m, err := c.NATS().RequestWithContext(ctx, b.direct+key, nil)
	if err != nil {
		return message{}, err
	}
	if status := m.Header.Get("Status"); status != "" {
		if status == "404" {
			return message{}, nil
		}
		class, _ := strconv.Atoi(status)
		return message{}, &jetstream.APIError{Code: class, Description: m.Header.Get("Description")}
	}
	seq, err := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return message{}, fmt.Errorf("direct get: sequence: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, m.Header.Get(jetstream.TimeStampHeaer))
	if err != nil {
		return message{}, fmt.Errorf("direct get: time stamp: %w", err)
	}
	return message{seq: seq, data: m.Data, at: at, header: m.Header}, nil
}

func (b *Bucket) lastFromLeader(ctx context.Context, c *Conn, key string) (message, error) {
	ask, err := json.Marshal(map[string]string{"last_by_subj": b.prefix + key})
	if err != nil {
		return message{}, err
	}
	m, err := c.NATS().RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+b.stream, ask)
	if err != nil {
		return message{}, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Seq  uint64    `json:"seq"`
			Hdrs []byte    `json:"hdrs"`
			Data []byte    `json:"data"`
			Time time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return message{}, fmt.Errorf("get: %w", err)
	}
	if answer.Error != nil {
		if answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return message{}, nil
		}
		return message{}, answer.Error
	}
	got := answer.Message
	out := message{seq: got.Seq, data: got.Data, at: got.Time}
	if len(got.Hdrs) > 0 {
		if out.header, err = nats.DecodeHeadersMsg(got.Hdrs); err != nil {
			return message{}, fmt.Errorf("get: %w", err)
		}
	}
	return out, nil
}

// isTombstone reports whether a message with header h says that its key has
// no value: deleted, purged, or ended by its TTL.
func isTombstone(h nats.Header) bool {
	if len(h) == 0 {
		return false
	}
	op := h.Get("KV-Operation")
	return op == "DEL" || op == "PURGE" || h.Get(jetstream.MarkerReasonHeader) != ""
}

// checkKey refuses a key that cannot be part of the subjects it is sent in.
func (b *Bucket) checkKey(key string) error { return checkName("key", key, maxSubject-len(b.direct)) }

// keyOf returns the key of a subject of the bucket.
func (b *Bucket) keyOf(subject string) string { return strings.TrimPrefix(subject, b.prefix) }
