"""Machine code as text: a form in which equal code is equal, and what its busiest loop is made of.

What changes between two compilations of the same source is names that count compilations, and pickled exceptions, which
know lines of the source. Neither is code.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

_SYMBOL = re.compile(r"(?<![\w.$])(?:_ZN[\w.$]+|\.L\w+|\.const\.[\w.$]+|numba\.[\w.$]+)")
_LABEL = re.compile(r'^"?([\w.$]+)"?:')
_DATA = {".byte", ".short", ".long", ".quad", ".xword", ".word", ".hword", ".zero", ".ascii", ".asciz"}
# What arithmetic on vectors looks like: x86-64 by the registers, AArch64 by the arrangement of lanes.
_WIDTHS = {"zmm": 512, "ymm": 256, "xmm": 128}
_ARITHMETIC = re.compile(
    r"v?(?:add|sub|mul|div|max|min|fn?m(?:add|sub)\d*|perm\w*|scalef|sqrt|rndscale|round)[ps][sd]$"
)
_ARM_ARITHMETIC = re.compile(r"f(?:add|sub|mul|div|max|min|mla|mls|n?madd|n?msub|sqrt|rint[a-z])$")


def normal_form(text: str) -> list[str]:
    """Return the instructions and constants of an assembly text, with symbols named in the order of their appearance.

    Names of functions of the C library stay: whether a kernel calls `exp` is part of its code.
    """
    names: dict[str, str] = {}
    found, skipped = [], False
    for line in text.splitlines():
        line = re.split(r"\s+(?:#|//|;)", line, maxsplit=1)[0].strip()
        label = _LABEL.match(line)
        if label:
            skipped = "picklebuf" in label[1] or "NumbaEnv" in label[1]
        words = line.split(None, 1)
        if not words or skipped or line[0] in "#/" or (words[0][0] == "." and not label and words[0] not in _DATA):
            continue
        found.append(" ".join(_SYMBOL.sub(lambda m: names.setdefault(m[0], f"@{len(names)}"), line).split()))
    return found


def digest(text: str) -> str:
    """Return a number that equal machine code has in common."""
    return hashlib.blake2b("\n".join(normal_form(text)).encode(), digest_size=16).hexdigest()


@dataclass
class Loop:
    """What a loop without loops in it consists of.

    Attributes:
        instructions: how many.
        widths: bits of vectors -> arithmetic instructions; 64 and 32 are single numbers.
        fused: multiply-add instructions among them.
        spills: vectors that are kept in memory because registers do not suffice: stores to the stack, and loads.
        calls: names of called functions, "?" where the name is not known.
    """

    instructions: int = 0
    widths: Counter[int] = field(default_factory=Counter)
    fused: int = 0
    spills: int = 0
    calls: Counter[str] = field(default_factory=Counter)

    @property
    def work(self) -> int:
        """Floating-point numbers that a pass of the loop computes: the busiest loop has most."""
        return sum(bits * count for bits, count in self.widths.items())

    def words(self) -> str:
        """Return the loop in words, those of `changes` too."""
        widths = ", ".join(f"{count} of {bits} bits" for bits, count in sorted(self.widths.items(), reverse=True))
        calls = ", ".join(f"{name} x {count}" for name, count in sorted(self.calls.items()))
        return (
            f"{self.instructions} instructions, arithmetic: {widths or 'none'}, {self.fused} fused, "
            f"{self.spills} spills, calls: {calls or 'none'}"
        )


def busiest_loop(text: str) -> Loop:
    """Return the innermost loop with most arithmetic of a text: where nearly all time of a kernel is spent."""
    return max(_innermost(text), key=lambda loop: loop.work, default=Loop())


def changes(before: Loop, after: Loop) -> list[str]:
    """Name what a loop has lost: vector width, multiply-adds, registers."""
    found = []
    widest, now = (max(loop.widths, default=0) for loop in (before, after))
    if now < widest:
        found.append(f"lost vector width: {widest} -> {now} bits")
    fused = [loop.fused / max(1, sum(loop.widths.values())) for loop in (before, after)]
    if fused[1] < 0.8 * fused[0]:
        found.append(f"fewer fused multiply-adds: {before.fused} -> {after.fused}")
    if after.spills > before.spills:
        found.append(f"more spills: {before.spills} -> {after.spills}")
    return found


def calls(text: str) -> Counter[str]:
    """Count the calls of functions in a text by name: those of the C library are known by it."""
    lines = [_bare(line) for line in text.splitlines()]
    return _contents(lines, 0, len(lines) - 1).calls


def _bare(line: str) -> str:
    """Return a line without its comment."""
    return re.split(r"\s+(?:#|//)", line, maxsplit=1)[0].strip()


def _innermost(text: str) -> Iterator[Loop]:
    """Yield the loops without loops in them: from a label to the last jump back to it."""
    lines = [_bare(line) for line in text.splitlines()]
    places = {label[1]: i for i, line in enumerate(lines) if (label := _LABEL.match(line))}
    ends: dict[int, int] = {}
    for i, line in enumerate(lines):
        words = line.split()
        if len(words) >= 2 and (words[0][0] in "jb" or words[0] in ("cbz", "cbnz", "tbz", "tbnz")):
            start = places.get(words[-1])
            if start is not None and start < i:
                ends[start] = max(i, ends.get(start, 0))
    for start, end in ends.items():
        if not any(start < other <= ends[other] <= end for other in ends):
            yield _contents(lines, start, end)


def _contents(lines: list[str], start: int, end: int) -> Loop:
    found, pointers = Loop(), _pointers(lines[max(0, start - 400) : start])
    for line in lines[start : end + 1]:
        words = line.replace(",", " ").split()
        if not words or words[0][0] == "." or words[0].endswith(":"):
            continue
        found.instructions += 1
        pointers.update(_pointers([line]))
        if words[0] in ("callq", "call", "bl", "blr"):
            found.calls[
                pointers.get(words[1].lstrip("*"), "?") if words[1].lstrip("*") in pointers else _name(words[1])
            ] += 1
        bits = _bits(words[0], line)
        if bits:
            found.widths[bits] += 1
            found.fused += bool(re.search(r"f(?:n?m(?:add|sub)|mla|mls)", words[0]))
        found.spills += bool(
            re.search(r"\((?:%rsp|%rbp)\)|\[(?:sp|x29)\b", line) and re.search(r"[zyx]mm|\b[qv]\d", line)
        )
    return found


def _name(word: str) -> str:
    return word.split("@")[0] if re.match(r"[A-Za-z_]\w*", word) else "?"


def _pointers(lines: list[str]) -> dict[str, str]:
    """Return register -> the symbol whose address was put there last: large programs call functions so."""
    found = {}
    for line in lines:
        if match := re.match(r"mov(?:abs)?q\s+\$?\"?([A-Za-z_][\w.]*)\"?(?:@GOT\w*)?(?:\(%rip\))?,\s*(%r\w+)$", line):
            found[match[2]] = match[1]
        elif match := re.match(r"(?:movk|adrp|ldr|movz|movn|add)\s+(x\d+),.*?([A-Za-z_]\w{2,})\]?$", line):
            found[match[1]] = match[2]
    return found


def _bits(name: str, line: str) -> int:
    """Return the bits of the vector that an arithmetic instruction works on; 0 for other instructions."""
    if _ARITHMETIC.match(name):
        if name[-2] == "s":
            return 64 if name[-1] == "d" else 32
        return max((bits for register, bits in _WIDTHS.items() if register in line), default=0)
    if _ARM_ARITHMETIC.match(name):
        return 128 if re.search(r"\bv\d+\.", line) else 64 if re.search(r"\bd\d+\b", line) else 32
    return 0
