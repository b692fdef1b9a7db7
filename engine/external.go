package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/fault"
)

// Timing of an external server.
const (
	// externalRetryMin and externalRetryMax bound the pause between rounds of
	// connects to all servers, plus as much again at random.
	externalRetryMin = 50 * time.Millisecond
	externalRetryMax = 2 * time.Second
	// probeTimeout bounds the question whether there is JetStream.
	probeTimeout = 3 * time.Second
	// lookTimeout bounds the question about the server's durability.
	lookTimeout = time.Second
)

// external keeps the engine connected to a server that others run.
type external struct {
	engine *Engine
	url    string // as given, for the client library alone

	refused bool // logged that there is no JetStream
	looked  bool // looked for what the server says of its durability
}

func newExternal(e *Engine) *external { return &external{engine: e, url: e.opts.URL} }

// run connects and probes until ctx ends.
func (x *external) run(ctx context.Context) {
	if !x.connect(ctx) {
		return
	}
	e := x.engine
	var probed *link
	for pause := externalRetryMin; ctx.Err() == nil; {
		changed := e.change()
		c, l := e.anyUp()
		var again <-chan time.Time
		if l == nil {
			again = time.After(quiet / 2)
			e.noteLastError()
		} else if l != probed {
			if x.probe(ctx, c, l) {
				probed, pause = l, externalRetryMin
			} else {
				again = time.After(pause + rand.N(pause))
				pause = min(2*pause, 4*externalRetryMax)
			}
		}
		select {
		case <-ctx.Done():
		case <-changed:
			if l != nil && again != nil { // one pause, however much changes
				select {
				case <-ctx.Done():
				case <-again:
				}
			}
		case <-again:
		}
	}
}

// connect starts the connections. What keeps them from being started, such as
// a missing credentials file, may be mended meanwhile.
func (x *external) connect(ctx context.Context) bool {
	for pause := externalRetryMin; ctx.Err() == nil; pause = min(2*pause, externalRetryMax) {
		opts := append(x.auth(), nats.CustomReconnectDelay(externalDelay), nats.ReconnectErrHandler(x.attemptFailed),
			nats.SetCustomDialer(dialer{ctx}))
		err := x.engine.connectAll(x.url, opts...)
		if err == nil {
			return true
		}
		x.engine.note(err)
		sleep(ctx, pause+rand.N(pause))
	}
	return false
}

// dialer connects for as long as a context lives. Left alone, the library
// waits for the handshake of a server that is silent, and a stop with it.
type dialer struct {
	life context.Context //nolint:containedctx // the library's interface passes none
}

// Dial implements nats.CustomDialer.
func (d dialer) Dial(network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: handshakeTimeout}).DialContext(d.life, network, addr)
	if err != nil {
		return nil, err
	}
	return &mortal{conn, context.AfterFunc(d.life, func() { _ = conn.Close() })}, nil
}

// mortal is a connection that ends with a context.
type mortal struct {
	net.Conn
	release func() bool
}

// Close closes the connection.
func (m *mortal) Close() error {
	m.release()
	return m.Conn.Close()
}

func externalDelay(attempts int) time.Duration {
	d := min(externalRetryMin<<min(attempts, 8), externalRetryMax)
	return d + rand.N(d)
}

func (x *external) attemptFailed(_ *nats.Conn, err error) {
	if !errors.Is(err, nats.ErrNoServers) { // the next attempts say why
		x.engine.note(fmt.Errorf("connect: %w", err))
	}
}

func (x *external) auth() []nats.Option {
	a := x.engine.opts.Auth
	var opts []nats.Option
	switch {
	case a.Credentials != "":
		opts = append(opts, nats.UserCredentials(a.Credentials))
	case a.JWT.IsSet():
		opts = append(opts, nats.UserJWTAndSeed(a.JWT.Reveal(), a.Seed.Reveal()))
	case a.NKey != "":
		opts = append(opts, func(o *nats.Options) error {
			opt, err := nats.NkeyOptionFromSeed(a.NKey)
			if err != nil {
				return fmt.Errorf("nkey file %s: %w", a.NKey, err)
			}
			return opt(o)
		})
	case a.Token.IsSet():
		opts = append(opts, nats.Token(a.Token.Reveal()))
	case a.User != "":
		opts = append(opts, nats.UserInfo(a.User, a.Password.Reveal()))
	}
	if a.CA != "" {
		opts = append(opts, nats.RootCAs(a.CA))
	}
	if a.Cert != "" {
		opts = append(opts, nats.ClientCert(a.Cert, a.Key))
	}
	return opts
}

// probe asks the server on a new connection whether it has JetStream, and
// lets calls pass or not. It reports whether there is an answer that holds as
// long as the connection.
func (x *external) probe(ctx context.Context, c *Conn, l *link) bool {
	e := x.engine
	err := x.ask(ctx, c, l)
	switch {
	case err == nil, errors.Is(err, errMayNotAsk):
		// An account that may not ask shows what it may do when it does it.
		e.admit()
		x.report(ctx)
		return true
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		e.refuse(fault.Wrap(err, fault.FailedPrecondition,
			"the NATS server at %s does not offer JetStream to this account: start it with -js, or enable JetStream "+
				"for the account in its configuration", e.location()))
		x.logRefusal(ctx, err)
		return false
	}
	e.note(fmt.Errorf("the server at %s is connected and its JetStream does not answer: %w", e.location(), err))
	return false
}

var errMayNotAsk = errors.New("the account may not ask")

// ask asks for the account's JetStream. The server refuses a forbidden request
// apart from it, and the request itself gets no answer.
func (x *external) ask(ctx context.Context, c *Conn, l *link) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	select {
	case <-c.deny: // an old refusal
	default:
	}
	answer := make(chan error, 1)
	go func() {
		answer <- c.over(ctx, l, func(ctx context.Context) error {
			_, err := c.js.AccountInfo(ctx)
			return err
		})
	}()
	select {
	case err := <-answer:
		return err
	case <-c.deny:
		cancel()
		<-answer
		return errMayNotAsk
	}
}

// logRefusal logs once per Run that there is no JetStream; it is asked again
// and again.
func (x *external) logRefusal(ctx context.Context, err error) {
	if !x.refused {
		x.refused = true
		x.engine.log.WarnContext(ctx, "engine server has no JetStream and is asked again", "url", x.engine.location(), "error", err)
	}
}

// report says what was found, once per connect.
func (x *external) report(ctx context.Context) {
	e := x.engine
	x.refused = false
	facts := e.server.Load()
	e.log.InfoContext(ctx, "engine is an external server", "mode", External, "url", e.location(), "server", facts.name,
		"version", facts.version, "cluster", facts.cluster, "replicas", e.Replicas(), "durability", ServerDefined,
		"meaning", "the server's sync_interval and sync_always decide what a power failure can lose")
	if facts.cluster != "" && e.Replicas() == 1 {
		e.log.WarnContext(ctx, "engine keeps one copy on a cluster: a lost server loses its data",
			"cluster", facts.cluster, "servers", facts.servers)
	}
	if !x.looked {
		x.looked = true
		x.lookAtDurability(ctx)
	}
}

// lookAtDurability warns when the server says that it does not fsync before it
// acknowledges. Few accounts may ask; those that may not learn nothing. It asks
// on a connection of its own, so that a refusal is nobody else's.
func (x *external) lookAtDurability(ctx context.Context) {
	nc, err := nats.Connect(x.url, append(x.auth(), nats.Name(x.engine.opts.Name), nats.Timeout(handshakeTimeout),
		nats.NoReconnect(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...)
	if err != nil {
		return
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, "$SYS.REQ.SERVER.PING.JSZ", nil)
	if err != nil {
		return
	}
	if warning := weakDurability(m.Data); warning != "" {
		x.engine.log.WarnContext(ctx, "engine server can lose acknowledged writes at a power failure", "url",
			x.engine.location(), "why", warning)
	}
}

// weakDurability reads a server's answer about its JetStream; it returns ""
// when that is strict or not told.
func weakDurability(answer []byte) string {
	var jsz struct {
		Data struct {
			Config *struct {
				SyncAlways   bool          `json:"sync_always"`
				SyncInterval time.Duration `json:"sync_interval"`
			} `json:"config"`
		} `json:"data"`
	}
	if json.Unmarshal(answer, &jsz) != nil || jsz.Data.Config == nil || jsz.Data.Config.SyncAlways {
		return ""
	}
	return fmt.Sprintf("sync_always is off and sync_interval is %s", jsz.Data.Config.SyncInterval)
}
