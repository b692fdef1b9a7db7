package balance

import (
	"time"
)

// Algorithm is how an endpoint of a level is chosen.
type Algorithm uint8

// The algorithms.
const (
	// PeakEWMA takes the better of two endpoints drawn by weight: that with the
	// lower latency (an average that follows peaks at once and forgets them
	// within ten seconds) times the requests it has under way.
	PeakEWMA Algorithm = iota
	// RoundRobin takes one after the other, each as often as its weight says
	// and spread evenly.
	RoundRobin
	// LeastRequest takes of two endpoints drawn by weight the one with fewer
	// requests under way, in relation to its weight.
	LeastRequest
	// Random draws by weight.
	Random
	// RingHash takes the next endpoint on a ring of hashes (ketama), so that
	// requests with one key meet one endpoint, and a change of the list moves
	// few keys.
	RingHash
	// Maglev takes the endpoint from a table of hashes: more even and quicker
	// than the ring; a change of the list moves a few keys more.
	Maglev
)

// Policy says how requests are spread over the endpoints of a target. Start from
// DefaultPolicy; it must not be changed once it is in use.
type Policy struct {
	Algorithm Algorithm
	// HashKeys are where the key of RingHash and Maglev comes from: the first
	// that a request has. A request that has none goes anywhere.
	HashKeys []HashKey
	// RingSize is how many points the ring has at least.
	RingSize int
	// TableSize is the length of Maglev's table, a prime.
	TableSize int
	// Bounded, if not zero, is how many times the average of requests under way
	// an endpoint may have before RingHash and Maglev pass over it; at least 1.
	Bounded float64

	SlowStart SlowStart
	Locality  LocalityPolicy
	// Panic is the percentage of endpoints that must be healthy; with fewer,
	// those that are not are used as well. 0 never uses them.
	Panic int
	// Subsets are the parts of the target that requests may ask for.
	Subsets  []SubsetPolicy
	Outliers Outliers
	// Checks are carried out on every endpoint; all must succeed.
	Checks []Check
	Limits Limits
}

// DefaultPolicy returns what holds for targets that nobody has configured.
func DefaultPolicy() Policy {
	return Policy{
		RingSize: 1024, TableSize: 65537, Panic: 50,
		SlowStart: SlowStart{Aggression: 1, Least: 0.1},
		Locality:  LocalityPolicy{Prefer: Zone, SpillAt: 64},
		Outliers:  DefaultOutliers(),
	}
}

// SlowStart has an endpoint that is new, or healthy again, begin with a part of
// its share.
type SlowStart struct {
	// Window is how long it lasts; 0 for none.
	Window time.Duration
	// Aggression is how the share grows: the part of the window that is over,
	// to the power of 1/Aggression. 1 is a straight line, more grows faster.
	Aggression float64
	// Least is the part of its share that it begins with, 0 to 1.
	Least float64
}

// Proximity is how much of a locality two endpoints have in common.
type Proximity uint8

// The proximities.
const (
	Anywhere Proximity = iota
	Region
	Zone
	SubZone
)

// LocalityPolicy says how much being near counts.
type LocalityPolicy struct {
	// Prefer is what endpoints must have in common with the caller to be used
	// first; those that have less in common follow, the nearest first. Anywhere
	// makes no difference between them. It has no effect when nobody knows where
	// the caller is.
	Prefer Proximity
	// SpillAt is how many requests an endpoint of the nearest level may have
	// under way before one of the next level is used if that is better off; 0
	// for no bound.
	SpillAt int
}

// SubsetPolicy is a part of a target.
type SubsetPolicy struct {
	Name string
	// Labels are those that an endpoint must have.
	Labels map[string]string
	// Header, if its name is not empty, sends requests with that field there.
	Header HeaderMatch
	// Fallback is what happens when no endpoint has the labels.
	Fallback Fallback
}

// HeaderMatch is a field that a request has.
type HeaderMatch struct {
	Name, Value string
}

// Fallback is what happens when a subset is empty.
type Fallback uint8

// The fallbacks.
const (
	AnyEndpoint Fallback = iota // all endpoints are used
	NoEndpoint                  // the request fails
)

// Limits bound what is under way; 0 is no bound.
type Limits struct {
	// Requests are those to all endpoints together.
	Requests int
	// Retries are those among them that are not the first attempt.
	Retries int
	// PerEndpoint are requests to one endpoint; it gets no more when there are
	// so many, and when all have, the request fails.
	PerEndpoint int
}

// bounded reports whether there is any limit.
func (l Limits) bounded() bool { return l != (Limits{}) }

// consistent reports whether the algorithm goes by a key.
func (a Algorithm) consistent() bool { return a == RingHash || a == Maglev }

// Algorithms returns the names of all algorithms, by their number.
func Algorithms() []string {
	return []string{"PeakEWMA", "RoundRobin", "LeastRequest", "Random", "RingHash", "Maglev"}
}

// String returns the name.
func (a Algorithm) String() string { return Algorithms()[a] }
