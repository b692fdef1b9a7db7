package pubsub

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/proa-io/proa/fault"
)

// maxTopic bounds the length of a topic, in bytes.
const maxTopic = 1024

// topicProblem says why no broker can have a topic of that name; "" when it
// can.
func topicProblem(topic string) (string, fault.Reason) {
	switch {
	case topic == "":
		return "the name of the topic is empty", ReasonTopicEmpty
	case len(topic) > maxTopic:
		return fmt.Sprintf("the name of the topic has %d bytes; the most is %d", len(topic), maxTopic), ReasonTopicInvalid
	case !utf8.ValidString(topic):
		return "the name of the topic is not UTF-8", ReasonTopicInvalid
	}
	return "", ""
}

// permissions say which topics one application may use in one direction.
type permissions struct {
	allowed   []string // the only topics there are; empty for all
	protected []string // usable only when scoped
	scoped    []string // the application's own list; empty for none given
	limited   bool     // the application is listed, perhaps with no topic
}

// permit reports whether the topic may be used. A component without scopes
// permits everything; one that lists the application permits what it lists.
func (p permissions) permit(topic string) bool {
	if len(p.allowed) > 0 && !slices.Contains(p.allowed, topic) {
		return false
	}
	if !p.limited && !slices.Contains(p.protected, topic) {
		return true
	}
	return slices.Contains(p.scoped, topic)
}

// permissionsFor reads scopes, "app1=topic1,topic2;app2=", for one application.
// Blanks mean nothing, anywhere.
func permissionsFor(appID, scopes string, c Config) permissions {
	p := permissions{allowed: noBlanks(c.AllowedTopics), protected: noBlanks(c.ProtectedTopics)}
	for entry := range strings.SplitSeq(strings.ReplaceAll(scopes, " ", ""), ";") {
		app, topics, ok := strings.Cut(entry, "=")
		if !ok || app != appID {
			continue
		}
		p.limited = true
		for topic := range strings.SplitSeq(topics, ",") {
			if topic != "" {
				p.scoped = append(p.scoped, topic)
			}
		}
	}
	return p
}

func noBlanks(topics []string) []string {
	out := make([]string, 0, len(topics))
	for _, t := range topics {
		out = append(out, strings.ReplaceAll(t, " ", ""))
	}
	return out
}

// checkScopes returns what is wrong with a list of scopes, or "".
func checkScopes(scopes string) string {
	for entry := range strings.SplitSeq(scopes, ";") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		app, topics, ok := strings.Cut(entry, "=")
		switch {
		case !ok:
			return fmt.Sprintf(`%q has no "="; wants "app1=topic1,topic2;app2=topic3"`, entry)
		case strings.TrimSpace(app) == "":
			return fmt.Sprintf(`%q names no application before "="`, entry)
		case strings.Contains(topics, "="):
			return fmt.Sprintf(`%q has two "="; applications are separated by ";"`, entry)
		}
	}
	return ""
}
