// Package api is where the application API of Proa is specified. It holds no Go
// code of its own.
//
// The .proto files below dapr are the Dapr v1 API, message for message and
// number for number, with a reference manual in their comments. The Go code that
// is made from them is below gen:
//
//   - gen/dapr/proto/runtime/v1 has the services Dapr, which the sidecar serves,
//     and AppCallback, AppCallbackAlpha and AppCallbackHealthCheck, which an
//     application serves;
//   - gen/dapr/proto/components/v1 has the services that a pluggable component
//     serves;
//   - gen/dapr/proto/common/v1 has the messages that they share.
//
// Those below proa are what the Dapr API has no words for: proa.v1, one small
// service per building block, one file each. The code is in gen/proa/v1.
//
// After a change to a .proto file run gen.sh. Run check.sh to see whether the
// files follow the rules in buf.yaml, are compatible with the last release
// (baseline.binpb) and agree with the generated code. The facts of the wire
// format are in testdata/wire.txt; the tests of this package hold the generated
// code against them.
package api
