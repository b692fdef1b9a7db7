package route

import (
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// compressor compresses the content of an answer.
type compressor struct {
	to proxy.Exchange
	w  encoder
	// closed tells that all has been written.
	closed bool
}

// encoder is what all compressed formats write with.
type encoder interface {
	io.WriteCloser
	Flush() error
}

// brotliLevel costs about what gzip does by default.
const brotliLevel = 4

func newCompressor(algorithm string, to proxy.Exchange) (*compressor, error) {
	c := &compressor{to: to}
	switch algorithm {
	case "br":
		c.w = brotli.NewWriterLevel(to, brotliLevel)
	case "zstd":
		w, err := zstd.NewWriter(to, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(256<<10))
		if err != nil {
			return nil, fault.Wrap(err, fault.Internal, "compress")
		}
		c.w = w
	default:
		c.w = gzip.NewWriter(to)
	}
	return c, nil
}

// Write implements io.Writer.
func (c *compressor) Write(p []byte) (int, error) { return c.w.Write(p) }

// Flush sends all that was written, so that events are not late.
func (c *compressor) Flush() error {
	if err := c.w.Flush(); err != nil {
		return err
	}
	return c.to.Flush()
}

// Close ends the content.
func (c *compressor) Close() error {
	if c.closed {
		return nil
	}
	c.closed = true
	return c.w.Close()
}

// compression chooses how an answer is compressed, and returns the head that says
// so. An answer that is compressed has no length.
func (rx *routed) compression(c *Compression, code int, h proxy.Header, length int64) (proxy.Header, int64) {
	if !c.matchesType(h.Get("content-type")) || length >= 0 && length < c.MinSize {
		return h, length
	}
	if !strings.Contains(strings.ToLower(h.Get("vary")), "accept-encoding") {
		h.Add("vary", "accept-encoding")
	}
	in := rx.serving.in
	algorithm := c.choose(in.Header.Values("accept-encoding"))
	switch {
	case algorithm == "", in.Method == "HEAD", code < 200, code == 204, code == 206, code == 304,
		h.Has("content-encoding"), h.Has("content-range"), strings.Contains(h.Get("cache-control"), "no-transform"):
		return h, length
	}
	z, err := newCompressor(algorithm, rx.Exchange)
	if err != nil {
		return h, length
	}
	rx.compress = z
	h.Set("content-encoding", algorithm)
	h.Del("accept-ranges")
	h.Del("content-md5")
	h.Del("digest")
	h.Del("content-digest")
	if tag := h.Get("etag"); tag != "" && !strings.HasPrefix(tag, "W/") {
		h.Set("etag", "W/"+tag) // the bytes are others (RFC 9110, section 8.8.1)
	}
	return h, proxy.UnknownLength
}

// choose returns the algorithm that a client likes best (RFC 9110, section 12.5.3);
// of those it likes equally well the first. It returns "" for none.
func (c *Compression) choose(accept []string) string {
	best, bestWeight := "", 0.0
	weights := map[string]float64{}
	for _, field := range accept {
		for item := range strings.SplitSeq(field, ",") {
			name, params, _ := strings.Cut(item, ";")
			weights[strings.ToLower(strings.TrimSpace(name))] = weight(params)
		}
	}
	for _, algorithm := range c.Algorithms {
		w, named := weights[algorithm]
		if !named && algorithm == "gzip" {
			w, named = weights["x-gzip"]
		}
		if !named {
			w = weights["*"]
		}
		if w > bestWeight {
			best, bestWeight = algorithm, w
		}
	}
	if identity, named := weights["identity"]; named && identity > bestWeight {
		return ""
	}
	return best
}

// weight reads the parameter q; it is 1 when there is none, and 0 when it is
// malformed.
func weight(params string) float64 {
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(strings.TrimSpace(name), "q") {
			w, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil || w < 0 || w > 1 {
				return 0
			}
			return w
		}
	}
	return 1
}

// DefaultCompressed are the types of content that are compressed unless a rule says
// otherwise.
func DefaultCompressed() []string {
	return slices.Clone([]string{
		"text/*", "application/json", "application/xml", "application/javascript", "application/wasm", "application/x-ndjson",
		"application/problem+json", "application/graphql-response+json", "image/svg+xml",
	})
}
