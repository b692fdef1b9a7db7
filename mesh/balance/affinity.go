package balance

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/mesh/proxy"
)

// HashKey is where a key for consistent hashing comes from. One of its fields is
// set.
type HashKey struct {
	Header    string // the value of a field
	Cookie    Cookie
	SourceIP  bool   // the address of the client
	Query     string // the value of a parameter, as it is written
	Path      bool   // the path, without the query
	PathIndex int    // a segment of the path, counted from 1
}

// Cookie is a cookie that keeps a client at one endpoint. A client that has none
// gets one.
type Cookie struct {
	Name string
	// TTL is how long the client keeps it; 0 for as long as its session.
	TTL time.Duration
	// Path is where it is valid; "/" when empty.
	Path string
	// Attributes are added as they are: "Secure", "SameSite=Lax".
	Attributes []string
}

// Client is who asks.
type Client struct {
	Request *proxy.Request
	Address netip.Addr
}

// Prepare fills in what a request says of where it wants to go: its key, and its
// subset when the policy has one for it. It returns the value of the field
// Set-Cookie that the answer must have, or "".
func (c *Cluster) Prepare(r *Request, from Client) (setCookie string) {
	s := c.state.Load()
	p := s.policy
	for i := range p.Subsets {
		m := &p.Subsets[i].Header
		if m.Name != "" && r.Subset == 0 && from.Request.Header.Get(m.Name) == m.Value {
			r.Subset = s.named[i]
		}
	}
	if !p.Algorithm.consistent() {
		return ""
	}
	for i := range p.HashKeys {
		if key, ok := p.HashKeys[i].of(from); ok {
			r.Key, r.Keyed = HashOf(key), true
			return ""
		}
	}
	for i := range p.HashKeys {
		if cookie := &p.HashKeys[i].Cookie; cookie.Name != "" {
			value := strconv.FormatUint(c.random(), 16)
			r.Key, r.Keyed = HashOf(value), true
			return cookie.set(value)
		}
	}
	return ""
}

// of returns the key of a request.
func (k *HashKey) of(from Client) (string, bool) {
	r := from.Request
	switch {
	case k.Header != "":
		v := r.Header.Get(k.Header)
		return v, v != ""
	case k.Cookie.Name != "":
		v := cookieOf(r.Header, k.Cookie.Name)
		return v, v != ""
	case k.SourceIP:
		if !from.Address.IsValid() {
			return "", false
		}
		return from.Address.Unmap().String(), true
	case k.Query != "":
		v := parameter(r.Query(), k.Query)
		return v, v != ""
	case k.Path:
		return r.Path(), true
	case k.PathIndex > 0:
		rest := strings.TrimPrefix(r.Path(), "/")
		for n := 1; ; n++ {
			segment, after, more := strings.Cut(rest, "/")
			if n == k.PathIndex {
				return segment, segment != ""
			}
			if !more {
				return "", false
			}
			rest = after
		}
	}
	return "", false
}

// cookieOf returns the value of the first cookie with the name (RFC 6265,
// section 4.2).
func cookieOf(h proxy.Header, name string) string {
	for i := range h {
		if !proxy.SameName(h[i].Name, "cookie") {
			continue
		}
		for pair := range strings.SplitSeq(h[i].Value, ";") {
			if k, v, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && k == name {
				return strings.Trim(v, `"`)
			}
		}
	}
	return ""
}

// parameter returns the value of the first parameter with the name.
func parameter(query, name string) string {
	for pair := range strings.SplitSeq(query, "&") {
		if k, v, _ := strings.Cut(pair, "="); k == name {
			return v
		}
	}
	return ""
}

// set returns the value of a field Set-Cookie (RFC 6265, section 4.1).
func (c *Cookie) set(value string) string {
	path := c.Path
	if path == "" {
		path = "/"
	}
	out := c.Name + "=" + value + "; Path=" + path
	if c.TTL > 0 {
		out += "; Max-Age=" + strconv.FormatInt(int64(max(c.TTL/time.Second, 1)), 10)
	}
	for _, a := range c.Attributes {
		out += "; " + a
	}
	return out + "; HttpOnly"
}
