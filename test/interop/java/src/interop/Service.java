package interop;

import io.dapr.client.domain.CloudEvent;
import java.io.IOException;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;

/**
 * What an application offers to its sidecar, whatever the protocol between the
 * two. All is added before {@link #serve}.
 */
final class Service {
  final Map<String, Subscription> subscriptions = new LinkedHashMap<>();
  final Map<String, Function<CloudEvent<?>, Outcome>> routes = new LinkedHashMap<>();
  final Map<String, Handler> bindings = new LinkedHashMap<>();
  final Map<String, Handler> jobs = new LinkedHashMap<>();
  final Map<String, Function<Call, Answer>> methods = new LinkedHashMap<>();
  Runnable onHealth = () -> {};

  /** What an application says of an event. */
  enum Outcome {
    SUCCESS,
    RETRY,
    DROP
  }

  /** Takes the data of a trigger. */
  interface Handler {
    void handle(byte[] data);
  }

  /** A rule leads the events that match to a route. */
  record Rule(String match, String route) {}

  /** What the application subscribes to, and where the events go. */
  record Subscription(String topic, String route, List<Rule> rules, Map<String, String> metadata, String deadLetterTopic, boolean bulk) {
    Subscription(String topic) {
      this(topic, topic, List.of(), Map.of(), "", false);
    }
  }

  /** An invocation, with the names of headers in lower case. */
  record Call(String verb, String query, String contentType, Map<String, String> headers, byte[] body) {}

  /** The answer to an invocation; a status of HTTP. */
  record Answer(int status, String contentType, byte[] body) {
    static Answer json(Object value) {
      return new Answer(200, "application/json", Report.json(value).getBytes(java.nio.charset.StandardCharsets.UTF_8));
    }
  }

  void subscribe(Subscription s, Function<CloudEvent<?>, Outcome> handle) {
    subscriptions.put(s.topic(), s);
    routes.put(s.route(), handle);
  }

  /** Begins to serve. */
  void serve(String protocol, int port) throws IOException {
    if (protocol.equals("grpc")) {
      new GrpcListener(this).serve(port);
    } else {
      new HttpListener(this).serve(port);
    }
  }
}
