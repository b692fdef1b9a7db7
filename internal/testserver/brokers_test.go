package testserver

import (
	"os"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	amqp "github.com/rabbitmq/amqp091-go"
)

func TestBrokersAnswerUntilDownAndAgainAfterRestart(t *testing.T) {
	for name, start := range map[string]func(TB) server{
		"rabbitmq":  func(tb TB) server { return RabbitMQ(tb, RabbitMQOptions{}) },
		"mosquitto": func(tb TB) server { return Mosquitto(tb, MosquittoOptions{}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var srv server
			t.Run("inner", func(t *testing.T) {
				srv = start(t)
				first := srv.Pid()
				mustAnswer(t, srv.Addr())
				if v := srv.Version(); strings.Count(v, ".") != 2 {
					t.Errorf("version is %q", v)
				}
				srv.Kill()
				mustRefuse(t, srv)
				srv.Restart()
				mustAnswer(t, srv.Addr())
				if srv.Pid() == first {
					t.Error("the restarted server is the old one")
				}
				srv.Stop()
				mustRefuse(t, srv)
			})
			if _, err := os.Stat(srv.Dir()); !os.IsNotExist(err) {
				t.Errorf("directory %s: %v", srv.Dir(), err)
			}
		})
	}
}

func TestRabbitMQKeepsConfirmedMessagesOverKillAndCanBeControlled(t *testing.T) {
	t.Parallel()
	srv := RabbitMQ(t, RabbitMQOptions{Plugins: []string{"rabbitmq_consistent_hash_exchange"}})
	open := func() *amqp.Channel {
		conn, err := amqp.Dial(srv.URL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		ch, err := conn.Channel()
		if err != nil {
			t.Fatal(err)
		}
		return ch
	}
	ch := open()
	if err := ch.ExchangeDeclare("hashed", "x-consistent-hash", true, false, false, false, nil); err != nil {
		t.Errorf("the plugin is not there: %v", err)
	}
	if _, err := ch.QueueDeclare("q", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	sent, err := ch.PublishWithDeferredConfirm("", "q", false, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte("kept")})
	if err != nil || !sent.Wait() {
		t.Fatalf("publish: %v", err)
	}
	srv.Kill()
	srv.Restart()
	if m, ok, err := open().Get("q", true); err != nil || !ok || string(m.Body) != "kept" {
		t.Errorf("after the kill there is %q %v, %v", m.Body, ok, err)
	}
	if out, err := srv.Control("list_queues", "name", "durable"); err != nil || !strings.Contains(out, "q\ttrue") {
		t.Errorf("rabbitmqctl: %q, %v", out, err)
	}
	if _, err := srv.Control("no-such-command"); err == nil {
		t.Error("a command that does not exist succeeded")
	}
}

func TestPersistentMosquittoKeepsSessionsOverKillOnceSaved(t *testing.T) {
	t.Parallel()
	srv := Mosquitto(t, MosquittoOptions{Persistence: true})
	arrived := make(chan string, 1)
	wait := func(token mqtt.Token) {
		t.Helper()
		if !token.WaitTimeout(20*time.Second) || token.Error() != nil {
			t.Fatal(token.Error())
		}
	}
	open := func(id string) mqtt.Client {
		t.Helper()
		c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(srv.URL()).SetClientID(id).SetCleanSession(false).SetAutoReconnect(false).
			SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { arrived <- string(m.Payload()) }))
		wait(c.Connect())
		return c
	}
	c := open("consumer")
	wait(c.Subscribe("t", 1, nil))
	c.Disconnect(100)
	p := open("producer")
	wait(p.Publish("t", 1, false, "kept"))
	p.Disconnect(100)
	srv.Save()
	srv.Kill()
	srv.Restart()
	c = open("consumer")
	defer c.Disconnect(100)
	select {
	case got := <-arrived:
		if got != "kept" {
			t.Errorf("after the kill there is %q", got)
		}
	case <-time.After(20 * time.Second):
		t.Error("the message is gone")
	}
}
