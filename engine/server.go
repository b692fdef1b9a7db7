package engine

import (
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// startServer opens the store and starts the embedded server. It returns when
// the server takes connections, which on a large store takes seconds.
func startServer(o Options, store string) (*server.Server, error) {
	s, err := server.NewServer(&server.Options{
		ServerName:             "proa",
		DontListen:             true,
		NoSigs:                 true,
		NoSystemAccount:        true,
		DisableJetStreamBanner: true,
		JetStream:              true,
		StoreDir:               store,
		SyncAlways:             o.Durability == Strict,
		SyncInterval:           SyncInterval,
		JetStreamMaxStore:      o.MaxStore,
		JetStreamMaxMemory:     o.MaxMemory,
		MaxPayload:             o.MaxPayload,
		WriteDeadline:          10 * time.Second,
	})
	if err != nil {
		return nil, fmt.Errorf("configure the embedded server: %w", err)
	}
	logger := &serverLog{log: o.Log}
	s.SetLoggerV2(logger, false, false, false)
	s.Start()
	if fatal := logger.fatal.Load(); fatal != nil || !s.JetStreamEnabled() {
		stopServer(s)
		if fatal == nil {
			return nil, fmt.Errorf("open the store %s: JetStream did not start", store)
		}
		return nil, fmt.Errorf("open the store %s: %s", store, *fatal)
	}
	return s, nil
}

// stopServer writes everything out and waits until the server has ended.
func stopServer(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

// serverLog passes the log of the embedded server on. Its notices are of
// interest only to those who debug the engine.
type serverLog struct {
	log   *slog.Logger
	fatal atomic.Pointer[string]
}

func text(format string, v []any) slog.Attr {
	return slog.String("text", strings.TrimSpace(fmt.Sprintf(format, v...)))
}

func (l *serverLog) Noticef(format string, v ...any) { l.log.Debug("engine server", text(format, v)) }
func (l *serverLog) Debugf(format string, v ...any)  { l.log.Debug("engine server", text(format, v)) }
func (l *serverLog) Tracef(format string, v ...any)  { l.log.Debug("engine server", text(format, v)) }
func (l *serverLog) Warnf(format string, v ...any)   { l.log.Warn("engine server", text(format, v)) }
func (l *serverLog) Errorf(format string, v ...any)  { l.log.Error("engine server", text(format, v)) }

// Fatalf keeps the text: the server then does not start, and startServer
// returns it as an error.
func (l *serverLog) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.fatal.CompareAndSwap(nil, &text)
}
