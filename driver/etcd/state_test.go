package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/block/state/statetest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/testserver"
)

var server = testserver.Share(func(tb testserver.TB) *testserver.EtcdServer { return testserver.Etcd(tb) })

func TestMain(m *testing.M) { testserver.Main(m, server) }

var prefixes atomic.Int64

// emptyPrefix returns the settings of a part of the cluster that nobody used.
func emptyPrefix(addr string) Config {
	return Config{Endpoints: []string{addr}, KeyPrefixPath: fmt.Sprint("test", prefixes.Add(1))}
}

// versions are the two formats.
var versions = []struct {
	name string
	open func(context.Context, StateConfig, component.Env) (*State, error)
}{{"v1", OpenStateV1}, {"v2", OpenStateV2}}

func openV2(t testing.TB, cfg Config) *State {
	t.Helper()
	return openAs(t, versions[1].open, cfg)
}

func openAs(t testing.TB, open func(context.Context, StateConfig, component.Env) (*State, error), cfg Config) *State {
	t.Helper()
	sc := stateDefaults()
	sc.Config = cfg
	s, err := open(t.Context(), sc, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestState(t *testing.T) {
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			statetest.Run(t, func(t *testing.T) state.Driver {
				t.Parallel()
				return openAs(t, v.open, emptyPrefix(server.Get(t).Addr()))
			})
		})
	}
}

func TestStateOnABadNetwork(t *testing.T) {
	statetest.RunBadNetwork(t, server.Get(t).Addr(), func(ctx context.Context, _ *testing.T, addr string) (state.Driver, error) {
		sc := stateDefaults()
		sc.Config = emptyPrefix(addr)
		s, err := OpenStateV2(ctx, sc, component.Env{})
		if err != nil {
			return nil, err
		}
		return s, nil
	})
}

// plain returns a client as other programs have it.
func plain(t testing.TB) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Get(t).Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// daprValue is a value as version v2 of Dapr's component writes it.
func daprValue(t *testing.T, data string, at time.Time, ttl time.Duration) string {
	t.Helper()
	var out []byte
	out = protowire.AppendBytes(protowire.AppendTag(out, 1, protowire.BytesType), []byte(data))
	for i, m := range []proto.Message{timestamppb.New(at), durationpb.New(ttl)} {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		out = protowire.AppendBytes(protowire.AppendTag(out, protowire.Number(i+2), protowire.BytesType), b)
	}
	return string(out)
}

func TestItemsThatDaprWroteAreRead(t *testing.T) {
	cfg, other := emptyPrefix(server.Get(t).Addr()), plain(t)
	at := time.Now().Truncate(time.Microsecond)
	for key, value := range map[string]string{
		"ever":  daprValue(t, "data", at, 0), // with a ttl of nothing, as Dapr writes it
		"hour":  daprValue(t, "data", at, time.Hour),
		"plain": "data",
	} {
		if _, err := other.Put(t.Context(), cfg.KeyPrefixPath+"/app||"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	v1, v2 := openAs(t, OpenStateV1, cfg), openV2(t, cfg)
	for _, c := range []struct {
		s       *State
		key     string
		expires time.Time
	}{{v1, "plain", time.Time{}}, {v2, "ever", time.Time{}}, {v2, "hour", at.Add(time.Hour)}} {
		item, found, err := c.s.Get(t.Context(), "app||"+c.key, state.GetOptions{})
		if err != nil || !found || string(item.Value) != "data" || !item.Expires.Equal(c.expires) {
			t.Errorf("%s: %+v, %v, %v; want data until %v", c.key, item, found, err, c.expires)
		}
	}
	_, _, err := v2.Get(t.Context(), "app||plain", state.GetOptions{})
	if !fault.Is(err, fault.FailedPrecondition) || !strings.Contains(err.Error(), "version v1 of the component") {
		t.Errorf("an item of v1 read as v2: %v", err)
	}
}

func TestItemsAreWrittenAsDaprReadsThem(t *testing.T) {
	cfg, other := emptyPrefix(server.Get(t).Addr()), plain(t)
	v1, v2 := openAs(t, OpenStateV1, cfg), openV2(t, cfg)
	for key, s := range map[string]*State{"one": v1, "two": v2} {
		if _, err := s.Put(t.Context(), key, []byte("data"), state.PutOptions{TTL: time.Hour}); err != nil {
			t.Fatal(err)
		}
		res, err := other.Get(t.Context(), cfg.KeyPrefixPath+"/"+key)
		if err != nil || len(res.Kvs) != 1 {
			t.Fatalf("%v, %v", res, err)
		}
		lease, err := other.TimeToLive(t.Context(), clientv3.LeaseID(res.Kvs[0].Lease))
		if err != nil || lease.GrantedTTL != 3600 {
			t.Errorf("%s: the lease is %+v, %v; want one of an hour", key, lease, err)
		}
		value := string(res.Kvs[0].Value)
		if s == v2 {
			fields := map[protowire.Number][]byte{}
			for rest := res.Kvs[0].Value; len(rest) > 0; {
				number, kind, n := protowire.ConsumeTag(rest)
				field, m := protowire.ConsumeBytes(rest[max(n, 0):])
				if kind != protowire.BytesType || n < 0 || m < 0 {
					t.Fatalf("%q is no message", value)
				}
				fields[number], rest = field, rest[n+m:]
			}
			var at timestamppb.Timestamp
			var ttl durationpb.Duration
			if err := errors.Join(proto.Unmarshal(fields[2], &at), proto.Unmarshal(fields[3], &ttl)); err != nil {
				t.Fatal(err)
			}
			if ttl.AsDuration() != time.Hour || time.Since(at.AsTime()).Abs() > time.Minute {
				t.Errorf("written at %v for %v", at.AsTime(), ttl.AsDuration())
			}
			value = string(fields[1])
		}
		if value != "data" {
			t.Errorf("%s: etcd holds %q", key, value)
		}
	}
}

func FuzzValuesOfV2(f *testing.F) {
	for _, seed := range [][]byte{
		nil, {0}, []byte("plain text"), {0x0a, 0x04, 'd'}, {0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		{0x12, 0x02, 0x0a, 0x00}, {0x15, 1, 2, 3, 4}, {0x11, 1, 2, 3}, {0x0b}, {0x08, 0x01},
		formatV2{}.encode([]byte("data"), time.Unix(1700000000, 123), time.Hour),
	} {
		f.Add(seed, "value", int64(3600))
	}
	f.Fuzz(func(t *testing.T, stored []byte, value string, seconds int64) {
		if _, _, err := (formatV2{}).decode(stored); err != nil && !fault.Is(err, fault.FailedPrecondition) {
			t.Errorf("error %v", err)
		}
		now, ttl := time.Unix(1700000000, 123), time.Duration(seconds%1e9)*time.Second
		got, expires, err := formatV2{}.decode(formatV2{}.encode([]byte(value), now, ttl))
		want := now.Add(ttl)
		if ttl <= 0 {
			want = time.Time{}
		}
		if err != nil || string(got) != value || !expires.Equal(want) {
			t.Errorf("%q until %v became %q until %v, %v", value, want, got, expires, err)
		}
	})
}

func TestWhatEtcdRefusesIsNamed(t *testing.T) {
	t.Parallel()
	small := testserver.Etcd(t, "--max-txn-ops=4", "--max-request-bytes=10000", "--quota-backend-bytes=100000")
	s := openV2(t, emptyPrefix(small.Addr()))
	defer s.Close()
	ops := make([]state.Op, 5)
	for i := range ops {
		ops[i].Key = fmt.Sprint(i)
	}
	err := s.Transact(t.Context(), ops, state.TransactOptions{})
	if !fault.Is(err, fault.ResourceExhausted) || !strings.Contains(err.Error(), "set maxTxnOps") {
		t.Errorf("a transaction of five operations: %v", err)
	}
	_, err = s.Put(t.Context(), "k", make([]byte, 20_000), state.PutOptions{})
	if !fault.Is(err, fault.ResourceExhausted) || !strings.Contains(err.Error(), "--max-request-bytes") {
		t.Errorf("a large item: %v", err)
	}
	err = nil
	// etcd looks at the size of its file, which follows the writes at intervals.
	for end := time.Now().Add(20 * time.Second); err == nil && time.Now().Before(end); {
		_, err = s.Put(t.Context(), "k", make([]byte, 9_000), state.PutOptions{})
	}
	if !fault.Is(err, fault.ResourceExhausted) || !strings.Contains(err.Error(), "is full") {
		t.Errorf("a full database: %v", err)
	}
}

func TestFailedConditionLeavesNoLease(t *testing.T) {
	s := openV2(t, emptyPrefix(server.Get(t).Addr()))
	defer s.Close()
	if _, err := s.Put(t.Context(), "k", nil, state.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	leases := func() int {
		res, err := s.client.Leases(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(res.Leases)
	}
	before := leases()
	first := state.PutOptions{FirstWrite: true, TTL: 100 * time.Hour}
	for range 50 {
		_, err := s.Put(t.Context(), "k", nil, first)
		txErr := s.Transact(t.Context(), []state.Op{{Key: "l", PutOptions: first}, {Key: "k", PutOptions: first}}, state.TransactOptions{})
		if !fault.Is(err, fault.Aborted) || !fault.Is(txErr, fault.Aborted) {
			t.Fatalf("%v, %v", err, txErr)
		}
	}
	if after := leases(); after > before+20 { // tests beside this one have some
		t.Errorf("%d leases became %d", before, after)
	}
}
