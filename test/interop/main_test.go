// Package interop_test runs applications that are written with the real Dapr
// SDKs, unmodified, beside the real program: JavaScript, Go, Python and Java,
// each as a process of its own, over HTTP and over gRPC.
//
// Every application makes the same checks twice, first on the components that
// there are without any configuration, then with PostgreSQL and Redis behind the
// same names; some make them on other servers too. Nothing in the application
// changes: what stands behind it is configuration.
//
// The applications are in js, gosdk, python and java. They report as package
// harness says. deps.sh installs what they need.
package interop_test

import (
	"path/filepath"
	"testing"

	"github.com/proa-io/proa/internal/testserver"
	"github.com/proa-io/proa/test/interop/harness"
)

// What the tests share: the program, and each SDK, for Go and Java as a program
// that is built and for the others as the folder that it is installed in.
var (
	proa  = testserver.Share(harness.Build)
	jssdk = testserver.Share(func(tb testserver.TB) string { return harness.SDK(tb, "js") })
	pysdk = testserver.Share(func(tb testserver.TB) string { return harness.SDK(tb, "python") })
	// javasdk is the class path of the application.
	javasdk = testserver.Share(func(tb testserver.TB) string {
		sources := filepath.Join(harness.Repository(tb), "test/interop/java/src/interop")
		return harness.JavaBuild(tb, sources, harness.SDK(tb, "java"))
	})
	postgresServer = testserver.Share(func(tb testserver.TB) *testserver.PostgresServer {
		return testserver.Postgres(tb, testserver.PostgresOptions{})
	})
	rabbitServer = testserver.Share(func(tb testserver.TB) *testserver.RabbitMQServer {
		return testserver.RabbitMQ(tb, testserver.RabbitMQOptions{})
	})
	gosdk = testserver.Share(func(tb testserver.TB) string {
		return harness.GoBuild(tb, filepath.Join(harness.Repository(tb), "test/interop/gosdk"), ".")
	})
)

func TestMain(m *testing.M) {
	testserver.Main(m, proa, jssdk, pysdk, gosdk, javasdk, postgresServer, rabbitServer)
}
