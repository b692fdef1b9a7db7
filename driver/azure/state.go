package azure

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/internal/rest"
	"github.com/proa-io/proa/fault"
)

// State is a state.Driver on a container of blobs.
//
// Reads see every acknowledged write. Whether an item has expired is judged by
// the clock of this machine, by the second; its blob stays until something is
// written in its place, or a rule of the account removes it. Dapr knows of no
// expiry, and reads such blobs for ever.
type State struct {
	storage *storage
	name    func(key string) string
}

// OpenState opens a state store whose blobs have whole keys for names.
func OpenState(ctx context.Context, cfg StorageConfig, _ component.Env) (*State, error) {
	return open(ctx, cfg, blobName)
}

// OpenStateV1 opens a state store whose blobs have for names what is behind ||
// in keys.
func OpenStateV1(ctx context.Context, cfg StorageConfig, _ component.Env) (*State, error) {
	return open(ctx, cfg, func(key string) string {
		if parts := strings.Split(key, "||"); len(parts) == 2 {
			key = parts[1]
		}
		return blobName(key)
	})
}

func open(ctx context.Context, cfg StorageConfig, name func(string) string) (*State, error) {
	s, err := newStorage(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &State{s, name}, nil
}

// Close implements io.Closer.
func (s *State) Close() error {
	s.storage.client.Close()
	return nil
}

// maxName is how long the name of a blob may be, in characters.
const maxName = 1024

// marker begins the names of blobs whose keys cannot be names.
const marker = "~esc:"

// blobName returns the name of the blob of a key: the key itself, or, if it
// cannot be one, its bytes, of which those that are neither letters nor digits
// nor - _ | are written as ~ and two hexadecimal digits.
func blobName(key string) string {
	plain := utf8.ValidString(key) && !strings.HasPrefix(key, marker) && !strings.ContainsFunc(key, unicode.IsControl) &&
		!strings.ContainsAny(key, "\\\ufffd\ufffe\uffff") && strings.TrimRight(key, "./ ") == key
	for part := range strings.SplitSeq(key, "/") {
		plain = plain && part != "" && part != "." && part != ".."
	}
	if plain {
		return key
	}
	var b strings.Builder
	b.WriteString(marker)
	for _, c := range []byte(key) {
		if c == '-' || c == '_' || c == '|' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "~%02x", c)
		}
	}
	return b.String()
}

// blob returns the name of the blob of a key, if there can be one.
func (s *State) blob(key string) (string, error) {
	name := s.name(key)
	if utf8.RuneCountInString(name) > maxName {
		return "", fault.New(fault.InvalidArgument, "the key is too long: the name of a blob has %d characters at most", maxName)
	}
	return name, nil
}

// expiresHeader is the metadata of a blob that says when its item expires, in
// seconds since 1970.
const expiresHeader = "x-ms-meta-proa_expires"

// An etag is that of the blob and, of an item that expires, when.

// etagOf returns the etag of an answer to a read or a write.
func etagOf(header http.Header, expires string) string {
	etag := header.Get("ETag")
	if expires != "" {
		etag += "@" + expires
	}
	return etag
}

// match returns what the blob's etag must be; ok is false when the item has
// expired, or when the etag is none.
func match(etag string) (blob string, ok bool) {
	blob, expires, found := strings.Cut(etag, "@")
	if found && expired(expires) {
		return "", false
	}
	for _, r := range blob {
		if r <= ' ' || r > '~' || r == '*' || r == ',' {
			return "", false
		}
	}
	return blob, true
}

func expired(seconds string) bool {
	at, err := strconv.ParseInt(seconds, 10, 64)
	return err == nil && at <= time.Now().Unix()
}

// Get implements state.Driver.
func (s *State) Get(ctx context.Context, key string, _ state.GetOptions) (item state.Item, found bool, err error) {
	blob, err := s.blob(key)
	if err != nil {
		return state.Item{}, false, nil // nothing can be there
	}
	a, err := s.storage.do(ctx, request{method: http.MethodGet, blob: blob})
	switch {
	case err != nil:
		return state.Item{}, false, err
	case missing(a):
		return state.Item{}, false, nil
	case a.Status != http.StatusOK:
		return state.Item{}, false, a.Err(place)
	}
	expires := a.Header.Get(expiresHeader)
	if expired(expires) {
		return state.Item{}, false, nil
	}
	item = state.Item{Value: a.Body, ETag: etagOf(a.Header, expires)}
	if at, err := strconv.ParseInt(expires, 10, 64); err == nil {
		item.Expires = time.Unix(at, 0)
	}
	return item, true, nil
}

func missing(a rest.Answer) bool {
	return a.Status == http.StatusNotFound && a.Header.Get("x-ms-error-code") != "ContainerNotFound"
}

// lost reports whether a condition did not hold.
func lost(a rest.Answer) bool {
	return a.Status == http.StatusPreconditionFailed || a.Status == http.StatusConflict && a.Header.Get("x-ms-error-code") == "BlobAlreadyExists"
}

// Put implements state.Driver.
func (s *State) Put(ctx context.Context, key string, value []byte, opt state.PutOptions) (string, error) {
	blob, err := s.blob(key)
	if err != nil {
		return "", err
	}
	header, expires := http.Header{"X-Ms-Blob-Type": {"BlockBlob"}, "Content-Type": {contentType(opt.Metadata)}}, ""
	if opt.TTL > 0 {
		expires = strconv.FormatInt(time.Now().Add(opt.TTL).Unix(), 10)
		header.Set(expiresHeader, expires)
	}
	refused := state.ErrETagMismatch
	switch {
	case opt.ETag != "":
		etag, ok := match(opt.ETag)
		if !ok {
			return "", state.ErrETagMismatch()
		}
		header.Set("If-Match", etag)
	case opt.FirstWrite:
		refused = state.ErrExists
		header.Set("If-None-Match", "*")
	}
	a, err := s.storage.do(ctx, request{method: http.MethodPut, blob: blob, header: header, body: value})
	if err == nil && lost(a) && opt.FirstWrite && opt.ETag == "" {
		a, err = s.replaceExpired(ctx, blob, header, value)
	}
	switch {
	case err != nil:
		return "", err
	case lost(a), missing(a) && opt.ETag != "":
		return "", refused()
	case a.Status != http.StatusCreated:
		return "", a.Err(place)
	}
	return etagOf(a.Header, expires), nil
}

// replaceExpired writes a blob in place of one whose item has expired. When it
// has not, the answer is that the condition does not hold.
func (s *State) replaceExpired(ctx context.Context, blob string, header http.Header, value []byte) (rest.Answer, error) {
	there, err := s.storage.do(ctx, request{method: http.MethodHead, blob: blob})
	if err != nil {
		return rest.Answer{}, err
	}
	if there.Status != http.StatusOK || !expired(there.Header.Get(expiresHeader)) {
		return rest.Answer{Status: http.StatusPreconditionFailed}, nil
	}
	header.Del("If-None-Match")
	header.Set("If-Match", there.Header.Get("ETag"))
	return s.storage.do(ctx, request{method: http.MethodPut, blob: blob, header: header, body: value})
}

// contentType returns what the metadata of a write say that its value is.
func contentType(metadata map[string]string) string {
	for name, value := range metadata {
		if strings.EqualFold(name, "contentType") && value != "" && !strings.ContainsFunc(value, unicode.IsControl) {
			return value
		}
	}
	return "application/octet-stream"
}

// Delete implements state.Driver.
func (s *State) Delete(ctx context.Context, key string, opt state.DeleteOptions) error {
	blob, err := s.blob(key)
	if err != nil {
		return err
	}
	header := http.Header{}
	if opt.ETag != "" {
		etag, ok := match(opt.ETag)
		if !ok {
			return state.ErrETagMismatch()
		}
		header.Set("If-Match", etag)
	}
	a, err := s.storage.do(ctx, request{method: http.MethodDelete, blob: blob, header: header})
	switch {
	case err != nil:
		return err
	case a.Status == http.StatusAccepted, missing(a) && opt.ETag == "":
		return nil
	case lost(a), missing(a):
		return state.ErrETagMismatch()
	}
	return a.Err(place)
}
