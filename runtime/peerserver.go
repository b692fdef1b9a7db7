package runtime

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/identity"
	"github.com/proa-io/proa/mesh/proxy"
)

const (
	// handshakeTimeout is how long another sidecar may take until it is known
	// what it speaks and who it is.
	handshakeTimeout = 10 * time.Second
	// refusalTime is how long a refused connection may take to read why.
	refusalTime = 500 * time.Millisecond
	// recordHandshake is the first byte of TLS (RFC 8446, section 5.1).
	recordHandshake = 0x16
	// maxPeerConns is how many connections are served at a time; more wait.
	maxPeerConns = 10_000
)

// servePeers serves other sidecars.
func servePeers(handler proxy.Handler, cfg *Config, s *security, l net.Listener) func(context.Context) error {
	return func(ctx context.Context) error {
		p := newPeerServer(handler, cfg, s)
		return serveUntil(ctx, []net.Listener{l}, p.serve, p.shutdown, p.close)
	}
}

// passedOn is the http2.Server.Inline of sidecars: what they ask of each other
// is passed on to the application.
func passedOn(*proxy.Request) bool { return true }

// peerServer serves other sidecars, in plain text, over mutual TLS, or both. Those
// it does not serve are told why.
type peerServer struct {
	plain, secure *http2.Server // nil: refused
	tls           *tls.Config   // for secure
	log           *slog.Logger
	refused       seldom

	// begun ends when the server stops, and with it whatever has not come to be
	// a connection of plain or secure yet.
	begun context.Context //nolint:containedctx // the life of the server
	stop  context.CancelFunc

	mu        sync.Mutex
	listeners []net.Listener
}

func newPeerServer(handler proxy.Handler, cfg *Config, s *security) *peerServer {
	p := &peerServer{log: cfg.Log}
	p.begun, p.stop = context.WithCancel(context.Background())
	server := func() *http2.Server {
		return &http2.Server{Handler: handler, Inline: passedOn, Log: cfg.Log, Config: http2.Config{MaxHeaderBytes: cfg.maxHead()}}
	}
	if s == nil || s.mode != MTLSStrict {
		p.plain = server()
	}
	if s != nil {
		p.secure, p.tls = server(), s.server()
		p.secure.Retire = s.retireServer
	}
	return p
}

// serve accepts until the listener is closed, and waits for the connections.
func (p *peerServer) serve(l net.Listener) error {
	p.mu.Lock()
	p.listeners = append(p.listeners, l)
	p.mu.Unlock()
	var work sync.WaitGroup
	defer work.Wait()
	room := make(chan struct{}, maxPeerConns)
	for p.begun.Err() == nil {
		nc, err := l.Accept()
		switch {
		case err == nil:
		case p.begun.Err() != nil:
			return nil
		case scarce(err):
			time.Sleep(acceptPause)
			continue
		default:
			return err
		}
		room <- struct{}{}
		work.Go(func() {
			p.serveConn(nc)
			<-room
		})
	}
	return nil
}

// acceptPause is how long accepting rests when there was no room in the process.
const acceptPause = 50 * time.Millisecond

// scarce reports whether accepting may work again soon: the process is out of
// file descriptors or memory, or a client was gone before it was let in.
func scarce(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// serveConn finds out what a client speaks, and serves it.
func (p *peerServer) serveConn(nc net.Conn) {
	undo := context.AfterFunc(p.begun, func() { _ = nc.Close() })
	var first [1]byte
	_ = nc.SetReadDeadline(time.Now().Add(handshakeTimeout))
	_, err := nc.Read(first[:])
	_ = nc.SetReadDeadline(time.Time{})
	secure := first[0] == recordHandshake
	var tc *tls.Conn
	switch {
	case err != nil: // whoever says nothing has nothing to be told
		_ = nc.Close()
		return
	case secure && p.secure == nil:
		p.refuse(nc, notSecure())
		return
	case !secure && p.plain == nil:
		p.refuse(nc, notPlain())
		return
	case secure:
		ctx, cancel := context.WithTimeout(p.begun, handshakeTimeout)
		tc, err = identity.Accept(ctx, http2.UnderTLS(nc, first[:]), p.tls)
		cancel()
	}
	if err != nil {
		p.tell(nc, err)
		hangUp(nc)
		return
	}
	if !undo() {
		return // it is closed
	}
	// How a connection ends is no news.
	if secure {
		p.note(tc)
		_ = p.secure.ServeConn(tc, nil)
	} else {
		_ = p.plain.ServeConn(nc, first[:])
	}
}

func notPlain() error {
	return fault.New(fault.Unavailable, "this sidecar takes nothing but mutual TLS, and the other one speaks plain text: "+
		"start that with --mtls permissive or strict").WithReason(identity.ReasonNoTLS)
}

func notSecure() error {
	return fault.New(fault.Unavailable, "the other sidecar speaks mutual TLS, which this one does not take: "+
		"start this with --mtls permissive or strict").WithReason(identity.ReasonNoTLS)
}

// tell logs why a connection is refused.
func (p *peerServer) tell(nc net.Conn, err error) {
	if p.begun.Err() != nil {
		return
	}
	host, _, _ := net.SplitHostPort(nc.RemoteAddr().String())
	p.refused.log(p.log, host+" "+string(fault.ReasonOf(err)), "a connection is refused that another sidecar may have made",
		"remote", nc.RemoteAddr().String(), "error", err)
}

// note logs who has connected, for those who look for why certificates do not
// change as they should.
func (p *peerServer) note(tc *tls.Conn) {
	if !p.log.Enabled(p.begun, slog.LevelDebug) {
		return
	}
	s := tc.ConnectionState()
	leaf := s.PeerCertificates[0]
	p.log.Debug("another sidecar has connected", "id", leaf.URIs[0].String(), "tls", tls.VersionName(s.Version), "expires", leaf.NotAfter.UTC(),
		"serial", leaf.SerialNumber.Text(16), "signed_by", hex.EncodeToString(leaf.AuthorityKeyId))
}

// refuse tells the other side why it is not served, in the way of HTTP/2: with
// SETTINGS, and a GOAWAY of INADEQUATE_SECURITY (RFC 9113, section 7). To a client
// of TLS that is at least not TLS.
func (p *peerServer) refuse(nc net.Conn, err error) {
	p.tell(nc, err)
	_ = nc.SetWriteDeadline(time.Now().Add(refusalTime))
	_, _ = nc.Write(http2.Refusal(http2.InadequateSecurity, fault.Message(err)))
	hangUp(nc)
}

// hangUp closes a connection so that the other side can read what it was sent:
// a socket that is closed with unread input throws away what is on its way.
func hangUp(nc net.Conn) {
	if half, ok := nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = nc.SetReadDeadline(time.Now().Add(refusalTime))
		_, _ = io.CopyN(io.Discard, nc, 64<<10)
	}
	_ = nc.Close()
}

func (p *peerServer) servers() (all []*http2.Server) {
	for _, s := range []*http2.Server{p.plain, p.secure} {
		if s != nil {
			all = append(all, s)
		}
	}
	return all
}

// end takes no more connections.
func (p *peerServer) end() error {
	p.stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	for _, l := range p.listeners {
		err = errors.Join(err, l.Close())
	}
	p.listeners = nil
	return err
}

func (p *peerServer) shutdown(ctx context.Context) error {
	err := p.end()
	all := p.servers()
	ends := make(chan error, len(all))
	for _, s := range all {
		go func() { ends <- s.Shutdown(ctx) }()
	}
	for range all {
		err = errors.Join(err, <-ends)
	}
	return err
}

func (p *peerServer) close() {
	_ = p.end()
	for _, s := range p.servers() {
		s.Close()
	}
}

// explainRefusal returns err with what the other sidecar has said in refuse, if
// that is its cause.
func explainRefusal(err error) error {
	if r, ok := errors.AsType[*http2.ResetError](err); ok && r.ByPeer && r.Code == http2.InadequateSecurity {
		return fault.Wrap(err, fault.Unavailable, "the other sidecar says: %s", r.Reason).WithReason(identity.ReasonNoTLS)
	}
	return err
}

// dial returns what connects to the sidecar of an application over mutual TLS.
func (s *security) dial(svc discovery.Service, address string) func(context.Context) (net.Conn, error) {
	c := s.client(svc)
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		network, to := "tcp", address
		if path, ok := strings.CutPrefix(address, "unix:"); ok {
			network, to = "unix", path
		}
		nc, err := d.DialContext(ctx, network, to)
		if err != nil {
			return nil, err
		}
		tc, err := identity.Connect(ctx, http2.UnderTLS(nc, nil), c)
		if err != nil {
			_ = nc.Close()
			return nil, err
		}
		return tc, nil
	}
}
