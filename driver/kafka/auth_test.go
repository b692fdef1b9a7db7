package kafka

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/testserver"
)

// pair is a certificate and its key, in PEM.
type pair struct{ cert, key string }

// authority signs certificates.
type authority struct {
	pair
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	a.pair, a.key = sign(t, template, template, nil)
	block, _ := pem.Decode([]byte(a.pair.cert))
	var err error
	if a.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	return a
}

// issue returns a certificate for the loopback address.
func (a *authority) issue(t testing.TB) pair {
	t.Helper()
	p, _ := sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "one"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, a.key)
	return p
}

// sign makes a certificate with a key of its own; one without a signer signs
// itself.
func sign(t testing.TB, template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (pair, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if signer == nil {
		signer = key
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	keyBytes, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})),
		key:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyBytes})),
	}, key
}

const (
	user     = "alice"
	password = "open sesame"
	wrong    = "wrong-secret"
)

// guarded is a broker that wants to know who it is, and that creates no topics.
type guarded struct {
	*testserver.KafkaServer
	ca     *authority
	client pair
}

func startGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{ca: newAuthority(t)}
	own := g.ca.issue(t)
	g.client = g.ca.issue(t)
	g.KafkaServer = testserver.Kafka(t, testserver.KafkaOptions{
		Users:  map[string]string{user: password},
		TLS:    &testserver.KafkaTLS{Certificate: own.cert, Key: own.key, ClientCA: g.ca.pair.cert},
		Config: []string{"auto.create.topics.enable=false"},
	})
	return g
}

// config returns settings for a listener.
func (g *guarded) config(l testserver.KafkaListener, authType string) Config {
	cfg := testConfig(g.AddrOf(l))
	cfg.AuthType, cfg.CACert = authType, g.ca.pair.cert
	cfg.SASLUsername, cfg.SASLPassword = user, component.NewSecret(password)
	cfg.NumPartitions = 1
	return cfg
}

// exchange publishes a message and receives it.
func exchange(t *testing.T, cfg Config) {
	t.Helper()
	p, topic := mustOpen(t, cfg, nearby()), rand.Text()
	g := gather(t, p, topic, rand.Text())
	mustPublish(t, p, &pubsub.Message{Topic: topic, Data: []byte("x")})
	g.next()
}

func TestBrokersThatWantToKnowWhoItIs(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	t.Run("Password", func(t *testing.T) { passwords(t, g) })
	t.Run("Certificates", func(t *testing.T) { certificates(t, g) })
	t.Run("Tokens", func(t *testing.T) { tokens(t, g) })
	t.Run("TopicsThatNobodyCreates", func(t *testing.T) { noCreation(t, g) })
}

func passwords(t *testing.T, g *guarded) {
	for _, mechanism := range []string{"PLAINTEXT", "SHA-256", "SHA-512"} {
		plain := g.config(testserver.KafkaSASL, "password")
		plain.DisableTLS, plain.SASLMechanism = true, mechanism
		exchange(t, plain)
		encrypted := g.config(testserver.KafkaSASLTLS, "Password")
		encrypted.SASLMechanism = mechanism
		exchange(t, encrypted)

		plain.SASLPassword = component.NewSecret(wrong)
		_, err := openPubSub(t.Context(), plain, nearby(), component.Env{})
		if !fault.Is(err, fault.Unauthenticated) || strings.Contains(err.Error(), wrong) {
			t.Errorf("%s with a wrong password: %v", mechanism, err)
		}
	}
}

func certificates(t *testing.T, g *guarded) {
	exchange(t, g.config(testserver.KafkaTLSOnly, "certificate"))
	mutual := g.config(testserver.KafkaMutualTLS, "mtls")
	mutual.ClientCert, mutual.ClientKey = component.NewSecret(g.client.cert), component.NewSecret(g.client.key)
	exchange(t, mutual)
	blind := g.config(testserver.KafkaTLSOnly, "certificate")
	blind.CACert, blind.SkipVerify = newAuthority(t).pair.cert, true
	exchange(t, blind)

	for name, cfg := range map[string]Config{
		"a broker of another authority": func() Config { blind.SkipVerify = false; return blind }(),
		"no certificate":                g.config(testserver.KafkaMutualTLS, "certificate"),
		"no encryption":                 func() Config { c := g.config(testserver.KafkaTLSOnly, "none"); return c }(),
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := openPubSub(ctx, cfg, nearby(), component.Env{})
		cancel()
		if !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.DeadlineExceeded) {
			t.Errorf("%s: %v, want unavailable", name, err)
		}
	}
}

// noCreation is about a broker that does not create topics.
func noCreation(t *testing.T, g *guarded) {
	cfg := g.config(testserver.KafkaPlain, "none")
	cfg.NumPartitions = 0
	short := nearby()
	short.creation = 500 * time.Millisecond
	p, topic := mustOpen(t, cfg, short), rand.Text()
	err := p.Publish(t.Context(), &pubsub.Message{Topic: topic})
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(fault.Message(err), "numPartitions") {
		t.Errorf("publish to a topic that is not there: %v", err)
	}
	cfg.NumPartitions, cfg.ReplicationFactor = 3, 1
	mustPublish(t, mustOpen(t, cfg, nearby()), &pubsub.Message{Topic: topic})
	details, err := admin(t, g.Addr()).ListTopics(t.Context(), topic)
	if err != nil || len(details[topic].Partitions) != 3 {
		t.Errorf("the topic was made with %d partitions, want 3 (%v)", len(details[topic].Partitions), err)
	}
	mustPublish(t, p, &pubsub.Message{Topic: topic})
	cfg.ReplicationFactor = 3
	err = mustOpen(t, cfg, nearby()).Publish(t.Context(), &pubsub.Message{Topic: rand.Text()})
	if !fault.Is(err, fault.FailedPrecondition) {
		t.Errorf("publish to a topic with more replicas than brokers: %v", err)
	}
}

// provider is an identity provider that gives out unsecured tokens.
type provider struct {
	*httptest.Server
	t *testing.T

	mu       sync.Mutex
	requests []map[string]string
}

// asked returns the requests so far, and forgets them.
func (p *provider) asked() []map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.requests
	p.requests = nil
	return out
}

func newProvider(t *testing.T) *provider {
	p := &provider{t: t}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

// ServeHTTP implements http.Handler.
func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		p.t.Error(err)
	}
	form := map[string]string{}
	for name := range r.PostForm {
		form[name] = r.PostForm.Get(name)
	}
	id, secret, _ := r.BasicAuth()
	p.mu.Lock()
	p.requests = append(p.requests, form)
	p.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if secret == wrong || form["client_secret"] == wrong {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"error":"invalid_client","error_description":"no such ` + wrong + `"}`))
		return
	}
	if id == "" {
		id = form["client_id"]
	}
	now := time.Now().Unix()
	head, claims := `{"alg":"none"}`, map[string]any{"sub": id, "iat": now, "exp": now + 600, "scope": form["scope"]}
	text, _ := json.Marshal(claims)
	token := base64.RawURLEncoding.EncodeToString([]byte(head)) + "." + base64.RawURLEncoding.EncodeToString(text) + "."
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 600})
}

func tokens(t *testing.T, g *guarded) {
	idp := newProvider(t)
	cfg := g.config(testserver.KafkaSASL, "oidc")
	cfg.DisableTLS, cfg.CACert = true, ""
	cfg.TokenEndpoint, cfg.OIDCClientID, cfg.OIDCClientSecret = idp.URL, "proa", component.NewSecret("sesame")
	cfg.Scopes = []string{"openid", "kafka"}
	exchange(t, cfg)
	if asked := idp.asked(); len(asked) == 0 || asked[0]["grant_type"] != "client_credentials" || asked[0]["scope"] != "openid kafka" {
		t.Errorf("requests for a token: %v", asked)
	}

	refused := cfg
	refused.OIDCClientSecret = component.NewSecret(wrong)
	_, err := openPubSub(t.Context(), refused, nearby(), component.Env{})
	if !fault.Is(err, fault.Unauthenticated) || strings.Contains(err.Error(), wrong) || !strings.Contains(err.Error(), "invalid_client") {
		t.Errorf("with a client that the provider refuses: %v", err)
	}
	away := cfg
	away.TokenEndpoint = "http://127.0.0.1:1/token"
	if _, err := openPubSub(t.Context(), away, nearby(), component.Env{}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("without a provider: %v", err)
	}

	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	cfg.AuthType, cfg.OIDCClientSecret, cfg.KeyID, cfg.Resource = "oidc_private_key_jwt", component.Secret{}, "7", "api://kafka"
	cfg.AssertionCert = component.NewSecret(g.client.cert)
	cfg.AssertionKey = component.NewSecret(string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	idp.asked()
	exchange(t, cfg)
	asked := idp.asked()
	if len(asked) == 0 {
		t.Fatal("nobody asked for a token")
	}
	form := asked[0]
	if form["client_id"] != "proa" || form["resource"] != "api://kafka" || form["client_assertion_type"] != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
		t.Errorf("request for a token: %v", form)
	}
	checkAssertion(t, form["client_assertion"], &key.PublicKey, idp.URL)
}

// checkAssertion verifies a client's assertion as a provider would.
func checkAssertion(t *testing.T, text string, key *rsa.PublicKey, audience string) {
	t.Helper()
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		t.Fatalf("the assertion has %d parts", len(parts))
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature); err != nil {
		t.Errorf("the signature of the assertion: %v", err)
	}
	var head, claims map[string]any
	for i, to := range []*map[string]any{&head, &claims} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err == nil {
			err = json.Unmarshal(raw, to)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	now := float64(time.Now().Unix())
	if head["alg"] != "RS256" || head["kid"] != "7" || claims["iss"] != "proa" || claims["sub"] != "proa" || claims["aud"] != audience ||
		claims["exp"].(float64) < now || claims["nbf"].(float64) > now+5 || claims["jti"] == "" {
		t.Errorf("assertion %v %v", head, claims)
	}
}
