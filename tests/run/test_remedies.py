"""How runs end, in the keys of a configuration."""

from __future__ import annotations

import fastpde as fp
from fastpde import config
from fastpde.integrate.integrator import _OVERFLOWED
from fastpde.run import remedies


def test_ends_are_told_in_the_keys_of_a_configuration(small):
    """What `fastpde.solve` says of its arguments is said of keys; the words that are replaced are still those."""
    problem, texts = config.load(small), [end.message for end in fp.Status] + [_OVERFLOWED]
    for word in remedies.WORDS:
        assert any(word in text for text in texts), word
    for end in fp.Status:
        said = remedies.told(problem, end.name, end.message)
        assert "t_span" not in said and "BlowUp(" not in said
    said = remedies.told(problem, "MAX_STEPS", fp.Status.MAX_STEPS.message)
    assert said.startswith("time.max_steps: ") and said.endswith("or lower time.t_end.")
