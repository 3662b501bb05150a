"""The calling end of an exchange, a thousand signals a second meanwhile: `interrupted.py ADDRESS`, LARGE on both pipes.

A program of its own. Where an engine has used AMX, a signal's frame no longer fits the stack of every thread there is.
"""

from __future__ import annotations

import signal
import sys
import threading

from ephemeralml.session.blocking import read_exactly, write_all
from ephemeralml.session.transport import Address, connect


def main() -> int:
    """Send what comes on standard input and print as much that was received; fails when no signal came."""
    large = sys.stdin.buffer.read()
    interrupted = 0

    def count(*_: object) -> None:
        nonlocal interrupted
        interrupted += 1

    signal.signal(signal.SIGALRM, count)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    with connect(Address.parse(sys.argv[1]), timeout=20) as connection:
        sending = threading.Thread(target=write_all, args=(connection, large))
        sending.start()
        received = read_exactly(connection, len(large))
        sending.join()
    signal.setitimer(signal.ITIMER_REAL, 0)
    sys.stdout.buffer.write(received)
    return 0 if interrupted else 1


if __name__ == "__main__":
    sys.exit(main())
