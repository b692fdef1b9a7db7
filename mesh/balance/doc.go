// Package balance decides which endpoint of a target gets a request.
//
// A Cluster is what is known of one target: its endpoints, how loaded and how
// quick each of them is, and which of them are out of use. Its user hands it the
// list of endpoints whenever that changes (Sync), asks for one (Pick), says that
// a request begins there (Host.Begin), and what came of it (Attempt.Done). What
// is learned of an endpoint stays with it for as long as it is in the list.
//
// A pick takes no lock and allocates nothing: it reads an unchanging snapshot,
// which is built anew when the list or somebody's health changes. It goes in
// three steps:
//
//   - the subset: endpoints with certain labels, or all;
//   - the level: endpoints of one priority and equally near. A level gets what it
//     can carry by the part of it that is healthy, times 1.4; what is left goes
//     to the next (Envoy calls 1.4 the overprovisioning factor). When so few are
//     healthy that they would be overrun, all are used (the panic threshold);
//   - the endpoint, by the algorithm of the Policy, leaving out those that this
//     request has met before, and bending away from those that ask to be left
//     alone for a while (429 with Retry-After) or have just begun to work.
//
// Endpoints go out of use when their source says so, when they fail their active
// health checks (Check), and by outlier detection, which looks at what requests
// met (Outliers).
//
// A Table holds the clusters of a process with the policies of all.
package balance
