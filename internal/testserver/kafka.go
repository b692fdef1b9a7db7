package testserver

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/freeport"
)

// KafkaOptions configure a Kafka broker. The zero value is an open broker that
// makes topics of one partition when they are first asked for.
type KafkaOptions struct {
	// Users are names and passwords. With any, the broker has listeners that
	// want SASL: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512 with a user, or
	// OAUTHBEARER with an unsecured JSON web token of any subject.
	Users map[string]string
	// TLS, when set, opens listeners that encrypt.
	TLS *KafkaTLS
	// Config holds further lines of server.properties, such as
	// "num.partitions=4".
	Config []string
}

// KafkaTLS is what a broker shows and trusts, all in PEM.
type KafkaTLS struct {
	// Certificate and Key (PKCS #8) are the broker's.
	Certificate, Key string
	// ClientCA signs the certificates of clients.
	ClientCA string
}

// KafkaListener names a way to connect to a broker.
type KafkaListener string

// The listeners of a broker.
const (
	KafkaPlain     KafkaListener = "PLAINTEXT" // neither encrypts nor asks who it is
	KafkaSASL      KafkaListener = "SASL"      // wants a user; there with Users
	KafkaTLSOnly   KafkaListener = "TLS"       // encrypts; there with TLS
	KafkaMutualTLS KafkaListener = "MTLS"      // wants a certificate; there with TLS
	KafkaSASLTLS   KafkaListener = "SASLTLS"   // encrypts and wants a user; there with both
)

// KafkaServer is a running Kafka broker, a cluster of one. What is stored
// survives Kill and Restart.
type KafkaServer struct {
	*Process
	options   KafkaOptions
	cluster   string // its id
	addresses map[KafkaListener]string
}

// Kafka starts a Kafka broker for the test. That takes some seconds: share it.
func Kafka(tb TB, o KafkaOptions) *KafkaServer {
	tb.Helper()
	fastloop.Skip(tb, "starts a server")
	java, err := lookPath("java")
	if err != nil {
		missing(tb, "kafka", "java not found")
	}
	jars, err := kafkaJars()
	if err != nil {
		missing(tb, "kafka", err.Error())
	}
	version, err := kafkaVersion(jars)
	if err != nil {
		tb.Fatalf("testserver: %v", err)
	}
	s := &KafkaServer{options: o}
	s.Process = start(tb, spec{
		program: java,
		args: func(dir string, port int) ([]string, error) {
			return s.configure(java, jars, dir, port)
		},
		probe: func(p *Process) (string, error) { return version, s.probe(p) },
	})
	return s
}

// AddrOf returns the address of a listener, "127.0.0.1:port", or "" when the
// broker has none of that kind.
func (s *KafkaServer) AddrOf(l KafkaListener) string { return s.addresses[l] }

// kafkaJars returns the folder where test/kafka/deps.sh has put the jars.
func kafkaJars() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	return installedBy(filepath.Join(root, "test", "kafka", "deps.sh"))
}

// kafkaVersion reads the version off the name of a jar.
func kafkaVersion(jars string) (string, error) {
	const prefix = "kafka-clients-"
	found, err := filepath.Glob(filepath.Join(jars, prefix+"*.jar"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("%s has not one %s*.jar", jars, prefix)
	}
	return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(found[0]), prefix), ".jar"), nil
}

// javaArgs are for a small broker that starts soon.
func javaArgs(jars string, args ...string) []string {
	return append([]string{
		"-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true",
		"-cp", filepath.Join(jars, "*"),
	}, args...)
}

// configure writes the settings and formats the storage.
func (s *KafkaServer) configure(java, jars, dir string, port int) ([]string, error) {
	lines, err := s.listeners(port)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	lines = append(lines,
		"process.roles=broker,controller",
		"node.id=1",
		"log.dirs="+data,
		// One partition and one replica of everything the broker keeps itself.
		"offsets.topic.num.partitions=1",
		"offsets.topic.replication.factor=1",
		"transaction.state.log.num.partitions=1",
		"transaction.state.log.replication.factor=1",
		"transaction.state.log.min.isr=1",
		"log.index.size.max.bytes=65536",
		// Tests do not wait for members that may come, nor long for dead ones.
		"group.initial.rebalance.delay.ms=0",
		"group.min.session.timeout.ms=100",
	)
	lines = append(lines, s.options.Config...)
	file := filepath.Join(dir, "server.properties")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(data); err != nil {
		return nil, err
	}
	return javaArgs(jars, "kafka.Kafka", file), s.format(java, jars, file)
}

// listeners returns the settings of the listeners, with a free port for each
// but the first.
func (s *KafkaServer) listeners(port int) ([]string, error) {
	protocols := []string{"CONTROLLER:PLAINTEXT"}
	s.addresses = map[KafkaListener]string{}
	var own, lines []string
	add := func(name KafkaListener, protocol string, port int) {
		s.addresses[name] = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		own = append(own, string(name)+"://"+s.addresses[name])
		protocols = append(protocols, string(name)+":"+protocol)
	}
	add(KafkaPlain, "PLAINTEXT", port)
	for _, l := range []struct {
		name     KafkaListener
		protocol string
		wanted   bool
	}{
		{KafkaSASL, "SASL_PLAINTEXT", len(s.options.Users) > 0},
		{KafkaTLSOnly, "SSL", s.options.TLS != nil},
		{KafkaMutualTLS, "SSL", s.options.TLS != nil},
		{KafkaSASLTLS, "SASL_SSL", len(s.options.Users) > 0 && s.options.TLS != nil},
	} {
		if !l.wanted {
			continue
		}
		port, err := freeport.Pick()
		if err != nil {
			return nil, err
		}
		add(l.name, l.protocol, port)
		lines = append(lines, s.security(strings.ToLower(string(l.name)))...)
	}
	controller, err := freeport.Pick()
	if err != nil {
		return nil, err
	}
	return append(lines,
		fmt.Sprintf("listeners=%s,CONTROLLER://127.0.0.1:%d", strings.Join(own, ","), controller),
		"advertised.listeners="+strings.Join(own, ","),
		"listener.security.protocol.map="+strings.Join(protocols, ","),
		"inter.broker.listener.name="+string(KafkaPlain),
		"controller.listener.names=CONTROLLER",
		fmt.Sprintf("controller.quorum.voters=1@127.0.0.1:%d", controller),
	), nil
}

// security returns the settings of one listener, given its name in lower case.
func (s *KafkaServer) security(listener string) []string {
	prefix := "listener.name." + listener + "."
	var lines []string
	if strings.Contains(listener, "sasl") {
		plain := "org.apache.kafka.common.security.plain.PlainLoginModule required"
		for _, user := range slices.Sorted(maps.Keys(s.options.Users)) {
			plain += fmt.Sprintf(" user_%s=%q", user, s.options.Users[user])
		}
		const scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
		lines = append(lines,
			prefix+"sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
			prefix+"plain.sasl.jaas.config="+plain+";",
			prefix+"scram-sha-256.sasl.jaas.config="+scram,
			prefix+"scram-sha-512.sasl.jaas.config="+scram,
			prefix+"oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required "+
				`unsecuredLoginStringClaim_sub="broker";`)
	}
	if t := s.options.TLS; t != nil && strings.Contains(listener, "tls") {
		clients := "none"
		if listener == strings.ToLower(string(KafkaMutualTLS)) {
			clients = "required"
		}
		oneLine := func(pem string) string { return strings.ReplaceAll(strings.TrimSpace(pem), "\n", `\n`) }
		lines = append(lines,
			prefix+"ssl.client.auth="+clients,
			prefix+"ssl.keystore.type=PEM",
			prefix+"ssl.keystore.certificate.chain="+oneLine(t.Certificate),
			prefix+"ssl.keystore.key="+oneLine(t.Key),
			prefix+"ssl.truststore.type=PEM",
			prefix+"ssl.truststore.certificates="+oneLine(t.ClientCA))
	}
	return lines
}

// format makes the storage of a new cluster.
func (s *KafkaServer) format(java, jars, settings string) error {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	id[0] &= 0x7f           // not to begin with a "-"
	s.cluster = base64.RawURLEncoding.EncodeToString(id[:])
	args := javaArgs(jars, "kafka.tools.StorageTool", "format", "--cluster-id", s.cluster, "--config", settings)
	for _, user := range slices.Sorted(maps.Keys(s.options.Users)) {
		for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
			args = append(args, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", mechanism, user, s.options.Users[user]))
		}
	}
	if out, err := exec.Command(java, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("formatting the storage: %w\n%s", err, out)
	}
	return nil
}

// probe asks for the cluster's metadata: it wants the id that the storage was
// formatted with, and the broker among those alive.
func (s *KafkaServer) probe(p *Process) error {
	_, err := p.ask(func(conn net.Conn) (string, error) {
		var request []byte
		request = binary.BigEndian.AppendUint16(request, 3) // Metadata
		request = binary.BigEndian.AppendUint16(request, 4) // its version
		request = binary.BigEndian.AppendUint32(request, 1) // correlation
		request = append(request, 0xff, 0xff)               // no client id
		request = append(request, 0, 0, 0, 0, 0)            // of no topic, making none
		size := binary.BigEndian.AppendUint32(nil, uint32(len(request)))
		if _, err := conn.Write(append(size, request...)); err != nil {
			return "", err
		}
		cluster, brokers, err := readKafkaMetadata(bufio.NewReader(conn))
		switch {
		case err != nil:
			return "", err
		case cluster != s.cluster:
			return "", fmt.Errorf("%s is served by cluster %q", p.Addr(), cluster)
		case brokers != 1:
			return "", fmt.Errorf("the cluster has %d brokers", brokers)
		}
		return "", nil
	})
	return err
}

// readKafkaMetadata reads a Metadata response of version 4 as far as the
// cluster's id.
func readKafkaMetadata(r *bufio.Reader) (cluster string, brokers int, err error) {
	number := func() int {
		var n int32
		err = errors.Join(err, binary.Read(r, binary.BigEndian, &n))
		return int(n)
	}
	text := func() string {
		var n int16
		err = errors.Join(err, binary.Read(r, binary.BigEndian, &n))
		if err != nil || n < 0 {
			return ""
		}
		b := make([]byte, n)
		_, readErr := io.ReadFull(r, b)
		err = errors.Join(err, readErr)
		return string(b)
	}
	number() // size
	number() // correlation
	number() // throttle time
	brokers = number()
	for i := 0; i < brokers && err == nil; i++ {
		number() // id
		text()   // host
		number() // port
		text()   // rack
	}
	return text(), brokers, err
}
