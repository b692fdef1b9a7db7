package mqtt

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// maxLength is the most that may follow the fixed header of a packet (MQTT
// 3.1.1, section 2.2.3).
const maxLength = 268_435_455

var errMalformed = errors.New("malformed packet")

// readPacket reads a packet that a broker may send to a client. The memory it
// takes grows with what has arrived, whatever the length claims.
func readPacket(r *bufio.Reader) (packets.ControlPacket, error) {
	first, err := r.ReadByte()
	if err != nil {
		return nil, err
	}
	length, err := readLength(r)
	if err != nil {
		return nil, unexpected(err)
	}
	p, err := packets.NewControlPacketWithHeader(packets.FixedHeader{
		MessageType: first >> 4, Dup: first&8 != 0, Qos: first >> 1 & 3, Retain: first&1 != 0, RemainingLength: length,
	})
	if err != nil {
		return nil, err
	}
	var body bytes.Buffer
	if _, err := io.CopyN(&body, r, int64(length)); err != nil {
		return nil, unexpected(err)
	}
	if err := p.Unpack(&body); err != nil {
		return nil, fmt.Errorf("%w: %s", errMalformed, packets.PacketNames[first>>4])
	}
	return p, check(p)
}

// unexpected names the end of the stream inside a packet.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readLength reads the number that says how long a packet is: up to four bytes
// of seven bits each.
func readLength(r io.ByteReader) (int, error) {
	length := 0
	for shift := 0; shift < 28; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		length |= int(b&127) << shift
		if b < 128 {
			return length, nil
		}
	}
	return 0, errMalformed
}

// check refuses what only looks like a packet.
func check(p packets.ControlPacket) error {
	switch p := p.(type) {
	case *packets.PublishPacket:
		if p.Qos > 2 || p.Qos > 0 && p.MessageID == 0 || !valid(p.TopicName) {
			return fmt.Errorf("%w: PUBLISH", errMalformed)
		}
	case *packets.SubackPacket:
		if len(p.ReturnCodes) != 1 { // to each of our requests
			return fmt.Errorf("%w: SUBACK", errMalformed)
		}
	}
	return nil
}
