package interop;

import com.fasterxml.jackson.databind.JsonNode;
import io.dapr.client.domain.HttpExtension;
import io.dapr.utils.TypeRef;
import java.io.IOException;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;

/**
 * The other application: it echoes what it is asked, calls a third one, fails,
 * and keeps the events of a subscription that is declared in a file.
 */
final class Peer {
  private Peer() {}

  static void listen(Main.App app, Service service) {
    List<Object> received = new CopyOnWriteArrayList<>();
    service.subscribe(new Service.Subscription("declared"), event -> {
      received.add(event.getData());
      return Service.Outcome.SUCCESS;
    });
    service.methods.put("received", call -> Service.Answer.json(received));
    service.methods.put("echo", call -> Service.Answer.json(echo(app, call)));
    service.methods.put("deep/er echo", service.methods.get("echo"));
    service.methods.put("fail", call -> new Service.Answer(507, "text/plain", "deliberately".getBytes()));
    service.methods.put("call", call -> {
      String target = parse(call.body()).get("target").asText();
      JsonNode answer = app.client().invokeMethod(target, "echo", Map.of("from", app.id()), HttpExtension.POST, TypeRef.get(JsonNode.class)).block();
      return Service.Answer.json(Map.of("by", app.id(), "answer", answer));
    });
  }

  private static Map<String, Object> echo(Main.App app, Service.Call call) {
    Map<String, Object> out = new LinkedHashMap<>();
    out.put("by", app.id());
    out.put("method", call.verb().toLowerCase(Locale.ROOT));
    out.put("body", parse(call.body()));
    out.put("query", call.query());
    out.put("contentType", call.contentType());
    out.put("caller", call.headers().getOrDefault("dapr-caller-app-id", ""));
    out.put("greeting", call.headers().getOrDefault("x-greeting", ""));
    return out;
  }

  private static JsonNode parse(byte[] body) {
    try {
      return Report.JSON.readTree(body);
    } catch (IOException e) {
      return Report.JSON.getNodeFactory().textNode(new String(body));
    }
  }
}
