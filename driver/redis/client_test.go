package redis

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/freeport"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/internal/testserver"
)

func put(t *testing.T, s *State, key, value string) {
	t.Helper()
	if _, err := s.Put(t.Context(), key, []byte(value), state.PutOptions{}); err != nil {
		t.Fatalf("Put: %v", err)
	}
}

func wantValue(t *testing.T, s *State, key, want string) {
	t.Helper()
	item, found, err := s.Get(t.Context(), key, state.GetOptions{})
	if err != nil || !found || string(item.Value) != want {
		t.Fatalf("Get = %q, %v, %v; want %q", item.Value, found, err, want)
	}
}

func TestCredentialsAreChecked(t *testing.T) {
	srv := testserver.Redis(t, testserver.RedisOptions{Password: "open sesame", Config: []string{"user reader on >pw ~* +@read +hello"}})
	for _, tc := range []struct {
		user, password string
		want           fault.Code
	}{
		{"", "", fault.Unauthenticated},
		{"", "wrong-secret", fault.Unauthenticated},
		{"nobody", "wrong-secret", fault.Unauthenticated},
		{"reader", "pw", fault.PermissionDenied},
	} {
		cfg := configOf(srv.Addr())
		cfg.Username, cfg.Password = tc.user, component.NewSecret(tc.password)
		_, err := OpenState(t.Context(), StateConfig{Config: cfg}, component.Env{})
		if !fault.Is(err, tc.want) || strings.Contains(err.Error(), "wrong-secret") {
			t.Errorf("user %q with password %q: %v, want %v", tc.user, tc.password, err, tc.want)
		}
	}
	cfg := configOf(srv.Addr())
	cfg.Password = component.NewSecret(srv.Password())
	s, err := OpenState(t.Context(), StateConfig{Config: cfg}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put(t, s, "k", "v")
}

func TestASuperfluousPasswordIsRefused(t *testing.T) {
	cfg := configOf(server.Get(t).Addr())
	cfg.Username, cfg.Password = "nobody", component.NewSecret("secret")
	if _, err := OpenState(t.Context(), StateConfig{Config: cfg}, component.Env{}); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("OpenState = %v, want unauthenticated", err)
	}
}

func TestADatabaseOutOfRangeIsRefused(t *testing.T) {
	cfg := configOf(server.Get(t).Addr())
	cfg.DB = testserver.RedisDatabases
	if _, err := OpenState(t.Context(), StateConfig{Config: cfg}, component.Env{}); !fault.Is(err, fault.FailedPrecondition) {
		t.Errorf("OpenState = %v, want failed_precondition", err)
	}
}

func TestDatabasesAreApart(t *testing.T) {
	one := empty(t)
	defer one.Close()
	cfg := configOf(server.Get(t).Addr())
	cfg.DB = 3
	two, err := OpenState(t.Context(), StateConfig{Config: cfg}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	put(t, one, "k", "one")
	put(t, two, "k", "two")
	wantValue(t, one, "k", "one")
	wantValue(t, two, "k", "two")
}

func TestAFullServerIsResourceExhausted(t *testing.T) {
	srv := testserver.Redis(t, testserver.RedisOptions{Config: []string{"maxmemory 3mb", "maxmemory-policy noeviction"}})
	s := mustOpen(t, srv.Addr())
	defer s.Close()
	var err error
	for i := 0; err == nil && i < 100; i++ {
		_, err = s.Put(t.Context(), fmt.Sprint("k", i), make([]byte, 100_000), state.PutOptions{})
	}
	if !fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("Put to a full server: %v, want resource_exhausted", err)
	}
	large := make([]byte, 1<<20)
	if err := s.Transact(t.Context(), []state.Op{{Key: "a", Value: large}, {Key: "b", Value: large}}, state.TransactOptions{}); !fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("Transact on a full server: %v, want resource_exhausted", err)
	}
	if n, err := raw(t, s, "EXISTS", "a", "b").AsInt64(); err != nil || n != 0 {
		t.Errorf("the transaction left %d items, %v", n, err)
	}
	wantValue(t, s, "k0", string(make([]byte, 100_000)))
}

func TestReplicas(t *testing.T) {
	primary := testserver.Redis(t, testserver.RedisOptions{})
	replica := testserver.Redis(t, testserver.RedisOptions{Config: []string{"replicaof 127.0.0.1 " + strconv.Itoa(primary.Port())}})
	r := mustOpen(t, replica.Addr())
	defer r.Close()
	await(t, "the replica is connected", func() bool {
		text, err := raw(t, r, "INFO", "replication").ToString()
		return err == nil && strings.Contains(text, "master_link_status:up")
	})
	p := mustOpen(t, primary.Addr())
	defer p.Close()

	t.Run("AStrongWriteIsOnTheReplica", func(t *testing.T) {
		for i := range 50 {
			key := fmt.Sprint("k", i)
			etag, err := p.Put(t.Context(), key, []byte("v"), state.PutOptions{Consistency: state.Strong})
			if err != nil || etag != "1" {
				t.Fatalf("Put = %q, %v", etag, err)
			}
			wantValue(t, r, key, "v")
		}
	})
	t.Run("ABulkStrongWriteIsOnTheReplica", func(t *testing.T) {
		strong := state.PutOptions{Consistency: state.Strong}
		for _, res := range p.BulkPut(t.Context(), []state.PutOp{{Key: "a", Value: []byte("1"), PutOptions: strong}, {Key: "b", Value: []byte("2"), PutOptions: strong}}) {
			if res.Err != nil {
				t.Fatal(res.Err)
			}
		}
		wantValue(t, r, "a", "1")
		wantValue(t, r, "b", "2")
	})
	t.Run("AReplicaTakesNoWrites", func(t *testing.T) {
		if _, err := r.Put(t.Context(), "k", nil, state.PutOptions{}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("Put on a replica: %v, want unavailable", err)
		}
		if err := r.Delete(t.Context(), "k", state.DeleteOptions{}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("Delete on a replica: %v, want unavailable", err)
		}
	})
}

// await polls what a server gives no signal for.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func TestARestartedServerIsFoundAgain(t *testing.T) {
	srv := testserver.Redis(t, testserver.RedisOptions{AppendOnly: true})
	s := mustOpen(t, srv.Addr())
	defer s.Close()
	put(t, s, "k", "v")
	srv.Kill()
	if _, _, err := s.Get(t.Context(), "k", state.GetOptions{}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Get while the server is down: %v, want unavailable", err)
	}
	srv.Restart()
	await(t, "the driver serves again", func() bool {
		_, found, err := s.Get(t.Context(), "k", state.GetOptions{})
		if err != nil && !fault.Is(err, fault.Unavailable) {
			t.Fatal(err)
		}
		return found
	})
	if _, err := s.Put(t.Context(), "k", []byte("w"), state.PutOptions{ETag: "1"}); err != nil {
		t.Error(err)
	}
}

// More callers than the client library has room for must all be able to give
// up, and the driver must come back when the server does.
func TestACrowdOnAStalledConnectionGivesUpInTime(t *testing.T) {
	p := faultnet.New(t, server.Get(t).Addr())
	s := mustOpen(t, p.Addr())
	defer s.Close()
	put(t, s, "k", "v")
	p.Stall()
	var wg sync.WaitGroup
	for range 6000 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if _, _, err := s.Get(ctx, "k", state.GetOptions{}); !fault.Is(err, fault.DeadlineExceeded) && !fault.Is(err, fault.Unavailable) {
				t.Errorf("Get = %v, want deadline_exceeded", err)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("some callers hang")
	}
	p.Heal()
	await(t, "the driver serves again", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, found, _ := s.Get(ctx, "k", state.GetOptions{})
		return found
	})
}

func TestCloseLeavesNothingRunning(t *testing.T) {
	srv := server.Get(t)
	leak.Check(t)
	p := faultnet.New(t, srv.Addr())
	s := mustOpen(t, p.Addr())
	put(t, s, "k", "v")
	p.Stall()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := s.Get(ctx, "k", state.GetOptions{}); !fault.Is(err, fault.DeadlineExceeded) {
		t.Errorf("Get = %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, _, err := s.Get(t.Context(), "k", state.GetOptions{}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Get after Close = %v, want unavailable", err)
	}
}

// The context of opening is not that of the driver's life.
func TestTheOpeningContextMayEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s, err := openState(ctx, server.Get(t).Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cancel()
	put(t, s, "k", "v")
	wantValue(t, s, "k", "v")
}

func openCluster(t *testing.T) *State {
	t.Helper()
	srv := testserver.Redis(t, testserver.RedisOptions{Config: []string{"cluster-enabled yes", "cluster-config-file nodes.conf"}})
	node := mustOpen(t, srv.Addr())
	defer node.Close()
	raw(t, node, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
	await(t, "the cluster is whole", func() bool {
		text, err := raw(t, node, "CLUSTER", "INFO").ToString()
		return err == nil && strings.Contains(text, "cluster_state:ok")
	})
	cfg := configOf(srv.Addr())
	cfg.Type = typeCluster
	s, err := OpenState(t.Context(), StateConfig{Config: cfg}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestACluster(t *testing.T) {
	s := openCluster(t)
	for i := range 20 {
		put(t, s, fmt.Sprint("k", i), fmt.Sprint(i))
	}
	var keys []string
	for i := range 20 {
		keys = append(keys, fmt.Sprint("k", i))
	}
	for i, r := range s.BulkGet(t.Context(), keys, state.GetOptions{}) {
		if r.Err != nil || string(r.Item.Value) != fmt.Sprint(i) {
			t.Errorf("BulkGet of %s = %+v", keys[i], r)
		}
	}
	for i, r := range s.BulkPut(t.Context(), []state.PutOp{{Key: "a"}, {Key: "b"}, {Key: "c"}}) {
		if r.Err != nil {
			t.Errorf("BulkPut item %d: %v", i, r.Err)
		}
	}
	if err := s.Transact(t.Context(), []state.Op{{Key: "{x}a"}, {Key: "{x}b"}}, state.TransactOptions{}); err != nil {
		t.Errorf("Transact in one slot: %v", err)
	}
	large := make([]byte, 1<<20)
	if err := s.Transact(t.Context(), []state.Op{{Key: "a", Value: large}, {Key: "b", Value: large}}, state.TransactOptions{}); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("Transact over slots: %v, want invalid_argument", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := s.Get(ctx, "a", state.GetOptions{}); !fault.Is(err, fault.Canceled) {
		t.Errorf("Get with a canceled context: %v", err)
	}
}

func TestAClusterThatIsNoneSaysSo(t *testing.T) {
	cfg := configOf(server.Get(t).Addr())
	cfg.Type = typeCluster
	s, err := OpenState(t.Context(), StateConfig{Config: cfg}, component.Env{})
	if err == nil {
		// The client library falls back on a single node, which serves.
		defer s.Close()
		put(t, s, "k", "v")
		return
	}
	if !fault.Is(err, fault.Unimplemented) {
		t.Errorf("OpenState = %v, want unimplemented", err)
	}
}

func TestSentinelsLeadToThePrimary(t *testing.T) {
	primary := testserver.Redis(t, testserver.RedisOptions{})
	sentinel := testserver.Redis(t, testserver.RedisOptions{Sentinel: true, Config: []string{
		"sentinel monitor store 127.0.0.1 " + strconv.Itoa(primary.Port()) + " 1",
	}})
	cfg := configOf(sentinel.Addr())
	cfg.Failover, cfg.SentinelMasterName = true, "store"
	s, err := OpenState(t.Context(), StateConfig{Config: cfg}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put(t, s, "k", "v")
	direct := mustOpen(t, primary.Addr())
	defer direct.Close()
	wantValue(t, direct, "k", "v")
	cfg.SentinelMasterName = "unknown"
	if s, err := OpenState(t.Context(), StateConfig{Config: cfg}, component.Env{}); err == nil {
		_ = s.Close()
		t.Error("a primary that the sentinels do not know was opened")
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	certificate(t, dir)
	port, err := freeport.Pick()
	if err != nil {
		t.Fatal(err)
	}
	testserver.Redis(t, testserver.RedisOptions{Config: []string{
		"tls-port " + strconv.Itoa(port),
		"tls-cert-file " + filepath.Join(dir, "cert.pem"), "tls-key-file " + filepath.Join(dir, "key.pem"),
		"tls-ca-cert-file " + filepath.Join(dir, "cert.pem"), "tls-auth-clients yes",
	}})
	cfg := configOf("127.0.0.1:" + strconv.Itoa(port))
	cfg.EnableTLS = true
	if _, err := OpenState(t.Context(), StateConfig{Config: cfg}, component.Env{}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a server that cannot be verified: %v, want unavailable", err)
	}
	cfg.InsecureSkipTLSVerify = true
	cfg.ClientCert, cfg.ClientKey = readSecret(t, dir, "cert.pem"), readSecret(t, dir, "key.pem")
	s, err := OpenState(t.Context(), StateConfig{Config: cfg}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put(t, s, "k", "v")
	wantValue(t, s, "k", "v")
}

func readSecret(t *testing.T, dir, name string) component.Secret {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return component.NewSecret(string(text))
}

// certificate writes a self-signed certificate for 127.0.0.1 and its key.
func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
