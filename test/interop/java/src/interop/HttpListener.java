package interop;

import com.fasterxml.jackson.databind.JsonNode;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import io.dapr.client.domain.CloudEvent;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Executors;

/** Serves a {@link Service} over HTTP, on the routes that a sidecar expects. */
final class HttpListener {
  private final Service service;

  HttpListener(Service service) {
    this.service = service;
  }

  void serve(int port) throws IOException {
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
    server.setExecutor(Executors.newCachedThreadPool());
    server.createContext("/", exchange -> {
      Service.Answer answer;
      try {
        answer = answer(exchange);
      } catch (IOException | RuntimeException e) {
        answer = new Service.Answer(500, "text/plain", e.toString().getBytes());
      }
      if (answer.contentType() != null) {
        exchange.getResponseHeaders().set("Content-Type", answer.contentType());
      }
      exchange.sendResponseHeaders(answer.status(), answer.body().length == 0 ? -1 : answer.body().length);
      if (answer.body().length > 0) {
        exchange.getResponseBody().write(answer.body());
      }
      exchange.close();
    });
    server.start();
  }

  private Service.Answer answer(HttpExchange exchange) throws IOException {
    String name = exchange.getRequestURI().getPath().substring(1);
    byte[] body = exchange.getRequestBody().readAllBytes();
    if (name.equals("dapr/subscribe")) {
      return Service.Answer.json(subscriptions());
    }
    if (name.equals("healthz")) {
      service.onHealth.run();
      return empty(200);
    }
    if (service.routes.containsKey(name)) {
      return event(name, body);
    }
    Service.Handler binding = service.bindings.get(name);
    if (binding != null) {
      if (!exchange.getRequestMethod().equals("OPTIONS")) { // else it is asked whether it wants the events
        binding.handle(body);
      }
      return empty(200);
    }
    if (name.startsWith("job/") && service.jobs.containsKey(name.substring(4))) {
      service.jobs.get(name.substring(4)).handle(body);
      return empty(200);
    }
    var method = service.methods.get(name);
    return method == null ? empty(404) : method.apply(call(exchange, body));
  }

  private static Service.Answer empty(int status) {
    return new Service.Answer(status, null, new byte[0]);
  }

  private static Service.Call call(HttpExchange exchange, byte[] body) {
    Map<String, String> headers = new LinkedHashMap<>();
    exchange.getRequestHeaders().forEach((name, values) -> headers.put(name.toLowerCase(Locale.ROOT), values.get(0)));
    String query = exchange.getRequestURI().getRawQuery();
    return new Service.Call(exchange.getRequestMethod(), query == null ? "" : query, headers.getOrDefault("content-type", ""), headers, body);
  }

  private List<Map<String, Object>> subscriptions() {
    List<Map<String, Object>> out = new ArrayList<>();
    for (Service.Subscription s : service.subscriptions.values()) {
      Map<String, Object> one = new LinkedHashMap<>();
      one.put("pubsubname", Topics.PUBSUB);
      one.put("topic", s.topic());
      one.put("metadata", s.metadata());
      List<Map<String, String>> rules = new ArrayList<>();
      s.rules().forEach(r -> rules.add(Map.of("match", r.match(), "path", "/" + r.route())));
      one.put("routes", Map.of("rules", rules, "default", "/" + s.route()));
      if (!s.deadLetterTopic().isEmpty()) {
        one.put("deadLetterTopic", s.deadLetterTopic());
      }
      if (s.bulk()) {
        one.put("bulkSubscribe", Map.of("enabled", true, "maxMessagesCount", 10, "maxAwaitDurationMs", 100));
      }
      out.add(one);
    }
    return out;
  }

  private Service.Answer event(String route, byte[] body) throws IOException {
    var handle = service.routes.get(route);
    JsonNode entries = Report.JSON.readTree(body).get("entries");
    if (entries == null) {
      return Service.Answer.json(Map.of("status", handle.apply(CloudEvent.deserialize(body)).name()));
    }
    List<Map<String, String>> statuses = new ArrayList<>();
    for (JsonNode entry : entries) {
      CloudEvent<?> event = CloudEvent.deserialize(Report.JSON.writeValueAsBytes(entry.get("event")));
      statuses.add(Map.of("entryId", entry.get("entryId").asText(), "status", handle.apply(event).name()));
    }
    return Service.Answer.json(Map.of("statuses", statuses));
  }
}
