package conversation

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// A pattern finds one kind of personal data. holds, when not nil, tells what is
// meant from what only looks so.
type pattern struct {
	placeholder string
	find        *regexp.Regexp
	holds       func(string) bool
}

// patterns returns the kinds that are masked, in the order they are looked for:
// what could be taken for part of another comes later.
func patterns() []pattern {
	return []pattern{
		{"<EMAIL_ADDRESS>", emailPattern, nil},
		{"<IBAN_CODE>", ibanPattern, isIBAN},
		{"<CREDIT_CARD>", cardPattern, isCard},
		{"<US_SSN>", ssnPattern, nil},
		{"<IP_ADDRESS>", addressPattern, isAddress},
		{"<PHONE_NUMBER>", phonePattern, isPhone},
	}
}

var (
	emailPattern   = regexp.MustCompile(`(?i)\b[a-z0-9._%+-]+@[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}\b`)
	ibanPattern    = regexp.MustCompile(`\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b`)
	cardPattern    = regexp.MustCompile(`\b\d(?:[ -]?\d){12,18}\b`)
	ssnPattern     = regexp.MustCompile(`\b\d{3}-\d{2}-\d{4}\b`)
	addressPattern = regexp.MustCompile(`\b\d{1,3}(?:\.\d{1,3}){3}\b|(?i)\b(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{1,4}\b`)
	phonePattern   = regexp.MustCompile(`(?:\+|\b|\()\d[\d ().-]{5,18}\d\b`)
)

// scrubText masks personal data: each is replaced by what kind it is. It knows
// e-mail addresses, telephone numbers, credit card numbers, IBANs, US social
// security numbers and IP addresses by their form; names it does not know.
func scrubText(text string) string {
	for _, p := range patterns() {
		text = p.find.ReplaceAllStringFunc(text, func(found string) string {
			if p.holds != nil && !p.holds(found) {
				return found
			}
			return p.placeholder
		})
	}
	return text
}

func digits(text string) string {
	return strings.Map(func(r rune) rune {
		if r < '0' || r > '9' {
			return -1
		}
		return r
	}, text)
}

// isCard checks the digits as ISO/IEC 7812 has it (the Luhn algorithm).
func isCard(text string) bool {
	sum, d := 0, digits(text)
	for i := range len(d) {
		n := int(d[len(d)-1-i] - '0')
		if i%2 == 1 {
			if n *= 2; n > 9 {
				n -= 9
			}
		}
		sum += n
	}
	return sum%10 == 0
}

// isIBAN checks the digits as ISO 13616 has it: the number modulo 97 is 1.
func isIBAN(text string) bool {
	text = strings.ReplaceAll(text, " ", "")
	rest := 0
	for _, c := range text[4:] + text[:4] {
		if c >= 'A' {
			rest = (rest*100 + int(c-'A') + 10) % 97
		} else {
			rest = (rest*10 + int(c-'0')) % 97
		}
	}
	return rest == 1
}

func isAddress(text string) bool {
	_, err := netip.ParseAddr(text)
	return err == nil
}

// isPhone tells a telephone number from a date, a sum or a year: it has 7 to 15
// digits (ITU-T E.164) and begins with +, is written in groups, or has 10 or
// more digits.
func isPhone(text string) bool {
	n := len(digits(text))
	if n < 7 || n > 15 || datePattern.MatchString(text) {
		return false
	}
	return strings.HasPrefix(text, "+") || n >= 10 || strings.ContainsAny(text, " -()")
}

var datePattern = regexp.MustCompile(`^\d{4}[-.]\d{2}[-.]\d{2}|^\d{1,2}\.\d{1,2}\.\d{4}$`)

func scrubMessage(m Message) Message {
	m.Content = slices.Clone(m.Content)
	for i, text := range m.Content {
		m.Content[i] = scrubText(text)
	}
	m.ToolCalls = scrubCalls(m.ToolCalls)
	return m
}

func scrubCalls(calls []ToolCall) []ToolCall {
	calls = slices.Clone(calls)
	for i := range calls {
		calls[i].Arguments = scrubText(calls[i].Arguments)
	}
	return calls
}

// scrubReply returns a copy of an answer with personal data masked.
func scrubReply(r *Reply) *Reply {
	out := *r
	out.Outputs = make([]Output, len(r.Outputs))
	for i, o := range r.Outputs {
		out.Outputs[i].Choices = slices.Clone(o.Choices)
		for j := range o.Choices {
			c := &out.Outputs[i].Choices[j]
			c.Content, c.ToolCalls = scrubText(c.Content), scrubCalls(c.ToolCalls)
		}
	}
	return &out
}
