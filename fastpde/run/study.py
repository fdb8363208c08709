"""One study, from a checked plan to a finished directory: config.toml beside what `Study.save` writes.

The directory appears whole, in one rename, when the study is done. A study of many long cells keeps those that are
done in DIR.cells beside it: the same command goes on from there, and removes the file at the end.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fastpde import compiling, sums
from fastpde.config import Plan, same_study
from fastpde.config.studies import dumps
from fastpde.errors import InputError
from fastpde.run import attempt, directory, progress
from fastpde.run.signals import StopSignals
from fastpde.run.study_inspect import cells_of

_REMEDY = "Give another --out, or remove the directory; nothing in it was changed."


def is_finished(target: Path, plan: Plan) -> bool:
    """Return whether `target` holds this very study, finished; False if the study can be run into it.

    Raises InputError for every other directory, which is left untouched.
    """
    if directory.is_free(target):
        return False
    try:
        note, text = (target / directory.CONFIG).read_text(encoding="utf-8").split("\n", 1)
    except (OSError, ValueError):
        raise InputError("--out", f"{target}, which is no study", "a new directory", _REMEDY) from None
    if note != _note(plan) or not same_study(text, plan):
        need = f"a new directory, or that of the same {plan.name} study"
        raise InputError("--out", f"{target}, another study or run", need, _REMEDY)
    return True


def run(plan: Plan, target: Path, *, quiet: bool = False) -> tuple[str, Path]:
    """Run a study into a new directory; return its result in a sentence, and the path of the picture.

    Raises InputError for files that hold unusable numbers, Stopped on a signal, and OutputError. No directory is left
    then; a plan that is `resumable` keeps its finished cells.
    """
    directory.Stage(target).discard()  # fails if there can be none; removed at once, as a killed study leaves nothing
    kept = cells_of(target)
    before = _lines(kept)
    shown = progress.choose(0.0, plan.rows, sys.stderr, quiet=quiet, name=progress.SYSTEMS)
    try:
        shows = compiling.shown(sys.stderr, quiet=quiet)
        with StopSignals(after="the sum at work") as signals, sums.checking(signals.check), shows:

            def report(done: float, _: dict[str, float]) -> None:
                shown.update(done, 0)
                signals.check()

            try:
                study = plan.run(report, kept)
                signals.check()
            except OSError as error:
                raise directory.OutputError(f"{kept} could not be written: {error.strerror or error}") from error
    finally:
        shown.close()
        if _lines(kept) > max(before, 1):  # the first line is none of a cell
            attempt.note_progress()
    stage = directory.Stage(target)
    try:
        with directory.writing("the study", target):
            (stage.path / directory.CONFIG).write_text(f"{_note(plan)}\n{dumps(plan)}", encoding="utf-8")
            picture = study.save(stage.path)
        published = stage.publish()
    except BaseException:
        stage.discard()
        raise
    kept.unlink(missing_ok=True)
    return study.summary(), published / picture.name


def _lines(path: Path) -> int:
    """Return the number of lines of a file, 0 if it cannot be read."""
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0


def left(plan: Plan, target: Path) -> str:
    """Return a sentence that says what a stopped study has left behind."""
    kept = cells_of(target)
    if not plan.resumable:
        return "nothing was written; the same command begins again"
    if not kept.exists():
        return "no cell was finished; run the same command again"
    return f"finished cells are kept in {kept}; run the same command again to go on"


def _note(plan: Plan) -> str:
    code = "".join(f" {name} {digest}" for name, digest in plan.code.items())
    return f"# fastpde study {plan.name}: the configuration as understood, defaults filled in.{code}"
