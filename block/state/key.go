package state

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/fault"
)

// separator stands between the prefix and the caller's key in the store.
const separator = "||"

// keyPrefix returns what is put before the caller's keys. An identity that is
// not known is left out, with its separator.
func keyPrefix(strategy, component, appID, namespace string) string {
	switch strategy = strings.ToLower(strategy); {
	case strategy == "none":
		return ""
	case strategy == "name":
		return component + separator
	case strategy == "namespace" && appID != "" && namespace != "":
		return namespace + "." + appID + separator
	case strategy == "" || strategy == "appid" || strategy == "namespace":
		if appID == "" {
			return ""
		}
		return appID + separator
	}
	return strategy + separator
}

func (s *Store) checkKey(key string) error {
	if key == "" {
		return fault.New(fault.InvalidArgument, "state %q: the key is empty", s.name).WithReason(ReasonEmptyKey)
	}
	if strings.Contains(key, separator) {
		return fault.New(fault.InvalidArgument, "state %q: the key %q must not contain %q", s.name, key, separator).
			WithReason(ReasonIllegalKey)
	}
	return nil
}

// Concurrency says who wins when two callers write the same item.
type Concurrency uint8

// The kinds of concurrency.
const (
	DefaultConcurrency Concurrency = iota // LastWrite
	// FirstWrite lets a write without an etag succeed only if there is no
	// item.
	FirstWrite
	// LastWrite lets a write without an etag succeed always.
	LastWrite
)

// ParseConcurrency reads "first-write", "last-write" or "".
func ParseConcurrency(text string) (Concurrency, error) {
	switch text {
	case "":
		return DefaultConcurrency, nil
	case "first-write":
		return FirstWrite, nil
	case "last-write":
		return LastWrite, nil
	}
	return 0, fault.New(fault.InvalidArgument, "concurrency wants %q or %q, not %q", "first-write", "last-write", text).
		WithReason(ReasonBadOption)
}

// ParseConsistency reads "eventual", "strong" or "".
func ParseConsistency(text string) (Consistency, error) {
	switch text {
	case "":
		return DefaultConsistency, nil
	case "eventual":
		return Eventual, nil
	case "strong":
		return Strong, nil
	}
	return 0, fault.New(fault.InvalidArgument, "consistency wants %q or %q, not %q", "eventual", "strong", text).
		WithReason(ReasonBadOption)
}

// MetadataTTL is the name of the request metadata that holds how long an item
// lives, a number of seconds; -1 or 0 for ever. Its case does not matter.
const MetadataTTL = "ttlInSeconds"

// MetadataExpires is the name of the response metadata that tells when an item
// goes away.
const MetadataExpires = "ttlExpireTime"

// maxTTL is the longest time to live in seconds: 68 years, which every store
// can count.
const maxTTL = math.MaxInt32

// ExpireTime renders when an item goes away (RFC 3339, UTC), for
// MetadataExpires. ok is false for an item that stays.
func (i Item) ExpireTime() (text string, ok bool) {
	if i.Expires.IsZero() {
		return "", false
	}
	return i.Expires.UTC().Format(time.RFC3339), true
}

// ttlOf returns how long an item written with metadata lives; 0 for ever.
func (s *Store) ttlOf(metadata map[string]string) (time.Duration, error) {
	text := lookup(metadata, MetadataTTL)
	if text == "" {
		return s.ttl, nil
	}
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || n < -1 || n > maxTTL {
		return 0, fault.New(fault.InvalidArgument, "%s wants a number of seconds from 1 to %d, or -1 for no expiry, not %q",
			MetadataTTL, maxTTL, text).WithReason(ReasonBadTTL)
	}
	return seconds(n), nil
}

func seconds(n int) time.Duration { return time.Duration(max(n, 0)) * time.Second }

// lookup returns the value of name, whatever its case.
func lookup(metadata map[string]string, name string) string {
	if len(metadata) == 0 {
		return ""
	}
	if v, ok := metadata[name]; ok {
		return v
	}
	for k, v := range metadata {
		if strings.EqualFold(k, name) {
			return v
		}
	}
	return ""
}
