"""A pool of threads for kernels: `launch` runs the items of a loop on it, without Numba's threading layer.

A thread that waits gives way to all others that have work, and after some 20 milliseconds it sleeps: waiting costs
nothing where somebody else needs the core. The thread that launches works, too, and waits at the end only for workers
that have begun: one that comes late, because somebody else has its core, finds the job closed. Items are taken in
portions by whoever is free. So results must not depend on the thread that computes an item; it is told its number to
have memory of its own.

A job is published in an array that compiled code knows by the name of a symbol. A worker is a Python thread that never
comes back from `_serve`, which holds no GIL. While a job is at work, other launches are done by their own thread alone.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing import signature

from .._jit import intrinsic, jit
from .vectors import I64

# Places in the array: the job's number, function and arguments, whether it may be joined, how many have joined, of how
# many, how many of those are at work, whether a launch is under way, and whether workers are to end.
_JOB, _FUNCTION, _ARGUMENTS, _OPEN, _JOINED, _WANTED, _LEFT, _BUSY, _STOP, _THREADS = range(10)
_MUTEX, _WORK, _DONE = 16, 32, 48  # a mutex, and conditions: there is work, it is done; 128 bytes each
_SYMBOL = "fastpde_pool"
_YIELDS = 40_000  # times that a thread gives way before it sleeps, half a microsecond each where there is nobody else
_BYTES = ir.IntType(8).as_pointer()
_JOB_TYPE = ir.FunctionType(ir.VoidType(), [_BYTES, I64])

_POSIX = os.name == "posix"  # elsewhere there are no workers: the thread that launches does all items

_state = np.zeros(64, np.int64)
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_state))  # workers look at it until the process has ended
llvm.add_symbol(_SYMBOL, _state.ctypes.data)
_starting = threading.Lock()
_started: int = 0  # workers of this process
_threads: int = 0  # threads that kernels use; 0: as many as they may


# -- the array, in compiled code ---------------------------------------------------------------------------------------


def _slot(builder, place: int):
    """Emit the address of a place of the array."""
    kind = ir.ArrayType(I64, len(_state))
    found = builder.module.globals.get(_SYMBOL)
    if found is None:
        found = ir.GlobalVariable(builder.module, kind, _SYMBOL)
        found.linkage = "external"
    return builder.gep(found, [I64(0), I64(place)])


def _get(builder, place: int):
    return builder.load(_slot(builder, place))


def _set(builder, place: int, value) -> None:
    builder.store(value, _slot(builder, place))


def _add(builder, place: int, step: int):
    """Emit an addition to a place, under the mutex, and return the sum."""
    total = builder.add(_get(builder, place), I64(step))
    _set(builder, place, total)
    return total


def _watch(builder, place: int, condition) -> None:
    """Emit a wait while condition(value of the place), without the mutex, which ends after some time in any case."""
    left = cgutils.alloca_once_value(builder, I64(0))
    builder.store(I64(_YIELDS), left)

    def waiting():
        value = builder.load_atomic(_slot(builder, place), "acquire", 8)
        return builder.and_(condition(value), builder.icmp_signed(">", builder.load(left), I64(0)))

    with _while(builder, waiting):
        _call(builder, "sched_yield")
        builder.store(builder.sub(builder.load(left), I64(1)), left)


def _call(builder, name: str, *places: int) -> None:
    """Emit the call of a function of the C library with the addresses of some places."""
    kind = ir.FunctionType(ir.IntType(32), [_BYTES] * len(places))
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    builder.call(function, [builder.bitcast(_slot(builder, place), _BYTES) for place in places])


@contextmanager
def _while(builder, condition) -> Iterator[None]:
    """Emit `while condition(): ...`; the body is what the context emits."""
    test, body, end = (builder.append_basic_block(f"pool.{name}") for name in ("test", "body", "end"))
    builder.branch(test)
    builder.position_at_end(test)
    builder.cbranch(condition(), body, end)
    builder.position_at_end(body)
    yield
    builder.branch(test)
    builder.position_at_end(end)


# -- launching ---------------------------------------------------------------------------------------------------------


@intrinsic
def available(typingctx):
    """Return the number of threads that were asked for, see `start`."""

    def codegen(context, builder, sig, args):
        return _get(builder, _THREADS)

    return signature(types.int64), codegen


@intrinsic
def launch(typingctx, workers, items, portion, body, arguments):
    """Call body(index, thread, *arguments) for index = 0, 1, ..., items - 1, on up to `workers` threads.

    `portion` items are taken at a time. `thread` is below `workers`. `arguments` is a tuple.
    """
    kinds = (types.int64, types.int64, *arguments.types)
    body.get_call_type(typingctx, kinds, {})  # compiles it

    def codegen(context, builder, sig, args):
        count, total, size, _, values = args
        job = _emit_job(context, builder, body.dispatcher, kinds, values.type)
        place = cgutils.alloca_once(builder, ir.LiteralStructType([I64, I64, I64, values.type]))
        size = builder.select(builder.icmp_signed(">", size, I64(1)), size, I64(1))
        for field, value in enumerate((I64(0), total, size, values)):
            builder.store(value, builder.gep(place, [ir.IntType(32)(0), ir.IntType(32)(field)]))
        address = builder.bitcast(place, _BYTES)
        portions = builder.sdiv(builder.sub(builder.add(total, size), I64(1)), size)
        most = builder.select(builder.icmp_signed("<", count, portions), count, portions)
        alone = cgutils.alloca_once_value(builder, cgutils.true_bit)
        several = builder.icmp_signed(">", most, I64(1)) if _POSIX else cgutils.false_bit
        with builder.if_then(several):
            swapped = builder.cmpxchg(_slot(builder, _BUSY), I64(0), I64(1), "acq_rel", "acquire")
            with builder.if_then(builder.extract_value(swapped, 1)):
                builder.store(cgutils.false_bit, alone)
                _emit_publication(builder, job, address, builder.sub(most, I64(1)))
                builder.call(job, [address, I64(0)])
                _emit_end(builder)
        with builder.if_then(builder.load(alone)):
            builder.call(job, [address, I64(0)])
        return context.get_dummy_value()

    return signature(types.void, workers, items, portion, body, arguments), codegen


def _emit_job(context, builder, dispatcher, kinds, values):
    """Emit the function of a job, which takes portions of its items until there are none; return it."""
    result = dispatcher.overloads[kinds]
    context.active_code_library.add_linking_library(result.library)
    inner = context.declare_function(builder.module, result.fndesc)
    job = ir.Function(builder.module, _JOB_TYPE, builder.module.get_unique_name("fastpde.job"))
    job.linkage = "internal"
    own = ir.IRBuilder(job.append_basic_block("entry"))
    layout = ir.LiteralStructType([I64, I64, I64, values])
    place = own.bitcast(job.args[0], layout.as_pointer())
    at = [own.gep(place, [ir.IntType(32)(0), ir.IntType(32)(field)]) for field in range(4)]
    items, portion, arguments = own.load(at[1]), own.load(at[2]), own.load(at[3])
    thread, taken = job.args[1], cgutils.alloca_once(own, I64)

    def more():
        first = own.atomic_rmw("add", at[0], portion, "monotonic")
        own.store(first, taken)
        return own.icmp_signed("<", first, items)

    with _while(own, more):
        first = own.load(taken)
        last = own.add(first, portion)
        last = own.select(own.icmp_signed("<", last, items), last, items)
        with cgutils.for_range_slice(own, first, last, I64(1)) as (index, _):
            given = [index, thread, *cgutils.unpack_tuple(own, arguments)]
            context.call_conv.call_function(own, inner, result.fndesc.restype, result.fndesc.argtypes, given)
    own.ret_void()
    return job


def _emit_publication(builder, job, address, wanted) -> None:
    """Emit the opening of a job for `wanted` workers."""
    _call(builder, "pthread_mutex_lock", _MUTEX)
    _set(builder, _FUNCTION, builder.ptrtoint(job, I64))
    _set(builder, _ARGUMENTS, builder.ptrtoint(address, I64))
    _set(builder, _JOINED, I64(0))
    _set(builder, _WANTED, wanted)
    _set(builder, _OPEN, I64(1))
    _add(builder, _JOB, 1)
    _call(builder, "pthread_mutex_unlock", _MUTEX)
    with builder.if_else(builder.icmp_signed("==", wanted, I64(1))) as (one, several):
        with one:
            _call(builder, "pthread_cond_signal", _WORK)
        with several:
            _call(builder, "pthread_cond_broadcast", _WORK)


def _emit_end(builder) -> None:
    """Emit the closing of a job, after the workers that have joined it."""
    _call(builder, "pthread_mutex_lock", _MUTEX)
    _set(builder, _OPEN, I64(0))
    _call(builder, "pthread_mutex_unlock", _MUTEX)
    _watch(builder, _LEFT, lambda value: builder.icmp_signed(">", value, I64(0)))
    _call(builder, "pthread_mutex_lock", _MUTEX)
    with _while(builder, lambda: builder.icmp_signed(">", _get(builder, _LEFT), I64(0))):
        _call(builder, "pthread_cond_wait", _DONE, _MUTEX)
    _call(builder, "pthread_mutex_unlock", _MUTEX)
    builder.store_atomic(I64(0), _slot(builder, _BUSY), "release", 8)


@intrinsic
def _work(typingctx):
    """Join jobs until workers are to end."""

    def codegen(context, builder, sig, args):
        seen = cgutils.alloca_once_value(builder, I64(0))

        def nothing():
            """Emit whether there is no job for this worker."""
            new = builder.icmp_signed("!=", _get(builder, _JOB), builder.load(seen))
            room = builder.icmp_signed("<", _get(builder, _JOINED), _get(builder, _WANTED))
            there = builder.and_(builder.icmp_signed("==", _get(builder, _OPEN), I64(1)), builder.and_(new, room))
            return builder.not_(builder.or_(there, builder.icmp_signed("==", _get(builder, _STOP), I64(1))))

        _call(builder, "pthread_mutex_lock", _MUTEX)
        with _while(builder, lambda: builder.icmp_signed("==", _get(builder, _STOP), I64(0))):
            newest = _get(builder, _JOB)
            _call(builder, "pthread_mutex_unlock", _MUTEX)
            _watch(builder, _JOB, lambda value: builder.icmp_signed("==", value, newest))
            _call(builder, "pthread_mutex_lock", _MUTEX)
            with _while(builder, nothing):
                _call(builder, "pthread_cond_wait", _WORK, _MUTEX)
            with builder.if_then(builder.icmp_signed("==", _get(builder, _STOP), I64(0))):
                builder.store(_get(builder, _JOB), seen)
                thread = _add(builder, _JOINED, 1)
                _add(builder, _LEFT, 1)
                function = builder.inttoptr(_get(builder, _FUNCTION), _JOB_TYPE.as_pointer())
                address = builder.inttoptr(_get(builder, _ARGUMENTS), _BYTES)
                _call(builder, "pthread_mutex_unlock", _MUTEX)
                builder.call(function, [address, thread])
                _call(builder, "pthread_mutex_lock", _MUTEX)
                with builder.if_then(builder.icmp_signed("==", _add(builder, _LEFT, -1), I64(0))):
                    _call(builder, "pthread_cond_signal", _DONE)
        _call(builder, "pthread_mutex_unlock", _MUTEX)
        return context.get_dummy_value()

    return signature(types.void), codegen


@jit
def _serve():
    _work()


# -- workers -----------------------------------------------------------------------------------------------------------


def most() -> int:
    """Return how many threads this process may use: NUMBA_NUM_THREADS, by default its cores."""
    return int(numba.config.NUMBA_NUM_THREADS)


def threads() -> int:
    """Return how many threads kernels use."""
    return _threads or most()


def set_threads(count: int) -> None:
    """Bound the number of threads that kernels use, 1 to `most()`."""
    global _threads
    _threads = _state[_THREADS] = count


def start() -> None:
    """Start workers, so that `launch` finds `threads()` threads with the one that calls it. They stay for all jobs."""
    _state[_THREADS] = threads()
    if _started < threads() - 1 and _POSIX:
        with _starting:
            _start()


def _start() -> None:
    global _started
    if not _started:
        library = ctypes.CDLL(None)
        address = _state.ctypes.data
        library.pthread_mutex_init(ctypes.c_void_p(address + 8 * _MUTEX), None)
        for place in (_WORK, _DONE):
            library.pthread_cond_init(ctypes.c_void_p(address + 8 * place), None)
        _serve.compile(())  # here, not by each worker beside the first sums: a short process would never cache it
    while _started < threads() - 1:
        _started += 1
        threading.Thread(target=_serve, name=f"fastpde-{_started}", daemon=True).start()


def _in_child() -> None:
    """Forget the workers of the parent, which a fork does not copy."""
    global _started, _starting
    _state[:] = 0
    _started, _starting = 0, threading.Lock()


if _POSIX:
    os.register_at_fork(after_in_child=_in_child)
