package nats

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/internal/testserver"
)

func openState(t *testing.T, e *engine.Engine, cfg StateConfig, env component.Env) *State {
	t.Helper()
	s, err := OpenState(t.Context(), e, cfg, env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func mustPut(t *testing.T, s *State, key, value string, opt state.PutOptions) string {
	t.Helper()
	etag, err := s.Put(t.Context(), key, []byte(value), opt)
	if err != nil {
		t.Fatalf("Put: %v", err)
	}
	return etag
}

func wantItem(t *testing.T, s *State, key, want string) {
	t.Helper()
	item, found, err := s.Get(t.Context(), key, state.GetOptions{})
	if err != nil || !found || string(item.Value) != want {
		t.Fatalf("Get(%q) = %q, %v, %v; want %q", key, item.Value, found, err, want)
	}
}

// stored returns the stream of a bucket.
func stored(t *testing.T, e *engine.Engine, bucket string) *jetstream.StreamInfo {
	t.Helper()
	js, err := e.JetStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "KV_"+bucket)
	if err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(">"))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestEachComponentHasABucketOfItsOwn(t *testing.T) {
	e := runEngine(t, engine.Options{Dir: t.TempDir()})
	for i, env := range []component.Env{{Name: "a"}, {Name: "b"}, {Name: "a", Namespace: "prod"}, {Name: "a_b"}, {Name: "b", Namespace: "default_a"}} {
		s := openState(t, e, StateConfig{}, env)
		if _, found, err := s.Get(t.Context(), "k", state.GetOptions{}); err != nil || found {
			t.Errorf("component %d sees the item of another: %v", i, err)
		}
		mustPut(t, s, "k", "v", state.PutOptions{})
	}
	wantItem(t, openState(t, e, StateConfig{}, component.Env{Name: "a", Namespace: "default", AppID: "another"}), "k", "v")
}

func TestItemsThatDaprStoredAreRead(t *testing.T) {
	e := runEngine(t, engine.Options{Dir: t.TempDir()})
	js, err := e.JetStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "theirs", History: 5})
	if err != nil {
		t.Fatal(err)
	}
	revision, err := kv.PutString(t.Context(), "shop.k", "v")
	if err != nil {
		t.Fatal(err)
	}
	s := openState(t, e, StateConfig{Bucket: "theirs"}, component.Env{})
	wantItem(t, s, "shop||k", "v")
	mustPut(t, s, "shop||k", "w", state.PutOptions{ETag: fmt.Sprint(revision)})
	if got, err := kv.Get(t.Context(), "shop.k"); err != nil || string(got.Value()) != "w" {
		t.Errorf("the client library reads %v, %v", got, err)
	}
	if n := stored(t, e, "theirs").Config.MaxMsgsPerSubject; n != 5 {
		t.Errorf("the history of somebody's bucket became %d", n)
	}
}

func TestDeletedItemsLeaveNothingForEver(t *testing.T) {
	for _, kind := range engineKinds {
		t.Run(kind.name, func(t *testing.T) {
			e := kind.start(t)
			bucket := newBucket()
			s := openState(t, e, StateConfig{Bucket: bucket}, component.Env{})
			for i := range 10 {
				key := fmt.Sprint("k", i)
				for range 5 {
					mustPut(t, s, key, "v", state.PutOptions{})
				}
				opt := state.DeleteOptions{}
				if i%2 == 0 {
					item, _, err := s.Get(t.Context(), key, state.GetOptions{})
					if err != nil {
						t.Fatal(err)
					}
					opt.ETag = item.ETag
				}
				if err := s.Delete(t.Context(), key, opt); err != nil {
					t.Fatal(err)
				}
			}
			info := stored(t, e, bucket)
			if s.old != nil {
				if info.State.Msgs != 0 {
					t.Errorf("%d messages are left: %v", info.State.Msgs, info.State.Subjects)
				}
				return
			}
			if info.State.Msgs > 10 || info.Config.SubjectDeleteMarkerTTL == 0 {
				t.Errorf("%d messages are left, marks live %v", info.State.Msgs, info.Config.SubjectDeleteMarkerTTL)
			}
		})
	}
}

func TestOldServersLoseItemsThatAreOver(t *testing.T) {
	e := runEngine(t, engine.Options{URL: testserver.NATS(t, testserver.NATSOptions{Installed: true}).URL()})
	bucket := newBucket()
	s := openState(t, e, StateConfig{Bucket: bucket}, component.Env{})
	if s.old == nil {
		t.Skip("the installed nats-server keeps TTLs itself")
	}
	mustPut(t, s, "app||short", "v", state.PutOptions{TTL: time.Second})
	mustPut(t, s, "app||long", "v", state.PutOptions{TTL: time.Hour})
	mustPut(t, s, "app||ever", "v", state.PutOptions{})
	for end := time.Now().Add(20 * time.Second); stored(t, e, bucket).State.Msgs != 2; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the bucket holds %v", stored(t, e, bucket).State.Subjects)
		}
		s.old.round(t.Context())
	}
	wantItem(t, s, "app||long", "v")
	wantItem(t, s, "app||ever", "v")
	if !s.old.due.Load() {
		t.Error("no further round is due although an item will end")
	}
	if err := s.Delete(t.Context(), "app||long", state.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.old.round(t.Context())
	if s.old.due.Load() {
		t.Error("a further round is due although no item will end")
	}
}

func TestOldServersHaveNoTransactionsOfSeveralKeys(t *testing.T) {
	e := runEngine(t, engine.Options{URL: testserver.NATS(t, testserver.NATSOptions{Installed: true}).URL()})
	if e.Supports(engine.AtomicBatch) {
		t.Skip("the installed nats-server has them")
	}
	s := openState(t, e, StateConfig{Bucket: newBucket()}, component.Env{})
	err := s.Transact(t.Context(), []state.Op{{Key: "a"}, {Key: "b"}}, state.TransactOptions{})
	if !fault.Is(err, fault.Unimplemented) || fault.ReasonOf(err) != state.ReasonTransactionsNotSupported || !strings.Contains(err.Error(), "2.12") {
		t.Errorf("Transact of two keys: %v, want unimplemented and why", err)
	}
	if err := s.Transact(t.Context(), []state.Op{{Key: "a", Value: []byte("1")}, {Key: "a", Value: []byte("2")}}, state.TransactOptions{}); err != nil {
		t.Errorf("Transact of one key: %v", err)
	}
	wantItem(t, s, "a", "2")
}

func TestAValueThatIsTooLargeIsInvalid(t *testing.T) {
	e := runEngine(t, engine.Options{URL: testserver.NATS(t, testserver.NATSOptions{Config: []string{"max_payload: 64KB"}}).URL()})
	s := openState(t, e, StateConfig{Bucket: newBucket()}, component.Env{})
	if _, err := s.Put(t.Context(), "k", make([]byte, 100_000), state.PutOptions{}); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("Put: %v, want invalid_argument", err)
	}
}

func TestARestartedServerIsFoundAgain(t *testing.T) {
	server := testserver.NATS(t, testserver.NATSOptions{})
	leak.Check(t)
	s, err := OpenState(t.Context(), nil, StateConfig{Server: Server{URL: server.URL()}, Bucket: "b"}, component.Env{AppID: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	etag := mustPut(t, s, "k", "v", state.PutOptions{})
	server.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, _, err := s.Get(ctx, "k", state.GetOptions{}); !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.DeadlineExceeded) {
		t.Errorf("Get while the server is down: %v", err)
	}
	server.Restart()
	for end := time.Now().Add(30 * time.Second); ; {
		_, err := s.Put(t.Context(), "k", []byte("w"), state.PutOptions{ETag: etag})
		if err == nil {
			break
		}
		if !fault.Is(err, fault.Unavailable) || time.Now().After(end) {
			t.Fatalf("Put after the restart: %v", err)
		}
	}
	wantItem(t, s, "k", "w")
}

// operator returns the configuration of a server that wants JWTs, and a user's
// JWT and seed.
func operator(t *testing.T) (config []string, token, seed string) {
	t.Helper()
	op, account, user := pair(t, nkeys.CreateOperator), pair(t, nkeys.CreateAccount), pair(t, nkeys.CreateUser)
	system := pair(t, nkeys.CreateAccount)
	sjwt, err0 := jwt.NewAccountClaims(public(t, system)).Encode(op)
	oc := jwt.NewOperatorClaims(public(t, op))
	ac := jwt.NewAccountClaims(public(t, account))
	ac.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1, Streams: -1, Consumer: -1}
	uc := jwt.NewUserClaims(public(t, user))
	ojwt, err1 := oc.Encode(op)
	ajwt, err2 := ac.Encode(op)
	ujwt, err3 := uc.Encode(account)
	secret, err4 := user.Seed()
	for _, err := range []error{err0, err1, err2, err3, err4} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return []string{
		"operator: " + ojwt, "system_account: " + public(t, system), "resolver: MEMORY",
		"resolver_preload: { " + public(t, account) + ": " + ajwt + ", " + public(t, system) + ": " + sjwt + " }",
	}, ujwt, string(secret)
}

func pair(t *testing.T, create func() (nkeys.KeyPair, error)) nkeys.KeyPair {
	t.Helper()
	kp, err := create()
	if err != nil {
		t.Fatal(err)
	}
	return kp
}

func public(t *testing.T, kp nkeys.KeyPair) string {
	t.Helper()
	text, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestDaprsSettingsOfJetStream(t *testing.T) {
	config, token, seed := operator(t)
	server := testserver.NATS(t, testserver.NATSOptions{Config: config})
	spec := specOf(t, state.Block)
	settings := component.Settings{
		{Name: "natsURL", Value: "nats://" + server.Addr()}, {Name: "jwt", Value: token}, {Name: "seedKey", Value: seed},
		{Name: "bucket", Value: "orders"}, {Name: "name", Value: "my connection"},
	}
	d, err := component.Opener[state.Driver](spec, settings, component.Env{})(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Put(t.Context(), "k", nil, state.PutOptions{}); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	other, err := pair(t, nkeys.CreateUser).Seed()
	if err != nil {
		t.Fatal(err)
	}
	wrong := string(other)
	settings[2].Value = wrong
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = component.Opener[state.Driver](spec, settings, component.Env{})(ctx)
	if err == nil || fault.CodeOf(err) == fault.Unknown || strings.Contains(err.Error(), wrong) {
		t.Errorf("with a wrong seed: %v", err)
	}
	if err := spec.Check(settings[:2]); err == nil || !strings.Contains(err.Error(), `"jwt": and seedKey must be given together`) {
		t.Errorf("without a seed: %v", err)
	}
}
