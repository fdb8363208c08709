"""A peer for test_peers that crashes, hangs, raises or is wrong, by the dimension of the work."""

import os
import signal
import time


def call(work):
    """Prepare a piece of work that ends badly, except for d = 4 and 5."""
    if work.d == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if work.d == 2:
        time.sleep(3600)
    if work.d == 3:
        raise ValueError("no such dimension")
    return lambda: work.tokens * (1.0 if work.d == 4 else float("nan"))
