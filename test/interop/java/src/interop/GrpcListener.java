package interop;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.Empty;
import io.dapr.client.domain.CloudEvent;
import io.dapr.v1.AppCallbackAlphaGrpc;
import io.dapr.v1.AppCallbackGrpc;
import io.dapr.v1.AppCallbackHealthCheckGrpc;
import io.dapr.v1.CommonProtos.InvokeRequest;
import io.dapr.v1.CommonProtos.InvokeResponse;
import io.dapr.v1.DaprAppCallbackProtos.BindingEventRequest;
import io.dapr.v1.DaprAppCallbackProtos.BindingEventResponse;
import io.dapr.v1.DaprAppCallbackProtos.BulkSubscribeConfig;
import io.dapr.v1.DaprAppCallbackProtos.HealthCheckResponse;
import io.dapr.v1.DaprAppCallbackProtos.JobEventRequest;
import io.dapr.v1.DaprAppCallbackProtos.JobEventResponse;
import io.dapr.v1.DaprAppCallbackProtos.ListInputBindingsResponse;
import io.dapr.v1.DaprAppCallbackProtos.ListTopicSubscriptionsResponse;
import io.dapr.v1.DaprAppCallbackProtos.TopicEventBulkRequest;
import io.dapr.v1.DaprAppCallbackProtos.TopicEventBulkResponse;
import io.dapr.v1.DaprAppCallbackProtos.TopicEventBulkResponseEntry;
import io.dapr.v1.DaprAppCallbackProtos.TopicEventRequest;
import io.dapr.v1.DaprAppCallbackProtos.TopicEventResponse;
import io.dapr.v1.DaprAppCallbackProtos.TopicEventResponse.TopicEventResponseStatus;
import io.dapr.v1.DaprAppCallbackProtos.TopicRoutes;
import io.dapr.v1.DaprAppCallbackProtos.TopicRule;
import io.dapr.v1.DaprAppCallbackProtos.TopicSubscription;
import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.LinkedHashMap;
import java.util.Map;

/** Serves a {@link Service} over gRPC, with the callbacks that a sidecar calls. */
final class GrpcListener {
  private static final Context.Key<Map<String, String>> HEADERS = Context.key("headers");

  private final Service service;

  GrpcListener(Service service) {
    this.service = service;
  }

  void serve(int port) throws IOException {
    NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", port))
        .addService(new Callback()).addService(new Alpha()).addService(new Health())
        .intercept(new Headers()).build().start();
  }

  /** Keeps the headers of a call for its handler. */
  private static final class Headers implements ServerInterceptor {
    @Override
    public <I, O> ServerCall.Listener<I> interceptCall(ServerCall<I, O> call, Metadata metadata, ServerCallHandler<I, O> next) {
      Map<String, String> headers = new LinkedHashMap<>();
      for (String name : metadata.keys()) {
        if (!name.endsWith(Metadata.BINARY_HEADER_SUFFIX)) {
          headers.put(name, metadata.get(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER)));
        }
      }
      return Contexts.interceptCall(Context.current().withValue(HEADERS, headers), call, metadata, next);
    }
  }

  private static <T> void answer(StreamObserver<T> to, T message) {
    to.onNext(message);
    to.onCompleted();
  }

  private static TopicEventResponseStatus status(Service.Outcome outcome) {
    return TopicEventResponseStatus.valueOf(outcome.name());
  }

  /** Returns the data of an event as JSON has it, or as bytes. */
  private static void setData(CloudEvent<Object> event, ByteString data) {
    String type = event.getDatacontenttype();
    if (type.endsWith("json")) {
      try {
        event.setData(Report.JSON.convertValue(Report.JSON.readTree(data.toByteArray()), Object.class));
        return;
      } catch (IOException e) {
        throw new IllegalArgumentException(e);
      }
    }
    if (type.startsWith("text/")) {
      event.setData(data.toStringUtf8());
    } else {
      event.setBinaryData(data.toByteArray());
    }
  }

  private final class Callback extends AppCallbackGrpc.AppCallbackImplBase {
    @Override
    public void listTopicSubscriptions(Empty request, StreamObserver<ListTopicSubscriptionsResponse> to) {
      var out = ListTopicSubscriptionsResponse.newBuilder();
      for (Service.Subscription s : service.subscriptions.values()) {
        var routes = TopicRoutes.newBuilder().setDefault(s.route());
        s.rules().forEach(r -> routes.addRules(TopicRule.newBuilder().setMatch(r.match()).setPath(r.route())));
        var one = TopicSubscription.newBuilder().setPubsubName(Topics.PUBSUB).setTopic(s.topic()).putAllMetadata(s.metadata())
            .setRoutes(routes).setDeadLetterTopic(s.deadLetterTopic());
        if (s.bulk()) {
          one.setBulkSubscribe(BulkSubscribeConfig.newBuilder().setEnabled(true).setMaxMessagesCount(10).setMaxAwaitDurationMs(100));
        }
        out.addSubscriptions(one);
      }
      answer(to, out.build());
    }

    @Override
    public void onTopicEvent(TopicEventRequest request, StreamObserver<TopicEventResponse> to) {
      CloudEvent<Object> event = new CloudEvent<>();
      event.setId(request.getId());
      event.setSource(request.getSource());
      event.setType(request.getType());
      event.setSpecversion(request.getSpecVersion());
      event.setDatacontenttype(request.getDataContentType());
      event.setTopic(request.getTopic());
      event.setPubsubName(request.getPubsubName());
      setData(event, request.getData());
      String route = request.getPath().startsWith("/") ? request.getPath().substring(1) : request.getPath();
      var handle = service.routes.get(route);
      if (handle == null) {
        to.onError(Status.UNIMPLEMENTED.withDescription("no route " + route).asRuntimeException());
        return;
      }
      answer(to, TopicEventResponse.newBuilder().setStatus(status(handle.apply(event))).build());
    }

    @Override
    public void onBulkTopicEvent(TopicEventBulkRequest request, StreamObserver<TopicEventBulkResponse> to) {
      var out = TopicEventBulkResponse.newBuilder();
      var handle = service.routes.get(request.getPath().replaceFirst("^/", ""));
      for (var entry : request.getEntriesList()) {
        CloudEvent<Object> event = new CloudEvent<>();
        event.setId(entry.getCloudEvent().getId());
        event.setDatacontenttype(entry.getCloudEvent().getDataContentType());
        setData(event, entry.getCloudEvent().getData());
        out.addStatuses(TopicEventBulkResponseEntry.newBuilder().setEntryId(entry.getEntryId()).setStatus(status(handle.apply(event))));
      }
      answer(to, out.build());
    }

    @Override
    public void listInputBindings(Empty request, StreamObserver<ListInputBindingsResponse> to) {
      answer(to, ListInputBindingsResponse.newBuilder().addAllBindings(service.bindings.keySet()).build());
    }

    @Override
    public void onBindingEvent(BindingEventRequest request, StreamObserver<BindingEventResponse> to) {
      service.bindings.get(request.getName()).handle(request.getData().toByteArray());
      answer(to, BindingEventResponse.getDefaultInstance());
    }

    @Override
    public void onInvoke(InvokeRequest request, StreamObserver<InvokeResponse> to) {
      var method = service.methods.get(request.getMethod());
      if (method == null) {
        to.onError(Status.UNIMPLEMENTED.withDescription("no method " + request.getMethod()).asRuntimeException());
        return;
      }
      Service.Answer out = method.apply(new Service.Call(request.getHttpExtension().getVerb().name(), request.getHttpExtension().getQuerystring(),
          request.getContentType(), HEADERS.get(), request.getData().getValue().toByteArray()));
      if (out.status() >= 400) {
        to.onError(Status.DATA_LOSS.withDescription(new String(out.body())).asRuntimeException());
        return;
      }
      answer(to, InvokeResponse.newBuilder().setContentType(out.contentType())
          .setData(Any.newBuilder().setValue(ByteString.copyFrom(out.body()))).build());
    }
  }

  private final class Alpha extends AppCallbackAlphaGrpc.AppCallbackAlphaImplBase {
    @Override
    public void onJobEventAlpha1(JobEventRequest request, StreamObserver<JobEventResponse> to) {
      service.jobs.get(request.getName()).handle(request.getData().getValue().toByteArray());
      answer(to, JobEventResponse.getDefaultInstance());
    }
  }

  private final class Health extends AppCallbackHealthCheckGrpc.AppCallbackHealthCheckImplBase {
    @Override
    public void healthCheck(Empty request, StreamObserver<HealthCheckResponse> to) {
      service.onHealth.run();
      answer(to, HealthCheckResponse.getDefaultInstance());
    }
  }
}
