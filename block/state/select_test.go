package state_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/driver/memory"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// neighbours returns stores of two applications and one without a prefix, all
// on the same driver, each with items, and items of an actor beside them.
func neighbours(t *testing.T) (shop, bank, bare *state.Store) {
	d := openMemory(t)
	shop = newStore(t, d, state.Options{AppID: "shop"})
	bank = newStore(t, d, state.Options{AppID: "bank"})
	bare = newStore(t, d, state.Options{Config: state.Config{KeyPrefix: "none"}})
	for i := range 5 {
		for _, s := range []*state.Store{shop, bank, bare} {
			mustSet(t, s, state.SetRequest{Key: fmt.Sprint("k", i), Value: fmt.Appendf(nil, `{"n":%d}`, i)})
		}
	}
	for _, k := range []string{"shop||Cart||1||items", "||", "k2||x"} {
		if _, err := d.Put(t.Context(), k, []byte(`{"n":1}`), state.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return shop, bank, bare
}

func query(t *testing.T, s *state.Store, text string) (keys []string, token string) {
	t.Helper()
	page, err := s.Query(t.Context(), state.QueryRequest{Text: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range page.Items {
		keys = append(keys, i.Key)
	}
	return keys, page.Token
}

func TestAQuerySeesTheItemsOfItsOwnApplicationOnly(t *testing.T) {
	all := []string{"k0", "k1", "k2", "k3", "k4"}
	shop, bank, bare := neighbours(t)
	for _, s := range []*state.Store{shop, bank, bare} {
		if keys, token := query(t, s, `{}`); !slices.Equal(keys, all) || token != "" {
			t.Errorf("all: %q, token %q", keys, token)
		}
		if keys, _ := query(t, s, `{"filter":{"EQ":{"n":1}}}`); !slices.Equal(keys, all[1:2]) {
			t.Errorf("one: %q", keys)
		}
		keys, token := query(t, s, `{"page":{"limit":3}}`)
		if !slices.Equal(keys, all[:3]) || token == "" {
			t.Errorf("the first page: %q, token %q", keys, token)
		}
		for _, other := range []*state.Store{shop, bank, bare} { // a token of one is no key to another
			if keys, token := query(t, other, `{"page":{"limit":3,"token":"`+token+`"}}`); !slices.Equal(keys, all[3:]) || token != "" {
				t.Errorf("the second page: %q, token %q", keys, token)
			}
		}
	}
}

// bareDriver hides all optional interfaces of a driver.
type bareDriver struct{ state.Driver }

func TestAStoreThatCannotSaysSo(t *testing.T) {
	s := newStore(t, bareDriver{openMemory(t)}, state.Options{AppID: "shop"})
	_, queryErr := s.Query(t.Context(), state.QueryRequest{Text: []byte(`{}`)})
	_, listErr := s.List(t.Context(), state.ListRequest{})
	for _, tc := range []struct {
		err    error
		reason fault.Reason
		text   string
	}{
		{queryErr, state.ReasonQueryNotSupported, `state "orders": query: this kind of store cannot be queried`},
		{listErr, state.ReasonListNotSupported, `state "orders": list: this kind of store cannot list its keys`},
	} {
		if !fault.Is(tc.err, fault.Unimplemented) || fault.ReasonOf(tc.err) != tc.reason || fault.Message(tc.err) != tc.text {
			t.Errorf("%v (%s), want %q", tc.err, fault.ReasonOf(tc.err), tc.text)
		}
	}
}

func TestATransactionChecksWhatItDoesNotWrite(t *testing.T) {
	s := newStore(t, openMemory(t), state.Options{AppID: "shop"})
	etag := mustSet(t, s, state.SetRequest{Key: "config", Value: []byte("1")})
	transact := func(check state.Check, key, etag string) error {
		return s.Transact(t.Context(), state.TransactRequest{Operations: []state.Operation{
			{SetRequest: state.SetRequest{Key: "k", Value: []byte(key)}},
			{Check: check, SetRequest: state.SetRequest{Key: key, ETag: etag, Metadata: map[string]string{"ttlInSeconds": "ignored"}}},
		}})
	}
	for _, tc := range []struct {
		check     state.Check
		key, etag string
		reason    fault.Reason // "" for success
		text      string
	}{
		{state.CheckETag, "config", etag, "", ""},
		{state.CheckExists, "config", "", "", ""},
		{state.CheckAbsent, "none", "", "", ""},
		{state.CheckExists, "none", "", state.ReasonConditionFailed,
			`state "orders": transaction "none": there is no item, and the transaction demands one`},
		{state.CheckAbsent, "config", "", state.ReasonConditionFailed,
			`state "orders": transaction "config": there is an item, and the transaction demands that there is none`},
		{state.CheckETag, "config", "x", state.ReasonConditionFailed,
			`state "orders": transaction "config": the item is not the one whose etag the transaction demands`},
		{state.CheckETag, "config", "", state.ReasonBadOperation, `state "orders": transaction "config": a check for an etag wants an etag`},
		{state.CheckExists, "", "", state.ReasonEmptyKey, `state "orders": the key is empty`},
	} {
		err := transact(tc.check, tc.key, tc.etag)
		if tc.reason == "" {
			if err != nil {
				t.Errorf("check %d of %q: %v", tc.check, tc.key, err)
			}
			continue
		}
		if err == nil || fault.ReasonOf(err) != tc.reason || fault.Message(err) != tc.text {
			t.Errorf("check %d of %q: %v, want %q", tc.check, tc.key, err, tc.text)
		}
	}
	err := s.Transact(t.Context(), state.TransactRequest{Operations: []state.Operation{
		{Check: state.CheckExists, SetRequest: state.SetRequest{Key: "config"}}}})
	if !fault.Is(err, fault.InvalidArgument) || fault.ReasonOf(err) != state.ReasonBadOperation {
		t.Errorf("a transaction of checks only: %v", err)
	}
}

func TestAListSeesTheItemsOfItsOwnApplicationOnly(t *testing.T) {
	shop, bank, bare := neighbours(t)
	for name, s := range map[string]*state.Store{"shop": shop, "bank": bank, "bare": bare} {
		for _, limit := range []int{0, 1, 2, 3, 4, 5, 6} {
			var got []string
			r := state.ListRequest{Limit: limit}
			for pages := 0; pages == 0 || r.Token != ""; pages++ {
				page, err := s.List(t.Context(), r)
				if err != nil || pages > 5 || len(page.Items) == 0 {
					t.Fatalf("%s: page %d of %d has %d items, error %v", name, pages, limit, len(page.Items), err)
				}
				for _, i := range page.Items {
					got = append(got, i.Key)
				}
				r.Token = page.Token
			}
			if !slices.Equal(got, []string{"k0", "k1", "k2", "k3", "k4"}) {
				t.Errorf("%s in pages of %d: %q", name, limit, got)
			}
		}
		page, err := s.List(t.Context(), state.ListRequest{Prefix: "k3", Values: true})
		if err != nil || len(page.Items) != 1 || string(page.Items[0].Value) != `{"n":3}` || page.Items[0].ETag == "" || page.Token != "" {
			t.Errorf("%s with values: %+v, %v", name, page, err)
		}
	}
}

// What is below other prefixes may be large: a list must not visit it key by
// key.
func TestAListStepsOverWhatIsNotItsOwn(t *testing.T) {
	d := &countingLister{State: openMemory(t)}
	s := newStore(t, d, state.Options{Config: state.Config{KeyPrefix: "none"}})
	for i := range 900 {
		if _, err := d.Put(t.Context(), fmt.Sprint("bank||", i), nil, state.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	mustSet(t, s, state.SetRequest{Key: "a"})
	mustSet(t, s, state.SetRequest{Key: "z"})
	page, err := s.List(t.Context(), state.ListRequest{Limit: 2})
	if err != nil || len(page.Items) != 2 || page.Token != "" {
		t.Fatalf("%+v, %v", page, err)
	}
	if d.keys > 10 {
		t.Errorf("%d keys were looked at, want a few", d.keys)
	}
}

type countingLister struct {
	*memory.State
	keys int
}

func (c *countingLister) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	keys, err := c.State.List(ctx, prefix, after, limit)
	c.keys += len(keys)
	return keys, err
}

func TestNoTokenLeadsOutOfTheOwnKeys(t *testing.T) {
	shop, _, bare := neighbours(t)
	for _, s := range []*state.Store{shop, bare} {
		for _, place := range []string{"", "a", "\x00", "bank||", "bank||k1", "shop||Cart", "||", "k2||", "\xff", "k0", "../bank||k"} {
			token := base64.RawURLEncoding.EncodeToString([]byte(place))
			page, err := s.List(t.Context(), state.ListRequest{Token: token})
			if err != nil {
				t.Errorf("after %q: %v", place, err)
			}
			for _, i := range page.Items {
				if len(i.Key) != 2 || i.Key[0] != 'k' {
					t.Errorf("after %q comes %q", place, i.Key)
				}
			}
		}
		for _, r := range []state.ListRequest{{Token: "!"}, {Token: "a"}, {Limit: -1}} {
			if _, err := s.List(t.Context(), r); !fault.Is(err, fault.InvalidArgument) || fault.ReasonOf(err) != state.ReasonBadPage {
				t.Errorf("%+v: %v", r, err)
			}
		}
		if _, err := s.List(t.Context(), state.ListRequest{Prefix: "bank||"}); fault.ReasonOf(err) != state.ReasonIllegalKey {
			t.Errorf("a list of another's keys: %v", err)
		}
	}
}

func TestAWatchSeesTheItemsOfItsOwnApplicationOnly(t *testing.T) {
	d := openMemory(t)
	shop, bare := newStore(t, d, state.Options{AppID: "shop"}), newStore(t, d, state.Options{Config: state.Config{KeyPrefix: "none"}})
	for _, s := range []*state.Store{shop, bare} {
		enough := errors.New("enough")
		var got []string
		err := s.Watch(t.Context(), state.WatchRequest{}, func(c state.Change) error {
			if c.Kind != state.Synced {
				if got = append(got, c.Key); c.Key == "last" {
					return enough
				}
				return nil
			}
			for _, k := range []string{"bank||k", "shop||Cart||1||items", "||", "shop||k", "k", "shop||", "x||", "shop||last", "last"} {
				if _, err := d.Put(t.Context(), k, nil, state.PutOptions{}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != enough || !slices.Equal(got, []string{"k", "last"}) {
			t.Errorf("reported %q, error %v", got, err)
		}
	}
}

func TestAWatchSaysWhyItDoesNotBegin(t *testing.T) {
	s := newStore(t, openMemory(t), state.Options{AppID: "shop"})
	bare := newStore(t, bareDriver{openMemory(t)}, state.Options{AppID: "shop"})
	report := func(state.Change) error { return errors.New("began") }
	for _, tc := range []struct {
		store  *state.Store
		r      state.WatchRequest
		reason fault.Reason
		text   string
	}{
		{bare, state.WatchRequest{}, state.ReasonWatchNotSupported, `state "orders": watch: this kind of store cannot tell of changes`},
		{s, state.WatchRequest{Prefix: "a||b"}, state.ReasonIllegalKey, `state "orders": watch: the prefix "a||b" must not contain "||"`},
		{s, state.WatchRequest{Initial: true, After: "1"}, state.ReasonRevisionInvalid,
			`state "orders": watch: a watch begins with the present items, or after a revision, but not both`},
		{s, state.WatchRequest{After: strings.Repeat("1", 129)}, state.ReasonRevisionInvalid,
			`state "orders": watch: the revision is not one of this store: it is too long`},
	} {
		err := tc.store.Watch(t.Context(), tc.r, report)
		if err == nil || fault.ReasonOf(err) != tc.reason || fault.Message(err) != tc.text {
			t.Errorf("%v, want %q", err, tc.text)
		}
	}
}

// The policies are about the beginning of a watch: a timeout must not end it.
func TestAWatchOutlivesTheTimeoutOfItsPolicies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, openMemory(t), state.Options{AppID: "shop", Chains: chainOf(policy.Timeout(time.Second, nil))})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		err := s.Watch(ctx, state.WatchRequest{}, func(state.Change) error { return nil })
		if !fault.Is(err, fault.DeadlineExceeded) || time.Since(began) != time.Hour {
			t.Errorf("the watch ended after %v: %v", time.Since(began), err)
		}
	})
}
