package runtime

import (
	"log/slog"

	"github.com/proa-io/proa/mesh/http1"
)

// spareFiles are needed besides connections of clients: for those to other
// sidecars, the application and stores, and for files.
const spareFiles = 500

// sayFewFiles warns when the system lets the process have fewer files open than
// the servers take connections: one more would not be accepted.
func sayFewFiles(log *slog.Logger, limit uint64) {
	if limit < http1.DefaultMaxConns+spareFiles {
		log.Warn("the limit of open files is lower than the number of connections that are served; raise it (ulimit -Hn, LimitNOFILE=, --ulimit nofile)",
			"limit", limit, "connections", http1.DefaultMaxConns, "wanted", http1.DefaultMaxConns+spareFiles)
	}
}
