package component

import (
	"encoding/json"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

// Secret is a string that does not show itself: String, JSON and slog print a
// placeholder. Reveal returns the value.
type Secret struct{ value string }

// NewSecret returns value as a Secret.
func NewSecret(value string) Secret { return Secret{value} }

// Reveal returns the value. Call it only where the value is used.
func (s Secret) Reveal() string { return s.value }

// IsSet reports whether the secret is not empty.
func (s Secret) IsSet() bool { return s.value != "" }

// String returns a placeholder, or "" for an empty secret.
func (s Secret) String() string {
	if s.value == "" {
		return ""
	}
	return "[redacted]"
}

// GoString keeps %#v from printing the value.
func (s Secret) GoString() string { return s.String() }

// MarshalJSON writes the placeholder.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// LogValue keeps slog from printing the value.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Secret) UnmarshalText(text []byte) error {
	s.value = string(text)
	return nil
}

// Duration is a time.Duration that reads "1m30s", and a bare number as
// seconds.
type Duration time.Duration

// Std returns d as a time.Duration.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String formats d as time.Duration does.
func (d Duration) String() string { return time.Duration(d).String() }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := parseDuration(string(text), time.Second)
	*d = Duration(v)
	return err
}

// Millis is a time.Duration that reads "1m30s", and a bare number as
// milliseconds.
type Millis time.Duration

// Std returns d as a time.Duration.
func (d Millis) Std() time.Duration { return time.Duration(d) }

// String formats d as time.Duration does.
func (d Millis) String() string { return time.Duration(d).String() }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Millis) UnmarshalText(text []byte) error {
	v, err := parseDuration(string(text), time.Millisecond)
	*d = Millis(v)
	return err
}

func parseDuration(text string, unit time.Duration) (time.Duration, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return 0, nil
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		if n > int64(1<<62)/int64(unit) || n < -int64(1<<62)/int64(unit) {
			return 0, errors.New("is too long a duration")
		}
		return time.Duration(n) * unit, nil
	}
	v, err := time.ParseDuration(text)
	if err != nil {
		return 0, errors.New(`wants a duration such as "500ms", "5s" or "1h30m"`)
	}
	return v, nil
}

// Size is a number of bytes that reads "4Mi", "64k" or a bare number. Ki, Mi
// and Gi are powers of 1024; k, K, M and G are powers of 1000; a trailing B is
// allowed.
type Size int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(text []byte) error {
	v, err := ParseSize(string(text))
	*s = Size(v)
	return err
}

// ParseSize reads a number of bytes as Size does.
func ParseSize(text string) (int64, error) {
	wrong := errors.New(`wants a size such as "64Ki", "4Mi" or a number of bytes`)
	t := strings.TrimSuffix(strings.TrimSpace(text), "B")
	unit := int64(1)
	for _, u := range []struct {
		suffix string
		bytes  int64
	}{
		{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40},
		{"k", 1e3}, {"K", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12},
	} {
		if rest, ok := strings.CutSuffix(t, u.suffix); ok {
			t, unit = rest, u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(t), 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return 0, wrong
	}
	return n * unit, nil
}
