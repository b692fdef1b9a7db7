package interop;

import static interop.Report.equal;

import com.fasterxml.jackson.core.type.TypeReference;
import io.dapr.client.domain.ComponentMetadata;
import io.dapr.client.domain.DaprMetadata;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** What a sidecar tells of itself. */
record MetadataChecks(Main.App app) {
  void run(Report r) {
    r.check("metadata: it says who this is and what there is", () -> {
      DaprMetadata got = app.client().getMetadata().block();
      equal(got.getId(), app.id(), "id");
      Map<String, String> want = Report.JSON.readValue(Main.env("INTEROP_COMPONENTS"), new TypeReference<TreeMap<String, String>>() {});
      Map<String, String> types = new TreeMap<>();
      for (ComponentMetadata c : got.getComponents()) {
        if (want.containsKey(c.getName())) {
          types.put(c.getName(), c.getType());
        }
      }
      equal(types, want, "components");
      var connection = got.getAppConnectionProperties();
      String port = System.getenv().getOrDefault("INTEROP_APP_PORT", Main.env("APP_PORT")); // something may stand between
      equal(List.of("" + connection.getPort(), connection.getProtocol()), List.of(port, app.protocol()), "application");
      equal(connection.getHealth().getHealthProbeInterval(), "1s", "interval of the health probe");
    });
    r.check("metadata: it lists the subscriptions with their rules", () -> {
      var routed = app.client().getMetadata().block().getSubscriptions().stream().filter(s -> s.getTopic().equals("routed")).findFirst().orElseThrow();
      String slash = app.grpc() ? "" : "/"; // as the application has them
      equal(routed.getRules().stream().map(rule -> rule.getMatch() + " -> " + rule.getPath()).toList(),
          List.of("event.type == \"important\" -> " + slash + "important", "event.data.amount > 100 -> " + slash + "large", " -> " + slash + "ordinary"), "rules");
    });
  }
}
