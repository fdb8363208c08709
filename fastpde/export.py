"""`fastpde export`: a run as files of other programs.

vtk      a folder: tokens_00000.vtu, ... with a vertex per token and its id, and tokens.pvd, which ParaView opens
xyz      one file of extended XYZ, the time in the comment of each frame: OVITO, ASE, MDAnalysis
npz      one file of NumPy arrays with everything
parquet  a folder: tokens.parquet and observables.parquet, long tables; clusters, systems and their last tokens

What is written appears whole, in one rename, or not at all.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastpde.config import dumps
from fastpde.errors import InputError
from fastpde.plot import view
from fastpde.run import directory, labelled
from fastpde.run.opened import Run, open_run
from fastpde.run.progress import counted

Array = np.ndarray[Any, Any]
KINDS = ("vtk", "xyz", "npz", "parquet")
_SHORT = 0.5  # seconds before a bar is shown
_ROWS = 200_000  # of a row group of a table of tokens, about


@dataclass(frozen=True)
class Cloud:
    """One system of a run, as it moves.

    Attributes:
        t: (m,) the times up to its end.
        frame: frame(i) reads the tokens (k, d) of time i.
        ids: (k,) their indices among all tokens.
    """

    t: Array
    frame: Callable[[int], Array]
    ids: Array


def write(path: Path, kind: str, target: Path | None = None, *, system: int | None = None, every: int = 1) -> list[str]:
    """Write every `every`-th frame of the run in a directory as files of a kind, and return what was done, in lines.

    Args:
        path: the directory of a run.
        kind: one of `KINDS`.
        target: the file or folder to make, which must not exist; by default the name of the run with the suffix of the
            kind, ".tables" for parquet, in the current folder.
        system: which system of an ensemble, for vtk and xyz; the others have all.
        every: 1 for all frames.

    Raises InputError for what cannot be exported, or an existing target; OutputError.
    """
    run = open_run(path)
    if 0 in run.x.shape:
        raise InputError("DIR", f"{path}, with no whole frame", "a run that stored a frame")
    _check_system(run, kind, system)
    frames = range(0, len(run.t), every)
    if target is None:
        target = Path(_name(path, system) + {"parquet": ".tables"}.get(kind, f".{kind}"))
    if os.path.lexists(target):
        raise InputError("--out", f"{target}, which exists", "a name that is free", "Nothing in it was changed.")
    if kind == "parquet":
        labelled.library("pyarrow", "--to parquet")  # before a folder is made
    with _whole(target) as place:
        if kind == "npz":
            _write_npz(run, frames, place)
        elif kind == "parquet":
            _write_parquet(run, frames, place)
        else:
            return _write_cloud(cloud_of(run, system), kind, place, target, every)
    what = counted(len(run.ids), "token") if run.systems is None else counted(len(run.systems), "system")
    return [f"{counted(len(frames), 'frame')} of {what}: {target}"]


def _check_system(run: Run, kind: str, system: int | None) -> None:
    """Raise InputError unless `system` names a system where one is needed."""
    came = "none" if system is None else str(system)
    if not run.is_ensemble or kind in ("npz", "parquet"):
        if system is not None:
            why = f"--to {kind} has all systems" if run.is_ensemble else "the run is of one system"
            raise InputError("--system", came, f"none: {why}")
        return
    count = run.x.shape[1]
    if system is None or system >= count:
        need = f"a number from 0 to {count - 1}: the run is of {count} systems, and {kind} holds one"
        raise InputError("--system", came, need, "--to npz and --to parquet have all.")


def _name(path: Path, system: int | None) -> str:
    return path.resolve().stem + ("" if system is None else f".{system}")


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """Yield a hidden place beside the target. What is written there gets its name at the end, or is removed."""
    stage = directory.Stage(target)
    try:
        with directory.writing("the export", target):
            yield stage.path / target.name
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, "it was made by someone else meanwhile")
            os.rename(stage.path / target.name, target)
    finally:
        stage.discard()


def _shown(frames: Sequence[int]) -> Any:
    """Return an iterator over frames, with a bar on a terminal if they take a while."""
    from tqdm import tqdm

    return tqdm(frames, unit=" frames", file=sys.stderr, delay=_SHORT, disable=None)


# -- one cloud: vtk, xyz ----------------------------------------------------------------------------------------------


def cloud_of(run: Run, system: int | None = None) -> Cloud:
    """Return the tokens of a run of one system, or those of one system of an ensemble up to its own end, which an event
    may have put between two times of the output.
    """
    if system is None or run.systems is None:
        return Cloud(run.t, lambda i: run.x[i], run.ids)
    ends, end = run.systems, float(run.systems.t_final[system])
    t = run.t[np.isfinite(run.observables["t"][:, system])]
    whole = len(t)
    if not whole or t[-1] != end:
        t = np.append(t, end)
    return Cloud(t, lambda i: run.x[i, system] if i < whole else ends.x_final[system], run.ids)


def in_space(cloud: Cloud) -> tuple[Callable[[int], Array], str]:
    """Return a function that reads the tokens of a frame as points (k, 3), and a sentence if these are not coordinates.

    For d < 3 zeros are added; for d > 3 points are the first three principal components of the last frame.
    """
    seen = view.of(cloud.frame(len(cloud.t) - 1), 3)
    plain = not seen.caption

    def points(i: int) -> Array:
        x = cloud.frame(i)
        found = np.zeros((len(x), 3), x.dtype if plain else np.float64)
        found[:, : len(seen.labels)] = x if plain else seen(x)
        return found

    return points, "" if plain else f"Positions are not coordinates but projections; {seen.caption}."


def _write_cloud(cloud: Cloud, kind: str, place: Path, target: Path, every: int) -> list[str]:
    points, said = in_space(cloud)
    frames, put = range(0, len(cloud.t), every), {"vtk": _write_vtk, "xyz": _write_xyz}[kind]
    name = put(cloud, points, frames, place)
    done = f"{counted(len(frames), 'frame')} of {counted(len(cloud.ids), 'token')}: {target / name if name else target}"
    return [said, done] if said else [done]


def _write_vtk(cloud: Cloud, points: Callable[[int], Array], frames: Sequence[int], place: Path) -> str:
    place.mkdir()
    ids, digits, entries = cloud.ids.astype("<i8"), max(5, len(str(len(cloud.t) - 1))), []
    for i in _shown(frames):
        name = f"tokens_{i:0{digits}d}.vtu"
        (place / name).write_bytes(vtu(points(i), ids))
        entries.append(f'    <DataSet timestep="{float(cloud.t[i])!r}" group="" part="0" file="{name}"/>\n')
    head = (
        '<?xml version="1.0"?>\n<VTKFile type="Collection" version="0.1" byte_order="LittleEndian">\n  <Collection>\n'
    )
    (place / "tokens.pvd").write_text(head + "".join(entries) + "  </Collection>\n</VTKFile>\n", encoding="ascii")
    return "tokens.pvd"


def vtu(points: Array, ids: Array) -> bytes:
    """Return the text of an unstructured grid of VTK: a vertex for each point (k, 3), with its id (k,)."""
    count = len(points)
    numbers = {4: "Float32", 8: "Float64"}[points.itemsize]
    cells = np.arange(count + 1, dtype="<i8")
    arrays = {
        "PointData": [("id", "Int64", ids, "")],
        "Points": [("position", numbers, points.astype(points.dtype.newbyteorder("<")), ' NumberOfComponents="3"')],
        "Cells": [
            ("connectivity", "Int64", cells[:-1], ""),
            ("offsets", "Int64", cells[1:], ""),
            ("types", "UInt8", np.ones(count, np.uint8), ""),  # vertices
        ],
    }
    lines = [
        b'<?xml version="1.0"?>',
        b'<VTKFile type="UnstructuredGrid" version="1.0" byte_order="LittleEndian" header_type="UInt64">',
        f'<UnstructuredGrid><Piece NumberOfPoints="{count}" NumberOfCells="{count}">'.encode(),
    ]
    for part, entries in arrays.items():
        lines.append(f'<{part} Scalars="id">'.encode() if part == "PointData" else f"<{part}>".encode())
        for name, kind, values, more in entries:
            lines.append(f'<DataArray type="{kind}" Name="{name}"{more} format="binary">'.encode())
            lines += [_encoded(values), b"</DataArray>"]
        lines.append(f"</{part}>".encode())
    return b"\n".join([*lines, b"</Piece></UnstructuredGrid>", b"</VTKFile>", b""])


def _encoded(values: Array) -> bytes:
    """Return an array as VTK has it in a text: its length in bytes and its bytes, in base 64."""
    data = np.ascontiguousarray(values).tobytes()
    return base64.b64encode(np.array(len(data), "<u8").tobytes() + data)


def _write_xyz(cloud: Cloud, points: Callable[[int], Array], frames: Sequence[int], place: Path) -> str:
    ids = cloud.ids.tolist()
    with place.open("x", encoding="ascii") as stream:
        for i in _shown(frames):
            x = points(i)
            comment = f'Properties=species:S:1:pos:R:3:id:I:1 Time={float(cloud.t[i])!r} pbc="F F F"'
            stream.write(f"{len(x)}\n{comment}\n")
            rows = zip(x.tolist(), ids, strict=True)
            if x.itemsize == 4:  # nine digits are enough to come back to the bit
                stream.writelines(f"X {a:.9g} {b:.9g} {c:.9g} {own}\n" for (a, b, c), own in rows)
            else:
                stream.writelines(f"X {a!r} {b!r} {c!r} {own}\n" for (a, b, c), own in rows)
    return ""


# -- everything: npz, parquet -----------------------------------------------------------------------------------------


def _write_npz(run: Run, frames: Sequence[int], place: Path) -> None:
    """Write all arrays of a run; positions go frame by frame, so that they need not fit into the memory."""
    form = np.lib.format
    with zipfile.ZipFile(place, "x") as archive:

        def entry(name: str) -> Any:
            return archive.open(f"{name}.npy", "w", force_zip64=True)

        for name, values in arrays(run, frames).items():
            with entry(name) as stream:
                form.write_array(stream, np.asarray(values), allow_pickle=False)
        with entry("x") as stream:
            shape = (len(frames), *run.x.shape[1:])
            described = {"descr": form.dtype_to_descr(run.x.dtype), "fortran_order": False, "shape": shape}
            form.write_array_header_1_0(stream, described)
            for i in _shown(frames):
                stream.write(np.ascontiguousarray(run.x[i]).data.cast("B"))


def arrays(run: Run, frames: Sequence[int]) -> dict[str, Any]:
    """Return all of a run but x, by name: t, ids, positions under a mask, observables/NAME, clusters/NAME, of an
    ensemble what its `Ends` are and means/NAME, config (TOML), status_json.
    """
    rows, groups = list(frames), {"observables": run.observables, "means": run.means or {}}
    found: dict[str, Any] = {"t": run.t[rows], "ids": run.ids}
    found |= {} if run.positions is None else {"positions": run.positions}
    found |= {f"{group}/{name}": table[rows] for group, columns in groups.items() for name, table in columns.items()}
    if (clusters := run.clusters) is not None:
        there = np.isin(clusters["t"], run.t[rows])
        found |= {f"clusters/{name}": column[there] for name, column in clusters.items()}
    if (ends := run.systems) is not None:
        found |= {name: getattr(ends, name) for name in ("t_final", "x_final", "steps", "rejected")}
        found["end"] = np.array(ends.status, np.str_)
        found |= {f"t_events/{name}": times for name, times in ends.t_events.items()}
        found |= {f"final/{name}": column for name, column in ends.observables.items()}
    return found | {"config": dumps(run.config), "status_json": json.dumps(run.status)}


def _write_parquet(run: Run, frames: Sequence[int], place: Path) -> None:
    """Write long tables: that of the tokens in row groups of some frames, the others whole."""
    arrow, parquet = (labelled.library(name, "--to parquet") for name in ("pyarrow", "pyarrow.parquet"))
    place.mkdir()
    per_frame = run.x.size // run.x.shape[-1] // len(run.t)
    chunk, writer = max(1, _ROWS // per_frame), None
    try:
        for first in _shown(range(0, len(frames), chunk)):
            rows = list(frames[first : first + chunk])
            table = arrow.table(long_table(run.t[rows], run.x[rows], run.ids))
            writer = writer or parquet.ParquetWriter(place / "tokens.parquet", table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    times, tables = run.t[list(frames)], {"observables": labelled.observables(run)}
    if run.clusters is not None:
        tables["clusters"] = run.clusters
    tables = {name: _at(table, times) for name, table in tables.items()}
    if (ends := run.systems) is not None:
        tables["systems"] = labelled.ends(ends)
        tables["last_tokens"] = long_table(ends.t_final[None], ends.x_final[None], run.ids)
    for name, columns in tables.items():
        parquet.write_table(arrow.table(columns), place / f"{name}.parquet")


def _at(table: dict[str, Array], times: Array) -> dict[str, Array]:
    """Return the rows of a table at some times t."""
    there = np.isin(table["t"], times)
    return {name: column[there] for name, column in table.items()}


def long_table(t: Array, x: Array, ids: Array) -> dict[str, Array]:
    """Return tokens as columns t, token, x_0, ..., x_{d-1} with a row for each, of an ensemble with system.

    x (f, k, d) at times t (f,); or (f, S, k, d) at times t (f,) or (f, S), without the rows of systems that have ended.
    """
    *lead, k, d = x.shape
    there = np.isfinite(x).all(axis=(-2, -1)) if len(lead) == 2 else np.ones(lead, bool)
    times = np.broadcast_to(t if t.ndim == len(lead) else t[:, None], lead)
    columns = {"t": np.repeat(times[there], k)}
    if len(lead) == 2:
        columns["system"] = np.repeat(np.nonzero(there)[1], k)
    columns["token"] = np.tile(ids, int(there.sum()))
    flat = x[there].reshape(-1, d)
    return columns | {f"x_{i}": flat[:, i] for i in range(d)}
