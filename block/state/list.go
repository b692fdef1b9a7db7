package state

import (
	"context"
	"encoding/base64"
	"strings"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// Bounds of a page of List.
const (
	defaultPage   = 1000
	maxPage       = 10_000
	maxValuesPage = 1000
)

// ListRequest asks for the items whose keys have a prefix.
type ListRequest struct {
	Prefix string // of the keys, as the caller wrote them; "" for all
	// Token is ListPage.Token of the page before; "" for the first one.
	Token string
	// Limit is how many items the page has at most: 1,000 when 0, never more
	// than 10,000, and never more than 1,000 with Values.
	Limit int
	// Values asks for whole items, and not just their keys.
	Values bool
}

// ListPage is one page of a list.
type ListPage struct {
	// Items are in the byte order of their keys. Unless values were asked for
	// they have nothing but a key. One that goes away while its value is
	// fetched is left out.
	Items []ListItem
	// Token is what ListRequest.Token must be for the next page; "" when this
	// is the last one.
	Token string
}

// ListItem is one item of a page.
type ListItem struct {
	Key string // as the caller wrote it
	Item
}

// List returns one page of the items of this application. Keys that its other
// calls cannot reach, such as those of actors and, without a key prefix, those
// of other applications, are left out, and no token leads to them.
func (s *Store) List(ctx context.Context, r ListRequest) (ListPage, error) {
	after, err := s.place(&r)
	if err != nil {
		return ListPage{}, s.explain(err, "list", "")
	}
	c := policy.Call{Key: r.Prefix, Idempotent: true}
	keys, err := policy.Do(ctx, s.list, c, func(ctx context.Context) ([]string, error) {
		d, _, err := s.driver(ctx)
		if err != nil {
			return nil, err
		}
		l, ok := d.(Lister)
		if !ok {
			return nil, fault.New(fault.Unimplemented, "this kind of store cannot list its keys").WithReason(ReasonListNotSupported)
		}
		// One more than fits tells whether there is another page.
		return s.visible(ctx, l, r.Prefix, after, r.Limit+1)
	})
	if err != nil {
		return ListPage{}, s.explain(err, "list", "")
	}
	var page ListPage
	if len(keys) > r.Limit {
		keys = keys[:r.Limit]
		page.Token = base64.RawURLEncoding.EncodeToString([]byte(keys[len(keys)-1]))
	}
	page.Items, err = s.listItems(ctx, keys, r.Values)
	return page, err
}

// place puts the bounds of a request in order and returns the key after which
// its page begins; "" for the beginning.
func (s *Store) place(r *ListRequest) (after string, err error) {
	if r.Limit < 0 {
		return "", badPage("a page has 1 item or more, not %d", r.Limit)
	}
	if r.Limit == 0 {
		r.Limit = defaultPage
	}
	r.Limit = min(r.Limit, maxPage)
	if r.Values {
		r.Limit = min(r.Limit, maxValuesPage)
	}
	if strings.Contains(r.Prefix, separator) {
		return "", fault.New(fault.InvalidArgument, "the prefix %q must not contain %q", r.Prefix, separator).WithReason(ReasonIllegalKey)
	}
	if r.Token == "" {
		return "", nil
	}
	last, err := base64.RawURLEncoding.DecodeString(r.Token)
	if err != nil || len(last) == 0 {
		return "", badPage("the token is not one that came with a page")
	}
	return string(last), nil
}

func badPage(format string, args ...any) error {
	return fault.New(fault.InvalidArgument, format, args...).WithReason(ReasonBadPage)
}

// visible returns up to limit keys of the caller that start with prefix and
// sort after after, without the store's prefix. What is below another separator
// is not the caller's: it is stepped over as a whole, for it may be large.
func (s *Store) visible(ctx context.Context, l Lister, prefix, after string, limit int) ([]string, error) {
	var out []string
	if after != "" {
		after = s.prefix + after
	}
	for {
		want := limit - len(out)
		keys, err := l.List(ctx, s.prefix+prefix, after, want)
		if err != nil {
			return nil, err
		}
		for _, k := range keys {
			if k <= after {
				continue // stepped over
			}
			after = k
			name := k[len(s.prefix):]
			if hidden, _, below := strings.Cut(name, separator); below {
				after = max(after, s.prefix+hidden+separator+lastRune)
			} else if name != "" {
				out = append(out, name)
			}
		}
		if len(keys) < want || len(out) == limit {
			return out, nil
		}
	}
}

// lastRune is the last of all characters: hardly a key has it in its place.
const lastRune = "\U0010FFFF"

// listItems returns the items at keys, with their values or without.
func (s *Store) listItems(ctx context.Context, keys []string, values bool) ([]ListItem, error) {
	items := make([]ListItem, 0, len(keys))
	if !values {
		for _, k := range keys {
			items = append(items, ListItem{Key: k})
		}
		return items, nil
	}
	got, err := s.GetBulk(ctx, BulkGetRequest{Keys: keys})
	if err != nil {
		return nil, err
	}
	for _, g := range got {
		if g.Err != nil {
			return nil, g.Err
		}
		if g.Found {
			items = append(items, ListItem{g.Key, g.Item})
		}
	}
	return items, nil
}
