package interop;

import static interop.Report.contains;
import static interop.Report.equal;
import static interop.Report.eventually;
import static interop.Report.refused;
import static interop.Topics.PUBSUB;

import com.fasterxml.jackson.databind.JsonNode;
import io.dapr.client.SubscriptionListener;
import io.dapr.client.domain.BulkPublishEntry;
import io.dapr.client.domain.BulkPublishRequest;
import io.dapr.client.domain.CloudEvent;
import io.dapr.client.domain.HttpExtension;
import io.dapr.client.domain.PublishEventRequest;
import io.dapr.utils.TypeRef;
import java.util.List;
import java.util.Map;
import reactor.core.publisher.Mono;

/** Publishing and subscribing: called by the sidecar, and pulling from it. */
record PubSubChecks(Main.App app, Topics topics) {
  void run(Report r) {
    envelopes(r);
    delivery(r);
    r.check("pubsub: many are published and received at once", this::bulk);
    r.check("pubsub: a declared subscription delivers to another application", () -> {
      publish("declared", Map.of("n", 7), Map.of());
      var events = TypeRef.get(JsonNode.class);
      eventually("[{\"n\":7}]", "what the peer has received",
          () -> app.client().invokeMethod(app.peer(), "received", HttpExtension.POST, Map.of(), events).block().toString());
    });
    r.check("pubsub: errors have a code, a reason and a resource", () -> {
      var error = refused(() -> app.client().publishEvent("nopubsub", "topic", "x").block());
      equal(List.of(error.getErrorCode(), Errors.reason(error)), List.of("INVALID_ARGUMENT", "DAPR_PUBSUB_NOT_FOUND"), "code and reason");
      contains(error.getMessage(), "pubsub nopubsub is not found");
    });
    r.check("streaming: a listener answers for each event", this::streaming);
    r.check("streaming: a flux of events", this::flux);
    r.check("streaming: a component that does not exist is named in the error", () -> {
      var error = refused(() -> app.preview().subscribeToTopic("nopubsub", "x", TypeRef.STRING).blockFirst());
      contains(error.getMessage(), "nopubsub");
    });
  }

  private void publish(String topic, Object data, Map<String, String> metadata) {
    app.client().publishEvent(PUBSUB, topic, data, metadata).block();
  }

  private void envelopes(Report r) {
    r.check("pubsub: an object arrives with its types, in an envelope", () -> {
      Map<String, Object> data = Map.of("name", "boat 🛶 漢字", "tags", List.of("a", 2, 2.5, true));
      publish("values", data, Map.of());
      CloudEvent<?> got = topics.inbox("values").take();
      equal(got.getData(), data, "data");
      equal(List.of(got.getSpecversion(), got.getType(), got.getSource(), got.getDatacontenttype(), got.getTopic(), got.getPubsubName()),
          List.of("1.0", "com.dapr.event.sent", app.id(), "application/json", "values", PUBSUB), "envelope");
      equal(got.getId().isEmpty(), false, "it has no id");
    });
    r.check("pubsub: a text and bytes arrive", () -> {
      app.client().publishEvent(new PublishEventRequest(PUBSUB, "values", "just a text".getBytes()).setContentType("text/plain")).block();
      equal(topics.inbox("values").take().getData(), "just a text", "text");
      byte[] bytes = {0, 1, (byte) 0xff, (byte) 0xfe};
      app.client().publishEvent(new PublishEventRequest(PUBSUB, "values", bytes).setContentType("application/octet-stream")).block();
      equal(topics.inbox("values").take().getBinaryData(), bytes, "bytes");
    });
    r.check("pubsub: metadata sets the envelope", () -> {
      publish("values", Map.of("n", 1), Map.of("cloudevent.id", "my-id", "cloudevent.type", "my.type", "cloudevent.source", "my-source"));
      CloudEvent<?> got = topics.inbox("values").take();
      equal(List.of(got.getId(), got.getType(), got.getSource()), List.of("my-id", "my.type", "my-source"), "envelope");
    });
    r.check("pubsub: a CloudEvent is passed on as it is", () -> {
      var event = new CloudEvent<>("e-1", "interop", "a.type", "1.0", "application/json", Map.of("n", 1));
      app.client().publishEvent(new PublishEventRequest(PUBSUB, "cloudevents", event).setContentType(CloudEvent.CONTENT_TYPE)).block();
      CloudEvent<?> got = topics.inbox("cloudevents").take();
      equal(List.of(got.getId(), got.getSource(), got.getType(), got.getData()), List.of("e-1", "interop", "a.type", Map.of("n", 1)), "event");
    });
    r.check("pubsub: a raw payload arrives", () -> {
      publish("raw", "as it is".getBytes(), Map.of("rawPayload", "true"));
      equal(new String(topics.inbox("raw").take().getBinaryData()), "as it is", "data");
    });
  }

  private void delivery(Report r) {
    r.check("pubsub: rules decide on the route, the first that matches", () -> {
      publish("routed", Map.of("amount", 1), Map.of());
      equal(topics.inbox("ordinary").take().getData(), Map.of("amount", 1), "ordinary");
      publish("routed", Map.of("amount", 1000), Map.of());
      equal(topics.inbox("large").take().getData(), Map.of("amount", 1000), "large");
      publish("routed", Map.of("amount", 1000), Map.of("cloudevent.type", "important"));
      equal(topics.inbox("important").take().getData(), Map.of("amount", 1000), "important");
      equal(topics.inbox("ordinary").size() + topics.inbox("large").size() + topics.inbox("important").size(), 0, "more events");
    });
    r.check("pubsub: what is to be retried comes again", () -> {
      publish("flaky", Map.of("n", 5), Map.of());
      List<CloudEvent<?>> got = topics.inbox("flaky").take(3);
      equal(got.stream().map(CloudEvent::getId).distinct().count(), 1L, "events");
    });
    r.check("pubsub: what is dropped goes to the dead letter topic", () -> {
      publish("doomed", Map.of("n", 6), Map.of());
      equal(topics.inbox("doomed").take().getData(), Map.of("n", 6), "doomed");
      equal(topics.inbox("graveyard").take().getData(), Map.of("n", 6), "graveyard");
      equal(topics.inbox("doomed").size(), 0, "more deliveries");
    });
  }

  private void bulk() throws Exception {
    var answer = app.client().publishEvents(new BulkPublishRequest<>(PUBSUB, "bulk", List.<BulkPublishEntry<Object>>of(
        new BulkPublishEntry<>("1", Map.of("n", 1), "application/json"), new BulkPublishEntry<>("2", "two", "text/plain")))).block();
    equal(answer.getFailedEntries().size(), 0, "failed entries");
    List<String> got = topics.inbox("bulk").take(2).stream().map(e -> Report.json(e.getData())).sorted().toList();
    equal(got, List.of("\"two\"", "{\"n\":1}"), "data");
  }

  private void streaming() throws Exception {
    Inbox<CloudEvent<Integer>> got = new Inbox<>();
    Inbox<Integer> attempts = new Inbox<>();
    @SuppressWarnings("deprecation") // the only one that can answer
    var subscription = app.preview().subscribeToEvents(PUBSUB, "streamed", new SubscriptionListener<Integer>() {
      @Override
      public Mono<Status> onEvent(CloudEvent<Integer> event) {
        got.put(event);
        attempts.put(1);
        return Mono.just(attempts.size() == 1 ? Status.RETRY : Status.SUCCESS);
      }

      @Override
      public void onError(RuntimeException error) {}
    }, TypeRef.INT);
    try (subscription) {
      publish("streamed", 1, Map.of());
      CloudEvent<Integer> first = got.take();
      equal(List.of(first.getData(), first.getTopic(), first.getPubsubName()), List.of(1, "streamed", PUBSUB), "event");
      CloudEvent<Integer> again = got.take();
      equal(List.of(again.getId(), again.getData()), List.of(first.getId(), 1), "event when it comes again");
      publish("streamed", 2, Map.of());
      equal(got.take().getData(), 2, "next event");
    }
  }

  private void flux() throws Exception {
    Inbox<CloudEvent<Integer>> got = new Inbox<>();
    var subscription = app.preview().subscribeToTopic(PUBSUB, "flowing", new TypeRef<CloudEvent<Integer>>() {}).subscribe(got::put);
    for (int n = 1; n <= 3; n++) {
      publish("flowing", n, Map.of());
      CloudEvent<Integer> event = got.take();
      equal(List.of(event.getData(), event.getSource()), List.of(n, app.id()), "event");
    }
    subscription.dispose();
  }
}
