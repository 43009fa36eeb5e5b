"""The recursion over columns as Triton kernels: what `recursion.advance` and `occupy` do, on a GPU.

One program per utterance walks over its columns, with the current column in registers. A column needs its
neighbors' values from the column before, and gets them by a gather between lanes (shuffles or shared memory,
ordered by the compiler), so no program reads back what it has written. What a loop reads from memory does not
depend on what it writes, so it is fetched some columns ahead.

Long lattices have totals of thousands of nats, where float32 leaves only 1e-4 for the differences that the
occupation lives on. So columns are summed in float64, which costs little: `exp` and `log` only make the
corrections, and are taken in the arcs' own precision.

Shapes: B utterances, N columns, K slots of a column; suffix 2: symbol arcs, blank arcs. A lane is an index
into a column of the totals: slot k is lane k + 1, and lanes 0 and K + 1 are pads.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdasr.losses.pruned_rnnt.recursion import Columns

_SIZES = ("shift_stride_n", "shift_stride_b", "batch", "num_columns", "num_slots")
"""Every batch has others: a kernel made for each would be compiled all the time."""


@triton.jit(do_not_specialize=_SIZES)
def _advance_kernel(
    arcs_ptr: tl.tensor,
    ends_ptr: tl.tensor,
    totals_ptr: tl.tensor,
    shifts_ptr: tl.tensor,
    shift_stride_n: tl.tensor,
    shift_stride_b: tl.tensor,
    batch: tl.tensor,
    num_columns: tl.tensor,
    num_slots: tl.tensor,
    SHIFTED: tl.constexpr,
    LANES: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Totals from the first column to the last."""
    utterance = tl.program_id(0).to(tl.int64)
    end = tl.minimum(tl.load(ends_ptr + utterance), num_columns).to(tl.int32)
    lanes = tl.arange(0, LANES)
    is_slot = (lanes >= 1) & (lanes <= num_slots)
    in_column = lanes < num_slots + 2
    kind_stride = batch.to(tl.int64) * num_slots
    totals_stride = batch.to(tl.int64) * (num_slots + 2)
    arc_ptrs = arcs_ptr + utterance * num_slots + lanes - 1
    total_ptrs = totals_ptr + utterance * (num_slots + 2) + lanes
    # The same for all lanes: a scalar would not be fetched ahead.
    shift_ptrs = shifts_ptr + utterance * shift_stride_b + lanes * 0

    nothing = tl.full([LANES], float("-inf"), tl.float64)
    column = tl.where(lanes == 1, 0.0, nothing)
    tl.store(total_ptrs, column, mask=in_column)
    total_ptrs += totals_stride
    for _ in tl.range(0, end, num_stages=STAGES):
        symbol = tl.load(arc_ptrs, mask=is_slot, other=float("-inf")).to(tl.float64)
        blank = tl.load(arc_ptrs + kind_stride, mask=is_slot, other=float("-inf")).to(tl.float64)
        if SHIFTED:
            source = lanes + tl.minimum(tl.load(shift_ptrs), num_slots + 1).to(tl.int32)
            symbol += tl.gather(column, tl.minimum(tl.maximum(source - 1, 0), num_slots + 1), 0)
            blank += tl.gather(column, tl.minimum(source, num_slots + 1), 0)
        else:
            symbol += tl.gather(column, tl.maximum(lanes - 1, 0), 0)
            blank += column
        larger = tl.maximum(symbol, blank)
        gap = tl.abs(symbol - blank).to(arcs_ptr.dtype.element_ty)
        # The gap of -inf and -inf is NaN, but says that nothing reaches the slot. Other NaN pass through.
        unreached = (symbol == float("-inf")) & (blank == float("-inf"))
        column = tl.where(unreached, nothing, larger + tl.log(1.0 + tl.exp(-gap)))
        tl.store(total_ptrs, column, mask=in_column)
        arc_ptrs += 2 * kind_stride
        shift_ptrs += shift_stride_n
        total_ptrs += totals_stride
    for _ in tl.range(end, num_columns):
        tl.store(total_ptrs, nothing, mask=in_column)
        total_ptrs += totals_stride


@triton.jit(do_not_specialize=_SIZES)
def _occupy_kernel(
    arcs_ptr: tl.tensor,
    ends_ptr: tl.tensor,
    end_slots_ptr: tl.tensor,
    totals_ptr: tl.tensor,
    occupation_ptr: tl.tensor,
    shifts_ptr: tl.tensor,
    shift_stride_n: tl.tensor,
    shift_stride_b: tl.tensor,
    batch: tl.tensor,
    num_columns: tl.tensor,
    num_slots: tl.tensor,
    SHIFTED: tl.constexpr,
    LANES: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Occupation from the last column to the first."""
    utterance = tl.program_id(0).to(tl.int64)
    end = tl.minimum(tl.load(ends_ptr + utterance), num_columns).to(tl.int32)
    end_slot = tl.load(end_slots_ptr + utterance)
    lanes = tl.arange(0, LANES)
    is_slot = (lanes >= 1) & (lanes <= num_slots)
    in_column = lanes < num_slots + 2
    kind_stride = batch.to(tl.int64) * num_slots
    totals_stride = batch.to(tl.int64) * (num_slots + 2)
    place = (num_columns.to(tl.int64) - 1) * 2 * kind_stride + utterance * num_slots + lanes - 1

    nothing = tl.zeros([LANES], tl.float64)
    occupation_ptrs = occupation_ptr + place
    for _ in tl.range(end, num_columns):
        tl.store(occupation_ptrs, nothing, mask=is_slot)
        tl.store(occupation_ptrs + kind_stride, nothing, mask=is_slot)
        occupation_ptrs -= 2 * kind_stride

    last = end.to(tl.int64) - 1
    arc_ptrs = arcs_ptr + last * 2 * kind_stride + utterance * num_slots + lanes - 1
    total_ptrs = totals_ptr + last * totals_stride + utterance * (num_slots + 2) + lanes
    shift_ptrs = shifts_ptr + last * shift_stride_n + utterance * shift_stride_b + lanes * 0
    # An end without a slot begins in lane 0, which nothing reaches.
    visits = tl.where(lanes == end_slot + 1, 1.0, nothing)
    for _ in tl.range(0, end, num_stages=STAGES):
        symbol = tl.load(arc_ptrs, mask=is_slot, other=float("-inf")).to(tl.float64)
        blank = tl.load(arc_ptrs + kind_stride, mask=is_slot, other=float("-inf")).to(tl.float64)
        column = tl.load(total_ptrs, mask=in_column, other=float("-inf"))
        if SHIFTED:
            shift = tl.minimum(tl.load(shift_ptrs), num_slots + 1).to(tl.int32)
            symbol += tl.gather(column, tl.minimum(tl.maximum(lanes + shift - 1, 0), num_slots + 1), 0)
            blank += tl.gather(column, tl.minimum(lanes + shift, num_slots + 1), 0)
        else:
            symbol += tl.load(total_ptrs - 1, mask=is_slot, other=float("-inf"))
            blank += column
        odds = blank - symbol
        # The two arcs' probabilities by a logistic: the smaller one keeps its digits, and the larger one is
        # what it leaves, so that rounding neither makes nor loses probability along the way.
        ratio = tl.exp(-tl.abs(odds).to(arcs_ptr.dtype.element_ty))
        smaller = (ratio / (1.0 + ratio)).to(tl.float64)
        larger = 1.0 - smaller
        # Odds of -inf and -inf are NaN: nothing reaches the slot, and both comparisons are false.
        symbol_visits = visits * tl.where(odds > 0, smaller, tl.where(odds <= 0, larger, 0.0))
        blank_visits = visits * tl.where(odds > 0, larger, tl.where(odds <= 0, smaller, 0.0))
        tl.store(occupation_ptrs, symbol_visits, mask=is_slot)
        tl.store(occupation_ptrs + kind_stride, blank_visits, mask=is_slot)
        # From slot k of the column before, the symbol arrives in slot k - shift + 1 and the blank in slot
        # k - shift. Lane 0 and the last lane are pads, which hold nothing.
        if SHIFTED:
            visits = tl.gather(symbol_visits, tl.minimum(tl.maximum(lanes - shift + 1, 0), LANES - 1), 0)
            visits += tl.gather(blank_visits, tl.maximum(lanes - shift, 0), 0)
        else:
            visits = blank_visits + tl.gather(symbol_visits, tl.minimum(lanes + 1, LANES - 1), 0)
        arc_ptrs -= 2 * kind_stride
        total_ptrs -= totals_stride
        shift_ptrs -= shift_stride_n
        occupation_ptrs -= 2 * kind_stride


def _layout(columns: Columns) -> dict[str, Any]:
    """What both kernels take besides tensors of columns."""
    num_columns, _, batch, num_slots = columns.arcs_N2BK.shape
    lanes = triton.next_power_of_2(num_slots + 2)
    shifts = columns.shifts_NB
    return {
        # Without shifts any tensor will do: it is not read.
        "shifts_ptr": columns.ends_B if shifts is None else shifts,
        "shift_stride_n": 0 if shifts is None else shifts.stride(0),
        "shift_stride_b": 0 if shifts is None else shifts.stride(1),
        "batch": batch,
        "num_columns": num_columns,
        "num_slots": num_slots,
        "SHIFTED": shifts is not None,
        "LANES": lanes,
        # Columns that are fetched ahead take shared memory; the widest go without.
        "STAGES": 6 if lanes <= 256 else 3 if lanes <= 1024 else 1,
        "num_warps": min(max(lanes // 64, 1), 16),
    }


def advance(columns: Columns) -> Tensor:
    """Totals `(N + 1, B, K + 2)`: slot k of a column at `k + 1`, between two pads that stay -inf.

    They are float64 whether the arcs are float32 or float64, and -inf beyond an utterance's end.
    """
    arcs = columns.arcs_N2BK.contiguous()
    num_columns, _, batch, num_slots = arcs.shape
    totals = arcs.new_empty((num_columns + 1, batch, num_slots + 2), dtype=torch.float64)
    with torch.cuda.device_of(arcs):
        _advance_kernel[(batch,)](arcs, columns.ends_B.contiguous(), totals, **_layout(columns))
    return totals


def occupy(totals: Tensor, columns: Columns) -> Tensor:
    """Occupation of every arc, in the layout of `Columns.arcs_N2BK`; zero where nothing reaches the end.

    The totals are those of this file's `advance`.
    """
    assert totals.dtype == torch.float64 and totals.is_contiguous()
    arcs = columns.arcs_N2BK.contiguous()
    occupation = torch.empty_like(arcs)
    ends_B, end_slots_B = columns.ends_B.contiguous(), columns.end_slots_B.contiguous()
    with torch.cuda.device_of(arcs):
        _occupy_kernel[(arcs.shape[2],)](arcs, ends_B, end_slots_B, totals, occupation, **_layout(columns))
    return occupation
