package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Instance is a sidecar that runs on this host for this user.
type Instance struct {
	AppID     string    `json:"appId"`
	Namespace string    `json:"namespace"`
	PID       int       `json:"pid"`
	HTTPPort  int       `json:"httpPort"`
	GRPCPort  int       `json:"grpcPort"`
	AppPort   int       `json:"appPort,omitempty"`
	Started   time.Time `json:"started"`
}

// Home returns the folder that sidecars of one user share: dir if it is not
// empty, else $PROA_HOME, else ~/.local/share/proa.
func Home(dir string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	if dir := os.Getenv("PROA_HOME"); dir != "" {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("there is no home folder; set PROA_HOME: %w", err)
	}
	return filepath.Join(home, ".local", "share", "proa"), nil
}

// record writes the file by which commands find this sidecar, and returns what
// removes it. Trouble with it is no reason not to serve.
func (i Instance) record(home string) (remove func(), err error) {
	dir := filepath.Join(home, "run")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return func() {}, err
	}
	text, err := json.Marshal(i)
	if err != nil {
		return func() {}, err
	}
	path := filepath.Join(dir, fmt.Sprintf("%s.%d.json", i.AppID, i.PID))
	temp := path + ".tmp"
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		return func() {}, err
	}
	return func() { _ = os.Remove(path) }, os.Rename(temp, path)
}

// Instances returns the sidecars that run now and share the given home (see
// Home), by application. Files that dead ones left behind are removed.
func Instances(home string) ([]Instance, error) {
	dir := filepath.Join(home, "run")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Instance
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !strings.HasSuffix(path, ".json") {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has just stopped
		}
		var i Instance
		if json.Unmarshal(text, &i) != nil || !i.alive() {
			_ = os.Remove(path)
			continue
		}
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b Instance) int { return strings.Compare(a.AppID, b.AppID) })
	return out, nil
}

// alive reports whether somebody listens where the sidecar did.
func (i Instance) alive() bool {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(i.HTTPPort)), time.Second)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
