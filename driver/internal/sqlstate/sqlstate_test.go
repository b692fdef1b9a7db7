package sqlstate

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

func same(s string) (string, error) { return s, nil }

func put(key string) state.Op { return state.Op{Key: key, Value: []byte("v")} }

func TestPlansHaveOneWritePerKeyInTheOrderOfTheKeys(t *testing.T) {
	gone := put("c")
	gone.Delete = true
	p, err := NewPlan([]state.Op{put("b"), put("c"), put("a"), put("b"), gone}, same, same)
	if err != nil {
		t.Fatal(err)
	}
	if p.Conditional || !slices.Equal(p.Keys, []string{"a", "b", "c"}) || !slices.Equal(p.Writes, []int{2, 3, 4}) {
		t.Errorf("the plan is %+v", p)
	}
}

func TestPlansTellWhichKeysMustStayFree(t *testing.T) {
	first := put("b")
	first.FirstWrite = true
	ops := []state.Op{{Key: "c", Check: state.CheckAbsent}, first, put("d")}
	p, err := NewPlan(ops, same, same)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := p.Check(map[string]string{"d": "1"})
	if err != nil || len(claims) != 2 || claims[0].Key != "b" || !claims[0].Written || claims[1].Key != "c" || claims[1].Written {
		t.Fatalf("claims %+v, %v", claims, err)
	}
	for i, c := range claims {
		oe, ok := errors.AsType[*state.OpError](c.Lost())
		if !ok || oe.Index != 1-i || !fault.Is(oe, fault.Aborted) {
			t.Errorf("the loss of %s is %v", c.Key, c.Lost())
		}
	}
	if _, err := p.Check(map[string]string{"b": "1", "c": "1"}); err == nil || !strings.HasPrefix(err.Error(), "operation 1:") {
		t.Errorf("with both keys taken: %v", err)
	}
}

func TestPlansRefuseKeysAndETags(t *testing.T) {
	no := func(string) (string, error) { return "", fault.New(fault.InvalidArgument, "no") }
	etag := put("a")
	etag.ETag = "1"
	for name, plan := range map[string]func() (*Plan, error){
		"a key":   func() (*Plan, error) { return NewPlan([]state.Op{put("a")}, no, same) },
		"an etag": func() (*Plan, error) { return NewPlan([]state.Op{etag}, same, no) },
	} {
		if _, err := plan(); !fault.Is(err, fault.InvalidArgument) || !strings.HasPrefix(err.Error(), "operation 1:") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// plain is a dialect that shows what is asked of it.
type plain struct{}

func (plain) Path(a *Args, path []string, value string) string {
	return a.Add(strings.Join(path, ".")) + " AS " + value
}
func (plain) Missing(v string) string           { return "missing(" + v + ")" }
func (plain) Number(v string) string            { return "number(" + v + ")" }
func (plain) Text(v string) string              { return "text(" + v + ")" }
func (plain) Bool(v string) string              { return "bool(" + v + ")" }
func (plain) NumberArg(a *Args, n any) string   { return a.Add(n) }
func (plain) TextArg(a *Args, s string) string  { return a.Add(s) }
func (plain) BoolArg(a *Args, b bool) string    { return a.Add(b) }
func (plain) NumberText(n string) string        { return "string(" + n + ")" }
func (plain) None() (string, string)            { return "0", "''" }
func (plain) Key() string                       { return "key" }
func (plain) KeyArg(a *Args, key string) string { return a.Add(key) }

func TestArgumentsComeInTheOrderOfTheStatement(t *testing.T) {
	q, err := state.ParseQuery([]byte(`{"filter":{"OR":[{"EQ":{"a":1}},{"AND":[{"NEQ":{"b":"x"}},{"LT":{"a":2}}]}]},"sort":[{"key":"c","order":"DESC"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Select(q, "app||", plain{})
	if err != nil {
		t.Fatal(err)
	}
	row := s.Row()
	for i, target := range row.Targets() {
		_, err := fmt.Sscan([]string{"1", "7", "-"}[i], target)
		if b, ok := target.(*[]byte); ok {
			*b, err = []byte("-"), nil
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if q.Token, err = s.Token(row, "k"); err != nil {
		t.Fatal(err)
	}
	if s, err = Select(q, "app||", plain{}); err != nil {
		t.Fatal(err)
	}
	a := &Args{Placeholder: func(n int) string { return fmt.Sprint("$", n) }}
	for got, want := range map[string]string{
		s.Paths(a):  ", $1 AS p0, $2 AS p1, $3 AS p2",
		s.Where(a):  "((COALESCE(number(p0) = $4, 1 = 0)) OR (NOT (COALESCE(text(p1) = $5, 1 = 0)) AND COALESCE(number(p0) < $6, 1 = 0)))",
		s.After(a):  "(by0_rank < 1 OR by0_rank = 1 AND (by0_number < $7 OR by0_number = $8 AND (by0_text < $9 OR by0_text = $10 AND (key > $11))))",
		s.OrderBy(): "by0_rank DESC, by0_number DESC, by0_text DESC, key",
		s.Outputs(): ", by0_rank, string(by0_number) AS out0_number, by0_text",
	} {
		if got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
	if want := []any{"a", "b", "c", int64(1), "x", int64(2), "7", "7", "-", "-", "app||k"}; !slices.Equal(a.Values, want) {
		t.Errorf("arguments %q, want %q", a.Values, want)
	}
}

func TestTokensThatAreNotOursAreRefused(t *testing.T) {
	q := &state.Query{Limit: 1, Sort: []state.SortKey{{Path: []string{"a"}}}}
	for _, text := range []string{
		"x", "AAAA", `{}`, `{"k":"a"}`, `{"s":[{"r":1,"n":"1","t":""},{"r":1,"n":"1","t":""}]}`, `{"s":[{"r":7,"n":"1"}]}`,
		`{"s":[{"r":1,"n":"1; DROP TABLE state"}]}`, `{"s":[{"r":1,"n":""}]}`, `{"s":[{"r":1,"n":"1e9999"}]}`,
	} {
		for _, token := range []string{text, base64.RawURLEncoding.EncodeToString([]byte(text))} {
			q.Token = token
			if _, err := Select(q, "", plain{}); fault.ReasonOf(err) != state.ReasonBadQuery {
				t.Errorf("token %q: %v", token, err)
			}
		}
	}
}

func TestTokensThatWouldBeTooLongAreAnError(t *testing.T) {
	s, err := Select(&state.Query{Limit: 1, Sort: []state.SortKey{{Path: []string{"a"}}}}, "", plain{})
	if err != nil {
		t.Fatal(err)
	}
	row := s.Row()
	*row.Targets()[2].(*[]byte) = make([]byte, maxToken)
	if _, err := s.Token(row, "k"); fault.ReasonOf(err) != state.ReasonBadQuery {
		t.Errorf("Token: %v", err)
	}
}

func FuzzToken(f *testing.F) {
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"k":"aw","s":[{"r":1,"n":"1.5","t":"eA"}]}`)))
	f.Add("x")
	f.Fuzz(func(t *testing.T, token string) {
		q := &state.Query{Limit: 1, Token: token, Sort: []state.SortKey{{Path: []string{"a"}}}}
		s, err := Select(q, "app||", plain{})
		if err != nil {
			if fault.ReasonOf(err) != state.ReasonBadQuery {
				t.Errorf("token %q: %v", token, err)
			}
			return
		}
		s.After(&Args{Placeholder: func(int) string { return "?" }})
	})
}
