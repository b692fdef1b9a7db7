package statetest

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

func queries() []property {
	return []property{
		{"AQueryWithoutAFilterReturnsAll", queryAll},
		{"AQueryReturnsItemsAsGetDoes", queryItems},
		{"FiltersKnowTypesAndPaths", queryFilters},
		{"FiltersCombine", queryCombined},
		{"FiltersCompareLargeNumbersExactly", queryLargeNumbers},
		{"AQuerySeesItsScopeOnly", queryScope},
		{"AQueryIsOrdered", querySort},
		{"AQueryIsOrderedByManyKeys", querySortMany},
		{"MissingValuesComeFirst", querySortMissing},
		{"PagesHoldEveryItemOnce", queryPages},
		{"AMadeUpTokenDoesNoHarm", queryToken},
		{"AQueryLeavesOutWhatHasExpired", queryExpired},
		{"ValuesThatAreNotJSONAreLeftOutByFilters", queryNotJSON},
		{"OperandsAreValuesAndNothingElse", queryInjection},
	}
}

// A seeker runs queries in the scope of one application.
type seeker struct {
	t     *testing.T
	d     state.Driver
	q     state.Querier
	scope state.Scope
}

func querier(t *testing.T, d state.Driver) seeker {
	t.Helper()
	q, ok := d.(state.Querier)
	if !ok {
		t.Skip("the driver is not a state.Querier")
	}
	s := seeker{t, d, q, state.Scope{Prefix: "app||", Without: "||"}}
	// A driver whose server cannot query says so per call.
	_, err := q.Query(t.Context(), s.scope, &state.Query{Limit: 1}, state.QueryOptions{})
	if fault.Is(err, fault.Unimplemented) {
		t.Skipf("this server cannot query: %v", err)
	}
	return s
}

// put stores JSON texts by key.
func (s seeker) put(values map[string]string) {
	s.t.Helper()
	for k, v := range values {
		put(s.t, s.d, s.scope.Prefix+k, v, state.PutOptions{Metadata: map[string]string{"contentType": "application/json"}})
	}
}

// run answers a query in the form of Dapr, and fails the test when it cannot.
func (s seeker) run(text string) state.QueryPage {
	s.t.Helper()
	q, err := state.ParseQuery([]byte(text))
	if err != nil {
		s.t.Fatal(err)
	}
	page, err := s.q.Query(s.t.Context(), s.scope, q, state.QueryOptions{})
	if err != nil {
		s.t.Fatalf("query %s: %v", text, err)
	}
	return page
}

func (s seeker) keys(p state.QueryPage) []string {
	keys := []string{}
	for _, i := range p.Items {
		keys = append(keys, i.Key[min(len(s.scope.Prefix), len(i.Key)):])
	}
	return keys
}

// want expects items in order.
func (s seeker) want(text string, keys ...string) {
	s.t.Helper()
	if got := s.keys(s.run(text)); !slices.Equal(got, keys) {
		s.t.Errorf("query %s\nreturns %q\nwant    %q", text, got, keys)
	}
}

// wantSet expects items in any order.
func (s seeker) wantSet(text string, keys ...string) {
	s.t.Helper()
	got := s.keys(s.run(text))
	slices.Sort(got)
	slices.Sort(keys)
	if !slices.Equal(got, keys) {
		s.t.Errorf("query %s\nreturns %q\nwant    %q", text, got, keys)
	}
}

func queryAll(t *testing.T, d state.Driver) {
	s := querier(t, d)
	s.want(`{}`)
	s.put(map[string]string{"b": `{"x":1}`, "a": `{"x":"2"}`, "c": `{}`})
	s.want(`{}`, "a", "b", "c")
	if page := s.run(`{}`); page.Token != "" {
		t.Errorf("the only page has the token %q", page.Token)
	}
}

func queryItems(t *testing.T, d state.Driver) {
	s := querier(t, d)
	s.put(map[string]string{"a": `{"x": 1, "y": "ä\u0000", "z": [1,2, {"n":null}]}`})
	put(t, d, "app||b", `{"x":1}`, state.PutOptions{TTL: time.Hour, Metadata: map[string]string{"contentType": "application/json"}})
	page := s.run(`{"filter":{"EQ":{"x":1}}}`)
	if len(page.Items) != 2 {
		t.Fatalf("%d items, want 2", len(page.Items))
	}
	for _, item := range page.Items {
		want := get(t, d, item.Key)
		if string(item.Value) != string(want.Value) || item.ETag != want.ETag || item.ETag == "" || !near(item.Expires, want.Expires) {
			t.Errorf("%s: the query has %s, %+v; Get %s, %+v", item.Key, item.Value, item.Item, want.Value, want)
		}
	}
}

func queryFilters(t *testing.T, d state.Driver) {
	s := querier(t, d)
	s.put(map[string]string{
		"int":    `{"v":10,"deep":{"er":{"v":1}}}`,
		"float":  `{"v":10.5}`,
		"exp":    `{"v":1e1}`,
		"text":   `{"v":"10"}`,
		"word":   `{"v":"Ab"}`,
		"lower":  `{"v":"ab"}`,
		"umlaut": `{"v":"äb"}`,
		"empty":  `{"v":""}`,
		"true":   `{"v":true}`,
		"false":  `{"v":false}`,
		"null":   `{"v":null}`,
		"none":   `{"other":10}`,
		"object": `{"v":{"v":10}}`,
		"array":  `{"v":[10,"10"]}`,
		"scalar": `10`,
		"list":   `[{"v":10}]`,
	})
	not := func(keys ...string) []string {
		all := []string{"int", "float", "exp", "text", "word", "lower", "umlaut", "empty", "true", "false", "null", "none", "object", "array", "scalar", "list"}
		return slices.DeleteFunc(all, func(k string) bool { return slices.Contains(keys, k) })
	}
	for text, want := range map[string][]string{
		`{"EQ":{"v":10}}`:              {"int", "exp"},
		`{"EQ":{"v":10.0}}`:            {"int", "exp"},
		`{"EQ":{"v":10.5}}`:            {"float"},
		`{"EQ":{"v":"10"}}`:            {"text"},
		`{"EQ":{"v":"ab"}}`:            {"lower"},
		`{"EQ":{"v":"äb"}}`:            {"umlaut"},
		`{"EQ":{"v":""}}`:              {"empty"},
		`{"EQ":{"v":true}}`:            {"true"},
		`{"EQ":{"v":false}}`:           {"false"},
		`{"EQ":{"v":null}}`:            {"null", "none", "scalar", "list"},
		`{"EQ":{"v":"true"}}`:          {},
		`{"EQ":{"V":10}}`:              {},
		`{"EQ":{"v.v":10}}`:            {"object"},
		`{"EQ":{"v.0":10}}`:            {},
		`{"EQ":{"0.v":10}}`:            {},
		`{"EQ":{"deep.er.v":1}}`:       {"int"},
		`{"EQ":{"deep.er":1}}`:         {},
		`{"NEQ":{"v":10}}`:             not("int", "exp"),
		`{"NEQ":{"v":"10"}}`:           not("text"),
		`{"NEQ":{"v":true}}`:           not("true"),
		`{"NEQ":{"v":null}}`:           not("null", "none", "scalar", "list"),
		`{"IN":{"v":[10,"ab",false]}}`: {"int", "exp", "lower", "false"},
		`{"IN":{"v":["10"]}}`:          {"text"},
		`{"IN":{"v":[null,""]}}`:       {"null", "none", "scalar", "list", "empty"},
		`{"GT":{"v":10}}`:              {"float"},
		`{"GT":{"v":9.5}}`:             {"int", "exp", "float"},
		`{"GTE":{"v":10}}`:             {"int", "exp", "float"},
		`{"LT":{"v":10.5}}`:            {"int", "exp"},
		`{"LTE":{"v":10.5}}`:           {"int", "exp", "float"},
		`{"LT":{"v":-1}}`:              {},
	} {
		s.wantSet(`{"filter":`+text+`}`, want...)
	}
	s.ordersStrings(map[string][]string{
		`{"GT":{"v":"Ab"}}`:  {"lower", "umlaut"},
		`{"GTE":{"v":"Ab"}}`: {"word", "lower", "umlaut"},
		`{"LT":{"v":"Ab"}}`:  {"text", "empty"},
		`{"LTE":{"v":"z"}}`:  {"text", "empty", "word", "lower"},
	})
}

// ordersStrings holds a store that orders strings to their order; one that
// cannot says so.
func (s seeker) ordersStrings(queries map[string][]string) {
	s.t.Helper()
	for text, want := range queries {
		q, err := state.ParseQuery([]byte(`{"filter":` + text + `}`))
		if err != nil {
			s.t.Fatal(err)
		}
		if _, err := s.q.Query(s.t.Context(), s.scope, q, state.QueryOptions{}); fault.ReasonOf(orNone(err)) == state.ReasonBadQuery {
			s.t.Logf("this store does not order strings: %v", err)
			continue
		}
		s.wantSet(`{"filter":`+text+`}`, want...)
	}
}

// orNone returns an error without a reason for nil.
func orNone(err error) error {
	if err == nil {
		return fault.New(fault.Internal, "none")
	}
	return err
}

func queryCombined(t *testing.T, d state.Driver) {
	s := querier(t, d)
	s.put(map[string]string{
		"1": `{"org":"A","state":"CA","n":1}`, "2": `{"org":"B","state":"CA","n":2}`,
		"3": `{"org":"A","state":"WA","n":3}`, "4": `{"org":"B","state":"TX","n":4}`,
	})
	for text, want := range map[string][]string{
		`{"AND":[{"EQ":{"org":"A"}},{"EQ":{"state":"CA"}}]}`:                                    {"1"},
		`{"AND":[{"EQ":{"org":"A"}}]}`:                                                          {"1", "3"},
		`{"OR":[{"EQ":{"org":"A"}},{"EQ":{"state":"CA"}}]}`:                                     {"1", "2", "3"},
		`{"OR":[{"EQ":{"org":"A"}},{"AND":[{"EQ":{"org":"B"}},{"IN":{"state":["TX","NY"]}}]}]}`: {"1", "3", "4"},
		`{"AND":[{"OR":[{"EQ":{"n":1}},{"EQ":{"n":2}},{"EQ":{"n":3}}]},{"NEQ":{"n":2}}]}`:       {"1", "3"},
		`{"AND":[{"GT":{"n":1}},{"LT":{"n":4}}]}`:                                               {"2", "3"},
		`{"AND":[{"EQ":{"org":"A"}},{"EQ":{"org":"B"}}]}`:                                       {},
	} {
		s.wantSet(`{"filter":`+text+`}`, want...)
	}
}

func queryLargeNumbers(t *testing.T, d state.Driver) {
	s := querier(t, d)
	s.put(map[string]string{
		"a": `{"v":9007199254740992}`, "b": `{"v":9007199254740993}`, "c": `{"v":-9223372036854775808}`, "d": `{"v":9223372036854775807}`,
	})
	s.wantSet(`{"filter":{"EQ":{"v":9007199254740993}}}`, "b")
	s.wantSet(`{"filter":{"GT":{"v":9007199254740992}}}`, "b", "d")
	s.wantSet(`{"filter":{"IN":{"v":[-9223372036854775808,9223372036854775807]}}}`, "c", "d")
	s.want(`{"sort":[{"key":"v"}]}`, "c", "a", "b", "d")
}

func queryScope(t *testing.T, d state.Driver) {
	s := querier(t, d)
	for _, k := range []string{"app||a", "app||b", "app||type||id||a", "app2||a", "ap", "app", "app|", "app||", "APP||a", "a_p||a", "a%p||a"} {
		put(t, d, k, `{"x":1}`, state.PutOptions{Metadata: map[string]string{"contentType": "application/json"}})
	}
	s.want(`{"filter":{"EQ":{"x":1}}}`, "", "a", "b")
	s.want(`{"page":{"limit":2}}`, "", "a")
	if page := s.run(`{"page":{"limit":3}}`); page.Token != "" {
		t.Errorf("after the last item of the scope there is a token, %q", page.Token)
	}
	s.scope = state.Scope{Prefix: "a_p||", Without: "||"}
	s.want(`{}`, "a")
	s.scope = state.Scope{Prefix: "a%p||", Without: "||"}
	s.want(`{}`, "a")
	s.scope = state.Scope{Prefix: "app||"}
	s.want(`{}`, "", "a", "b", "type||id||a")
	s.scope = state.Scope{Without: "||"}
	s.want(`{}`, "ap", "app", "app|")
	s.scope = state.Scope{Prefix: "nobody||", Without: "||"}
	s.want(`{}`)
}

func querySort(t *testing.T, d state.Driver) {
	s := querier(t, d)
	s.put(map[string]string{
		"1": `{"n":10,"t":"b","d":{"x":1}}`, "2": `{"n":9,"t":"B","d":{"x":3}}`, "3": `{"n":-1.5,"t":"a","d":{"x":2}}`,
		"4": `{"n":100,"t":"ab","d":{"x":-4}}`,
	})
	s.want(`{"sort":[{"key":"n"}]}`, "3", "2", "1", "4")
	s.want(`{"sort":[{"key":"n","order":"DESC"}]}`, "4", "1", "2", "3")
	s.want(`{"sort":[{"key":"d.x","order":"ASC"}]}`, "4", "1", "3", "2")
	s.want(`{"sort":[{"key":"t"}]}`, "2", "3", "4", "1")
	s.want(`{"filter":{"GT":{"n":9}},"sort":[{"key":"t","order":"DESC"}]}`, "1", "4")
}

func querySortMany(t *testing.T, d state.Driver) {
	s := querier(t, d)
	s.put(map[string]string{
		"4": `{"a":1,"b":"x"}`, "3": `{"a":2,"b":"x"}`, "2": `{"a":1,"b":"y"}`, "1": `{"a":2,"b":"x"}`,
	})
	q, err := state.ParseQuery([]byte(`{"sort":[{"key":"a"},{"key":"b"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.q.Query(t.Context(), s.scope, q, state.QueryOptions{}); fault.ReasonOf(orNone(err)) == state.ReasonBadQuery {
		t.Skipf("this store sorts by one key only: %v", err)
	}
	s.want(`{"sort":[{"key":"a"},{"key":"b"}]}`, "4", "2", "1", "3")
	s.want(`{"sort":[{"key":"a","order":"DESC"},{"key":"b"}]}`, "1", "3", "4", "2")
	s.want(`{"sort":[{"key":"a"},{"key":"b","order":"DESC"}]}`, "2", "4", "1", "3")
	s.want(`{"sort":[{"key":"b"},{"key":"a","order":"DESC"}]}`, "1", "3", "4", "2")
}

func querySortMissing(t *testing.T, d state.Driver) {
	s := querier(t, d)
	s.put(map[string]string{"1": `{"n":2}`, "2": `{}`, "3": `{"n":1}`, "4": `{"n":null}`, "5": `[]`})
	s.want(`{"sort":[{"key":"n"}]}`, "2", "4", "5", "3", "1")
	s.want(`{"sort":[{"key":"n","order":"DESC"}]}`, "1", "3", "2", "4", "5")
}

func queryPages(t *testing.T, d state.Driver) {
	s := querier(t, d)
	values := map[string]string{}
	for _, c := range "abcdefghijklmnopqrstuvwxyz" {
		values[string(c)] = `{"half":` + map[bool]string{true: "1", false: "2"}[c < 'n'] + `}`
	}
	s.put(values)
	pages := func(query, page string) (got []string, sizes []int) {
		token := ""
		for range 30 {
			p := s.run(`{` + query + `"page":{"limit":` + page + `,"token":"` + token + `"}}`)
			got, sizes = append(got, s.keys(p)...), append(sizes, len(p.Items))
			if token = p.Token; token == "" {
				break
			}
		}
		return got, sizes
	}
	all := slices.Sorted(func(yield func(string) bool) {
		for k := range values {
			if !yield(k) {
				return
			}
		}
	})
	for query, want := range map[string][]string{
		"":                            all,
		`"sort":[{"key":"half"}],`:    all,
		`"filter":{"EQ":{"half":1}},`: all[:13],
		`"sort":[{"key":"half","order":"DESC"}],`: append(slices.Clone(all[13:]), all[:13]...),
	} {
		for _, size := range []string{"1", "7", "13", "26", "27"} {
			got, sizes := pages(query, size)
			if !slices.Equal(got, want) {
				t.Errorf("pages of %s of %s hold %q, want %q", size, query, got, want)
			}
			if sizes[len(sizes)-1] == 0 {
				t.Errorf("pages of %s of %s: the last one, after %d, is empty", size, query, len(got))
			}
		}
	}
}

func queryToken(t *testing.T, d state.Driver) {
	s := querier(t, d)
	s.put(map[string]string{"a": `{"x":1}`, "b": `{"x":2}`})
	put(t, d, "other||secret", `{"x":1}`, state.PutOptions{Metadata: map[string]string{"contentType": "application/json"}})
	for _, token := range []string{"x", "-1", "0", "1; DROP TABLE state", "' OR 1=1", "99999999999999999999", "1000000", "\x00", "other||"} {
		q := &state.Query{Limit: 10, Token: token}
		page, err := s.q.Query(t.Context(), s.scope, q, state.QueryOptions{})
		if err != nil {
			if !fault.Is(err, fault.InvalidArgument) || fault.ReasonOf(err) != state.ReasonBadQuery {
				t.Errorf("token %q: %v, want a bad query", token, err)
			}
			continue
		}
		for _, item := range page.Items {
			if !s.scope.Holds(item.Key) {
				t.Errorf("token %q shows %q", token, item.Key)
			}
		}
	}
	wantValue(t, d, "other||secret", `{"x":1}`)
}

func queryExpired(t *testing.T, d state.Driver) {
	s := querier(t, d)
	s.put(map[string]string{"stays": `{"x":1}`})
	put(t, d, "app||goes", `{"x":1}`, state.PutOptions{TTL: short, Metadata: map[string]string{"contentType": "application/json"}})
	s.wantSet(`{"filter":{"EQ":{"x":1}}}`, "goes", "stays")
	awaitGone(t, d, "app||goes")
	s.want(`{"filter":{"EQ":{"x":1}}}`, "stays")
	s.want(`{}`, "stays")
}

func queryNotJSON(t *testing.T, d state.Driver) {
	s := querier(t, d)
	s.put(map[string]string{"json": `{"x":1}`})
	for k, v := range map[string]string{"text": "x", "bytes": "\x00\xff", "half": `{"x":1`, "two": `{"x":1}{"x":1}`, "empty": ""} {
		put(t, d, s.scope.Prefix+k, v, state.PutOptions{})
	}
	s.want(`{"filter":{"EQ":{"x":1}}}`, "json")
	s.want(`{"filter":{"GTE":{"x":0}}}`, "json")
	s.want(`{"filter":{"IN":{"x":[1,2]}}}`, "json")
}

// queryInjection looks for values, and in members, whose names and texts mean
// something in query languages.
func queryInjection(t *testing.T, d state.Driver) {
	s := querier(t, d)
	odd := []string{`' OR '1'='1`, `"`, `\`, `$where`, `%`, `_`, `*`, `@x:{y}`, `a b`, `--`, `;`, `${x}`, `(a|b)`, "\n", `'`, `]`, `é'`, `a"b`, `/`, `~`, `?`, `:x`}
	for i, text := range odd {
		s.put(map[string]string{"text" + string(rune('a'+i)): `{"v":` + quote(text) + `}`})
		s.put(map[string]string{"name" + string(rune('a'+i)): `{` + quote(text) + `:1}`})
	}
	for i, text := range odd {
		s.wantSet(`{"filter":{"EQ":{"v":`+quote(text)+`}}}`, "text"+string(rune('a'+i)))
		s.wantSet(`{"filter":{"IN":{"v":[`+quote(text)+`,"none"]}}}`, "text"+string(rune('a'+i)))
		s.wantSet(`{"filter":{"EQ":{`+quote(text)+`:1}}}`, "name"+string(rune('a'+i)))
		if got := s.run(`{"filter":{"GT":{` + quote(text) + `:0}},"sort":[{"key":` + quote(text) + `}]}`); len(got.Items) != 1 {
			t.Errorf("%d items have a member called %q, want 1", len(got.Items), text)
		}
	}
}

// quote returns text as a JSON string; it must be printable or a line feed.
func quote(text string) string { return strconv.Quote(text) }
