"""What a run has used, by name, for `fastpde.citations`."""

from __future__ import annotations

from fastpde.config import Config


def cited_as(config: Config) -> tuple[str, ...]:
    """Return the names of what a run has used: attention, method, manifold, and the file that holds its frames."""
    attention, time = config.attention, config.time
    words = [attention.kind, *(head.kind for head in attention.heads), time.method, time.manifold, "trajectory"]
    words += ["masked"] if attention.masked else []
    words += ["noise"] if time.noise else []
    return tuple(dict.fromkeys(words))
