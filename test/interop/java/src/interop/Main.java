package interop;

import io.dapr.client.DaprClient;
import io.dapr.client.DaprClientBuilder;
import io.dapr.client.DaprPreviewClient;

/**
 * An application on the Dapr SDK for Java.
 *
 * <pre>
 *   Main main http|grpc    make all checks, then shut the sidecar down
 *   Main peer http|grpc    be the other application that main talks to
 * </pre>
 *
 * The protocol is what the sidecar speaks to the application. To the sidecar the
 * SDK speaks gRPC, but for invocation and health, which are HTTP. All ports and
 * tokens come from the environment. The SDK has no server: the application's is
 * that of the JDK, or of gRPC with the stubs that come with the SDK.
 */
public final class Main {
  private Main() {}

  public static void main(String[] args) throws Exception {
    endWithParent();
    String role = args[0];
    String protocol = args[1];
    App app = new App(env("APP_ID"), env("INTEROP_PEER"), protocol, new DaprClientBuilder().build(),
        new DaprClientBuilder().buildPreviewClient());
    Service service = new Service();
    if (role.equals("peer")) {
      Peer.listen(app, service);
      service.serve(protocol, port());
      System.out.println("waiting for the sidecar");
      Thread.currentThread().join();
    }
    Topics topics = new Topics(service);
    Callbacks callbacks = new Callbacks(service);
    service.serve(protocol, port());
    System.out.println("waiting for the sidecar");

    Report report = new Report();
    new SidecarChecks(app, callbacks).run(report);
    new StateChecks(app).run(report);
    new PubSubChecks(app, topics).run(report);
    new InvokeChecks(app).run(report);
    new CallbackChecks(app, callbacks).run(report);
    new StoreChecks(app).run(report);
    new CryptoChecks(app).run(report);
    new MetadataChecks(app).run(report);
    report.done();
    app.client().shutdown().block();
    Thread.currentThread().join(); // until the sidecar stops this program
  }

  /** What the checks work with. The peer's id is empty in the peer itself. */
  record App(String id, String peer, String protocol, DaprClient client, DaprPreviewClient preview) {
    boolean grpc() {
      return protocol.equals("grpc");
    }
  }

  /** Returns a variable of the environment, or "". */
  static String env(String name) {
    String value = System.getenv(name);
    return value == null ? "" : value;
  }

  private static int port() {
    return Integer.parseInt(env("APP_PORT"));
  }

  /** Ends this program when the one that started it is gone. */
  private static void endWithParent() {
    ProcessHandle parent = ProcessHandle.current().parent().orElseThrow();
    parent.onExit().thenRun(() -> Runtime.getRuntime().halt(1));
  }
}
