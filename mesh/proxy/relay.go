package proxy

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// Progress tells how far an answer got.
type Progress struct {
	// HeadSent tells that the client has been answered: nobody else may
	// answer it any more.
	HeadSent bool
	// Bytes is how much content was passed on; in both directions for an
	// upgraded exchange.
	Bytes int64
}

// ErrClientGone is wrapped by the error of Relay when it was the client that
// did not take the answer.
var ErrClientGone = errors.New("the client is gone")

// copyBuffers hold content on its way from one connection to another.
type copyBuffers struct{ pool sync.Pool }

// copyBufferSize is as much as one read takes.
const copyBufferSize = 32 << 10

func (c *copyBuffers) get() *[]byte {
	if b, ok := c.pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, copyBufferSize)
	return &b
}

// Relayer passes responses on. The zero value is ready for use; it keeps
// buffers, so use one for many exchanges. It is safe for concurrent use.
type Relayer struct{ buffers copyBuffers }

// Relay answers ex with resp: head, content as it arrives, trailers, or after
// an upgrade both directions of the raw stream. It closes resp.Body. Content is
// flushed whenever no more of it has arrived, so that events are not late.
//
// When the content breaks off, the exchange is aborted so that the client can
// tell; the error says which side broke.
func (r *Relayer) Relay(ex Exchange, resp *Response) (Progress, error) {
	if resp.Upgraded != nil {
		return r.tunnel(ex, resp)
	}
	defer resp.Body.Close()
	p := Progress{HeadSent: true}
	length := resp.ContentLength
	if resp.Trailer != nil && resp.Header.Has("trailer") {
		length = UnknownLength // HTTP/1.1 has trailers in chunked content only
	}
	if err := ex.Respond(resp.Status, resp.Header, length); err != nil {
		return p, fmt.Errorf("%w: %w", ErrClientGone, err)
	}
	buf := r.buffers.get()
	defer r.buffers.pool.Put(buf)
	ahead, _ := resp.Body.(Lookahead)
	for {
		n, err := resp.Body.Read(*buf)
		if n > 0 {
			if _, werr := ex.Write((*buf)[:n]); werr != nil {
				return p, fmt.Errorf("%w: %w", ErrClientGone, werr)
			}
			p.Bytes += int64(n)
		}
		if err == io.EOF { // not errors.Is: a connection that broke may wrap it
			break
		}
		if err != nil {
			ex.Abort()
			return p, err
		}
		if p.Bytes != resp.ContentLength && (ahead == nil || ahead.Buffered() == 0) {
			if err := ex.Flush(); err != nil {
				return p, fmt.Errorf("%w: %w", ErrClientGone, err)
			}
		}
	}
	if resp.Trailer != nil && len(*resp.Trailer) > 0 {
		if err := ex.Trailer(*resp.Trailer); err != nil {
			return p, fmt.Errorf("%w: %w", ErrClientGone, err)
		}
	}
	return p, nil
}

// tunnel connects the two raw streams until both directions have ended.
func (r *Relayer) tunnel(ex Exchange, resp *Response) (Progress, error) {
	server := resp.Upgraded
	defer server.Close()
	client, err := ex.Upgrade(resp.Header)
	if err != nil {
		return Progress{HeadSent: true}, fmt.Errorf("%w: %w", ErrClientGone, err)
	}
	defer client.Close()
	var wg sync.WaitGroup
	var up, down int64
	var upErr, downErr error
	wg.Go(func() { up, upErr = r.pipe(server, client) })
	down, downErr = r.pipe(client, server)
	wg.Wait()
	return Progress{HeadSent: true, Bytes: up + down}, errors.Join(upErr, downErr)
}

// pipe copies src to dst until src ends, and tells dst so. When either breaks,
// both are closed, so that the other direction ends too.
func (r *Relayer) pipe(dst, src io.ReadWriteCloser) (int64, error) {
	buf := r.buffers.get()
	defer r.buffers.pool.Put(buf)
	n, err := io.CopyBuffer(writeOnly{dst}, readOnly{src}, *buf)
	if half, ok := dst.(Stream); ok && err == nil {
		err = half.CloseWrite()
	}
	if err != nil {
		_ = dst.Close()
		_ = src.Close()
	}
	return n, err
}

// writeOnly and readOnly keep io.CopyBuffer to the buffer it is given.
type (
	writeOnly struct{ io.Writer }
	readOnly  struct{ io.Reader }
)
