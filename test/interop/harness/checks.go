package harness

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// quietFor bounds the time between two lines of results.
const quietFor = 60 * time.Second

// Results collects what an application says of its checks. Pass Line as the
// OnLine of the program that runs it.
type Results struct {
	lines chan result
}

// result is one line.
type result struct {
	Check string `json:"check"`
	Error string `json:"error"`
	Done  *int   `json:"done"`
}

// NewResults returns empty results.
func NewResults() *Results { return &Results{lines: make(chan result, 1000)} }

// Line takes a line of output. Lines that are no results pass by.
func (r *Results) Line(line string) {
	if !strings.HasPrefix(line, `{"check"`) && !strings.HasPrefix(line, `{"done"`) {
		return
	}
	var one result
	if err := json.Unmarshal([]byte(line), &one); err != nil {
		one = result{Check: "a line of results", Error: err.Error() + ": " + line}
	}
	r.lines <- one
}

// Checks runs one subtest for each check that the application in the program
// reports, until it says that it is through, and returns how many. It ends the
// test when the application ends before that, or goes quiet.
func (r *Results) Checks(t *testing.T, p *Program) (seen int) {
	t.Helper()
	for {
		one, ok := r.next(p)
		switch {
		case !ok:
			t.Fatalf("%s ended or went quiet after %d checks, before it was through", p, seen)
		case one.Done == nil:
			seen++
			t.Run(one.Check, func(t *testing.T) {
				if one.Error != "" {
					t.Error(one.Error)
				}
			})
		case *one.Done != seen || seen == 0:
			t.Fatalf("%s says that it made %d checks; %d were seen", p, *one.Done, seen)
		default:
			return seen
		}
	}
}

func (r *Results) next(p *Program) (result, bool) {
	select {
	case one := <-r.lines:
		return one, true
	case <-p.Done():
		select { // what it said at last
		case one := <-r.lines:
			return one, true
		default:
			return result{}, false
		}
	case <-time.After(quietFor):
		return result{}, false
	}
}
