package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/minio/minio-go/v7"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// The operations of a Binding, in lower case as the block passes them.
const (
	opCreate     = "create"
	opGet        = "get"
	opDelete     = "delete"
	opList       = "list"
	opPresign    = "presign"
	opBulkGet    = "bulkget"
	opBulkCreate = "bulkcreate"
	opBulkDelete = "bulkdelete"
)

// Bounds of what a call holds in memory.
const (
	maxObject  = 256 << 20
	maxListing = 16 << 20
	// partSize is that of the parts of an object that does not fit into one.
	partSize = 16 << 20
)

// Operations implements binding.Output.
func (b *Binding) Operations() []string {
	return []string{opCreate, opGet, opDelete, opList, opPresign, opBulkGet, opBulkCreate, opBulkDelete}
}

// Repeatable implements binding.Repeatable. A create without a key makes another
// object each time.
func (b *Binding) Repeatable(operation string) bool {
	return operation != opCreate && operation != opBulkCreate
}

// Invoke implements binding.Output.
func (b *Binding) Invoke(ctx context.Context, r binding.Request) (binding.Response, error) {
	if err := ctx.Err(); err != nil {
		return binding.Response{}, err
	}
	o, err := b.options(r.Metadata)
	if err != nil {
		return binding.Response{}, err
	}
	if o.key == "" && (r.Operation == opGet || r.Operation == opDelete || r.Operation == opPresign) {
		return binding.Response{}, fault.New(fault.InvalidArgument, `the metadata "key" is missing: it names the object to %s`, r.Operation)
	}
	switch r.Operation {
	case opCreate:
		return b.create(ctx, r.Data, o)
	case opGet:
		data, err := b.get(ctx, o)
		return binding.Response{Data: data}, err
	case opDelete:
		err := b.client.RemoveObject(ctx, b.cfg.Bucket, o.key, minio.RemoveObjectOptions{})
		return binding.Response{}, classify(ctx, err, o.key)
	case opList:
		return answer(b.list(ctx, r.Data))
	case opPresign:
		return answer(b.presign(ctx, o))
	case opBulkGet:
		return answer(b.bulkGet(ctx, r.Data, o))
	case opBulkCreate:
		return answer(b.bulkCreate(ctx, r.Data, o))
	case opBulkDelete:
		return answer(b.bulkDelete(ctx, r.Data))
	}
	return binding.Response{}, fault.New(fault.InvalidArgument, "there is no operation %q: there are %s", r.Operation, strings.Join(b.Operations(), ", "))
}

// answer makes a response of a value, as JSON.
func answer(value any, err error) (binding.Response, error) {
	if err != nil {
		return binding.Response{}, err
	}
	data, err := json.Marshal(value)
	if err != nil {
		return binding.Response{}, fault.Wrap(err, fault.Internal, "the answer cannot be written as JSON")
	}
	return binding.Response{Data: data}, nil
}

// options are what a request says of one object, over the settings.
type options struct {
	key            string
	decode, encode bool
	file           string
	contentType    string
	storageClass   string
	tags           map[string]string
	ttl            time.Duration
}

// options reads the metadata of a request.
func (b *Binding) options(metadata map[string]string) (options, error) {
	o := options{
		key: metadata["key"], decode: b.cfg.DecodeBase64, encode: b.cfg.EncodeBase64, file: b.cfg.FilePath,
		contentType: strings.TrimSpace(metadata["Content-Type"]), storageClass: b.cfg.StorageClass, ttl: b.cfg.PresignTTL.Std(),
	}
	given := struct {
		Decode       bool               `setting:"decodeBase64"`
		Encode       bool               `setting:"encodeBase64"`
		File         string             `setting:"filePath"`
		StorageClass string             `setting:"storageClass"`
		TTL          component.Duration `setting:"presignTTL"`
	}{o.decode, o.encode, o.file, o.storageClass, component.Duration(o.ttl)}
	var settings component.Settings
	for _, name := range []string{"decodeBase64", "encodeBase64", "filePath", "storageClass", "presignTTL"} {
		if value := metadata[name]; value != "" {
			settings = append(settings, component.Setting{Name: name, Value: value})
		}
	}
	if err := settings.Decode(&given); err != nil {
		return o, fault.New(fault.InvalidArgument, "metadata %v", err)
	}
	o.decode, o.encode, o.file, o.storageClass, o.ttl = given.Decode, given.Encode, given.File, given.StorageClass, given.TTL.Std()
	if o.ttl != 0 && (o.ttl < minPresign || o.ttl > maxPresign) {
		return o, fault.New(fault.InvalidArgument, `metadata "presignTTL" must be from 1s to 168h, not %q`, metadata["presignTTL"])
	}
	if text := metadata["tags"]; text != "" {
		o.tags = map[string]string{}
		for pair := range strings.SplitSeq(text, ",") {
			name, value, ok := strings.Cut(pair, "=")
			if name = strings.TrimSpace(name); !ok || name == "" {
				return o, fault.New(fault.InvalidArgument, `metadata "tags" wants "name=value,name=value", not %q`, text)
			}
			o.tags[name] = strings.TrimSpace(value)
		}
	}
	return o, nil
}

// created is the answer to "create".
type created struct {
	Location   string  `json:"location"`
	VersionID  *string `json:"versionID"`
	PresignURL string  `json:"presignURL,omitempty"`
}

func (b *Binding) create(ctx context.Context, data []byte, o options) (binding.Response, error) {
	if o.key == "" {
		o.key = uuid.NewString()
	}
	c, err := b.put(ctx, unquote(data), o)
	if err != nil {
		return binding.Response{}, err
	}
	r, err := answer(c, nil)
	r.Metadata = map[string]string{"key": o.key}
	return r, err
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

// put makes an object of a file, if there is one, or of the data.
func (b *Binding) put(ctx context.Context, data []byte, o options) (created, error) {
	if o.file == "" && !o.decode {
		return b.send(ctx, data, nil, o)
	}
	var content io.Reader = bytes.NewReader(data)
	if o.file != "" {
		f, err := os.Open(o.file)
		if err != nil {
			return created{}, fileError(err, fmt.Sprintf("the file %q cannot be read", o.file))
		}
		defer f.Close() //nolint:errcheck // nothing was written
		content = f
	}
	source := &checkedReader{r: content}
	if content = source; o.decode {
		content = &checkedReader{r: base64.NewDecoder(base64.StdEncoding, source)}
	}
	head, err := io.ReadAll(io.LimitReader(content, partSize))
	if err == nil && len(head) < partSize {
		content = nil
	}
	var c created
	if err == nil {
		c, err = b.send(ctx, head, content, o)
	}
	switch decoded, ok := content.(*checkedReader); {
	case source.err != nil:
		return created{}, fileError(source.err, fmt.Sprintf("the file %q cannot be read", o.file))
	case ok && decoded.err != nil:
		return created{}, fault.New(fault.InvalidArgument, "decodeBase64 is set, and the content is not Base64")
	}
	return c, err
}

// checkedReader remembers why reading failed, which the client library tells in
// its own words.
type checkedReader struct {
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (c *checkedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // a reader returns io.EOF itself
		c.err = err
	}
	return n, err
}

// send makes an object of what is in memory and, when that is not all, of what
// follows, in parts.
func (b *Binding) send(ctx context.Context, head []byte, rest io.Reader, o options) (created, error) {
	put := minio.PutObjectOptions{ContentType: o.contentType, StorageClass: o.storageClass, UserTags: o.tags}
	var info minio.UploadInfo
	var err error
	if rest == nil {
		sum := sha256.Sum256(head)
		put.DisableContentSha256 = true // the sum is here; not every service takes content that is signed as it comes
		info, err = b.core.PutObject(ctx, b.cfg.Bucket, o.key, bytes.NewReader(head), int64(len(head)), "", hex.EncodeToString(sum[:]), put)
	} else {
		put.PartSize = partSize
		info, err = b.client.PutObject(ctx, b.cfg.Bucket, o.key, io.MultiReader(bytes.NewReader(head), rest), -1, put)
	}
	if err != nil {
		return created{}, classify(ctx, err, o.key)
	}
	var c created
	if info.VersionID != "" {
		c.VersionID = &info.VersionID
	}
	link, err := b.link(ctx, o.key, max(o.ttl, minPresign))
	switch {
	case err != nil && o.ttl > 0:
		return created{}, err
	case err != nil: // nobody is signed in
		link = b.client.EndpointURL().JoinPath(b.cfg.Bucket, o.key)
	}
	if o.ttl > 0 {
		c.PresignURL = link.String()
	}
	link.RawQuery = ""
	c.Location = link.String()
	return c, nil
}

// link signs a link to an object.
func (b *Binding) link(ctx context.Context, key string, ttl time.Duration) (*url.URL, error) {
	u, err := b.client.PresignedGetObject(ctx, b.cfg.Bucket, key, ttl, nil)
	return u, classify(ctx, err, key)
}

func (b *Binding) presign(ctx context.Context, o options) (map[string]string, error) {
	if o.ttl == 0 {
		return nil, fault.New(fault.InvalidArgument, `the metadata "presignTTL" is missing: it says how long the link is good for, "15m"`)
	}
	u, err := b.link(ctx, o.key, o.ttl)
	if err != nil {
		return nil, err
	}
	return map[string]string{"presignURL": u.String()}, nil
}

func (b *Binding) get(ctx context.Context, o options) ([]byte, error) {
	body, info, _, err := b.core.GetObject(ctx, b.cfg.Bucket, o.key, minio.GetObjectOptions{})
	if err != nil {
		return nil, classify(ctx, err, o.key)
	}
	defer body.Close() //nolint:errcheck // nothing was written
	if info.Size > maxObject {
		return nil, fault.New(fault.ResourceExhausted, "object %q is larger than %d MiB", o.key, maxObject>>20)
	}
	data, err := io.ReadAll(io.LimitReader(body, maxObject+1))
	switch {
	case err != nil:
		return nil, classify(ctx, err, o.key)
	case len(data) > maxObject:
		return nil, fault.New(fault.ResourceExhausted, "object %q is larger than %d MiB", o.key, maxObject>>20)
	case o.encode:
		return base64.StdEncoding.AppendEncode(nil, data), nil
	}
	return data, nil
}

// maxResults is how many objects a page has unless it is to have fewer.
const maxResults = 1000

// A page is the answer to "list", in the form that Dapr's component has.
type page struct {
	CommonPrefixes []prefix
	Contents       []object
	Delimiter      string
	EncodingType   *string
	IsTruncated    bool
	Marker         string
	MaxKeys        int
	Name           string
	NextMarker     string
	Prefix         string
}

type prefix struct{ Prefix string }

type object struct {
	ETag         string
	Key          string
	LastModified time.Time
	Owner        *owner
	Size         int64
	StorageClass string
}

type owner struct {
	DisplayName string
	ID          string
}

// list answers with a page of objects. The client library's own listing of this
// kind cannot be ended.
func (b *Binding) list(ctx context.Context, data []byte) (*page, error) {
	var ask struct {
		Marker     string `json:"marker"`
		Prefix     string `json:"prefix"`
		MaxResults int    `json:"maxResults"`
		Delimiter  string `json:"delimiter"`
	}
	if len(bytes.TrimSpace(data)) > 0 {
		if err := json.Unmarshal(data, &ask); err != nil {
			return nil, fault.New(fault.InvalidArgument, `the data of list want a JSON object with "maxResults", "prefix", "marker" and "delimiter"`)
		}
	}
	if ask.MaxResults < 1 || ask.MaxResults > maxResults {
		ask.MaxResults = maxResults
	}
	query := url.Values{"max-keys": {strconv.Itoa(ask.MaxResults)}, "marker": {ask.Marker}, "prefix": {ask.Prefix}, "delimiter": {ask.Delimiter}}
	u, err := b.client.PresignHeader(ctx, http.MethodGet, b.cfg.Bucket, "", time.Minute, query, nil)
	if err != nil {
		return nil, classify(ctx, err, "")
	}
	out := &page{}
	if err := b.read(ctx, u.String(), out); err != nil {
		return nil, classify(ctx, err, "")
	}
	if out.IsTruncated && out.NextMarker == "" && len(out.Contents) > 0 { // as a service leaves it to the caller
		out.NextMarker = out.Contents[len(out.Contents)-1].Key
	}
	return out, nil
}

// read gets a document of XML, or the error that comes in its place.
func (b *Binding) read(ctx context.Context, address string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := b.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // nothing was written
	body := xml.NewDecoder(io.LimitReader(resp.Body, maxListing))
	if resp.StatusCode == http.StatusOK {
		return body.Decode(into)
	}
	failed := minio.ErrorResponse{}
	_ = body.Decode(&failed) // the status says enough
	failed.StatusCode = resp.StatusCode
	return failed
}
