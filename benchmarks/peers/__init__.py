"""The same work by fastpde and by the libraries that a user would pick, at the same accuracy.

    python -m benchmarks.peers [--quick] [--peers NAME ...] [--markdown] [--out FILE.json] [--plot FILE.png]

`work` says what is to be computed and knows its true value, `catalogue` which pieces of work there are, `registry` who
does them. Each peer is one file of `libraries` with a function `call(work)`; adding one is that file and an entry of
the registry. (`libraries` has no `__init__.py`: asv imports all packages of benchmarks, whatever is installed.)
`session` gives each peer a process of its own, in which it takes turns with fastpde (`timing`), so that one that
crashes or takes too long stops no other. No peer is needed: those that are not installed are named and left out.
"""
