package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"
)

// LogOptions configure the logger.
type LogOptions struct {
	Level   string // "debug", "info", "warn", "error"
	JSON    bool
	AppID   string
	Version string
	Writer  io.Writer
}

// logScope is the field scope of every line.
const logScope = "proa.runtime"

// NewLogger returns the process's logger. Its lines have the fields of Dapr's,
// under their names: time, level, msg, app_id, instance (the name of the host),
// scope, type ("log") and ver; and then those of the line. A level it does not
// know is an error.
func NewLogger(o LogOptions) (*slog.Logger, error) {
	var level slog.Level
	switch strings.ToLower(o.Level) {
	case "", "info":
	case "debug", "trace":
		level = slog.LevelDebug
	case "warn", "warning":
		level = slog.LevelWarn
	case "error", "fatal", "panic":
		level = slog.LevelError
	default:
		return nil, fmt.Errorf("log level %q is not known; there is debug, info, warn, error", o.Level)
	}
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: asDapr}
	var h slog.Handler = slog.NewTextHandler(o.Writer, opts)
	if o.JSON {
		h = slog.NewJSONHandler(o.Writer, opts)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return slog.New(h).With("app_id", o.AppID, "instance", host, "scope", logScope, "type", "log", "ver", o.Version), nil
}

// asDapr writes the time and the level as Dapr does.
func asDapr(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey:
		if t := a.Value; t.Kind() == slog.KindTime {
			a.Value = slog.StringValue(t.Time().Format(time.RFC3339Nano))
		}
	case slog.LevelKey:
		if level, ok := a.Value.Any().(slog.Level); ok {
			a.Value = slog.StringValue(levelName(level))
		}
	}
	return a
}

func levelName(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "debug"
	case l < slog.LevelWarn:
		return "info"
	case l < slog.LevelError:
		return "warning"
	}
	return "error"
}
