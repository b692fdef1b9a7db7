package policy

// Attributes are what can be known of the request that a call is made for,
// beside what Call says. What is not known is "".
type Attributes interface {
	// Header returns the first field of a name, whatever its case.
	Header(name string) string
	// Method and Path are those of the request; the method of a gRPC call is
	// POST.
	Method() string
	Path() string
	// Remote is the address of the client, without a port.
	Remote() string
}
