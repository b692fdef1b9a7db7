package discovery

import "sync"

// Announcement is what one instance says of itself. What it says may change
// while it is announced. It is safe for concurrent use.
type Announcement struct {
	// Service is which application it is an instance of.
	Service Service
	// AppPort is where the application itself takes requests on the host of the
	// endpoint; 0 when it takes none.
	AppPort int
	// HTTPPort is where the sidecar serves its API over HTTP; 0 for nowhere.
	HTTPPort int

	mu      sync.Mutex
	ep      Endpoint
	changed chan struct{} // closed and replaced when ep changes
}

// Announce returns an Announcement of ep, which has an address, as an instance
// of svc.
func Announce(svc Service, ep Endpoint) *Announcement {
	return &Announcement{Service: svc, ep: ep, changed: make(chan struct{})}
}

// Endpoint returns what is to be announced now, and a channel that is closed as
// soon as that is something else.
func (a *Announcement) Endpoint() (Endpoint, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ep, a.changed
}

// Update changes what is announced. Its address and ID stay as they are.
func (a *Announcement) Update(change func(*Endpoint)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ep := a.ep
	change(&ep)
	ep.Address, ep.ID = a.ep.Address, a.ep.ID
	if ep.Equal(a.ep) {
		return
	}
	a.ep = ep
	close(a.changed)
	a.changed = make(chan struct{})
}
