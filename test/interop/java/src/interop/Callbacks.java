package interop;

/** What the sidecar calls main for, besides events. */
final class Callbacks {
  final Inbox<byte[]> ticks = new Inbox<>();
  final Inbox<byte[]> sweeps = new Inbox<>();
  final Inbox<Boolean> asked = new Inbox<>();

  Callbacks(Service service) {
    service.bindings.put("ticks", ticks::put);
    service.jobs.put("sweep", sweeps::put);
    service.onHealth = () -> asked.put(true);
  }
}
