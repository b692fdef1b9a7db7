package http2

import "sync/atomic"

// Lent makes the server count the slabs, streams and header blocks that are in
// use. It must be called before the server is used.
func (s *Server) Lent() *atomic.Int64 { return s.mem.countLent() }

// Lent makes the client count, as that of the server.
func (cl *Client) Lent() *atomic.Int64 { return cl.mem.countLent() }

func (m *memory) countLent() *atomic.Int64 {
	m.lent = new(atomic.Int64)
	return m.lent
}
