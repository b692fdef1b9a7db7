package state_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/memory"
	"github.com/proa-io/proa/fault"
)

const (
	key16 = "00112233445566778899aabbccddeeff"
	key24 = key16 + "0011223344556677"
	key32 = key16 + key16
)

// secretKeys are settings whose keys come from secrets: "name=key", the primary
// first.
func secretKeys(keys ...string) component.Settings {
	var out component.Settings
	for i, text := range keys {
		name, key, _ := strings.Cut(text, "=")
		setting := [...]string{"primaryEncryptionKey", "SecondaryEncryptionKey"}[i]
		out = append(out, component.Setting{Name: setting, Value: key, Secret: true, SecretName: name, Pos: component.Position{File: "store.yaml", Line: 7 + i}})
	}
	return out
}

// encrypted returns a store for the application shop on d.
func encrypted(t *testing.T, d state.Driver, settings component.Settings) *state.Store {
	t.Helper()
	cfg, err := component.BlockConfig[state.Config](memorySpec(t), settings)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := state.Encrypted(d, cfg, settings)
	if err != nil {
		t.Fatal(err)
	}
	return newStore(t, sealed, state.Options{AppID: "shop", Config: cfg})
}

func bound(s component.Settings) component.Settings {
	return append(slices.Clone(s), component.Setting{Name: "encryptionBindKeys", Value: "true"})
}

func mustGet(t *testing.T, s *state.Store, key string) state.Item {
	t.Helper()
	item, found, err := s.Get(t.Context(), state.GetRequest{Key: key})
	if err != nil || !found {
		t.Fatalf("Get(%q): %v, %v", key, found, err)
	}
	return item
}

// raw returns what is stored at a key of the application shop.
func raw(t *testing.T, d state.Driver, key string) string {
	t.Helper()
	item, found, err := d.Get(t.Context(), "shop||"+key, state.GetOptions{})
	if err != nil || !found {
		t.Fatalf("Get(%q): %v, %v", key, found, err)
	}
	return string(item.Value)
}

// The texts are as Dapr writes them, made with another implementation of
// AES-GCM.
func TestWhatDaprEncryptedIsRead(t *testing.T) {
	for _, tc := range []struct {
		keys         []string
		stored, want string
	}{
		{[]string{"mysecret=" + key16}, "AAECAwQFBgcICQoLUPdW5pSm8lqlfauJTz4tQ+/EigyZoQY=||mysecret", `{"a":1}`},
		{[]string{"mysecret=" + key24}, "AAECAwQFBgcICQoLSCEWrCU32ZKd2fmphza6aS5IfB4=||mysecret", "text"},
		{[]string{"mysecret=" + key16}, "AAECAwQFBgcICQoLj5OPQPh34MSvN9D+mvAzBQ==||mysecret", ""},
		{[]string{"mysecret=" + key16, "old-secret=" + key32}, "AAECAwQFBgcICQoLFuflOv6oRCOcFcKEoVg3oTWc||old-secret", "\x00\xff"},
		{[]string{"old-secret=" + key32, "mysecret=" + key16}, "AAECAwQFBgcICQoLUPdW5pSm8lqlfauJTz4tQ+/EigyZoQY=||mysecret", `{"a":1}`},
		// Both keys are of one secret; the secret has got another name; upper case.
		{[]string{"mysecret=" + key24, "mysecret=" + key16}, "AAECAwQFBgcICQoLUPdW5pSm8lqlfauJTz4tQ+/EigyZoQY=||mysecret", `{"a":1}`},
		{[]string{"renamed=" + key16}, "AAECAwQFBgcICQoLUPdW5pSm8lqlfauJTz4tQ+/EigyZoQY=||mysecret", `{"a":1}`},
		{[]string{"mysecret=" + strings.ToUpper(key16)}, "AAECAwQFBgcICQoLUPdW5pSm8lqlfauJTz4tQ+/EigyZoQY=||", `{"a":1}`},
		// Our own form, tied to the key shop||k.
		{[]string{"mysecret=" + key16}, "proa1:AAECAwQFBgcICQoLSbpCqsoOpFFWp42+A0kprjINjqmc||mysecret", "bound"},
	} {
		d := openMemory(t)
		s := encrypted(t, d, secretKeys(tc.keys...))
		if _, err := d.Put(t.Context(), "shop||k", []byte(tc.stored), state.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		item, found, err := s.Get(t.Context(), state.GetRequest{Key: "k"})
		if err != nil || !found || string(item.Value) != tc.want {
			t.Errorf("%s: %q, %v, %v; want %q", tc.stored, item.Value, found, err, tc.want)
		}
	}
}

func TestWhatCannotBeDecryptedSaysWhy(t *testing.T) {
	const sealed = "AAECAwQFBgcICQoLUPdW5pSm8lqlfauJTz4tQ+/EigyZoQY="
	for _, tc := range []struct{ keys, stored, want string }{
		{"mysecret=" + key24, sealed + "||mysecret", `the value does not decrypt with the key "mysecret": it is another key of that name, or the value was changed in the store`},
		{"new=" + key24, sealed + "||mysecret", `the value was encrypted with the key "mysecret", and this store has new`},
		{"mysecret=" + key16, strings.Replace(sealed, "A", "B", 1) + "||mysecret", "does not decrypt"},
		{"mysecret=" + key16, "proa1:" + sealed + "||mysecret", "changed or moved in the store"},
		{"mysecret=" + key16, `{"a":1}`, "the value is not encrypted: was it written before the store had a primaryEncryptionKey?"},
		{"mysecret=" + key16, ``, "the value is not encrypted"},
		{"mysecret=" + key16, `a||b`, "the value is not encrypted"},
		{"mysecret=" + key16, `||mysecret`, "the value is not encrypted"},
		{"mysecret=" + key16, `AAEC||mysecret`, "the value is not encrypted"},
	} {
		d := openMemory(t)
		s := encrypted(t, d, secretKeys(tc.keys))
		if _, err := d.Put(t.Context(), "shop||k", []byte(tc.stored), state.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		_, _, err := s.Get(t.Context(), state.GetRequest{Key: "k"})
		if !fault.Is(err, fault.FailedPrecondition) || fault.ReasonOf(err) != state.ReasonUndecipherable || !strings.Contains(fault.Message(err), tc.want) {
			t.Errorf("%s: %v, want %q", tc.stored, err, tc.want)
		}
		if text := err.Error(); strings.Contains(text, key16) || strings.Contains(text, sealed) || !strings.HasPrefix(text, `state "orders": get "k": `) {
			t.Errorf("%s: %v tells too much or too little", tc.stored, err)
		}
	}
}

// Whatever way a value comes in or goes out, it is encrypted in the store and as
// it was outside.
func TestEveryOperationOfAnEncryptedStore(t *testing.T) {
	for name, settings := range map[string]component.Settings{
		"Dapr's form": secretKeys("mysecret=" + key32), "tied": bound(secretKeys("mysecret=" + key32)), "a key without a name": secretKeys("=" + key16),
	} {
		t.Run(name, func(t *testing.T) {
			d := openMemory(t)
			for kind, driver := range map[string]state.Driver{"bulk": d, "plain": oneByOne{d, d, d}} {
				t.Run(kind, func(t *testing.T) { everyOperation(t, d, encrypted(t, driver, settings)) })
			}
		})
	}
}

// oneByOne has no bulk operations.
type oneByOne struct {
	state.Driver
	state.Transactor
	state.Lister
}

func everyOperation(t *testing.T, d *memory.State, s *state.Store) {
	ctx := t.Context()
	values := map[string]string{
		"json": `{"secret":[1,2.50,"x"],"n":null}`, "text": "secret text", "number": "12345678901234567890", "empty": "", "binary": "secret\x00\xff\xfe",
		"quoted": `"secret"`, "bars": "a||b", "prefix": "proa1:a||b", "large": strings.Repeat("secret", 10_000),
	}
	keys := []string{"json", "text", "number", "empty", "binary", "quoted", "bars", "prefix", "large"}
	check := func(way string) {
		t.Helper()
		got, err := s.GetBulk(ctx, state.BulkGetRequest{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		list, err := s.List(ctx, state.ListRequest{Values: true})
		if err != nil || len(list.Items) != len(keys) {
			t.Fatalf("%s: list of %d, %v", way, len(list.Items), err)
		}
		for _, i := range list.Items {
			if string(i.Value) != values[i.Key] {
				t.Errorf("%s, listed: %s is %.40q", way, i.Key, i.Value)
			}
		}
		for i, k := range keys {
			if item := mustGet(t, s, k); string(item.Value) != values[k] || item.ETag == "" {
				t.Errorf("%s: %s is %.40q", way, k, item.Value)
			}
			if got[i].Err != nil || string(got[i].Item.Value) != values[k] {
				t.Errorf("%s, in bulk: %s is %.40q, %v", way, k, got[i].Item.Value, got[i].Err)
			}
			stored := raw(t, d, k)
			text, name, _ := strings.Cut(strings.TrimPrefix(stored, "proa1:"), "||")
			if _, err := base64.StdEncoding.DecodeString(text); err != nil || name == "" || strings.Contains(stored, "secret") && name != "mysecret" {
				t.Errorf("%s: %s is stored as %.60q", way, k, stored)
			}
			if len(values[k]) > 4 && strings.Contains(stored, values[k]) {
				t.Errorf("%s: %s is stored in clear", way, k)
			}
		}
	}
	for _, k := range keys {
		mustSet(t, s, state.SetRequest{Key: k, Value: []byte(values[k])})
	}
	check("one by one")
	for i, k := range keys {
		values[k] += fmt.Sprint(i)
	}
	var items []state.SetRequest
	for _, k := range keys {
		items = append(items, state.SetRequest{Key: k, Value: []byte(values[k])})
	}
	if err := s.Save(ctx, items); err != nil {
		t.Fatal(err)
	}
	check("in bulk")
	var tx state.TransactRequest
	for i, k := range keys {
		values[k] += fmt.Sprint(i)
		tx.Operations = append(tx.Operations, state.Operation{SetRequest: state.SetRequest{Key: k, Value: []byte(values[k]), ETag: mustGet(t, s, k).ETag}})
	}
	tx.Operations = append(tx.Operations, state.Operation{Delete: true, SetRequest: state.SetRequest{Key: "none"}},
		state.Operation{Check: state.CheckAbsent, SetRequest: state.SetRequest{Key: "none"}})
	if err := s.Transact(ctx, tx); err != nil {
		t.Fatal(err)
	}
	check("in a transaction")

	stale := tx.Operations[0].ETag
	if _, err := s.Set(ctx, state.SetRequest{Key: "json", ETag: stale}); fault.ReasonOf(err) != state.ReasonETagMismatch {
		t.Errorf("a stale etag: %v", err)
	}
	mustSet(t, s, state.SetRequest{Key: "ttl", Value: []byte("v"), Metadata: map[string]string{"ttlInSeconds": "60"}})
	if item := mustGet(t, s, "ttl"); time.Until(item.Expires) > time.Minute || time.Until(item.Expires) < 30*time.Second {
		t.Errorf("the item expires at %v", item.Expires)
	}
	for _, k := range append(keys, "ttl") {
		if err := s.Delete(ctx, state.DeleteRequest{Key: k}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAWatchOfAnEncryptedStoreDecrypts(t *testing.T) {
	d := openMemory(t)
	s := encrypted(t, d, secretKeys("mysecret="+key16))
	mustSet(t, s, state.SetRequest{Key: "a", Value: []byte("1")})
	var got []string
	err := s.Watch(t.Context(), state.WatchRequest{Initial: true}, func(c state.Change) error {
		if c.Kind == state.Synced {
			mustSet(t, s, state.SetRequest{Key: "b", Value: []byte("2")})
			if err := s.Delete(t.Context(), state.DeleteRequest{Key: "a"}); err != nil {
				return err
			}
			_, err := d.Put(t.Context(), "shop||c", []byte("in clear"), state.PutOptions{})
			return err
		}
		got = append(got, c.Key+string(c.Item.Value))
		return nil
	})
	if text := strings.Join(got, " "); text != "a1 b2 a" {
		t.Errorf("reported %q", text)
	}
	if fault.ReasonOf(err) != state.ReasonUndecipherable || !strings.HasPrefix(fault.Message(err), `state "orders": watch "c": the value is not encrypted`) {
		t.Errorf("the watch ended with %v", err)
	}
}

// What the outbox keeps in the store holds values too.
func TestTheRowsOfAnEncryptedStoreAreEncrypted(t *testing.T) {
	d := openMemory(t)
	settings := secretKeys("mysecret=" + key16)
	cfg, err := component.BlockConfig[state.Config](memorySpec(t), settings)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := state.Encrypted(d, cfg, settings)
	if err != nil {
		t.Fatal(err)
	}
	var rows *state.Rows
	box := &rowOutbox{}
	s := newStore(t, sealed, state.Options{AppID: "shop", Outbox: func(r *state.Rows) state.Outbox { rows = r; return box }})
	err = s.Transact(t.Context(), state.TransactRequest{Operations: []state.Operation{{SetRequest: state.SetRequest{Key: "k", Value: []byte("confidential")}}}})
	if err != nil {
		t.Fatal(err)
	}
	etag, err := rows.Write(t.Context(), "written", []byte("confidential 2"), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := rows.Put(t.Context(), "put", []byte("confidential 3")); err != nil {
		t.Fatal(err)
	}
	got, err := rows.Read(t.Context(), []string{"event", "written", "put", "none"})
	if err != nil || string(got[0].Value) != "confidential 1" || string(got[1].Value) != "confidential 2" || got[1].ETag != etag ||
		string(got[2].Value) != "confidential 3" || got[3].Found {
		t.Errorf("%v, %v", got, err)
	}
	keys, err := d.List(t.Context(), "", "", 100)
	if err != nil || len(keys) != 4 {
		t.Fatalf("%q, %v", keys, err)
	}
	for _, k := range keys {
		if item, _, err := d.Get(t.Context(), k, state.GetOptions{}); err != nil || strings.Contains(string(item.Value), "confidential") {
			t.Errorf("%s is in clear, %v", k, err)
		}
	}
}

// rowOutbox adds a row to every transaction.
type rowOutbox struct{}

func (rowOutbox) Begin(context.Context, *state.TransactRequest) (*state.OutboxTransaction, error) {
	return &state.OutboxTransaction{Keep: []int{0}, Row: "event", Value: []byte("confidential 1"), End: func(context.Context, state.Outcome) {}}, nil
}

func TestAnEncryptedStoreCannotBeQueried(t *testing.T) {
	s := encrypted(t, openMemory(t), secretKeys("mysecret="+key16))
	_, err := s.Query(t.Context(), state.QueryRequest{Text: []byte("{}")})
	if !fault.Is(err, fault.FailedPrecondition) || fault.ReasonOf(err) != state.ReasonQueryEncrypted ||
		fault.Message(err) != `state "orders": query: cannot query encrypted store` {
		t.Error(err)
	}
}

func TestAnEncryptionKeyCanBeChanged(t *testing.T) {
	d := openMemory(t)
	before := encrypted(t, d, secretKeys("one="+key16))
	mustSet(t, before, state.SetRequest{Key: "old", Value: []byte("1")})
	during := encrypted(t, d, secretKeys("two="+key32, "one="+key16))
	mustSet(t, during, state.SetRequest{Key: "new", Value: []byte("2")})
	if old, fresh := string(mustGet(t, during, "old").Value), string(mustGet(t, during, "new").Value); old != "1" || fresh != "2" {
		t.Errorf("old %q, new %q", old, fresh)
	}
	if !strings.HasSuffix(raw(t, d, "new"), "||two") || !strings.HasSuffix(raw(t, d, "old"), "||one") {
		t.Error("the names of the keys are not beside the values")
	}
	after := encrypted(t, d, secretKeys("two="+key32))
	mustGet(t, after, "new")
	bulk, err := after.GetBulk(t.Context(), state.BulkGetRequest{Keys: []string{"old", "new"}})
	if err != nil || fault.ReasonOf(bulk[0].Err) != state.ReasonUndecipherable || bulk[1].Err != nil || len(bulk[0].Item.Value) > 0 {
		t.Errorf("%+v, %v", bulk, err)
	}
}

func TestATiedValueIsNotReadElsewhere(t *testing.T) {
	d := openMemory(t)
	s := encrypted(t, d, bound(secretKeys("mysecret="+key16)))
	mustSet(t, s, state.SetRequest{Key: "poor", Value: []byte("1")})
	mustSet(t, s, state.SetRequest{Key: "rich", Value: []byte("1000000")})
	if _, err := d.Put(t.Context(), "shop||poor", []byte(raw(t, d, "rich")), state.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Get(t.Context(), state.GetRequest{Key: "poor"}); fault.ReasonOf(err) != state.ReasonUndecipherable {
		t.Errorf("a value of another item: %v", err)
	}
	// What is not tied is read, and tied when it is written again.
	loose := encrypted(t, d, secretKeys("mysecret="+key16))
	mustSet(t, loose, state.SetRequest{Key: "loose", Value: []byte("v")})
	mustGet(t, s, "loose")
	mustGet(t, loose, "rich")
}

func TestEachWriteIsEncryptedAnew(t *testing.T) {
	d := openMemory(t)
	s := encrypted(t, d, secretKeys("mysecret="+key16))
	mustSet(t, s, state.SetRequest{Key: "a", Value: []byte("v")})
	mustSet(t, s, state.SetRequest{Key: "b", Value: []byte("v")})
	if raw(t, d, "a") == raw(t, d, "b") {
		t.Error("equal values look alike in the store")
	}
}

// A store that keeps JSON as such must not take what is encrypted for JSON.
func TestTheContentTypeOfAnEncryptedValueIsNotPassedOn(t *testing.T) {
	d := &spyingDriver{State: openMemory(t)}
	s := encrypted(t, d, secretKeys("mysecret="+key16))
	metadata := map[string]string{"ContentType": "application/json", "partitionKey": "p"}
	r := state.SetRequest{Key: "k", Value: []byte("{}"), Metadata: metadata}
	mustSet(t, s, r)
	if err := s.Save(t.Context(), []state.SetRequest{r, r}); err != nil {
		t.Fatal(err)
	}
	if err := s.Transact(t.Context(), state.TransactRequest{Operations: []state.Operation{{SetRequest: r}}}); err != nil {
		t.Fatal(err)
	}
	if len(d.seen) != 4 || len(metadata) != 2 {
		t.Fatalf("%d writes, metadata %v", len(d.seen), metadata)
	}
	for _, m := range d.seen {
		if len(m) != 1 || m["partitionKey"] != "p" {
			t.Errorf("the driver was given %v", m)
		}
	}
}

type spyingDriver struct {
	*memory.State
	seen []map[string]string
}

func (d *spyingDriver) Put(ctx context.Context, key string, value []byte, o state.PutOptions) (string, error) {
	d.seen = append(d.seen, o.Metadata)
	return d.State.Put(ctx, key, value, o)
}

func (d *spyingDriver) BulkPut(ctx context.Context, puts []state.PutOp) []state.PutResult {
	for _, p := range puts {
		d.seen = append(d.seen, p.Metadata)
	}
	return d.State.BulkPut(ctx, puts)
}

func (d *spyingDriver) Transact(ctx context.Context, ops []state.Op, o state.TransactOptions) error {
	for _, op := range ops {
		d.seen = append(d.seen, op.Metadata)
	}
	return d.State.Transact(ctx, ops, o)
}

func TestAnEncryptionKeyThatIsNoneStopsTheComponent(t *testing.T) {
	for _, tc := range []struct {
		settings component.Settings
		want     string
	}{
		{secretKeys("a="), `store.yaml:7: "primaryEncryptionKey": wants a key of 16, 24 or 32 bytes (32, 48 or 64 hexadecimal digits), and has 0`},
		{secretKeys("a="+key16, "b="), `store.yaml:8: "secondaryEncryptionKey": wants a key of 16, 24 or 32 bytes (32, 48 or 64 hexadecimal digits), and has 0`},
		{secretKeys("a="+key16, "b=0011"), `store.yaml:8: "secondaryEncryptionKey": wants a key of 16`},
	} {
		cfg, err := component.BlockConfig[state.Config](memorySpec(t), tc.settings)
		if err == nil {
			_, err = state.Encrypted(openMemory(t), cfg, tc.settings)
		}
		if err == nil || !strings.HasPrefix(strings.Replace(err.Error(), `"SecondaryE`, `"secondaryE`, 1), tc.want) {
			t.Errorf("%v, want %q", err, tc.want)
		}
	}
	d := openMemory(t)
	if same, err := state.Encrypted(d, state.Config{}, settings("keyPrefix", "none")); err != nil || same != state.Driver(d) {
		t.Errorf("without keys: %v, %v", same, err)
	}
}

func FuzzDecrypt(f *testing.F) {
	for _, text := range []string{
		"AAECAwQFBgcICQoLUPdW5pSm8lqlfauJTz4tQ+/EigyZoQY=||mysecret", "proa1:AAECAwQFBgcICQoLSbpCqsoOpFFWp42+A0kprjINjqmc||mysecret",
		"||", "proa1:", "a||||", "AAECAwQFBgcICQoL||mysecret",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		d := openMemory(t)
		s := encrypted(t, d, secretKeys("mysecret="+key16))
		if _, err := d.Put(t.Context(), "shop||k", stored, state.PutOptions{}); err != nil {
			t.Skip(err)
		}
		item, _, err := s.Get(t.Context(), state.GetRequest{Key: "k"})
		if err == nil && !bytes.Contains(stored, []byte("||")) {
			t.Errorf("%q was decrypted to %q", stored, item.Value)
		}
		if e, ok := errors.AsType[*fault.Error](err); err != nil && (!ok || e.Code != fault.FailedPrecondition) {
			t.Error(err)
		}
	})
}
