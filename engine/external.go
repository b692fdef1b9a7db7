package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
)

// external keeps the engine connected to a server that others run.
type external struct {
	engine *Engine
	url    string // as given, for the client library alone
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
		if l != nil && l != probed {
			if x.probe(ctx, c) {
				probed, pause = l, externalRetryMin
			} else {
				again = time.After(pause + rand.N(pause))
				pause = min(2*pause, 4*externalRetryMax)
			}
		}
		select {
		case <-ctx.Done():
		case <-changed:
			if again != nil { // one pause, however much changes
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
		opts := append(x.auth(), nats.CustomReconnectDelay(externalDelay), nats.ReconnectErrHandler(x.attemptFailed))
		err := x.engine.connectAll(x.url, opts...)
		if err == nil {
			return true
		}
		x.engine.note(ctx, err)
		sleep(ctx, pause+rand.N(pause))
	}
	return false
}

func externalDelay(attempts int) time.Duration {
	d := min(externalRetryMin<<min(attempts, 8), externalRetryMax)
	return d + rand.N(d)
}

func (x *external) attemptFailed(_ *nats.Conn, err error) {
	x.engine.note(context.Background(), fmt.Errorf("connect: %w", err))
}

func (x *external) auth() []nats.Option {
	a := x.engine.opts.Auth
	var opts []nats.Option
	switch {
	case a.Credentials != "":
		opts = append(opts, nats.UserCredentials(a.Credentials))
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
func (x *external) probe(ctx context.Context, c *Conn) bool {
	e := x.engine
	asked := time.Now()
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err := c.js.AccountInfo(ctx)
	denied := c.denied.Load()
	switch {
	case err == nil:
		e.admit()
		x.report(ctx)
		return true
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		e.refuse(fault.Wrap(err, fault.FailedPrecondition,
			"the NATS server at %s does not offer JetStream to this account: start it with -js, or enable JetStream "+
				"for the account in its configuration", e.location()))
		e.log.WarnContext(ctx, "engine server has no JetStream", "server", e.location(), "error", err)
		return false
	case denied != nil && !denied.at.Before(asked):
		// The account may not ask; what it may do shows when it does it.
		e.admit()
		x.report(ctx)
		return true
	}
	e.note(ctx, fmt.Errorf("the server at %s is connected and its JetStream does not answer: %w", e.location(), err))
	return false
}

// report says once per connect what was found.
func (x *external) report(ctx context.Context) {
	e := x.engine
	facts := e.server.Load()
	e.log.InfoContext(ctx, "engine is an external server", "mode", External, "url", e.location(), "server", facts.name,
		"version", facts.version, "cluster", facts.cluster, "replicas", e.Replicas(), "durability", ServerDefined,
		"meaning", "the server's sync_interval and sync_always decide what a power failure can lose")
	if facts.cluster != "" && e.Replicas() == 1 {
		e.log.WarnContext(ctx, "engine keeps one copy on a cluster: a lost server loses its data",
			"cluster", facts.cluster, "servers", facts.servers)
	}
}
