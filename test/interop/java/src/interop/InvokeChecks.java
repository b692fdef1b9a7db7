package interop;

import static interop.Report.contains;
import static interop.Report.equal;
import static interop.Report.refused;

import com.fasterxml.jackson.databind.JsonNode;
import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.Empty;
import io.dapr.client.DaprHttp;
import io.dapr.client.domain.HttpExtension;
import io.dapr.utils.TypeRef;
import io.dapr.v1.AppCallbackGrpc;
import io.dapr.v1.AppCallbackGrpc.AppCallbackBlockingStub;
import io.dapr.v1.AppCallbackHealthCheckGrpc;
import io.dapr.v1.CommonProtos.HTTPExtension;
import io.dapr.v1.CommonProtos.InvokeRequest;
import io.dapr.v1.CommonProtos.InvokeResponse;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.List;
import java.util.Map;

/** Invocation over HTTP, and gRPC through the sidecars. */
record InvokeChecks(Main.App app) {
  void run(Report r) {
    for (HttpExtension verb : List.of(HttpExtension.POST, HttpExtension.PUT, HttpExtension.PATCH)) {
      r.check("invoke: " + verb.getMethod() + " with a body reaches the other application", () -> {
        Map<String, Object> body = Map.of("n", 1, "text", "漢字 🛶");
        JsonNode got = echo("echo", body, verb, Map.of());
        equal(got.get("body"), Report.JSON.valueToTree(body), "body");
        equal(List.of(got.get("by").asText(), got.get("method").asText(), got.get("contentType").asText()),
            List.of(app.peer(), verb.getMethod().name().toLowerCase(), "application/json"), "echo");
      });
    }
    for (HttpExtension verb : List.of(HttpExtension.GET, HttpExtension.DELETE)) {
      r.check("invoke: " + verb.getMethod() + " reaches the other application", () -> {
        JsonNode got = echo("echo", null, verb, Map.of());
        equal(List.of(got.get("by").asText(), got.get("method").asText()), List.of(app.peer(), verb.getMethod().name().toLowerCase()), "echo");
      });
    }
    r.check("invoke: the query and headers are passed on", () -> {
      var get = new HttpExtension(DaprHttp.HttpMethods.GET, Map.of("x", List.of("1 & 2")), Map.of("X-Greeting", "hello"));
      JsonNode got = echo("echo", null, get, Map.of());
      equal(List.of(got.get("query").asText(), got.get("greeting").asText(), got.get("caller").asText()),
          List.of("x=1+%26+2", "hello", app.id()), "echo");
    });
    r.check("invoke: a method may have a path", () -> {
      JsonNode got = echo("deep/er echo", Map.of(), HttpExtension.POST, Map.of());
      equal(got.get("by").asText(), app.peer(), "by");
    });
    r.check("invoke: two megabytes go there and back", () -> {
      String text = "y".repeat(2 << 20);
      equal(echo("echo", Map.of("text", text), HttpExtension.POST, Map.of()).get("body").get("text").asText().equals(text), true, "same body");
    });
    r.check("invoke: an application that does not exist has an error with a code", () -> {
      var error = refused(() -> app.client().invokeMethod("nobody", "echo", HttpExtension.GET, Map.of(), TypeRef.STRING).block());
      equal(List.of(error.getErrorCode(), error.getHttpStatusCode()), List.of("ERR_DIRECT_INVOKE", 500), "code and status");
      contains(error.getMessage(), "nobody");
    });
    if (app.grpc()) {
      proxy(r);
    } else {
      r.check("invoke: a failure of the other application is passed on", () -> {
        var error = refused(() -> app.client().invokeMethod(app.peer(), "fail", HttpExtension.GET, Map.of(), TypeRef.STRING).block());
        equal(List.of(error.getHttpStatusCode(), new String(error.getPayload())), List.of(507, "deliberately"), "status and body");
        error = refused(() -> app.client().invokeMethod(app.peer(), "no-such-method", HttpExtension.GET, Map.of(), TypeRef.STRING).block());
        equal(error.getHttpStatusCode(), 404, "status");
      });
    }
  }

  private JsonNode echo(String method, Object body, HttpExtension extension, Map<String, String> metadata) {
    return app.client().invokeMethod(app.peer(), method, body, extension, metadata, TypeRef.get(JsonNode.class)).block();
  }

  /** The callbacks of the peer are a gRPC service like any other. */
  private void proxy(Report r) {
    r.check("proxy: a generated stub calls the other application", () -> {
      AppCallbackBlockingStub stub = app.client().newGrpcStub(app.peer(), AppCallbackGrpc::newBlockingStub);
      InvokeResponse got = stub.onInvoke(request("echo", "[\"through the proxy\"]"));
      equal(got.getContentType(), "application/json", "content type");
      JsonNode echo = Report.JSON.readTree(got.getData().getValue().toByteArray());
      equal(List.of(echo.get("by").asText(), echo.get("body").get(0).asText()), List.of(app.peer(), "through the proxy"), "echo");
      app.client().newGrpcStub(app.peer(), AppCallbackHealthCheckGrpc::newBlockingStub).healthCheck(Empty.getDefaultInstance());
    });
    r.check("proxy: a status passes", () -> {
      AppCallbackBlockingStub stub = app.client().newGrpcStub(app.peer(), AppCallbackGrpc::newBlockingStub);
      Status status = failure(stub, request("fail", ""));
      equal(List.of(status.getCode(), status.getDescription()), List.of(Status.Code.DATA_LOSS, "deliberately"), "status");
    });
    r.check("proxy: a call to nobody is refused", () -> {
      Status status = failure(app.client().newGrpcStub("nobody", AppCallbackGrpc::newBlockingStub), request("echo", ""));
      contains(status.getDescription(), "nobody");
    });
  }

  private static InvokeRequest request(String method, String body) {
    return InvokeRequest.newBuilder().setMethod(method).setContentType("application/json")
        .setData(Any.newBuilder().setValue(ByteString.copyFromUtf8(body)))
        .setHttpExtension(HTTPExtension.newBuilder().setVerb(HTTPExtension.Verb.POST)).build();
  }

  private static Status failure(AppCallbackBlockingStub stub, InvokeRequest request) {
    try {
      stub.onInvoke(request);
    } catch (StatusRuntimeException e) {
      return e.getStatus();
    }
    throw new AssertionError("a call that had to fail did not");
  }
}
