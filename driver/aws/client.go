package aws

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// service says how one of the services is called.
type service struct {
	name   string // in its host name and in signatures
	target string // what comes before the name of an operation
	media  string // the content type of its JSON
}

// client sends requests to one service. It is safe for concurrent use.
type client struct {
	service
	base   string
	region string
	creds  aws.CredentialsProvider
	signer *v4.Signer
	http   *http.Client
	life   context.Context //nolint:containedctx // of the client itself; ends with close
	end    context.CancelFunc
}

// maxBody bounds an answer, in bytes. DynamoDB's and SQS's are the largest, of
// a few megabytes.
const maxBody = 32 << 20

func newClient(ctx context.Context, s service, cfg Config) (*client, error) {
	var opts []func(*config.LoadOptions) error
	if cfg.Region != "" {
		opts = append(opts, config.WithRegion(cfg.Region))
	}
	if cfg.AccessKey.IsSet() {
		opts = append(opts, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(
			cfg.AccessKey.Reveal(), cfg.SecretKey.Reveal(), cfg.SessionToken.Reveal())))
	}
	found, err := config.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		return nil, fault.Wrap(err, fault.FailedPrecondition, "the configuration of AWS on this machine cannot be used")
	}
	if found.Region == "" {
		return nil, component.Invalid("region", "is required: neither the environment nor a configuration file of AWS names one")
	}
	c := &client{service: s, region: found.Region, creds: found.Credentials, signer: v4.NewSigner(), base: cfg.Endpoint}
	if c.base == "" {
		c.base = "https://" + s.name + "." + found.Region + "." + domain(found.Region)
	}
	c.base = strings.TrimRight(c.base, "/") + "/"
	c.http = &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}}
	c.life, c.end = context.WithCancel(context.WithoutCancel(ctx))
	return c, nil
}

// domain returns the domain of a region's services.
func domain(region string) string {
	if strings.HasPrefix(region, "cn-") {
		return "amazonaws.com.cn"
	}
	return "amazonaws.com"
}

func (c *client) close() {
	c.end()
	c.http.CloseIdleConnections()
}

// call carries out an operation of a service that speaks JSON. out may be nil.
func (c *client) call(ctx context.Context, operation string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fault.Wrap(err, fault.Internal, "the request cannot be written")
	}
	header := http.Header{"Content-Type": {c.media}, "X-Amz-Target": {c.target + operation}}
	answer, err := c.send(ctx, header, body)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fault.New(fault.Unavailable, "the answer of the service is not what it should be")
	}
	return nil
}

// form carries out an operation of a service that takes forms and answers in
// XML, which nobody wants to know.
func (c *client) form(ctx context.Context, values url.Values) error {
	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	_, err := c.send(ctx, header, []byte(values.Encode()))
	return err
}

// send signs and sends a request and returns the answer, or the error that the
// answer is.
func (c *client) send(ctx context.Context, header http.Header, body []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, classify(ctx, err)
	}
	if c.life.Err() != nil {
		return nil, errClosed()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	answer, err := c.exchange(ctx, header, body)
	if err != nil && c.life.Err() != nil {
		return nil, errClosed()
	}
	return answer, err
}

func (c *client) exchange(ctx context.Context, header http.Header, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base, bytes.NewReader(body))
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "the request cannot be written")
	}
	req.Header = header
	creds, err := c.creds.Retrieve(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, classify(ctx, err)
		}
		return nil, fault.Wrap(err, fault.Unauthenticated, "there are no credentials for AWS")
	}
	sum := sha256.Sum256(body)
	if err := c.signer.SignHTTP(ctx, creds, req, hex.EncodeToString(sum[:]), c.name, c.region, time.Now()); err != nil {
		return nil, fault.Wrap(err, fault.Internal, "the request cannot be signed")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, classify(ctx, err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, classify(ctx, err)
	case len(answer) > maxBody:
		return nil, fault.New(fault.ResourceExhausted, "the answer of the service is larger than %d bytes", maxBody)
	case res.StatusCode != http.StatusOK:
		return nil, replyError(res.StatusCode, answer)
	}
	return answer, nil
}
