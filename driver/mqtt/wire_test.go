package mqtt

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

func TestFiltersMatchAsTheSpecificationSays(t *testing.T) {
	for _, tc := range []struct {
		filter, topic string
		want          bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a", "a/b", false}, {"a/b", "a", false}, {"A", "a", false},
		{"#", "a/b", true}, {"#", "/", true}, {"#", "$SYS/x", false}, {"$SYS/#", "$SYS/x", true}, {"$SYS/#", "$SYS", true},
		{"a/#", "a", true}, {"a/#", "a/b/c", true}, {"a/#", "ab", false}, {"/#", "a", false},
		{"+", "a", true}, {"+", "/a", false}, {"/+", "/a", true}, {"+/+", "/a", true}, {"+", "$SYS", false}, {"+/x", "$SYS/x", false},
		{"a/+/c", "a/b/c", true}, {"a/+/c", "a//c", true}, {"a/+/c", "a/c", false}, {"a/+", "a", false}, {"a/+/#", "a/b", true}, {"a/+/#", "a", false},
		{"$share/g/a/#", "a/b", true}, {"$share/g/a", "$share/g/a", false}, {"a/", "a/", true}, {"a/", "a", false},
	} {
		f, err := parseFilter(tc.filter)
		if err != nil {
			t.Errorf("%s: %v", tc.filter, err)
			continue
		}
		if got := f.matches(tc.topic); got != tc.want {
			t.Errorf("%s matches %s: %v", tc.filter, tc.topic, got)
		}
	}
}

func FuzzFilters(f *testing.F) {
	for _, seed := range [][2]string{{"a/+/#", "a/b"}, {"$share/g/#", "$a"}, {"/", "//"}, {"", ""}, {"\xff", "\xff"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, text, topic string) {
		flt, err := parseFilter(text)
		if err != nil {
			return
		}
		flt.matches(topic)
		if checkTopic(text) == nil && !strings.HasPrefix(text, sharePrefix) && !flt.matches(text) {
			t.Errorf("%q does not match itself", text)
		}
	})
}

func TestPacketsThatAreNoneAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"type 0":              "\x00\x00",
		"type 15":             "\xf0\x00",
		"length of 5 bytes":   "\xd0\xff\xff\xff\xff\x01",
		"end in the length":   "\x30\x80",
		"end in the body":     "\x30\x05\x00\x01",
		"length that lies":    "\x30\xff\xff\xff\x7f\x00\x01a",
		"topic that is short": "\x30\x03\x00\x05a",
		"no topic":            "\x30\x02\x00\x00",
		"topic with NUL":      "\x30\x03\x00\x01\x00",
		"QoS 3":               "\x36\x05\x00\x01a\x00\x01",
		"no packet id":        "\x32\x05\x00\x01a\x00\x00",
		"empty SUBACK":        "\x90\x02\x00\x01",
		"SUBACK to several":   "\x90\x04\x00\x01\x00\x00",
		"CONNACK of one byte": "\x20\x01\x00",
		"empty PUBACK":        "\x40\x00",
	} {
		if p, err := readPacket(bufio.NewReader(strings.NewReader(text))); err == nil || err == io.EOF { //nolint:errorlint // the bare one
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
}

func FuzzPackets(f *testing.F) {
	var b bytes.Buffer
	for _, p := range []packets.ControlPacket{
		&packets.PublishPacket{FixedHeader: packets.FixedHeader{MessageType: packets.Publish, Qos: 1}, TopicName: "a/b", MessageID: 1, Payload: []byte("x")},
		&packets.ConnackPacket{FixedHeader: packets.FixedHeader{MessageType: packets.Connack}},
		&packets.SubackPacket{FixedHeader: packets.FixedHeader{MessageType: packets.Suback}, MessageID: 1, ReturnCodes: []byte{1}},
		pubrec(7),
	} {
		if err := p.Write(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(bytes.Clone(b.Bytes()))
	}
	f.Add([]byte("\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		c := &conn{pending: map[uint16]*pending{}}
		r := bufio.NewReader(bytes.NewReader(stream))
		for {
			p, err := readPacket(r)
			if err != nil {
				return
			}
			switch p.(type) {
			case *packets.PubrelPacket, *packets.PubrecPacket: // would be answered
			default:
				_ = c.receive(p)
			}
		}
	})
}
