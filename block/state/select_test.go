package state_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
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
	q, err := state.ParseQuery([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	page, err := s.Query(t.Context(), state.QueryRequest{Query: q})
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
	_, queryErr := s.Query(t.Context(), state.QueryRequest{Query: &state.Query{Limit: 1}})
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
