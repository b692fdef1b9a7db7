package interop;

import io.dapr.client.domain.CloudEvent;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;

/** The subscriptions of main. Every route keeps what it gets in its inbox. */
final class Topics {
  static final String PUBSUB = "pubsub";

  private final Map<String, Inbox<CloudEvent<?>>> inboxes = new ConcurrentHashMap<>();

  Topics(Service service) {
    for (String topic : List.of("values", "cloudevents", "graveyard")) {
      into(service, new Service.Subscription(topic), Service.Outcome.SUCCESS);
    }
    into(service, new Service.Subscription("raw", "raw", List.of(), Map.of("rawPayload", "true"), "", false), Service.Outcome.SUCCESS);
    into(service, new Service.Subscription("bulk", "bulk", List.of(), Map.of(), "", true), Service.Outcome.SUCCESS);
    into(service, new Service.Subscription("doomed", "doomed", List.of(), Map.of(), "graveyard", false), Service.Outcome.DROP);

    var rules = List.of(new Service.Rule("event.type == \"important\"", "important"), new Service.Rule("event.data.amount > 100", "large"));
    into(service, new Service.Subscription("routed", "ordinary", rules, Map.of(), "", false), Service.Outcome.SUCCESS);
    for (Service.Rule rule : rules) {
      service.routes.put(rule.route(), keep(rule.route(), Service.Outcome.SUCCESS));
    }

    AtomicInteger attempts = new AtomicInteger();
    service.subscribe(new Service.Subscription("flaky"), event -> {
      inbox("flaky").put(event);
      return attempts.incrementAndGet() < 3 ? Service.Outcome.RETRY : Service.Outcome.SUCCESS;
    });
  }

  Inbox<CloudEvent<?>> inbox(String route) {
    return inboxes.computeIfAbsent(route, name -> new Inbox<>());
  }

  private void into(Service service, Service.Subscription s, Service.Outcome outcome) {
    service.subscribe(s, keep(s.route(), outcome));
  }

  private java.util.function.Function<CloudEvent<?>, Service.Outcome> keep(String route, Service.Outcome outcome) {
    return event -> {
      inbox(route).put(event);
      return outcome;
    };
  }
}
