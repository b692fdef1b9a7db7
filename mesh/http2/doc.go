// Package http2 is the connection engine for HTTP/2 (RFC 9113): a server that
// turns the streams of connections into proxy.Exchanges, and a client that is
// a proxy.RoundTripper. gRPC of all four kinds of streams passes through it as
// ordinary requests with streamed bodies and trailers; nothing is re-encoded.
//
// Field compression stands on the hpack package of golang.org/x/net/http2; the
// frames, the stream table, flow control, scheduling and shutdown are this
// package's, and are tested against that of golang.org/x/net/http2.
//
// # Goroutines
//
// A connection has one goroutine, which reads. It takes in all frames of what
// one read from the network brought, and only then, before it waits for more,
// starts the handlers of new streams and wakes those who wait for something that
// came. So a small request is complete when its handler starts, and a small
// response when its caller wakes up.
//
// Handlers run on pooled goroutines, or, where Server.Inline allows it, as
// coroutines of the goroutine that reads, which also goes on with the callers of
// a Client that wait as coroutines (see internal/coroutine).
//
// Writers append frames to the connection's output under a short lock. Whoever
// finds nobody writing to the network writes what all have appended, so that
// the number of writes per exchange falls as the load grows. What coroutines put
// out is written when all that one read brought has been dealt with. The reading
// goroutine never waits for the network to take something, but leaves that to
// another: two ends that wait for each other to read cannot lock up.
//
// # Bounds
//
// What arrives is buffered up to the stream's window, which grows for those who
// read fast, and windows open again only as the content is read. A slow reader
// holds up nothing but its own stream until Config.ConnBuffer is spent, and the
// connection after that. Output is bounded too: who writes more than the peer
// takes, waits.
//
// # Memory
//
// A connection waits for the beginning of a frame without a buffer. What it needs
// for streams it makes with the first one, and gives back when it has been idle
// for a while, except for the table of the HPACK decoder, which is the peer's to
// fill. One timer serves all connections. An idle connection takes some 6 KB, of
// which 4 are the stack of the goroutine that reads.
package http2
