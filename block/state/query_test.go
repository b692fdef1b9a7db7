package state

import (
	"reflect"
	"strings"
	"testing"

	"github.com/proa-io/proa/fault"
)

func TestAQueryIsReadAsItIsWritten(t *testing.T) {
	eq := func(operand any, path ...string) *Filter {
		return &Filter{Operator: Equal, Path: path, Operands: []any{operand}}
	}
	for text, want := range map[string]Query{
		`{}`: {Limit: DefaultQueryLimit},
		`{"filter":null,"sort":null,"page":null}`: {Limit: DefaultQueryLimit},
		`{"filter":{}}`:                                  {Limit: DefaultQueryLimit},
		`{"page":{"limit":0}}`:                           {Limit: DefaultQueryLimit},
		`{"page":{"limit":3,"token":"t"}}`:               {Limit: 3, Token: "t"},
		`{"page":{"limit":1000000,"token":null}}`:        {Limit: MaxQueryLimit},
		`{"filter":{"EQ":{"a":"x"}}}`:                    {Limit: DefaultQueryLimit, Filter: eq("x", "a")},
		`{"filter":{"EQ":{"a.b c.d":9007199254740993}}}`: {Limit: DefaultQueryLimit, Filter: eq(int64(9007199254740993), "a", "b c", "d")},
		`{"filter":{"EQ":{"a":1.5}}}`:                    {Limit: DefaultQueryLimit, Filter: eq(1.5, "a")},
		`{"filter":{"EQ":{"a":9223372036854775808}}}`:    {Limit: DefaultQueryLimit, Filter: eq(float64(1<<63), "a")},
		`{"filter":{"EQ":{"a":true}}}`:                   {Limit: DefaultQueryLimit, Filter: eq(true, "a")},
		`{"filter":{"EQ":{"a":null}}}`:                   {Limit: DefaultQueryLimit, Filter: eq(nil, "a")},
		`{"filter":{"IN":{"a":[1,"x",null]}}}`:           {Limit: DefaultQueryLimit, Filter: &Filter{Operator: In, Path: []string{"a"}, Operands: []any{int64(1), "x", nil}}},
		`{"filter":{"GTE":{"a":-2}}}`:                    {Limit: DefaultQueryLimit, Filter: &Filter{Operator: GreaterOrEqual, Path: []string{"a"}, Operands: []any{int64(-2)}}},
		`{"filter":{"OR":[{"EQ":{"a":1}},{"AND":[{"EQ":{"b":2}}]}]}}`: {Limit: DefaultQueryLimit, Filter: &Filter{Operator: Or, Filters: []*Filter{
			eq(int64(1), "a"), {Operator: And, Filters: []*Filter{eq(int64(2), "b")}}}}},
		`{"sort":[{"key":"a.b","order":"DESC"},{"key":"c","order":"asc"},{"key":"d"}]}`: {Limit: DefaultQueryLimit, Sort: []SortKey{
			{Path: []string{"a", "b"}, Descending: true}, {Path: []string{"c"}}, {Path: []string{"d"}}}},
	} {
		q, err := ParseQuery([]byte(text))
		if err != nil || !reflect.DeepEqual(*q, want) {
			t.Errorf("%s: %+v, error %v; want %+v", text, q, err, want)
		}
	}
}

func TestABadQueryIsRefusedAndSaysWhere(t *testing.T) {
	nested := func(n int) string {
		return `{"filter":` + strings.Repeat(`{"AND":[`, n) + `{"EQ":{"a":1}}` + strings.Repeat(`]}`, n) + `}`
	}
	many := func(n int) string { return strings.TrimSuffix(strings.Repeat("1,", n), ",") }
	for text, want := range map[string]string{
		``:                              "it is empty",
		`{`:                             "it ends too early",
		`{} {}`:                         "goes on after its end",
		`[]`:                            "cannot unmarshal array",
		`{"filters":{"EQ":{"a":1}}}`:    `unknown field "filters"`,
		`{"filter":[]}`:                 "filter wants an object with one member, an operator",
		`{"filter":{"EQ":{},"IN":{}}}`:  "filter wants an object with one member",
		`{"filter":{"LIKE":{"a":"x"}}}`: "filter.LIKE is no operator: there are EQ",
		`{"filter":{"EQ":1}}`:           "filter.EQ wants an object with one member, the path",
		`{"filter":{"EQ":{"":1}}}`:      "filter.EQ is empty",
		`{"filter":{"EQ":{"a..b":1}}}`:  `filter.EQ has an empty name between its dots: "a..b"`,
		`{"filter":{"EQ":{"a":{}}}}`:    `filter.EQ["a"] wants a number, a string, true, false or null`,
		`{"filter":{"EQ":{"a":[]}}}`:    `filter.EQ["a"] wants a number, a string`,
		`{"filter":{"EQ":{"a":1e999}}}`: `filter.EQ["a"] has a number that is too large`,
		`{"filter":{"GT":{"a":true}}}`:  `filter.GT["a"] wants a number or a string`,
		`{"filter":{"LTE":{"a":null}}}`: `filter.LTE["a"] wants a number or a string`,
		`{"filter":{"IN":{"a":"x"}}}`:   `filter.IN["a"] wants an array`,
		`{"filter":{"IN":{"a":[]}}}`:    `filter.IN["a"] wants an array`,
		`{"filter":{"AND":{}}}`:         "filter.AND wants an array of filters",
		`{"filter":{"OR":[]}}`:          "filter.OR wants an array of filters",
		`{"filter":{"OR":[{"EQ":{"a":1}},{"NOT":1}]}}`: "filter.OR[1].NOT is no operator",
		nested(33): "is nested more than 32 deep",
		`{"filter":{"IN":{"a":[` + many(1001) + `]}}}`:              "compares with 1000 at most",
		`{"filter":{"EQ":{"` + strings.Repeat("a.", 32) + `a":1}}}`: "has 33 names, more than 32",
		`{"sort":[{"order":"ASC"}]}`:                                "sort[0].key is empty",
		`{"sort":[{"key":"a"},{"key":"b","order":"UP"}]}`:           `sort[1].order wants "ASC" or "DESC", not "UP"`,
		`{"sort":[{},{},{},{},{},{},{},{},{}]}`:                     "sort has 9 keys, more than 8",
		`{"page":{"limit":-1}}`:                                     "page.limit wants a whole number from 0, not -1",
		`{"page":{"limit":1.5}}`:                                    "page.limit wants a whole number",
		`{"page":{"token":"` + strings.Repeat("t", 5000) + `"}}`:    "page.token is longer",
	} {
		_, err := ParseQuery([]byte(text))
		if !fault.Is(err, fault.InvalidArgument) || fault.ReasonOf(err) != ReasonBadQuery || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: error %v, want one with %q", text, err, want)
		}
	}
	if _, err := ParseQuery([]byte(nested(31))); err != nil {
		t.Errorf("31 levels: %v", err)
	}
}

func FuzzParseQuery(f *testing.F) {
	for _, text := range []string{
		`{"filter":{"OR":[{"EQ":{"a.b":1}},{"IN":{"c":["x",null]}}]},"sort":[{"key":"a","order":"DESC"}],"page":{"limit":5,"token":"7"}}`,
		`{"filter":{"AND":[{"NEQ":{"a":true}},{"GT":{"b":1.5}}]}}`, `{"filter":{}}`, `{"page":{"limit":1e3}}`, `[`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		q, err := ParseQuery(text)
		if err != nil {
			if fault.ReasonOf(err) != ReasonBadQuery {
				t.Errorf("error %v without a reason", err)
			}
			return
		}
		if q.Limit < 1 || q.Limit > MaxQueryLimit {
			t.Errorf("limit %d", q.Limit)
		}
		operands := 0
		checkFilter(t, q.Filter, 1, &operands)
		if operands > maxQueryOperands {
			t.Errorf("%d operands", operands)
		}
	})
}

// checkFilter holds a filter to what the comments promise.
func checkFilter(t *testing.T, f *Filter, depth int, operands *int) {
	if f == nil {
		return
	}
	*operands += len(f.Operands)
	switch f.Operator {
	case And, Or:
		if len(f.Filters) == 0 || len(f.Path)+len(f.Operands) > 0 || depth > maxQueryDepth {
			t.Fatalf("%+v at depth %d", f, depth)
		}
		for _, inner := range f.Filters {
			checkFilter(t, inner, depth+1, operands)
		}
	case Equal, NotEqual, Greater, GreaterOrEqual, Less, LessOrEqual:
		if len(f.Operands) != 1 || len(f.Path) == 0 {
			t.Fatalf("%+v", f)
		}
	case In:
		if len(f.Operands) == 0 || len(f.Path) == 0 {
			t.Fatalf("%+v", f)
		}
	default:
		t.Fatalf("operator %q", f.Operator)
	}
}

func TestASelectorTakesNoMoreThanItsBounds(t *testing.T) {
	q, err := ParseQuery([]byte(`{"filter":{"EQ":{"v":1}}}`))
	if err != nil {
		t.Fatal(err)
	}
	add := func(s *Selector, n int, value string) (err error) {
		for range n {
			if err = s.Add(QueryItem{Key: "k", Item: Item{Value: []byte(value)}}); err != nil {
				break
			}
		}
		return err
	}
	for name, tc := range map[string]struct {
		bounds Bounds
		n      int
		value  string
		want   string
	}{
		"as many items as it may have": {Bounds{Items: 3}, 3, `{"v":2}`, ""},
		"one more":                     {Bounds{Items: 3}, 4, `{"v":2}`, "there are more than 3 items to look at"},
		"bytes that are not selected":  {Bounds{Bytes: 7}, 100, `{"v":2}`, ""},
		"as many bytes as it may have": {Bounds{Bytes: 14}, 2, `{"v":1}`, ""},
		"one item more":                {Bounds{Bytes: 14}, 3, `{"v":1}`, "the values that the filter selects have more than 14 bytes together"},
		"no bounds":                    {Bounds{}, 1000, `{"v":1}`, ""},
	} {
		s, err := NewSelector(q, tc.bounds)
		if err != nil {
			t.Fatal(err)
		}
		err = add(s, tc.n, tc.value)
		if (err == nil) != (tc.want == "") || err != nil && (!fault.Is(err, fault.FailedPrecondition) || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}
