"""The same work by fastpde and by the libraries that a user would pick, at the same accuracy.

    python -m benchmarks.peers [--quick] [--peers NAME ...] [--markdown] [--out FILE.json] [--plot FILE.png]

`work` says what is to be computed and knows its true value, `catalogue` which pieces of work there are, `registry` who
does them. Each peer is one file with a function `call(work)`; adding one is an entry of the registry. `session` gives
each peer a process of its own, in which it takes turns with fastpde (`timing`), so that one that crashes or takes too
long stops no other. No peer is needed: those that are not installed are named and left out.
"""
