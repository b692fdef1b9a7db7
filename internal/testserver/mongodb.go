package testserver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/proa-io/proa/internal/fastloop"
)

// MongoDBServer is a running MongoDB Java Server, which speaks the protocol of
// MongoDB and is not it: the real one comes from no package registry. It is of
// no replica set, has neither transactions nor users, and forgets all when it
// ends.
type MongoDBServer struct{ *Process }

// MongoDB starts a server for the test. That takes a second or two: share it.
func MongoDB(tb TB) *MongoDBServer {
	tb.Helper()
	fastloop.Skip(tb, "starts a server")
	java, err := lookPath("java")
	if err != nil {
		missing(tb, "mongodb", "java not found")
	}
	root, err := moduleRoot()
	if err != nil {
		tb.Fatalf("testserver: %v", err)
	}
	folder := filepath.Join(root, "test", "mongodb")
	jars, err := installedBy(filepath.Join(folder, "deps.sh"))
	if err != nil {
		missing(tb, "mongodb", err.Error())
	}
	return &MongoDBServer{start(tb, spec{
		program: java,
		args: func(_ string, port int) ([]string, error) {
			return javaArgs(jars, filepath.Join(folder, "Server.java"), strconv.Itoa(port)), nil
		},
		probe: mongoHello,
	})}
}

// URI returns the connection string.
func (s *MongoDBServer) URI() string { return "mongodb://" + s.Addr() + "/" }

// installedBy asks a deps.sh where it has put what it installs.
func installedBy(script string) (string, error) {
	cmd := exec.Command(script, "where")
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		return "", errors.New(strings.TrimSpace(problems.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// mongoHello greets the server, which has nothing to tell which process it is.
func mongoHello(p *Process) (string, error) {
	return p.ask(func(conn net.Conn) (string, error) {
		// An OP_MSG with {hello: 1, $db: "admin"}.
		body := []byte("\x00\x00\x00\x00\x00" + "\x1f\x00\x00\x00\x10hello\x00\x01\x00\x00\x00\x02$db\x00\x06\x00\x00\x00admin\x00\x00")
		binary.LittleEndian.PutUint32(body[5:], uint32(len(body)-5))
		head := make([]byte, 16)
		for i, n := range []int{len(head) + len(body), 1, 0, 2013} {
			binary.LittleEndian.PutUint32(head[4*i:], uint32(n))
		}
		if _, err := conn.Write(append(head, body...)); err != nil {
			return "", err
		}
		if _, err := io.ReadFull(conn, head); err != nil {
			return "", err
		}
		if to := binary.LittleEndian.Uint32(head[8:]); to != 1 {
			return "", fmt.Errorf("%s answers request %d and not 1", p.Addr(), to)
		}
		return "5.0", nil
	})
}
