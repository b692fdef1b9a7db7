package interop;

import static interop.Report.contains;
import static interop.Report.equal;
import static interop.Report.eventually;
import static interop.Report.refused;

import io.dapr.client.domain.ConfigurationItem;
import io.dapr.client.domain.SubscribeConfigurationResponse;
import io.dapr.client.domain.UnlockResponseStatus;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** Secrets, configuration and locks. */
record StoreChecks(Main.App app) {
  private static final String CONFIG = "configstore";
  private static final String LOCK = "lockstore";
  private static final HttpClient HTTP = HttpClient.newHttpClient();

  void run(Report r) {
    secrets(r);
    configuration(r);
    locks(r);
  }

  private void secrets(Report r) {
    r.check("secret: one is read from the environment", () ->
        equal(app.client().getSecret("secretstore", "INTEROP_SECRET").block(), Map.of("INTEROP_SECRET", "from the environment"), "secret"));
    r.check("secret: all are read at once", () ->
        equal(app.client().getBulkSecret("secretfile").block(),
            Map.of("database:password", Map.of("database:password", "from a file"), "key", Map.of("key", "value")), "secrets"));
    r.check("secret: what does not exist is refused", () -> {
      var store = refused(() -> app.client().getSecret("nosecrets", "key").block());
      equal(store.getErrorCode(), "INVALID_ARGUMENT", "code");
      contains(store.getMessage(), "nosecrets");
      contains(refused(() -> app.client().getSecret("secretfile", "no-such-secret").block()).getMessage(), "no-such-secret");
    });
  }

  /** Changes the configuration, as an operator would do it. */
  private static void control(String key, String value) throws Exception {
    HttpRequest put = HttpRequest.newBuilder(URI.create(Main.env("INTEROP_CONTROL") + "/configuration/" + key))
        .PUT(BodyPublishers.ofString(value)).build();
    equal(HTTP.send(put, BodyHandlers.discarding()).statusCode(), 204, "status of the control");
  }

  private static Map<String, String> values(Map<String, ConfigurationItem> items) {
    Map<String, String> out = new TreeMap<>();
    items.forEach((key, item) -> out.put(key, item.getValue()));
    return out;
  }

  private void configuration(Report r) {
    r.check("configuration: items are read", () -> {
      control("colour", "red");
      control("size", "10");
      ConfigurationItem item = app.client().getConfiguration(CONFIG, "colour").block();
      equal(List.of(item.getKey(), item.getValue(), item.getVersion().isEmpty()), List.of("colour", "red", false), "item");
      equal(values(app.client().getConfiguration(CONFIG, "colour", "size", "nothing").block()), Map.of("colour", "red", "size", "10"), "some");
      equal(values(app.client().getConfiguration(CONFIG, new String[0]).block()), Map.of("colour", "red", "size", "10"), "all");
    });
    r.check("configuration: changes are sent until the subscription ends", this::subscribe);
  }

  private void subscribe() throws Exception {
    Inbox<SubscribeConfigurationResponse> changes = new Inbox<>();
    Inbox<Boolean> ended = new Inbox<>();
    app.client().subscribeConfiguration(CONFIG, "colour").doFinally(signal -> ended.put(true)).subscribe(changes::put);
    SubscribeConfigurationResponse first = changes.take(); // which has the id alone
    equal(first.getItems().isEmpty(), true, "the first has no items");
    for (int n = 0; n < 3; n++) {
      control("size", "" + n); // which is not asked for
      control("colour", "colour-" + n);
      SubscribeConfigurationResponse change = changes.take();
      equal(List.of(change.getSubscriptionId(), values(change.getItems())), List.of(first.getSubscriptionId(), Map.of("colour", "colour-" + n)), "change");
    }
    equal(app.client().unsubscribeConfiguration(first.getSubscriptionId(), CONFIG).block().getIsUnsubscribed(), true, "unsubscribed");
    ended.take();
    control("colour", "blue");
    equal(app.client().getConfiguration(CONFIG, "colour").block().getValue(), "blue", "value");
    equal(changes.size(), 0, "changes after the end");
    var again = app.client().unsubscribeConfiguration(first.getSubscriptionId(), CONFIG).block();
    equal(again.getIsUnsubscribed(), false, "unsubscribed again");
    contains(again.getMessage(), first.getSubscriptionId());
  }

  private void locks(Report r) {
    r.check("lock: one owner has it, and only that one gives it back", () -> {
      equal(lock("boat", "ada", 60), true, "ada locks");
      equal(lock("boat", "bob", 60), false, "bob locks");
      equal(unlock("boat", "bob"), UnlockResponseStatus.LOCK_BELONG_TO_OTHERS, "bob unlocks");
      equal(unlock("boat", "ada"), UnlockResponseStatus.SUCCESS, "ada unlocks");
      equal(unlock("boat", "ada"), UnlockResponseStatus.LOCK_UNEXIST, "ada unlocks again");
    });
    r.check("lock: it expires", () -> {
      equal(lock("paddle", "ada", 1), true, "ada locks");
      eventually(true, "bob locks when ada's time is over", () -> lock("paddle", "bob", 60));
      equal(unlock("paddle", "ada"), UnlockResponseStatus.LOCK_BELONG_TO_OTHERS, "ada unlocks too late");
    });
    r.check("lock: a bad request is refused", () ->
        equal(refused(() -> lock("boat", "ada", 0)).getErrorCode(), "INVALID_ARGUMENT", "code"));
  }

  private boolean lock(String id, String owner, int seconds) {
    return app.preview().tryLock(LOCK, id, owner, seconds).block();
  }

  private UnlockResponseStatus unlock(String id, String owner) {
    return app.preview().unlock(LOCK, id, owner).block();
  }
}
