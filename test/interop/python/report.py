"""What every check needs: a way to report, to wait, and to expect a failure."""

import json
import os
import queue
import sys
import threading
import time
import traceback

CHECK_WITHIN = 30.0

_checks = 0
_print = threading.Lock()


def say(line: dict) -> None:
    """Prints a line of results."""
    with _print:
        sys.stdout.write(json.dumps(line) + '\n')
        sys.stdout.flush()


def check(name: str):
    """Runs the function below as a check and prints its result."""

    def run(body):
        global _checks
        error = ''
        try:
            body()
        except BaseException:  # whatever it is, the check has failed
            error = traceback.format_exc()
        _checks += 1
        say({'check': name, 'error': error})
        return body

    return run


def done() -> None:
    """Prints the last line of the results."""
    say({'done': _checks})


def equal(got, want, what='value') -> None:
    """Fails unless both values are the same, of the same type."""
    if got != want or type(got) is not type(want):
        raise AssertionError(f'{what}: got {got!r}, want {want!r}')


def contains(text: str, *parts: str) -> None:
    """Fails unless the text has all the parts."""
    for part in parts:
        if part not in text:
            raise AssertionError(f'{text!r} does not have {part!r}')


def fails(call):
    """Returns what a call raises, and fails when it raises nothing."""
    try:
        result = call()
    except Exception as e:
        return e
    raise AssertionError(f'a call that had to fail answered {result!r}')


def eventually(ask, want, what='value') -> None:
    """Asks until the answer is the wanted one."""
    deadline = time.monotonic() + CHECK_WITHIN / 2
    while (got := ask()) != want:
        if time.monotonic() > deadline:
            equal(got, want, what)
        time.sleep(0.025)


class Inbox(queue.Queue):
    """Keeps what handlers receive, in order, until a check takes it."""

    def take(self):
        try:
            return self.get(timeout=CHECK_WITHIN)
        except queue.Empty:
            raise AssertionError('nothing arrived') from None


def end_with_parent() -> None:
    """Ends this program when the one that started it is gone."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
