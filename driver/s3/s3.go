// Package s3 is an output binding to a bucket of Amazon S3 and of what speaks
// like it: MinIO, Ceph, Cloudflare R2 and others.
package s3

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/component"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		binding.OutputSpec(component.Description{
			Name:    "aws.s3",
			Summary: "Creates, reads, lists and deletes objects in a bucket of Amazon S3 or of what speaks like it, and signs links to them. Tested on a stand-in within the process.",
		}, Config{}, Open),
	}
}

// Config configures an output binding to a bucket.
type Config struct {
	// Bucket is the name of the bucket, which must exist.
	Bucket string `setting:"bucket,required"`
	// Region is the region of the bucket, "eu-central-1". It is asked for
	// when it is not set.
	Region string `setting:"region,awsRegion"`
	// Endpoint is the address of a service other than Amazon's,
	// "http://minio.example:9000".
	Endpoint string `setting:"endpoint"`
	// AccessKey is the access key id. Without it the credentials come from where
	// AWS programs find them: the environment, ~/.aws/credentials, the
	// container or the machine.
	AccessKey component.Secret `setting:"accessKey"`
	// SecretKey is the secret of AccessKey.
	SecretKey component.Secret `setting:"secretKey"`
	// SessionToken belongs to temporary credentials.
	SessionToken component.Secret `setting:"sessionToken"`
	// ForcePathStyle names the bucket in the path of addresses instead of in the
	// name of the host. Most services other than Amazon's want that.
	ForcePathStyle bool `setting:"forcePathStyle"`
	// DisableSSL connects without TLS.
	DisableSSL bool `setting:"disableSSL"`
	// InsecureSSL does not verify the server. For tests only.
	InsecureSSL bool `setting:"insecureSSL"`
	// DecodeBase64 takes the data of "create" for Base64, and keeps what they
	// stand for. The metadata of a request can say otherwise.
	DecodeBase64 bool `setting:"decodeBase64"`
	// EncodeBase64 answers "get" in Base64. The metadata of a request can say
	// otherwise.
	EncodeBase64 bool `setting:"encodeBase64"`
	// StorageClass is that of new objects, "STANDARD_IA"; the bucket's own when
	// empty. The metadata of a request can say otherwise.
	StorageClass string `setting:"storageClass"`
	// FilePath is a file on the machine of the sidecar that "create" reads in
	// place of the data of requests. The metadata of a request can say
	// otherwise.
	FilePath string `setting:"filePath"`
	// PresignTTL has "create" answer with a link, too, that lets anyone read the
	// object for that long: 1s to 7 days. The metadata of a request can say
	// otherwise.
	PresignTTL component.Duration `setting:"presignTTL"`
}

// Validate reports settings that can never work.
func (c Config) Validate() error {
	if c.AccessKey.IsSet() != c.SecretKey.IsSet() {
		return component.Invalid("secretKey", "accessKey and secretKey go together")
	}
	if err := s3utils.CheckValidBucketName(c.Bucket); err != nil {
		return component.Invalid("bucket", "is no name of a bucket: %v", err)
	}
	if ttl := c.PresignTTL.Std(); ttl != 0 && (ttl < minPresign || ttl > maxPresign) {
		return component.Invalid("presignTTL", "must be from 1s to 168h")
	}
	_, _, err := c.host()
	return err
}

// amazon is where Amazon's own service is. The client library goes on to the
// region's.
const amazon = "s3.amazonaws.com"

// host returns the host of the service, and whether to use TLS.
func (c Config) host() (host string, secure bool, err error) {
	if c.Endpoint == "" {
		return amazon, !c.DisableSSL, nil
	}
	text := c.Endpoint
	if !strings.Contains(text, "://") {
		text = "https://" + text
		if c.DisableSSL {
			text = "http" + strings.TrimPrefix(text, "https")
		}
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", false, component.Invalid("endpoint", `wants the address of a service, "https://s3.example:9000"`)
	}
	return u.Host, u.Scheme == "https", nil
}

// Binding is a binding.Output on the objects of a bucket.
//
// The metadata "key" of a request names the object. Objects that are answered
// with, and what bulk operations answer with, are at most 256 MiB; those that are
// read from files or written to files have no such bound.
type Binding struct {
	cfg       Config
	client    *minio.Client
	core      minio.Core
	http      *http.Client
	transport *http.Transport
}

// Open makes a client. It does not call the service, which not every permission
// to use a bucket would allow.
func Open(_ context.Context, cfg Config, _ component.Env) (*Binding, error) {
	host, secure, err := cfg.host()
	if err != nil {
		return nil, err
	}
	transport, err := minio.DefaultTransport(secure)
	if err != nil {
		return nil, err
	}
	transport.ResponseHeaderTimeout = 0 // how long to wait is for the caller to say
	if cfg.InsecureSSL && transport.TLSClientConfig != nil {
		transport.TLSClientConfig.InsecureSkipVerify = true //nolint:gosec // only if the user says so
	}
	lookup := minio.BucketLookupDNS
	if cfg.ForcePathStyle || strings.Contains(cfg.Bucket, ".") && secure { // certificates are for one level of names
		lookup = minio.BucketLookupPath
	}
	client, err := minio.New(host, &minio.Options{
		Creds: cfg.credentials(), Secure: secure, Transport: transport, Region: cfg.Region, BucketLookup: lookup,
		MaxRetries: 1, // drivers do not retry
	})
	if err != nil {
		return nil, component.Invalid("endpoint", "%v", err)
	}
	return &Binding{cfg: cfg, client: client, core: minio.Core{Client: client}, http: &http.Client{Transport: transport}, transport: transport}, nil
}

// credentials returns the given ones or those that are found.
func (c Config) credentials() *credentials.Credentials {
	if c.AccessKey.IsSet() {
		return credentials.NewStaticV4(c.AccessKey.Reveal(), c.SecretKey.Reveal(), c.SessionToken.Reveal())
	}
	return credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
	})
}

// Close implements io.Closer.
func (b *Binding) Close() error {
	b.transport.CloseIdleConnections()
	return nil
}

// How long a link may be good for.
const (
	minPresign = time.Second
	maxPresign = 7 * 24 * time.Hour
)
