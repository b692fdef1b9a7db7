package pubsub

import "testing"

func TestBinaryModeIsKnownByThePrefixOfEachProtocol(t *testing.T) {
	for prefix, source := range map[string]string{
		"ce_": "/a%20b", "ce-": "/a b", "CE-": "/a b", "cloudEvents:": "/a%20b", "cloudevents_": "/a%20b",
	} {
		d := &Delivery{Message: Message{ContentType: "application/json", Data: []byte(`{"n":1}`), Metadata: map[string]string{
			prefix + "specversion": "1.0", prefix + "id": "a", prefix + "type": "t", prefix + "source": "/a%20b",
		}}}
		if !d.isBinaryMode() {
			t.Errorf("%q is not taken for binary mode", prefix)
			continue
		}
		e := &Event{JSON: d.structured()}
		if !e.parse() || e.ID() != "a" || e.Type() != "t" || e.Source() != source || string(e.Data()) != `{"n":1}` {
			t.Errorf("with %q the envelope is %s", prefix, e.JSON)
		}
	}
}

func TestAnAttributeThatIsThereTwiceIsInTheEnvelopeOnce(t *testing.T) {
	d := &Delivery{Message: Message{Data: []byte(`x`), Metadata: map[string]string{"ce_type": "t", "ce-type": "t", "ce_specversion": "1.0"}}}
	e := &Event{JSON: d.structured()}
	if !e.parse() || e.Type() != "t" || len(e.members) != 3 { // with the data
		t.Errorf("the envelope is %s", e.JSON)
	}
}
