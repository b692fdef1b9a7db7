package interop;

import static interop.Report.eventually;

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

/** Waiting for each other. */
record SidecarChecks(Main.App app, Callbacks callbacks) {
  void run(Report r) {
    r.check("the client waits for the sidecar", () -> app.client().waitForSidecar(15_000).block());
    r.check("the sidecar becomes ready when the application's subscriptions are there", () -> {
      HttpClient http = HttpClient.newHttpClient();
      HttpRequest healthz = HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + Main.env("DAPR_HTTP_PORT") + "/v1.0/healthz")).build();
      eventually(204, "status of healthz", () -> http.send(healthz, BodyHandlers.discarding()).statusCode());
    });
    r.check("the sidecar asks whether the application is well", () -> callbacks.asked.take());
  }
}
