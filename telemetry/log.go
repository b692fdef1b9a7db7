package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// LogOptions configure the logger.
type LogOptions struct {
	Level  string // "debug", "info", "warn", "error"
	JSON   bool
	AppID  string
	Writer io.Writer
}

// NewLogger returns the process's logger. A level it does not know is an
// error.
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
	opts := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewTextHandler(o.Writer, opts)
	if o.JSON {
		h = slog.NewJSONHandler(o.Writer, opts)
	}
	log := slog.New(h)
	if o.AppID != "" {
		log = log.With("app_id", o.AppID)
	}
	return log, nil
}
