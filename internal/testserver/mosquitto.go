package testserver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/internal/fastloop"
)

// MosquittoOptions configure a Mosquitto server, a broker for MQTT. The zero
// value is a server that lets everybody in and keeps everything in memory.
type MosquittoOptions struct {
	// Persistence makes the server keep its sessions and messages in a file:
	// they survive Stop, and Kill as far as they are saved (see
	// [MosquittoServer.Save]). Without it a restart comes up empty.
	Persistence bool
	// Config holds further lines of mosquitto.conf, such as
	// "max_inflight_messages 5". They come last.
	Config []string
}

// MosquittoServer is a running mosquitto.
type MosquittoServer struct {
	*Process
	options  MosquittoOptions
	launched int // counts the starts
}

// Mosquitto starts a mosquitto for the test.
func Mosquitto(tb TB, o MosquittoOptions) *MosquittoServer {
	tb.Helper()
	fastloop.Skip(tb, "starts a server")
	program, err := lookPath("mosquitto")
	if err != nil {
		missing(tb, "mosquitto", "not found")
	}
	s := &MosquittoServer{options: o}
	s.Process = start(tb, spec{program: program, args: s.configure, env: s.countStart, probe: s.probe})
	return s
}

// URL returns "tcp://127.0.0.1:port".
func (s *MosquittoServer) URL() string { return "tcp://" + s.Addr() }

// Save makes a server with persistence write what it has to its file, and
// waits for it: what it has answered for survives Kill then.
func (s *MosquittoServer) Save() {
	s.tb.Helper()
	file := filepath.Join(s.Dir(), "mosquitto.db")
	before, _ := os.Stat(file) // nil before it is first saved
	askToSave(s.Process)
	for deadline := time.Now().Add(readyWithin); time.Now().Before(deadline); time.Sleep(pollEvery) {
		if now, err := os.Stat(file); err == nil && (before == nil || !os.SameFile(before, now)) {
			return
		}
	}
	s.tb.Fatalf("mosquitto has not saved anything; it printed:\n%s", s.Output())
}

func (s *MosquittoServer) configure(dir string, port int) ([]string, error) {
	lines := []string{
		fmt.Sprintf("listener %d 127.0.0.1", port),
		"allow_anonymous true",
		"log_dest stderr",
		"log_type error",
		"log_type warning",
		"log_type information", // says that the server runs
	}
	if os.Getuid() == 0 {
		lines = append(lines, "user root") // it would become another that may not write here
	}
	if s.options.Persistence {
		lines = append(lines, "persistence true", "persistence_location "+dir+"/")
	}
	lines = append(lines, s.options.Config...)
	file := filepath.Join(dir, "mosquitto.conf")
	return []string{"-c", file}, os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}

// countStart is called before every start. It adds nothing to the environment.
func (s *MosquittoServer) countStart(string, int) []string {
	s.launched++
	return nil
}

// probe connects, and wants the process to have said that it runs: the
// protocol does not tell who serves a port.
func (s *MosquittoServer) probe(p *Process) (string, error) {
	return p.ask(func(conn net.Conn) (string, error) {
		// CONNECT of MQTT 3.1.1 with a clean session and no client id.
		if _, err := conn.Write([]byte("\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")); err != nil {
			return "", err
		}
		answer := make([]byte, 4)
		if _, err := io.ReadFull(conn, answer); err != nil {
			return "", err
		}
		if answer[0] != 0x20 {
			return "", fmt.Errorf("mosquitto answers CONNECT with %x", answer)
		}
		return s.said(p)
	})
}

// said returns the version from what the process prints once it listens.
func (s *MosquittoServer) said(p *Process) (string, error) {
	text, err := os.ReadFile(p.outputFile())
	if err != nil {
		return "", err
	}
	running, version := 0, ""
	for line := range bytes.Lines(text) {
		if fields := strings.Fields(string(line)); len(fields) == 5 && fields[4] == "running" { // 1700000000: mosquitto version 2.0.11 running
			running, version = running+1, fields[3]
		}
	}
	if running < s.launched {
		return "", errors.New("the process does not say that it runs; another one serves port " + strconv.Itoa(p.Port()))
	}
	return version, nil
}
