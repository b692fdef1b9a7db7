package engine

import (
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// Durability says when the engine acknowledges a write.
type Durability string

// The durabilities.
const (
	// Relaxed acknowledges a write once the operating system has it: it
	// survives the death of any process, SIGKILL included, and loses up to
	// [SyncInterval] of writes when the machine loses power.
	Relaxed Durability = "relaxed"
	// Strict acknowledges a write once it is on the disk (fsync).
	Strict Durability = "strict"
	// ServerDefined is the durability of an external server: its
	// configuration decides, and a client usually cannot see it.
	ServerDefined Durability = "server-defined"
)

// SyncInterval is how often a relaxed engine flushes its files to the disk.
const SyncInterval = time.Second

// Defaults of Options.
const (
	// DefaultWait bounds how long a call waits for an engine that is not
	// ready.
	DefaultWait = 5 * time.Second
	// DefaultConns is the number of connections; one alone serialises.
	DefaultConns = 4
	// DefaultMaxPayload is the largest message the embedded engine takes, in
	// bytes.
	DefaultMaxPayload = 8 << 20
	// DefaultMaxMemory bounds the memory-backed streams of the embedded
	// engine, in bytes.
	DefaultMaxMemory = 256 << 20
)

// Bounds of Options.
const (
	maxConns   = 64
	maxPayload = 64 << 20
)

// Options configure an Engine. The zero value is an embedded engine in the
// default home with relaxed durability.
type Options struct {
	// Dir is the home of the embedded engine. "" means $PROA_HOME or, without
	// it, ~/.local/share/proa. All sidecars with the same Dir share one
	// engine. It must be on a local file system. Ignored when URL is set.
	Dir string
	// URL names an external server or cluster, "nats://host:4222" or
	// "tls://a:4222,tls://b:4222", with user:password@ or token@ before the
	// host where the server wants it. "" means an embedded engine.
	URL string
	// Auth authenticates with an external server.
	Auth Auth
	// Name tells the server and other sidecars who this is: the app id.
	Name string
	// Durability of the embedded engine: Relaxed when "". Ignored when URL is
	// set.
	Durability Durability
	// Replicas is the number of copies of every stream and bucket on an
	// external cluster. 0 means 3 on a cluster of three or more servers and
	// otherwise 1. The embedded engine keeps 1.
	Replicas int
	// Conns is the number of connections to the engine: DefaultConns when 0.
	Conns int
	// Wait bounds how long a call waits for an engine that is not ready, when
	// its context allows more: DefaultWait when 0.
	Wait time.Duration
	// MaxStore bounds the disk space of the embedded engine, in bytes. 0
	// means three quarters of what is free at start.
	MaxStore int64
	// MaxMemory bounds the memory-backed streams of the embedded engine, in
	// bytes: DefaultMaxMemory when 0.
	MaxMemory int64
	// MaxPayload is the largest message of the embedded engine, in bytes:
	// DefaultMaxPayload when 0.
	MaxPayload int32
	// Log receives what happens; nil discards.
	Log *slog.Logger
}

// Auth holds what an external server may ask for. User and password, or a
// token, may also stand in the URL. At most one of Credentials, JWT, NKey,
// Token and User may be set.
type Auth struct {
	// Credentials is the path of a .creds file (JWT and seed).
	Credentials string
	// JWT and Seed are what a .creds file holds: the user's JWT and nkey seed.
	JWT, Seed component.Secret
	// NKey is the path of a file with an nkey seed.
	NKey string
	// Token is a bearer token.
	Token component.Secret
	// User and Password are a plain account.
	User     string
	Password component.Secret
	// CA is the path of a PEM file with the authorities that may sign the
	// server's certificate; the system's when "".
	CA string
	// Cert and Key are the paths of PEM files with the client certificate.
	Cert, Key string
}

// withDefaults validates o and fills in what is left out.
func (o Options) withDefaults() (Options, error) {
	var err error
	if o.URL == "" {
		err = o.checkEmbedded()
	} else {
		err = o.checkExternal()
	}
	if err != nil {
		return o, err
	}
	switch {
	case o.Conns < 0 || o.Conns > maxConns:
		return o, invalid("the number of engine connections must be 1 to %d, not %d", maxConns, o.Conns)
	case o.Wait < 0:
		return o, invalid("the engine's wait must not be negative, but is %s", o.Wait)
	case o.Replicas < 0 || o.Replicas > 5:
		return o, invalid("the engine's replicas must be 1, 3 or 5 (or 0 to choose), not %d", o.Replicas)
	}
	o.Conns = orDefault(o.Conns, DefaultConns)
	o.Wait = orDefault(o.Wait, DefaultWait)
	o.Name = orDefault(o.Name, "proa")
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

func (o *Options) checkEmbedded() error {
	if o.Auth != (Auth{}) {
		return invalid("the engine has credentials but no URL: the embedded engine takes none; set the URL they are for")
	}
	o.Durability = orDefault(o.Durability, Relaxed)
	switch {
	case o.Durability != Relaxed && o.Durability != Strict:
		return invalid("the engine's durability must be %q or %q, not %q", Relaxed, Strict, o.Durability)
	case o.Replicas > 1:
		return invalid("the embedded engine keeps 1 copy, not %d: replicas need an external cluster", o.Replicas)
	case o.MaxStore < 0 || o.MaxMemory < 0:
		return invalid("the engine's limits must not be negative: store %d, memory %d", o.MaxStore, o.MaxMemory)
	case o.MaxPayload < 0 || o.MaxPayload > maxPayload:
		return invalid("the engine's largest payload must be 1 to %d bytes, not %d", maxPayload, o.MaxPayload)
	}
	o.MaxMemory = orDefault(o.MaxMemory, DefaultMaxMemory)
	o.MaxPayload = orDefault(o.MaxPayload, DefaultMaxPayload)
	if o.Dir == "" {
		dir, err := defaultDir()
		if err != nil {
			return err
		}
		o.Dir = dir
	}
	abs, err := filepath.Abs(o.Dir)
	if err != nil {
		return fault.Wrap(err, fault.InvalidArgument, "engine directory %q", o.Dir)
	}
	o.Dir = abs
	return nil
}

func defaultDir() (string, error) {
	if dir := os.Getenv("PROA_HOME"); dir != "" {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fault.Wrap(err, fault.InvalidArgument,
			"the engine has no directory: set PROA_HOME to one that can be written")
	}
	return filepath.Join(home, ".local", "share", "proa"), nil
}

func (o *Options) checkExternal() error {
	o.Durability = ServerDefined
	ways := 0
	for _, set := range []bool{o.Auth.Credentials != "", o.Auth.JWT.IsSet(), o.Auth.NKey != "", o.Auth.Token.IsSet(), o.Auth.User != ""} {
		if set {
			ways++
		}
	}
	if ways > 1 {
		return invalid("the engine has more than one of credentials, JWT, nkey, token and user: keep the one the server wants")
	}
	if o.Auth.JWT.IsSet() != o.Auth.Seed.IsSet() {
		return invalid("the engine's JWT and seed must be given together")
	}
	if (o.Auth.Cert == "") != (o.Auth.Key == "") {
		return invalid("the engine's client certificate and key must be given together")
	}
	for raw := range strings.SplitSeq(o.URL, ",") {
		if err := checkURL(strings.TrimSpace(raw)); err != nil {
			return err
		}
	}
	return nil
}

// checkURL refuses what is not the URL of a NATS server. Its errors never
// quote the user part.
func checkURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return invalid("engine URL %q is not of the form nats://host:4222", redact(raw))
	}
	if u.Scheme != "nats" && u.Scheme != "tls" {
		return invalid("engine URL %q has the scheme %q: want nats:// or tls://", redact(raw), u.Scheme)
	}
	if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return invalid("engine URL %q has more than a host and a port", redact(raw))
	}
	return nil
}

// redact hides the user part of each URL in a comma-separated list, whether
// or not it parses.
func redact(list string) string {
	var out []string
	for raw := range strings.SplitSeq(list, ",") {
		raw = strings.TrimSpace(raw)
		scheme, rest, found := strings.Cut(raw, "://")
		if !found {
			scheme, rest = "", raw
		} else {
			scheme += "://"
		}
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			rest = "[redacted]@" + rest[at+1:]
		}
		out = append(out, scheme+rest)
	}
	return strings.Join(out, ",")
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

func invalid(format string, args ...any) error {
	return fault.New(fault.InvalidArgument, "%s", fmt.Sprintf(format, args...))
}
