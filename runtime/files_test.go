package runtime

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/proa-io/proa/mesh/http1"
)

func TestALimitOfFilesThatIsTooLowIsSaid(t *testing.T) {
	for limit, said := range map[uint64]bool{1024: true, http1.DefaultMaxConns: true, http1.DefaultMaxConns + spareFiles: false, 1 << 20: false} {
		var log logBuffer
		sayFewFiles(slog.New(slog.NewTextHandler(&log, nil)), limit)
		if got := strings.Contains(log.String(), "limit of open files"); got != said {
			t.Errorf("with %d: said %v, want %v: %s", limit, got, said, &log)
		}
	}
}

func TestAProcessMayOpenAsManyFilesAsItsUserMay(t *testing.T) {
	if limit, known := fileLimit(); known && limit < 256 {
		t.Errorf("the limit is %d", limit)
	}
}
