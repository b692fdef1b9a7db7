package sqlstate

import (
	"encoding/base64"
	"encoding/json"
	"regexp"

	"github.com/proa-io/proa/block/state"
)

// token says where a page ended: what its last item was ordered by.
type token struct {
	Key  []byte     `json:"k"` // without the prefix of the scope in the token itself
	Sort []position `json:"s,omitempty"`
}

// position is where an item is in the order of one sort key.
type position struct {
	Rank   int    `json:"r"`
	Number string `json:"n"`
	Text   []byte `json:"t"`
}

// maxToken is how long a token may be, in bytes.
const maxToken = 4096

func errToken() error { return state.ErrBadQuery("page.token is not one that this store gave") }

// readToken returns nil for the first page.
func readToken(text, prefix string, sortKeys int) (*token, error) {
	if text == "" {
		return nil, nil
	}
	data, err := base64.RawURLEncoding.DecodeString(text)
	t := &token{}
	if err != nil || json.Unmarshal(data, t) != nil || len(t.Sort) != sortKeys {
		return nil, errToken()
	}
	for _, p := range t.Sort {
		if p.Rank < 0 || p.Rank > 3 || !isNumber(p.Number) {
			return nil, errToken()
		}
	}
	t.Key = append([]byte(prefix), t.Key...)
	return t, nil
}

// isNumber reports whether a text is a number as databases write it.
func isNumber(text string) bool {
	ok, err := regexp.MatchString(`^-?([0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,3})?|Inf)$`, text)
	return ok && err == nil
}

// Row receives what Outputs selects of one item.
type Row struct{ positions []position }

// Row returns a Row for the items of the selection.
func (s *Selection) Row() *Row { return &Row{make([]position, len(s.query.Sort))} }

// Targets returns where the columns go.
func (r *Row) Targets() []any {
	var out []any
	for i := range r.positions {
		p := &r.positions[i]
		out = append(out, &p.Rank, &p.Number, &p.Text)
	}
	return out
}

// Token returns the token for the page after the item that row was read with.
// key is its key without the prefix of the scope.
func (s *Selection) Token(row *Row, key string) (string, error) {
	data, err := json.Marshal(token{Key: []byte(key), Sort: row.positions})
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString(data)
	if len(text) > maxToken {
		return "", state.ErrBadQuery("the items go on, but the key or the values that the query sorts by are too long for the token of a next page: ask for more items, or sort by shorter values")
	}
	return text, nil
}
