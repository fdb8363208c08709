"""Compare fastpde with other libraries: `python -m benchmarks.peers`, see --help."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import catalogue, machine, table
from .picture import plot
from .registry import EVERY, PEERS, Peer
from .rows import Row
from .session import Session, shared_folder, usable_threads
from .timing import Rules
from .work import Work

QUICK = Rules(repeats=3, budget=1.0, limit=2.0, patience=60.0)


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the checked arguments."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.peers", description="The same work at the same accuracy by fastpde and by other libraries."
    )
    parser.add_argument("--quick", action="store_true", help="small sizes and few repetitions, a minute or two")
    parser.add_argument("--threads", type=int, default=usable_threads(), help="threads of all (default: all cores)")
    parser.add_argument("--peers", nargs="+", metavar="NAME", help=f"only these, of {', '.join(PEERS)}")
    parser.add_argument("--repeats", type=int, help="calls of which medians are taken (default: 7, quick: 3)")
    parser.add_argument("--limit", type=float, help="seconds of a call beyond which no more tokens are tried")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write machine, versions and rows")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw time against n")
    parser.add_argument("--markdown", action="store_true", help="print the table of the README at the end")
    read = parser.parse_args(arguments)
    if not 1 <= read.threads <= usable_threads():
        parser.error(f"--threads: got {read.threads}; need 1 to {usable_threads()}, the cores of this process")
    if read.repeats is not None and read.repeats < 1:
        parser.error(f"--repeats: got {read.repeats}; need a whole number of at least 1")
    if read.limit is not None and not read.limit > 0:
        parser.error(f"--limit: got {read.limit}; need a positive number of seconds")
    named = {name.lower(): name for name in PEERS}
    for name in read.peers or ():
        if name.lower() not in named:
            parser.error(f"--peers: got {name!r}; need some of {', '.join(PEERS)}")
    read.peers = [named[name.lower()] for name in read.peers or PEERS]
    return read


def rules_of(read: argparse.Namespace) -> Rules:
    """Return how times are taken."""
    given = {name: getattr(read, name) for name in ("repeats", "limit") if getattr(read, name) is not None}
    return Rules(**(asdict(QUICK if read.quick else Rules()) | given))


def compare(peers: Sequence[Peer], works: Sequence[Work], threads: int, rules: Rules) -> list[Row]:
    """Measure all peers on all works that they do, and print each row."""
    rows = []
    jobs = {peer: [work for work in works if peer.does(work)] for peer in peers}
    with shared_folder() as folder, tqdm(total=sum(map(len, jobs.values())), unit="row", file=sys.stderr) as bar:
        for peer, mine in jobs.items():
            session = Session(peer, threads, rules, folder)
            try:
                for work in mine:
                    bar.set_description(f"{peer.name}: {work.label}, n = {work.n}, d = {work.d}")
                    rows.append(session.row(work))
                    bar.write(table.line(rows[-1]), file=sys.stdout)
                    bar.update()
            finally:
                session.close()
    order = {(work.label, work.n, work.d, work.dtype): i for i, work in enumerate(works)}
    return sorted(rows, key=lambda row: order[row.work, row.n, row.d, row.dtype])


def present(names: Sequence[str]) -> tuple[list[Peer], dict[str, str]]:
    """Return the peers that can be used, and why the others cannot."""
    chosen = [peer for peer in EVERY if peer.name in names]
    why = {peer.name: peer.available() for peer in chosen}
    absent = {name: reason for name, reason in why.items() if reason is not None}
    return [peer for peer in chosen if peer.name not in absent], absent


def main(arguments: Sequence[str] | None = None, works: Sequence[Work] | None = None) -> int:
    """Run all comparisons; `works` replaces the catalogue. Return the exit code."""
    read = options(arguments)
    here, rules = machine.describe(), rules_of(read)
    print(machine.sentence(here))
    if busy := machine.warning(here):
        print(busy)
    peers, absent = present(read.peers)
    for name, reason in absent.items():
        print(f"skipped: {name} ({reason})")
    print(f"{read.threads} threads; {table.legend(())}")
    print(table.HEADER, flush=True)
    if works is None:
        works = catalogue.quick() if read.quick else catalogue.full()
    rows = compare(peers, works, read.threads, rules)
    if read.markdown:
        print(f"\n{table.legend(rows)}\n\n{table.markdown(rows)}")
    if read.out is not None:
        about: dict[str, Any] = {"machine": here, "threads": read.threads, "rules": asdict(rules), "absent": absent}
        read.out.write_text(json.dumps(about | {"rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    if read.plot is not None:
        try:
            plot(rows, read.plot, machine.sentence(here).split("\n")[0] + f", {read.threads} threads")
        except ValueError as problem:
            print(f"no picture: {problem}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
