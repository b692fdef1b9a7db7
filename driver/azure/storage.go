package azure

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/internal/rest"
	"github.com/proa-io/proa/fault"
)

// StorageConfig configures a container of Blob Storage.
type StorageConfig struct {
	IdentityConfig
	// AccountName is the storage account.
	AccountName string `setting:"accountName"`
	// AccountKey is a key of the account. Without one, an identity of Microsoft
	// Entra ID is who asks.
	AccountKey component.Secret `setting:"accountKey"`
	// ConnectionString says account and key at once:
	// "DefaultEndpointsProtocol=https;AccountName=...;AccountKey=...". Shared
	// access signatures are not supported.
	ConnectionString component.Secret `setting:"connectionString"`
	// ContainerName is the container.
	ContainerName string `setting:"containerName,required"`
	// Endpoint is the URL of a service that stands in for Azure's, or has a name
	// of its own. The account is put behind it as its path when the URL is one
	// of a number or of localhost: "http://127.0.0.1:10000".
	Endpoint string `setting:"endpoint"`
	// PublicAccessLevel is who may read a container that is created: none, or,
	// without credentials, blob or container.
	PublicAccessLevel string `setting:"publicAccessLevel"`
	// RetryCount has no effect: a resiliency policy says what is tried again.
	RetryCount int `setting:"retryCount,getBlobRetryCount"`
	// DisableEntityManagement keeps the container from being created.
	DisableEntityManagement bool `setting:"disableEntityManagement"`
}

// Validate reports settings that can never work.
func (c StorageConfig) Validate() error {
	if c.ContainerName == "" || strings.ContainsAny(c.ContainerName, "/?#%\x00 ") {
		return component.Invalid("containerName", "wants a name of lower case letters, digits and hyphens")
	}
	if !slices.Contains([]string{"", "none", "blob", "container"}, c.PublicAccessLevel) {
		return component.Invalid("publicAccessLevel", "wants none, blob or container")
	}
	if c.ConnectionString.IsSet() {
		if strings.Contains(strings.ToLower(c.ConnectionString.Reveal()), "sharedaccesssignature=") {
			return component.Invalid("connectionString", "has a shared access signature, which is not supported: use a key, or an identity")
		}
		c = c.connected()
	}
	if c.AccountName == "" {
		return component.Invalid("accountName", "is required, or a connectionString with an AccountName")
	}
	if _, err := base64.StdEncoding.DecodeString(c.AccountKey.Reveal()); err != nil {
		return component.Invalid("accountKey", "is not in base64")
	}
	if u, err := url.Parse(c.address()); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return component.Invalid("endpoint", `wants a URL such as "http://127.0.0.1:10000"`)
	}
	return c.IdentityConfig.Validate()
}

// connected returns the settings with what the connection string says.
func (c StorageConfig) connected() StorageConfig {
	protocol, suffix := "https", ""
	for part := range strings.SplitSeq(c.ConnectionString.Reveal(), ";") {
		name, value, _ := strings.Cut(part, "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "accountname":
			c.AccountName = value
		case "accountkey":
			c.AccountKey = component.NewSecret(value)
		case "blobendpoint":
			c.Endpoint = value
		case "defaultendpointsprotocol":
			protocol = value
		case "endpointsuffix":
			suffix = value
		}
	}
	if c.Endpoint == "" && suffix != "" {
		c.Endpoint = protocol + "://" + c.AccountName + ".blob." + suffix
	}
	return c
}

// address returns the URL of the account, without a slash at its end.
func (c StorageConfig) address() string {
	at, _ := cloudOf(c.AzureEnvironment)
	return accountURL(c.Endpoint, c.AccountName, "blob."+at.storage)
}

// accountURL returns the URL of an account, without a slash at its end: in a
// domain of Azure, or at an endpoint when there is one.
func accountURL(endpoint, account, domain string) string {
	if endpoint == "" {
		return "https://" + account + "." + domain
	}
	base := strings.TrimRight(endpoint, "/")
	u, err := url.Parse(base)
	if err == nil && u.Path == "" && (u.Hostname() == "localhost" || strings.Trim(u.Hostname(), "0123456789.") == "" || strings.Contains(u.Hostname(), ":")) {
		base += "/" + account
	}
	return base
}

// storage sends requests about the blobs of one container, or the messages of one
// queue.
type storage struct {
	client   *rest.Client
	identity *identity // nil when there is a key
	account  string
	key      []byte
	base     string // the URL of the container or queue
}

func newStorage(ctx context.Context, cfg StorageConfig) (*storage, error) {
	if cfg.ConnectionString.IsSet() {
		cfg = cfg.connected()
	}
	s, err := dial(ctx, cfg.IdentityConfig, credential{cfg.AccountName, cfg.AccountKey}, cfg.address()+"/"+cfg.ContainerName)
	if err != nil {
		return nil, err
	}
	if err := s.prepare(ctx, cfg); err != nil {
		s.client.Close()
		return nil, err
	}
	return s, nil
}

// credential is an account and, unless an identity is who asks, a key of it.
type credential struct {
	account string
	key     component.Secret
}

// dial returns what sends requests about a container or queue. It asks for
// nothing.
func dial(ctx context.Context, id IdentityConfig, c credential, base string) (*storage, error) {
	key, err := base64.StdEncoding.DecodeString(c.key.Reveal())
	if err != nil {
		return nil, component.Invalid("accountKey", "is not in base64")
	}
	s := &storage{client: newClient(ctx), account: c.account, key: key, base: base}
	if !c.key.IsSet() {
		s.identity = newIdentity(s.client, id, "https://storage.azure.com")
	}
	return s, nil
}

// prepare creates the container unless it is there, or makes sure that it is.
func (s *storage) prepare(ctx context.Context, cfg StorageConfig) error {
	method, header := http.MethodPut, http.Header{}
	if cfg.DisableEntityManagement {
		method = http.MethodGet
	} else if cfg.PublicAccessLevel != "" && cfg.PublicAccessLevel != "none" {
		header.Set("x-ms-blob-public-access", cfg.PublicAccessLevel)
	}
	a, err := s.do(ctx, request{method: method, query: "restype=container", header: header})
	if err != nil {
		return err
	}
	exists := a.Status == http.StatusConflict && a.Header.Get("x-ms-error-code") == "ContainerAlreadyExists"
	if a.Status != http.StatusOK && a.Status != http.StatusCreated && !exists {
		return a.Err(place)
	}
	return nil
}

// request is one about a blob, or what else a container or queue has, or about
// the container or queue itself when there is none.
type request struct {
	method string
	blob   string
	query  string
	header http.Header // may be nil
	body   []byte
}

// storageVersion is the version of the protocol.
const storageVersion = "2021-08-06"

func (s *storage) do(ctx context.Context, r request) (rest.Answer, error) {
	address := s.base
	if r.blob != "" {
		address = s.blobURL(r.blob)
	}
	if r.query != "" {
		address += "?" + r.query
	}
	req, err := http.NewRequestWithContext(ctx, r.method, address, bytes.NewReader(r.body))
	if err != nil {
		return rest.Answer{}, fault.Wrap(err, fault.Internal, "the request cannot be written")
	}
	if r.header != nil {
		req.Header = r.header
	}
	req.Header.Set("x-ms-version", storageVersion)
	req.Header.Set("x-ms-date", time.Now().UTC().Format(http.TimeFormat))
	if s.identity == nil {
		s.sign(req, len(r.body))
	} else if err := s.identity.Sign(req); err != nil {
		return rest.Answer{}, err
	}
	a, err := s.client.Send(req)
	if a.Status == http.StatusUnauthorized && s.identity != nil {
		s.identity.Forget(ctx)
	}
	return a, err
}

// blobURL returns the URL of a blob.
func (s *storage) blobURL(name string) string { return s.base + "/" + escaped(name) }

// escaped returns the name of a blob as part of a URL, with its slashes.
func escaped(blob string) string {
	return strings.ReplaceAll(url.PathEscape(blob), "%2F", "/")
}

// sign adds a signature by the key of the account ("Authorize with Shared Key"
// of the REST API of Azure Storage).
func (s *storage) sign(req *http.Request, size int) {
	h := req.Header
	length := ""
	if size > 0 {
		length = strconv.Itoa(size)
	}
	lines := []string{
		req.Method, h.Get("Content-Encoding"), h.Get("Content-Language"), length, h.Get("Content-MD5"), h.Get("Content-Type"),
		"", // the date is in a header of its own
		h.Get("If-Modified-Since"), h.Get("If-Match"), h.Get("If-None-Match"), h.Get("If-Unmodified-Since"), h.Get("Range"),
	}
	var own []string
	for name, values := range h {
		if name := strings.ToLower(name); strings.HasPrefix(name, "x-ms-") {
			own = append(own, name+":"+strings.Join(values, ","))
		}
	}
	slices.Sort(own)
	lines = append(append(lines, own...), "/"+s.account+req.URL.EscapedPath())
	var params []string
	for name, values := range req.URL.Query() {
		slices.Sort(values)
		params = append(params, strings.ToLower(name)+":"+strings.Join(values, ","))
	}
	slices.Sort(params)
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(strings.Join(append(lines, params...), "\n")))
	h.Set("Authorization", "SharedKey "+s.account+":"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}
