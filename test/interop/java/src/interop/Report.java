package interop;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.dapr.exceptions.DaprException;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** Prints the results of checks as lines of JSON. */
final class Report {
  static final ObjectMapper JSON = new ObjectMapper();

  /** Bounds one check. */
  static final int CHECK_SECONDS = 30;

  private final ExecutorService threads = Executors.newCachedThreadPool(task -> {
    Thread thread = new Thread(task);
    thread.setDaemon(true);
    return thread;
  });
  private int checks;

  /** What a check does. It fails when it throws. */
  interface Body {
    void run() throws Exception;
  }

  /** Runs one check and prints its result. */
  void check(String name, Body body) {
    String error = "";
    var running = threads.submit((Callable<Void>) () -> {
      body.run();
      return null;
    });
    try {
      running.get(CHECK_SECONDS, TimeUnit.SECONDS);
    } catch (ExecutionException e) {
      error = describe(e.getCause());
    } catch (TimeoutException e) {
      running.cancel(true);
      error = "not through after " + CHECK_SECONDS + " s";
    } catch (InterruptedException e) {
      throw new IllegalStateException(e);
    }
    checks++;
    System.out.println("{\"check\":" + json(name) + ",\"error\":" + json(error) + "}");
  }

  /** Prints the last line of the results. */
  void done() {
    System.out.println("{\"done\":" + checks + "}");
  }

  private static String describe(Throwable failure) {
    StringBuilder text = new StringBuilder(failure.toString());
    for (StackTraceElement frame : failure.getStackTrace()) {
      if (frame.getClassName().startsWith("interop.") && !frame.getClassName().equals("interop.Report")) {
        text.append(" at ").append(frame.getFileName()).append(':').append(frame.getLineNumber());
        break;
      }
    }
    return text.toString();
  }

  static String json(Object value) {
    try {
      return JSON.writeValueAsString(value);
    } catch (JsonProcessingException e) {
      throw new IllegalArgumentException(e);
    }
  }

  /** Fails unless both are equal; arrays are when their elements are. */
  static void equal(Object got, Object want, String what) {
    if (!Objects.deepEquals(got, want)) {
      throw new AssertionError(what + ": got " + show(got) + ", want " + show(want));
    }
  }

  static void contains(String text, String part) {
    if (text == null || !text.contains(part)) {
      throw new AssertionError("\"" + text + "\" does not say \"" + part + "\"");
    }
  }

  private static String show(Object value) {
    String text = value == null ? "null" : value.getClass().isArray() || value instanceof String ? json(value) : value.toString();
    return text.length() > 500 ? text.substring(0, 500) + "... (" + text.length() + " characters)" : text;
  }

  /** Returns the error of a call that has to fail. */
  static DaprException refused(Callable<?> call) {
    Object got;
    try {
      got = call.call();
    } catch (DaprException e) {
      return e;
    } catch (Exception e) {
      throw new AssertionError("a call failed with no DaprException: " + e, e);
    }
    throw new AssertionError("a call that had to fail answered " + show(got));
  }

  /** Asks until the answer is the wanted one. */
  static void eventually(Object want, String what, Callable<?> ask) throws Exception {
    long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(CHECK_SECONDS / 2);
    for (;;) {
      Object got = ask.call();
      if (Objects.deepEquals(got, want)) {
        return;
      }
      if (System.nanoTime() > deadline) {
        equal(got, want, what);
      }
      Thread.sleep(25);
    }
  }
}
