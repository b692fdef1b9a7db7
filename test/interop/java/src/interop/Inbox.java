package interop;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** Keeps what handlers receive, in order, until a check takes it. */
final class Inbox<T> {
  private final LinkedBlockingQueue<T> items = new LinkedBlockingQueue<>();

  void put(T item) {
    items.add(item);
  }

  /** Returns the next item, waiting for it if need be. */
  T take() throws InterruptedException {
    T item = items.poll(Report.CHECK_SECONDS / 2, TimeUnit.SECONDS);
    if (item == null) {
      throw new AssertionError("nothing arrived");
    }
    return item;
  }

  /** Returns the next n items. */
  List<T> take(int n) throws InterruptedException {
    List<T> taken = new ArrayList<>();
    while (taken.size() < n) {
      taken.add(take());
    }
    return taken;
  }

  int size() {
    return items.size();
  }
}
