package vault

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// maxBody bounds an answer, in bytes.
const maxBody = 16 << 20

// client sends requests to Vault. It is safe for concurrent use.
type client struct {
	cfg  Config
	base string // the URL up to and with /v1/
	http *http.Client
	now  func() time.Time

	turn  chan struct{} // holds one token: whoever takes it may use what follows
	token string        // of the last login
	renew time.Time     // when to log in again
}

func newClient(cfg Config, env component.Env) (*client, error) {
	cfg.VaultTokenMountPath = env.Locate(cfg.VaultTokenMountPath)
	cfg.CAPath, cfg.CACert = env.Locate(cfg.CAPath), env.Locate(cfg.CACert)
	roots, err := cfg.roots()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8, IdleConnTimeout: 90 * time.Second,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: cfg.TLSServerName,
			InsecureSkipVerify: cfg.SkipVerify, //nolint:gosec // only if the user says so
		},
	}
	c := &client{
		cfg: cfg, turn: make(chan struct{}, 1), base: strings.TrimRight(cfg.VaultAddr, "/") + "/v1/", now: time.Now,
		http: &http.Client{Transport: transport, CheckRedirect: redirect},
	}
	c.turn <- struct{}{}
	return c, nil
}

// roots returns the authorities that may sign the server's certificate; nil for
// the system's.
func (c Config) roots() (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	switch {
	case c.CAPem != "":
		if !pool.AppendCertsFromPEM([]byte(c.CAPem)) {
			return nil, fault.New(fault.InvalidArgument, "caPem holds no certificate in PEM")
		}
	case c.CAPath != "":
		if err := addFolder(pool, c.CAPath); err != nil {
			return nil, err
		}
	case c.CACert != "":
		text, err := os.ReadFile(c.CACert)
		if err != nil {
			return nil, fileError("caCert", err)
		}
		if !pool.AppendCertsFromPEM(text) {
			return nil, fault.New(fault.InvalidArgument, "caCert: %s holds no certificate in PEM", c.CACert)
		}
	default:
		return nil, nil
	}
	return pool, nil
}

// addFolder adds the certificates of the files in a folder and those below it.
func addFolder(pool *x509.CertPool, dir string) error {
	found := false
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		found = err == nil && pool.AppendCertsFromPEM(text) || found
		return err
	})
	switch {
	case err != nil:
		return fileError("caPath", err)
	case !found:
		return fault.New(fault.InvalidArgument, "caPath: no file in %s holds a certificate in PEM", dir)
	}
	return nil
}

// fileError says why a file that a setting names cannot be read; the cause names
// the file.
func fileError(setting string, err error) error {
	code := fault.FailedPrecondition
	switch {
	case errors.Is(err, fs.ErrNotExist):
		code = fault.NotFound
	case errors.Is(err, fs.ErrPermission):
		code = fault.PermissionDenied
	}
	return fault.New(code, "%s: %v", setting, err)
}

// probe fails when the server cannot be reached or is sealed.
func (c *client) probe(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"sys/health?standbyok=true&perfstandbyok=true", nil)
	if err != nil {
		return fault.Wrap(err, fault.Internal, "vault request")
	}
	a, err := c.send(req)
	if err != nil {
		return err
	}
	switch a.status {
	case http.StatusNotImplemented:
		return fault.New(fault.Unavailable, "vault is not initialized yet")
	case http.StatusServiceUnavailable:
		return fault.New(fault.Unavailable, "vault is sealed")
	}
	return nil
}

// answer is what Vault has answered.
type answer struct {
	status int
	Data   json.RawMessage `json:"data"`
	Auth   struct {
		ClientToken   string `json:"client_token"`
		LeaseDuration int64  `json:"lease_duration"` // seconds; 0 for ever
	} `json:"auth"`
	Errors []string `json:"errors"`
}

// read sends a request for what is at a path below /v1/, and returns the answer
// when its status is 200 or 404.
func (c *client) read(ctx context.Context, method, path string) (answer, error) {
	for attempt := 0; ; attempt++ {
		token, fresh, err := c.credentials(ctx)
		if err != nil {
			return answer{}, err
		}
		req, err := http.NewRequestWithContext(ctx, method, c.base+path, nil)
		if err != nil {
			return answer{}, fault.Wrap(err, fault.Internal, "vault request")
		}
		req.Header.Set(headerToken, token)
		a, err := c.send(req)
		if err != nil {
			return answer{}, err
		}
		switch {
		case a.status == http.StatusForbidden && !fresh && attempt == 0:
			c.forget(ctx, token) // it may have been revoked: log in once more
		case a.status == http.StatusOK, a.status == http.StatusNotFound:
			return a, nil
		default:
			return answer{}, refused(a)
		}
	}
}

// refused names the failure that an answer tells.
func refused(a answer) error {
	code, text := fault.Internal, "vault answered with an error"
	switch {
	case a.status == http.StatusBadRequest:
		code, text = fault.InvalidArgument, "vault refused the request"
	case a.status == http.StatusUnauthorized:
		code, text = fault.Unauthenticated, "vault refused the credentials"
	case a.status == http.StatusForbidden:
		code, text = fault.PermissionDenied, "vault refused the token: it is invalid or has expired, or its policies do not permit that"
	case a.status == http.StatusMethodNotAllowed:
		code, text = fault.FailedPrecondition, "the engine at this path does not offer that: is it one of type KV, version 2?"
	case a.status == http.StatusTooManyRequests:
		code, text = fault.ResourceExhausted, "vault takes no more requests at present"
	case a.status == http.StatusPreconditionFailed:
		code, text = fault.Unavailable, "this server of vault lags behind"
	case a.status == http.StatusServiceUnavailable:
		code, text = fault.Unavailable, "vault is sealed or down for maintenance"
	case a.status >= http.StatusInternalServerError, a.status == 472, a.status == 473:
		code, text = fault.Unavailable, "vault does not serve this at present"
	}
	return fault.New(code, "%s (status %d)", text, a.status)
}

// send sends a request once and reads the answer.
func (c *client) send(req *http.Request) (answer, error) {
	if err := req.Context().Err(); err != nil {
		return answer{}, err
	}
	req.Header.Set(headerRequest, "true")
	if c.cfg.VaultNamespace != "" && !strings.Contains(req.URL.Path, "/v1/sys/") {
		req.Header.Set(headerNamespace, c.cfg.VaultNamespace)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return answer{}, unreachable(req.Context(), err)
	}
	defer res.Body.Close() //nolint:errcheck // nothing was written
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	switch {
	case err != nil:
		return answer{}, unreachable(req.Context(), err)
	case len(body) > maxBody:
		return answer{}, fault.New(fault.ResourceExhausted, "vault's answer is larger than %d MiB", maxBody>>20)
	}
	a := answer{status: res.StatusCode}
	if err := json.Unmarshal(body, &a); err != nil && res.StatusCode == http.StatusOK {
		// The text of the error could quote a secret.
		return answer{}, fault.New(fault.Internal, "what answers at vaultAddr does not speak Vault's protocol")
	}
	return a, nil
}

// unreachable names what went wrong with a connection.
func unreachable(ctx context.Context, err error) error {
	switch ctx.Err() {
	case context.Canceled:
		return context.Canceled
	case context.DeadlineExceeded:
		return fault.Wrap(err, fault.DeadlineExceeded, "vault did not answer in time")
	}
	return fault.Wrap(err, fault.Unavailable, "vault cannot be reached")
}

// credentials returns a token, and whether it has just been got.
func (c *client) credentials(ctx context.Context) (token string, fresh bool, err error) {
	switch {
	case c.cfg.VaultToken.IsSet():
		return c.cfg.VaultToken.Reveal(), true, nil
	case c.cfg.VaultTokenMountPath != "":
		token, err = tokenFile("vaultTokenMountPath", c.cfg.VaultTokenMountPath)
		return token, true, err
	}
	select {
	case <-c.turn:
		defer func() { c.turn <- struct{}{} }()
	case <-ctx.Done():
		return "", false, ctx.Err()
	}
	if c.token != "" && c.now().Before(c.renew) {
		return c.token, false, nil
	}
	if err := c.login(ctx); err != nil {
		return "", false, err
	}
	return c.token, true, nil
}

// forget gives up a token of an earlier login.
func (c *client) forget(ctx context.Context, token string) {
	select {
	case <-c.turn:
	case <-ctx.Done():
		return
	}
	if c.token == token {
		c.token = ""
	}
	c.turn <- struct{}{}
}

// login gets a token for the service account of the pod. It is called by the one
// whose turn it is: all others wait for one login.
func (c *client) login(ctx context.Context) error {
	jwt, err := tokenFile("vaultServiceAccountTokenPath", c.cfg.VaultServiceAccountTokenPath)
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]string{"role": c.cfg.VaultKubernetesRole, "jwt": jwt})
	if err != nil {
		return fault.New(fault.Internal, "encode a login")
	}
	path := "auth/" + escaped(strings.Trim(c.cfg.VaultKubernetesMountPath, "/")) + "/login"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(body))
	if err != nil {
		return fault.Wrap(err, fault.Internal, "vault request")
	}
	req.Header.Set("Content-Type", "application/json")
	a, err := c.send(req)
	switch {
	case err != nil:
		return err
	case a.status == http.StatusNotFound:
		return fault.New(fault.FailedPrecondition, "vault has no auth method at vaultKubernetesMountPath %q", c.cfg.VaultKubernetesMountPath)
	case a.status == http.StatusBadRequest, a.status == http.StatusForbidden:
		return fault.New(fault.Unauthenticated, "vault refused the service account for the role %q (status %d)", c.cfg.VaultKubernetesRole, a.status)
	case a.status != http.StatusOK:
		return refused(a)
	case a.Auth.ClientToken == "" || !validHeader(a.Auth.ClientToken):
		return fault.New(fault.Internal, "vault's answer to the login has no token")
	}
	c.token, c.renew = a.Auth.ClientToken, c.now().Add(100*365*24*time.Hour)
	if life := time.Duration(a.Auth.LeaseDuration) * time.Second; life > 0 {
		c.renew = c.now().Add(life * 2 / 3)
	}
	return nil
}

// tokenFile returns the token in the file that a setting names.
func tokenFile(setting, path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fileError(setting, err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || !validHeader(token) {
		return "", fault.New(fault.FailedPrecondition, "%s: %s holds no token", setting, path)
	}
	return token, nil
}
