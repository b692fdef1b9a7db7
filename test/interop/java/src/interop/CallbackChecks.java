package interop;

import static interop.Report.contains;
import static interop.Report.equal;
import static interop.Report.eventually;
import static interop.Report.refused;

import com.fasterxml.jackson.databind.JsonNode;
import io.dapr.client.domain.ConstantFailurePolicy;
import io.dapr.client.domain.DeleteJobRequest;
import io.dapr.client.domain.DropFailurePolicy;
import io.dapr.client.domain.FailurePolicyType;
import io.dapr.client.domain.GetJobRequest;
import io.dapr.client.domain.GetJobResponse;
import io.dapr.client.domain.JobSchedule;
import io.dapr.client.domain.ScheduleJobRequest;
import io.dapr.exceptions.DaprException;
import io.dapr.utils.TypeRef;
import java.time.Duration;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.List;
import java.util.Map;

/** Bindings and jobs. */
record CallbackChecks(Main.App app, Callbacks callbacks) {
  private static final byte[] CHORE = "under the bed".getBytes();

  void run(Report r) {
    bindings(r);
    jobs(r);
  }

  private String call(String name, String operation, byte[] data, Map<String, String> metadata) {
    byte[] got = app.client().invokeBinding(name, operation, data, metadata).block();
    return got == null ? "" : new String(got);
  }

  private void bindings(Report r) {
    r.check("binding: a schedule calls the application", () -> callbacks.ticks.take(2));
    r.check("binding: a file is created, read, listed and deleted", () -> {
      Map<String, String> name = Map.of("fileName", "notes.txt");
      call("files", "create", "some notes".getBytes(), name);
      equal(call("files", "get", new byte[0], name), "some notes", "content");
      contains(call("files", "list", new byte[0], Map.of()), "notes.txt");
      call("files", "delete", new byte[0], name);
      contains(refused(() -> call("files", "get", new byte[0], name)).getMessage(), "notes.txt");
    });
    r.check("binding: an HTTP endpoint is called and answers", () -> {
      JsonNode got = app.client().invokeBinding("web", "put", Map.of("n", 1), Map.of("path", "/echo"), TypeRef.get(JsonNode.class)).block();
      equal(List.of(got.get("method").asText(), got.get("body").asText()), List.of("PUT", "{\"n\":1}"), "echo");
    });
    r.check("binding: the status of an HTTP endpoint is in the error", () -> {
      DaprException error = refused(() -> call("web", "get", new byte[0], Map.of("path", "/nowhere")));
      equal(error.getHttpStatusCode(), 404, "status");
    });
    r.check("binding: one that does not exist is named in the error", () -> {
      DaprException error = refused(() -> call("nobinding", "create", CHORE, Map.of()));
      contains(error.getMessage(), "nobinding");
    });
  }

  private GetJobResponse job(String name) {
    return app.client().getJob(new GetJobRequest(name)).block();
  }

  private void jobs(Report r) {
    r.check("jobs: one is scheduled, read and deleted", () -> {
      Instant due = Instant.now().plus(1, ChronoUnit.HOURS).truncatedTo(ChronoUnit.MILLIS);
      app.client().scheduleJob(new ScheduleJobRequest("dust", JobSchedule.daily()).setDueTime(due).setTtl(due.plusSeconds(7200)).setRepeat(2)
          .setData(CHORE).setFailurePolicy(new ConstantFailurePolicy(4))).block();
      GetJobResponse got = job("dust");
      equal(List.of(got.getName(), got.getSchedule().getExpression(), got.getDueTime(), got.getTtl(), got.getRepeats()),
          List.of("dust", JobSchedule.daily().getExpression(), due, due.plusSeconds(7200), 2), "job");
      equal(got.getData(), CHORE, "data");
      equal(got.getFailurePolicy().getFailurePolicyType(), FailurePolicyType.CONSTANT, "failure policy");
      app.client().deleteJob(new DeleteJobRequest("dust")).block();
      refused(() -> job("dust"));
    });
    r.check("jobs: one of the same name is refused unless it is to take its place", () -> {
      app.client().scheduleJob(new ScheduleJobRequest("mop", JobSchedule.hourly())).block();
      equal(refused(() -> app.client().scheduleJob(new ScheduleJobRequest("mop", JobSchedule.weekly())).block()).getErrorCode(), "ALREADY_EXISTS", "code");
      app.client().scheduleJob(new ScheduleJobRequest("mop", JobSchedule.fromPeriod(Duration.ofHours(5)))
          .setOverwrite(true).setFailurePolicy(new DropFailurePolicy())).block();
      equal(job("mop").getSchedule().getExpression(), JobSchedule.fromPeriod(Duration.ofHours(5)).getExpression(), "schedule");
      equal(job("mop").getFailurePolicy().getFailurePolicyType(), FailurePolicyType.DROP, "failure policy");
      app.client().deleteJob(new DeleteJobRequest("mop")).block();
    });
    r.check("jobs: a bad one is refused", () -> {
      DaprException error = refused(() -> app.client().scheduleJob(new ScheduleJobRequest("dust", JobSchedule.fromString("now and then"))).block());
      equal(error.getErrorCode(), "INVALID_ARGUMENT", "code");
    });
    r.check("jobs: a schedule calls the application as often as it says", () -> {
      app.client().scheduleJob(new ScheduleJobRequest("sweep", JobSchedule.fromString("@every 100ms")).setRepeat(2).setData(CHORE)).block();
      for (byte[] got : callbacks.sweeps.take(2)) {
        equal(new String(got), new String(CHORE), "data");
      }
      eventually(true, "the job is over", () -> {
        try {
          job("sweep");
          return false;
        } catch (DaprException e) {
          return true;
        }
      });
    });
  }
}
