// Command gosdk is an application on the Dapr SDK for Go.
//
//	gosdk main http|grpc    make all checks, then shut the sidecar down
//	gosdk peer http|grpc    be the other application that main talks to
//
// The protocol is what the sidecar speaks to the application; the application
// speaks gRPC to the sidecar, as the SDK does. All ports and tokens come from
// the environment. It is a module of its own because the SDK brings messages of
// the same names as this repository's.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/interop"
	"google.golang.org/grpc/interop/grpc_testing"

	"github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
	daprgrpc "github.com/dapr/go-sdk/service/grpc"
	daprhttp "github.com/dapr/go-sdk/service/http"
)

// An app is what the checks work with.
type app struct {
	*report
	protocol string // "http" or "grpc"
	id, peer string
	client   client.Client
	service  common.Service
	inboxes  inboxes
}

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(role, protocol string) error {
	go endWithParent()
	service, err := newService(protocol, "127.0.0.1:"+os.Getenv("APP_PORT"))
	if err != nil {
		return err
	}
	a := &app{
		report: &report{}, protocol: protocol, id: os.Getenv("APP_ID"), peer: os.Getenv("INTEROP_PEER"),
		service: service, inboxes: inboxes{},
	}
	fmt.Println("waiting for the sidecar")
	if a.client, err = client.NewClient(); err != nil {
		return err
	}
	if role == "peer" {
		a.listenAsPeer()
		return service.Start()
	}
	a.listen()
	served := make(chan error, 1)
	go func() { served <- service.Start() }()
	a.checks()
	a.done()
	if err := a.client.Shutdown(context.Background()); err != nil {
		return err
	}
	return <-served // until the sidecar stops this program
}

// newService makes the server that the sidecar calls. Over gRPC it also serves
// the test service of gRPC, which has streams of every kind.
func newService(protocol, address string) (common.Service, error) {
	if protocol == "http" {
		return daprhttp.NewService(address), nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(server, interop.NewTestServer())
	return daprgrpc.NewServiceWithGrpcServer(listener, server), nil
}

// listen adds what main is called for.
func (a *app) listen() {
	a.listenToHealth()
	a.listenToTopics()
	a.listenToBindings()
	a.listenToJobs()
}

func (a *app) checks() {
	a.checkHealth()
	a.checkState()
	a.checkOutbox()
	a.checkPubSub()
	a.checkStreaming()
	a.checkInvoke()
	a.checkProxy()
	a.checkBinding()
	a.checkSecret()
	a.checkConfiguration()
	a.checkLock()
	a.checkCrypto()
	a.checkJobs()
	a.checkMetadata()
}

// endWithParent ends this program when the one that started it is gone.
func endWithParent() {
	for parent := os.Getppid(); os.Getppid() == parent; {
		time.Sleep(500 * time.Millisecond)
	}
	os.Exit(1)
}
