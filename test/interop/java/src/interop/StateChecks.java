package interop;

import static interop.Report.contains;
import static interop.Report.equal;
import static interop.Report.eventually;
import static interop.Report.refused;

import io.dapr.client.DaprClient;
import io.dapr.client.domain.DeleteStateRequest;
import io.dapr.client.domain.ExecuteStateTransactionRequest;
import io.dapr.client.domain.GetBulkStateRequest;
import io.dapr.client.domain.GetStateRequest;
import io.dapr.client.domain.QueryStateItem;
import io.dapr.client.domain.QueryStateResponse;
import io.dapr.client.domain.SaveStateRequest;
import io.dapr.client.domain.State;
import io.dapr.client.domain.StateOptions;
import io.dapr.client.domain.StateOptions.Concurrency;
import io.dapr.client.domain.StateOptions.Consistency;
import io.dapr.client.domain.TransactionalStateOperation;
import io.dapr.client.domain.TransactionalStateOperation.OperationType;
import io.dapr.client.domain.query.Pagination;
import io.dapr.client.domain.query.Query;
import io.dapr.client.domain.query.Sorting;
import io.dapr.client.domain.query.filters.AndFilter;
import io.dapr.client.domain.query.filters.EqFilter;
import io.dapr.client.domain.query.filters.InFilter;
import io.dapr.utils.TypeRef;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

/** The state API. */
record StateChecks(Main.App app) {
  private static final String STORE = "statestore";
  private static final StateOptions FIRST_WRITE = new StateOptions(Consistency.STRONG, Concurrency.FIRST_WRITE);
  private static final StateOptions LAST_WRITE = new StateOptions(Consistency.EVENTUAL, Concurrency.LAST_WRITE);

  /** A value of an application. */
  public record Boat(String name, double length, List<String> crew) {}

  void run(Report r) {
    values(r);
    many(r);
    etags(r);
    transactions(r);
    r.check("state: a query filters, sorts and pages", this::query);
    r.check("state: a value with a time to live says when it ends, and ends", this::timeToLive);
    r.check("state: errors have a code and a text", this::errors);
  }

  private DaprClient client() {
    return app.client();
  }

  private void save(String key, Object value) {
    client().saveState(STORE, key, value).block();
  }

  private Object saveAsJson(String key, byte[] value) {
    return client().saveState(STORE, key, value).block();
  }

  /** The SDK calls everything JSON unless it is told otherwise. */
  private void saveBytes(String key, byte[] value) {
    client().saveState(STORE, key, null, value, Map.of("contentType", "application/octet-stream"), null).block();
  }

  private <T> State<T> state(String key, Class<T> type) {
    return client().getState(STORE, key, type).block();
  }

  private String text(String key) {
    return state(key, String.class).getValue();
  }

  private String etag(String key) {
    return state(key, byte[].class).getEtag();
  }

  private void values(Report r) {
    r.check("state: objects, texts, numbers and bytes come back as they were", () -> {
      Boat boat = new Boat("proa 🛶 漢字", 7.25, List.of("Ada", "Bob"));
      save("value-object", boat);
      equal(state("value-object", Boat.class).getValue(), boat, "object");
      save("value-text", "a \"quoted\" text,\nover two lines");
      equal(text("value-text"), "a \"quoted\" text,\nover two lines", "text");
      save("value-number", Long.MAX_VALUE);
      equal(state("value-number", long.class).getValue(), Long.MAX_VALUE, "number");
      byte[] bytes = {0, 1, (byte) 0xff, (byte) 0xfe, '\n', 0};
      saveBytes("value-bytes", bytes);
      equal(state("value-bytes", byte[].class).getValue(), bytes, "bytes");
    });
    r.check("state: three megabytes come back", () -> {
      byte[] large = new byte[3 << 20];
      for (int i = 0; i < large.length; i++) {
        large[i] = (byte) (i * 31);
      }
      saveBytes("large", large);
      equal(state("large", byte[].class).getValue(), large, "bytes");
    });
    r.check("state: a key that does not exist is empty", () -> {
      State<String> got = state("no-such-key", String.class);
      equal(new Object[] {got.getValue(), got.getEtag()}, new Object[] {null, null}, "value and etag");
    });
    r.check("state: keys may hold what stores treat apart", () -> {
      for (String key : List.of("a b", "a/b", "a+b", "a.b", "a*b", "a>b", "a:b", "ä", "50%", "a|b")) {
        save(key, "value of " + key);
        equal(text(key), "value of " + key, key);
        client().deleteState(STORE, key).block();
        equal(text(key), null, key + ", deleted");
      }
    });
    r.check("state: consistency and concurrency can be asked for", () -> {
      client().saveState(STORE, "options", null, "one", FIRST_WRITE).block();
      client().saveState(STORE, "options", null, "two", LAST_WRITE).block();
      equal(client().getState(new GetStateRequest(STORE, "options").setStateOptions(LAST_WRITE), TypeRef.STRING).block().getValue(), "two", "value");
    });
  }

  private void many(Report r) {
    r.check("state: many are saved and got at once", () -> {
      client().saveBulkState(new SaveStateRequest(STORE).setStates(new State<>("bulk-1", "one", ""), new State<>("bulk-2", "two", ""))).block();
      var request = new GetBulkStateRequest(STORE, List.of("bulk-1", "bulk-2", "bulk-3")).setParallelism(2);
      List<State<String>> got = client().getBulkState(request, TypeRef.STRING).block();
      for (State<String> s : got) {
        equal(s.getError(), null, "error of " + s.getKey());
        equal(s.getEtag() == null, s.getValue() == null, "an etag exactly when there is a value, " + s.getKey());
      }
      equal(got.stream().map(s -> s.getKey() + "=" + s.getValue()).sorted().toList(), List.of("bulk-1=one", "bulk-2=two", "bulk-3=null"), "items");
    });
  }

  private void etags(Report r) {
    r.check("state: every save changes the etag", () -> {
      save("etag", "same");
      String first = etag("etag");
      save("etag", "same");
      equal(first != null && !first.equals(etag("etag")), true, "the etags differ");
    });
    r.check("state: a save with an old etag is aborted and changes nothing", () -> {
      save("race", "one");
      String old = etag("race");
      client().saveState(STORE, "race", old, "two", FIRST_WRITE).block();
      var error = refused(() -> client().saveState(STORE, "race", old, "three", FIRST_WRITE).block());
      equal(new Object[] {error.getErrorCode(), text("race")}, new Object[] {"ABORTED", "two"}, "code and value");
    });
    r.check("state: a delete with an old etag is aborted, with the present one it deletes", () -> {
      save("gone", "one");
      String old = etag("gone");
      save("gone", "two");
      var error = refused(() -> client().deleteState(STORE, "gone", old, FIRST_WRITE).block());
      equal(new Object[] {error.getErrorCode(), text("gone")}, new Object[] {"ABORTED", "two"}, "code and value");
      client().deleteState(new DeleteStateRequest(STORE, "gone").setEtag(etag("gone")).setStateOptions(FIRST_WRITE)).block();
      equal(text("gone"), null, "value");
      client().deleteState(STORE, "gone").block(); // which is not there any more
    });
  }

  private void transactions(Report r) {
    r.check("state: a transaction makes all its changes", () -> {
      save("tx-old", "old");
      client().executeStateTransaction(STORE, List.of(
          new TransactionalStateOperation<>(OperationType.UPSERT, new State<>("tx-new", new Boat("new", 1, List.of()), null)),
          new TransactionalStateOperation<>(OperationType.DELETE, new State<>("tx-old")))).block();
      equal(state("tx-new", Boat.class).getValue(), new Boat("new", 1, List.of()), "saved");
      equal(text("tx-old"), null, "deleted");
    });
    r.check("state: a transaction with an old etag changes nothing", () -> {
      save("tx-race", "one");
      String old = etag("tx-race");
      save("tx-race", "two");
      refused(() -> client().executeStateTransaction(new ExecuteStateTransactionRequest(STORE).setOperations(List.of(
          new TransactionalStateOperation<>(OperationType.UPSERT, new State<>("tx-other", "other", "")),
          new TransactionalStateOperation<>(OperationType.UPSERT, new State<>("tx-race", "three", old, FIRST_WRITE))))).block());
      equal(List.of(text("tx-race"), String.valueOf(text("tx-other"))), List.of("two", "null"), "values");
    });
  }

  private void query() {
    List<State<?>> states = new ArrayList<>();
    String[] values = {"A2", "A3", "B4", "A1"};
    for (int i = 0; i < values.length; i++) {
      Map<String, Object> value = Map.of("java", values[i].substring(0, 1), "n", Integer.parseInt(values[i].substring(1)));
      states.add(new State<>("query-" + i, value, null, Map.of("contentType", "application/json"), null));
    }
    client().saveBulkState(STORE, states).block();
    Query query = new Query()
        .setFilter(new AndFilter().addClause(new EqFilter<>("java", "A")).addClause(new InFilter<>("n", 1, 2, 3, 4)))
        .setSort(List.of(new Sorting("n", Sorting.Order.DESC)))
        .setPagination(new Pagination(2, null));
    QueryStateResponse<Map<?, ?>> first = ask(query);
    QueryStateResponse<Map<?, ?>> second = ask(query.setPagination(new Pagination(2, first.getToken())));
    List<String> got = new ArrayList<>();
    for (QueryStateItem<Map<?, ?>> item : first.getResults()) {
      equal(item.getEtag(), etag(item.getKey()), "etag of " + item.getKey());
      got.add(item.getKey() + " " + item.getValue().get("n"));
    }
    equal(got, List.of("query-1 3", "query-0 2"), "first page");
    equal(second.getResults().stream().map(QueryStateItem::getKey).collect(Collectors.toList()), List.of("query-3"), "second page");
  }

  private QueryStateResponse<Map<?, ?>> ask(Query query) {
    return app.preview().queryState(STORE, query, new TypeRef<Map<?, ?>>() {}).block();
  }

  private void timeToLive() throws Exception {
    Instant began = Instant.now();
    client().saveState(STORE, "short", null, "lived", Map.of("ttlInSeconds", "2"), null).block();
    State<String> got = state("short", String.class);
    equal(got.getValue(), "lived", "value");
    Duration left = Duration.between(began, Instant.parse(got.getMetadata().get("ttlExpireTime")));
    equal(left.compareTo(Duration.ZERO) > 0 && left.toSeconds() <= 10, true, "an end soon, in " + left);
    eventually(null, "value after its time", () -> text("short"));
  }

  private void errors() {
    var missing = refused(() -> client().getState("nostore", "key", String.class).block());
    equal(missing.getErrorCode(), "INVALID_ARGUMENT", "code");
    contains(missing.getMessage(), "state store nostore is not found");
    equal(Errors.reason(missing), "DAPR_STATE_NOT_FOUND", "reason");
    var illegal = refused(() -> client().saveState(STORE, "a||b", "x").block());
    equal(List.of(illegal.getErrorCode(), Errors.reason(illegal), Errors.resource(illegal)),
        List.of("INVALID_ARGUMENT", "DAPR_STATE_ILLEGAL_KEY", STORE), "code, reason and resource");
    contains(refused(() -> saveAsJson("bytes", new byte[] {1})).getMessage(), "not JSON");
  }
}
