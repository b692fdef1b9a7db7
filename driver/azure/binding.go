package azure

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/internal/rest"
	"github.com/proa-io/proa/fault"
)

// BlobsConfig configures a binding to a container of Blob Storage.
type BlobsConfig struct {
	StorageConfig
	// DecodeBase64 says that the data of a blob to create are Base64, and what
	// that stands for is to be stored.
	DecodeBase64 bool `setting:"decodeBase64"`
}

// Blobs is a binding.Output.
//
// The operation create stores the data as a blob: that of the metadata blobName,
// or one with a random name. The metadata contentType, contentMD5,
// contentEncoding, contentLanguage, contentDisposition and cacheControl describe
// it, in any case of letters; others become metadata of the blob, without what
// those cannot have. With signTTL ("15m") the answer holds a link that is good
// for so long and needs no credentials. get returns a blob, with its metadata
// when includeMetadata is true; delete removes one, deleteSnapshots ("include"
// or "only") also, or only, its snapshots. list returns blobs: the data may be a
// JSON object with prefix, marker, maxResults and include. presign returns a link
// to a blob, for signTTL.
type Blobs struct {
	storage *storage
	decode  bool
}

// OpenBlobs opens a binding to a container.
func OpenBlobs(ctx context.Context, cfg BlobsConfig, _ component.Env) (*Blobs, error) {
	s, err := newStorage(ctx, cfg.StorageConfig)
	if err != nil {
		return nil, err
	}
	return &Blobs{s, cfg.DecodeBase64}, nil
}

// Close implements io.Closer.
func (b *Blobs) Close() error {
	b.storage.client.Close()
	return nil
}

// The operations of Blobs.
const (
	opCreate  = "create"
	opGet     = "get"
	opDelete  = "delete"
	opList    = "list"
	opPresign = "presign"
)

// The metadata of requests.
const (
	metaName      = "blobName"
	metaTTL       = "signTTL"
	metaSnapshots = "deleteSnapshots"
)

// Operations implements binding.Output.
func (b *Blobs) Operations() []string { return []string{opCreate, opGet, opDelete, opList, opPresign} }

// Repeatable implements binding.Repeatable. A create without a name makes
// another blob each time, and a second delete fails.
func (b *Blobs) Repeatable(operation string) bool {
	return operation != opCreate && operation != opDelete
}

// Invoke implements binding.Output.
func (b *Blobs) Invoke(ctx context.Context, r binding.Request) (binding.Response, error) {
	name := r.Metadata[metaName]
	if name == "" && (r.Operation == opGet || r.Operation == opDelete || r.Operation == opPresign) {
		return binding.Response{}, fault.New(fault.InvalidArgument, "the metadata %q is missing: it names the blob to %s", metaName, r.Operation)
	}
	if !canName(name) {
		return binding.Response{}, fault.New(fault.InvalidArgument, "no blob can have the name %q", name)
	}
	switch r.Operation {
	case opCreate:
		return b.create(ctx, r)
	case opGet:
		return b.get(ctx, r)
	case opDelete:
		return binding.Response{}, b.remove(ctx, r)
	case opList:
		return b.list(ctx, r.Data)
	case opPresign:
		if err := ctx.Err(); err != nil {
			return binding.Response{}, rest.Classify(ctx, err)
		}
		link, err := b.link(name, r.Metadata[metaTTL])
		if err != nil {
			return binding.Response{}, err
		}
		return answer(map[string]string{"presignURL": link}, nil)
	}
	return binding.Response{}, fault.New(fault.InvalidArgument, "there is no operation %q: there are %s", r.Operation, strings.Join(b.Operations(), ", "))
}

// canName reports whether a blob can have the name, or whether it is empty. A
// part of dots would lead out of the container.
func canName(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == "." || part == ".." {
			return false
		}
	}
	return utf8.ValidString(name) && utf8.RuneCountInString(name) <= maxName && !strings.ContainsAny(name, "\\\x00")
}

// answer makes a response of a value, as JSON.
func answer(value any, metadata map[string]string) (binding.Response, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return binding.Response{}, fault.Wrap(err, fault.Internal, "the answer cannot be written as JSON")
	}
	return binding.Response{Data: data, Metadata: metadata}, nil
}

// created is the answer to create.
type created struct {
	BlobURL    string `json:"blobURL"`
	BlobName   string `json:"blobName"`
	PresignURL string `json:"presignURL,omitempty"`
}

func (b *Blobs) create(ctx context.Context, r binding.Request) (binding.Response, error) {
	name := r.Metadata[metaName]
	if name == "" {
		name = uuid.NewString()
	}
	out := created{BlobURL: b.storage.blobURL(name), BlobName: name}
	if ttl := r.Metadata[metaTTL]; ttl != "" { // before there is a blob that nobody has a link to
		link, err := b.link(name, ttl)
		if err != nil {
			return binding.Response{}, err
		}
		out.PresignURL = link
	}
	header, err := blobHeader(r.Metadata)
	if err != nil {
		return binding.Response{}, err
	}
	data := unquote(r.Data)
	if b.decode {
		if data, err = base64.StdEncoding.AppendDecode(nil, data); err != nil {
			return binding.Response{}, fault.New(fault.InvalidArgument, "decodeBase64 is set, and the data are not Base64")
		}
	}
	a, err := b.storage.do(ctx, request{method: http.MethodPut, blob: name, header: header, body: data})
	switch {
	case err != nil:
		return binding.Response{}, err
	case a.Status != http.StatusCreated:
		return binding.Response{}, a.Err(place)
	}
	return answer(out, map[string]string{metaName: name})
}

// unquote returns what data stand for: a string of JSON, which comes over HTTP,
// stands for its text.
func unquote(data []byte) []byte {
	var text string
	if len(data) > 0 && data[0] == '"' && json.Unmarshal(data, &text) == nil {
		return []byte(text)
	}
	return data
}

// contentHeader returns the header for what the metadata of that name, in lower
// case, say of a blob; "" when it is none of these.
func contentHeader(name string) string {
	switch name {
	case "contenttype":
		return "X-Ms-Blob-Content-Type"
	case "contentmd5":
		return "X-Ms-Blob-Content-Md5"
	case "contentencoding":
		return "X-Ms-Blob-Content-Encoding"
	case "contentlanguage":
		return "X-Ms-Blob-Content-Language"
	case "contentdisposition":
		return "X-Ms-Blob-Content-Disposition"
	case "cachecontrol":
		return "X-Ms-Blob-Cache-Control"
	}
	return ""
}

// blobHeader returns the header of a request that creates a blob.
func blobHeader(metadata map[string]string) (http.Header, error) {
	header := http.Header{"X-Ms-Blob-Type": {"BlockBlob"}, "Content-Type": {"application/octet-stream"}}
	for _, name := range slices.Sorted(maps.Keys(metadata)) { // of two that become one, always the same counts
		value := strings.Map(visible, metadata[name])
		if name == metaName || name == metaTTL || value == "" {
			continue
		}
		if content := contentHeader(strings.ToLower(name)); content != "" {
			header.Set(content, value)
		} else if own := strings.Map(letterOrDigit, name); own != "" {
			header["x-ms-meta-"+own] = []string{value} // as it is written
		}
	}
	if sum := header.Get("X-Ms-Blob-Content-Md5"); sum != "" {
		if raw, err := base64.StdEncoding.DecodeString(sum); err != nil || len(raw) != 16 {
			return nil, fault.New(fault.InvalidArgument, "the metadata contentMD5 want the 16 bytes of an MD5 sum in Base64")
		}
		header.Set("Content-Md5", sum)
	}
	return header, nil
}

// visible drops what metadata of a blob cannot have.
func visible(r rune) rune {
	if r > unicode.MaxASCII || unicode.IsControl(r) {
		return -1
	}
	return r
}

func letterOrDigit(r rune) rune {
	if r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) {
		return -1
	}
	return r
}

func errNoBlob(name string) error { return fault.New(fault.NotFound, "there is no blob %q", name) }

func (b *Blobs) get(ctx context.Context, r binding.Request) (binding.Response, error) {
	with := false
	if text := r.Metadata["includeMetadata"]; text != "" {
		var err error
		if with, err = strconv.ParseBool(text); err != nil {
			return binding.Response{}, fault.New(fault.InvalidArgument, "the metadata includeMetadata want true or false, not %q", text)
		}
	}
	name := r.Metadata[metaName]
	a, err := b.storage.do(ctx, request{method: http.MethodGet, blob: name})
	switch {
	case err != nil:
		return binding.Response{}, err
	case missing(a):
		return binding.Response{}, errNoBlob(name)
	case a.Status != http.StatusOK:
		return binding.Response{}, a.Err(place)
	}
	out := binding.Response{Data: a.Body}
	for header, values := range a.Header {
		const prefix = "X-Ms-Meta-"
		if own, ok := strings.CutPrefix(header, prefix); ok && with {
			if out.Metadata == nil {
				out.Metadata = map[string]string{}
			}
			out.Metadata[own] = strings.Join(values, ",")
		}
	}
	return out, nil
}

func (b *Blobs) remove(ctx context.Context, r binding.Request) error {
	name, header := r.Metadata[metaName], http.Header{}
	switch snapshots := r.Metadata[metaSnapshots]; snapshots {
	case "":
	case "include", "only":
		header.Set("x-ms-delete-snapshots", snapshots)
	default:
		return fault.New(fault.InvalidArgument, "the metadata %s want include or only, not %q", metaSnapshots, snapshots)
	}
	a, err := b.storage.do(ctx, request{method: http.MethodDelete, blob: name, header: header})
	switch {
	case err != nil:
		return err
	case missing(a):
		return errNoBlob(name)
	case a.Status != http.StatusAccepted:
		if a.Header.Get("x-ms-error-code") == "SnapshotsPresent" {
			return fault.New(fault.FailedPrecondition, "the blob has snapshots: the metadata %s say what becomes of them", metaSnapshots)
		}
		return a.Err(place)
	}
	return nil
}

// sasVersion is the version of the protocol that links are signed by.
const sasVersion = "2020-12-06"

// link signs a link by which anybody may read a blob ("Create a service SAS" of
// the REST API of Azure Storage).
func (b *Blobs) link(name, ttl string) (string, error) {
	life, err := time.ParseDuration(ttl)
	if err != nil || life <= 0 {
		return "", fault.New(fault.InvalidArgument, `the metadata %s want how long the link is good for, "15m", not %q`, metaTTL, ttl)
	}
	s := b.storage
	if s.identity != nil {
		return "", fault.New(fault.FailedPrecondition, "links are signed by a key of the account: set accountKey or connectionString")
	}
	container := s.base[strings.LastIndexByte(s.base, '/'):]
	expiry := time.Now().Add(life).UTC().Format("2006-01-02T15:04:05Z")
	const permission, resource = "r", "b"
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(strings.Join([]string{
		permission, "", expiry, "/blob/" + s.account + container + "/" + name, "", "", "", sasVersion, resource, "", "", "", "", "", "", "",
	}, "\n")))
	query := url.Values{"sp": {permission}, "se": {expiry}, "sv": {sasVersion}, "sr": {resource}, "sig": {base64.StdEncoding.EncodeToString(mac.Sum(nil))}}
	return s.blobURL(name) + "?" + query.Encode(), nil
}
