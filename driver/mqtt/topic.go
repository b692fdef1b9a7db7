package mqtt

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/proa-io/proa/fault"
)

// maxTopic is the longest topic that the protocol has room for, in bytes.
const maxTopic = 65535

// checkTopic refuses a topic that nothing can be published to (MQTT 3.1.1,
// section 4.7).
func checkTopic(topic string) error {
	switch {
	case !presentable(topic):
		return errNoTopic(topic)
	case strings.ContainsAny(topic, "+#"):
		return fault.New(fault.InvalidArgument, "topic %q has a + or # in it, which MQTT keeps for subscriptions", topic)
	}
	return nil
}

func errNoTopic(text string) error {
	return fault.New(fault.InvalidArgument, "%.40q is no topic of MQTT: that is 1 to %d bytes of UTF-8 without control characters", text, maxTopic)
}

// valid reports whether a text can stand in a packet (section 1.5.3).
func valid(text string) bool {
	return text != "" && len(text) <= maxTopic && utf8.ValidString(text) && strings.IndexByte(text, 0) < 0
}

// presentable reports whether a broker puts up with a text: it may hang up on
// one with control characters.
func presentable(text string) bool {
	return valid(text) && strings.IndexFunc(text, func(r rune) bool { return unicode.IsControl(r) || r&0xfffe == 0xfffe }) < 0
}

const sharePrefix = "$share/"

// filter is what a subscription asks for: a topic with wildcards, and maybe a
// group that shares its messages.
type filter struct {
	text   string   // as the broker gets it
	levels []string // without the group
}

// parseFilter reads "a/+/c", "a/#" and "$share/group/a/#".
func parseFilter(text string) (filter, error) {
	wrong := func(why string) (filter, error) {
		return filter{}, fault.New(fault.InvalidArgument, "topic %q: %s", text, why)
	}
	if !presentable(text) {
		return filter{}, errNoTopic(text)
	}
	f := filter{text: text}
	topic := text
	if rest, shared := strings.CutPrefix(text, sharePrefix); shared {
		group, after, ok := strings.Cut(rest, "/")
		if !ok || group == "" || after == "" || strings.ContainsAny(group, "+#") {
			return wrong("a shared subscription has the form $share/group/topic")
		}
		topic = after
	}
	f.levels = strings.Split(topic, "/")
	for i, level := range f.levels {
		switch {
		case level == "#" && i < len(f.levels)-1:
			return wrong("# stands for all levels that follow and comes last")
		case level != "#" && level != "+" && strings.ContainsAny(level, "+#"):
			return wrong("+ and # stand for whole levels between slashes")
		}
	}
	return f, nil
}

// matches reports whether messages to a topic are meant. A wildcard at the
// beginning does not mean topics that begin with $.
func (f *filter) matches(topic string) bool {
	if first := f.levels[0]; strings.HasPrefix(topic, "$") && (first == "+" || first == "#") {
		return false
	}
	for i, level := range f.levels {
		if level == "#" {
			return true
		}
		part, rest, more := strings.Cut(topic, "/")
		if level != "+" && level != part {
			return false
		}
		if !more {
			// "a/#" means "a" too.
			left := f.levels[i+1:]
			return len(left) == 0 || len(left) == 1 && left[0] == "#"
		}
		topic = rest
	}
	return false
}
