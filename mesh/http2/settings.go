package http2

import (
	"encoding/binary"

	wire "golang.org/x/net/http2"
)

// maxSettings bounds the parameters in one SETTINGS frame.
const maxSettings = 64

// settingSize is how many bytes a parameter takes.
const settingSize = 6

func (c *conn) onSettings(fh wire.FrameHeader, p []byte) error {
	switch ack := fh.Flags.Has(wire.FlagSettingsAck); {
	case ack && len(p) > 0:
		return connErrorf(codeFrameSize, "an acknowledgement of SETTINGS has parameters")
	case fh.StreamID != 0:
		return connErrorf(codeProtocol, "a SETTINGS frame has a stream")
	case len(p)%settingSize != 0:
		return connErrorf(codeFrameSize, "a SETTINGS frame has %d bytes, which is no multiple of %d", len(p), settingSize)
	case len(p) > maxSettings*settingSize:
		return connErrorf(codeCalm, "a SETTINGS frame has more than %d parameters", maxSettings)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if fh.Flags.Has(wire.FlagSettingsAck) {
		return c.settingsAcked()
	}
	for ; len(p) > 0; p = p[settingSize:] {
		err := c.set(wire.Setting{ID: wire.SettingID(binary.BigEndian.Uint16(p)), Val: binary.BigEndian.Uint32(p[2:])})
		if err != nil {
			return err
		}
	}
	c.appendSettingsAck()
	if !c.gotPeer {
		c.gotPeer = true
		if !c.peerMaxSet {
			c.setPeerMax(maxWindow)
		}
		c.role.settled(c)
	}
	return c.checkOutput()
}

// settingsAcked makes what our SETTINGS say binding. c.mu is held.
func (c *conn) settingsAcked() error {
	if c.acked {
		return nil
	}
	c.acked = true
	// A window below the initial one counts only from now on.
	if d := int64(c.cfg.StreamWindow) - c.recvInit; d < 0 {
		c.recvInit += d
		for _, st := range c.streams {
			st.recvWin += d
			st.target = c.recvInit
		}
	}
	return nil
}

// set takes in one parameter of the peer (RFC 9113, section 6.5.2; RFC 8441,
// section 3). c.mu is held.
func (c *conn) set(s wire.Setting) error {
	switch s.ID {
	case wire.SettingHeaderTableSize:
		size := int(min(s.Val, dynamicTableSize))
		if size == c.table {
			break
		}
		c.encoder().resize(size)
		c.table = size
	case wire.SettingEnablePush:
		if s.Val > 1 || c.client && s.Val == 1 {
			return connErrorf(codeProtocol, "SETTINGS_ENABLE_PUSH is %d", s.Val)
		}
	case wire.SettingMaxConcurrentStreams:
		c.peerMaxSet = true
		c.setPeerMax(int64(min(s.Val, maxWindow)))
	case wire.SettingInitialWindowSize:
		return c.setSendInit(int64(s.Val))
	case wire.SettingMaxFrameSize:
		if s.Val < minFrame || s.Val > 1<<24-1 {
			return connErrorf(codeProtocol, "SETTINGS_MAX_FRAME_SIZE is %d", s.Val)
		}
		c.peerFrame = int(s.Val)
	case wire.SettingMaxHeaderListSize:
		c.peerHeader = int64(s.Val)
	case wire.SettingEnableConnectProtocol:
		if s.Val > 1 || c.peerConn && s.Val == 0 {
			return connErrorf(codeProtocol, "SETTINGS_ENABLE_CONNECT_PROTOCOL is %d", s.Val)
		}
		c.peerConn = s.Val == 1
	}
	return nil
}

// setSendInit changes the window of all streams (RFC 9113, section 6.9.2).
// c.mu is held.
func (c *conn) setSendInit(n int64) error {
	if n > maxWindow {
		return connErrorf(codeFlow, "SETTINGS_INITIAL_WINDOW_SIZE is %d", n)
	}
	d := n - c.sendInit
	c.sendInit = n
	for _, st := range c.streams {
		st.sendWin += d
		if st.sendWin > maxWindow {
			return connErrorf(codeFlow, "SETTINGS_INITIAL_WINDOW_SIZE makes the window of stream %d too large", st.id)
		}
		if st.sendWin > 0 && !st.queued {
			st.wakeWriter()
		}
	}
	return nil
}

// setPeerMax takes in how many streams we may have open. c.mu is held.
func (c *conn) setPeerMax(n int64) {
	more := n - c.peerMax
	c.peerMax = n
	c.role.freed(c, more)
}
