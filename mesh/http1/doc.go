// Package http1 is the connection engine for HTTP/1.1 (RFC 9110, RFC 9112):
// a server that turns connections into proxy.Exchanges and a client that is a
// proxy.RoundTripper.
//
// One goroutine serves one connection, from the first byte of a request to the
// last of its response; a client's connections are used in the goroutine of
// the caller. Nothing is handed from one goroutine to another on the way of an
// ordinary request. What a request needs is kept with its connection and used
// again, so that an exchange of a small request costs one allocation: the
// string that holds its head, of which every field is a slice. A connection
// that waits for its next request holds no buffer: with its goroutine and what
// the net package has of it, it takes about six kilobytes.
//
// A request that is forwarded from one connection to another takes six system
// calls besides waiting, none of which the scheduler hears of (see
// internal/sockio): a read from the client; a look whether the server has ended
// the connection or spoken unasked, the write to it and, woken by the answer, a
// read from it; the write to the client, and a read that finds that no further
// request has come yet.
//
// # Coroutines
//
// That is as little as can be between two connections that one goroutine uses.
// A connection that many requests share, as in HTTP/2, has a goroutine of its own
// that reads, and would have to wake that of each request. So a handler may be a
// coroutine (internal/coroutine) where Server.Inline says so: who reads the
// response goes on with it. The goroutine of the connection waits for the client
// meanwhile, so the handler's context ends when the client goes away, and it reads
// the next request when that has come. A Client that is called by coroutines
// keeps connections for them which have attendants: goroutines that wait for the
// response in the caller's stead, and go on with it. Between two connections of
// HTTP/1.1 that costs a little more than it saves.
//
// A client that has ended only its own side of a connection counts as gone after
// 20 ms. One that has sent its next request already is not watched until the
// first one is answered.
//
// # When bytes are sent
//
// A server sends a response when its buffer of 8 KiB is full, with the last byte
// of a known length, at Flush, when the handler returns, and at the latest 5 ms
// after a Write; a small response, head and content, is one write. A client
// sends a request without content, or with up to 64 KiB that have arrived, in
// one write, and other content as it is read.
//
// # Strictness
//
// The parser follows RFC 9112 and refuses what two recipients could understand
// differently. A request is refused when it has
//   - a line that ends in a bare LF, a bare CR, a NUL or another control
//     character outside of the places where RFC 9110 allows a tab;
//   - a folded field (obs-fold), a field name that is empty, is no token or is
//     followed by white space;
//   - both Content-Length and Transfer-Encoding, several Content-Lengths that
//     differ, a Content-Length that is not made of digits alone;
//   - a Transfer-Encoding other than exactly "chunked", or in HTTP/1.0;
//   - no Host in HTTP/1.1, several, or one that is no host and port;
//   - a request line that is not method, one space, target, one space and
//     version, or a target that is not of one of the four forms, holds a
//     control character or a fragment;
//   - a chunk whose size is not of hexadecimal digits, is followed by anything
//     but an extension, or whose data is not followed by CRLF.
//
// It is looser than the RFC demands in this: up to four CRLF before a request
// line are skipped; a target may hold bytes above 0x7f, characters which a URI
// should have escaped, and broken escapes; chunk extensions are skipped unread,
// within bounds; equal Content-Lengths count as one.
// From servers, a client also accepts a status line without a reason and the
// space before it, white space between a field name and its colon, and both
// Content-Length and Transfer-Encoding (the latter counts, and the connection
// is not used again).
package http1
