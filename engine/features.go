package engine

import (
	"strconv"
	"strings"
)

// A Feature is something that not every server can do. The embedded engine
// can do all of them.
type Feature uint8

// The features, with the first server version that has each.
const (
	MultipleFilters    Feature = iota // 2.10: several filter subjects on one consumer
	MessageTTL                        // 2.11: a TTL per message, and markers when it ends
	BatchGet                          // 2.11: one request reads many messages
	AtomicBatch                       // 2.12: several messages are stored together or not at all
	Counters                          // 2.12: streams of counters that merge
	DelayedMessage                    // 2.12: a message that appears at a given time (@at)
	RepeatingSchedules                // 2.14: @every and cron schedules
	numFeatures
)

// String returns the feature's name in words.
func (f Feature) String() string {
	name, _ := f.facts()
	return name
}

// Since returns the first server version that has the feature, "2.11.0".
func (f Feature) Since() string {
	_, since := f.facts()
	return since.String()
}

func (f Feature) facts() (name string, since version) {
	switch f {
	case MultipleFilters:
		return "multiple filters", version{2, 10, 0}
	case MessageTTL:
		return "message TTL", version{2, 11, 0}
	case BatchGet:
		return "batch get", version{2, 11, 0}
	case AtomicBatch:
		return "atomic batch", version{2, 12, 0}
	case Counters:
		return "counters", version{2, 12, 0}
	case DelayedMessage:
		return "delayed message", version{2, 12, 0}
	case RepeatingSchedules:
		return "repeating schedules", version{2, 14, 0}
	}
	return "feature(" + strconv.Itoa(int(f)) + ")", version{1 << 30}
}

// version is major, minor and patch.
type version [3]int

func (v version) String() string {
	return strconv.Itoa(v[0]) + "." + strconv.Itoa(v[1]) + "." + strconv.Itoa(v[2])
}

// parseVersion reads "2.11.4" and "v2.12.0-beta.1"; what it cannot read
// counts as 0.
func parseVersion(text string) version {
	text = strings.TrimPrefix(text, "v")
	if i := strings.IndexAny(text, "-+"); i >= 0 {
		text = text[:i]
	}
	var v version
	for i, part := range strings.SplitN(text, ".", 4) {
		if i == len(v) {
			break
		}
		n, err := strconv.Atoi(part)
		if err != nil {
			break
		}
		v[i] = n
	}
	return v
}

func (v version) atLeast(w version) bool {
	for i := range v {
		if v[i] != w[i] {
			return v[i] > w[i]
		}
	}
	return true
}
