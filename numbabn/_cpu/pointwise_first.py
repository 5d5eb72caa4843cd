"""Element by element where the inner run of a channel is contiguous: y from x, dx from dy and x."""

from __future__ import annotations

import numpy as np

from .._compile import Grid, In, Out, Row, Table, inline, inner, kernel, linked, prange, read_rows
from .ahead import far_four, far_last, far_two, planes_asked
from .channels import put_affines, put_gradients
from .partition import part_range, row
from .pointwise import LONG, SPAN, finish, nothing, put, shared, slope
from .pointwise_brief import brief, gradient_brief, normalize_brief
from .vectors import fence, fma, in_order, lanes, load, load_part, splat, store_part, stream, until_aligned


@inner
def n_blocks(n_planes, n_inner):
    """Blocks of planes that work items take, or share."""
    group = max(1, SPAN // n_inner)
    return min(n_planes, shared((n_planes + group - 1) // group))


@inner
def n_spans(n_planes, n_inner):
    """Work items: several short planes each, or a piece of a long one."""
    return n_blocks(n_planes, n_inner) * max(1, n_inner // SPAN)


@inner
def span(item, n_planes, n_inner):
    """First and last plane of a work item, and the first and the number of elements it takes of each."""
    cuts = max(1, n_inner // SPAN)
    block = item // cuts
    cut = item - block * cuts
    first, last = part_range(n_planes, 1, block, n_blocks(n_planes, n_inner))
    i = n_inner * cut // cuts
    return first, last, i, n_inner * (cut + 1) // cuts - i


@inline
def normalize_run(x, y, k, m, n, high, a, b, ahead, streamed, late):
    """n contiguous elements of one channel, from x[k:] to y[m:], but for the last vector; see `finish`.

    They are less than a vector, or LONG vectors and more: what is between is brief. Long runs ask for as many elements
    that lie `ahead` further, if that is not 0.
    """
    step = lanes(x)
    stop = k + n
    if n >= LONG * step:
        r = until_aligned(y, m)
        if ahead != 0:
            far_last(x, stop + ahead)
        v0, v = load(x, k), load(x, k + r)
        in_order()
        finish(y, late)
        late = fma(v0 - high, a, b), m, r if streamed else step
        k += r
        m += r
    else:
        streamed = False
        v = load_part(x, k, n, high)
    finish(y, late)
    while k + 5 * step <= stop:
        if ahead != 0:
            far_four(x, k + ahead)
        v1, v2 = load(x, k + step), load(x, k + 2 * step)
        v3, v4 = load(x, k + 3 * step), load(x, k + 4 * step)
        put(y, m, fma(v - high, a, b), streamed)
        put(y, m + step, fma(v1 - high, a, b), streamed)
        put(y, m + 2 * step, fma(v2 - high, a, b), streamed)
        put(y, m + 3 * step, fma(v3 - high, a, b), streamed)
        v = v4
        k += 4 * step
        m += 4 * step
    while k + 2 * step <= stop:
        w = load(x, k + step)
        put(y, m, fma(v - high, a, b), streamed)
        v = w
        k += step
        m += step
    if k + step < stop:
        back = 0 if streamed else 2 * step - (stop - k)
        k += step - back
        w = load_part(x, k, stop - k, high)
        in_order()
        put(y, m, fma(v - high, a, b), streamed)
        m += step - back
        v = w
    return fma(v - high, a, b), m, stop - k


@inner
def normalize_planes(x, y, table, grid, n_outer, n_channels, n_inner, x0, xo, xc, y0, yo, yc, streamed):
    """All planes of neighbouring channels, those first that the sums have read last: they are in cache.

    With channels of 3 MB a training forward takes 0.85 of the time that the order of memory takes. Where that pays, as
    many channels are asked for meanwhile, those that follow.
    """
    if brief(x, n_inner):
        for o in range(n_outer - 1, -1, -1):
            normalize_brief(x, y, table, n_channels, 0, n_channels, x0 + o * xo, xc, y0 + o * yo, yc, n_inner)
        return
    late = nothing(x, y0)
    asked = planes_asked(x, grid, 1)
    for o in range(n_outer - 1, -1, -1):
        ahead = n_channels * xc if o < asked else 0
        for c in range(n_channels):
            high, a, b = splat(x, table[c]), splat(x, table[n_channels + c]), splat(x, table[2 * n_channels + c])
            k, m = x0 + o * xo + c * xc, y0 + o * yo + c * yc
            late = normalize_run(x, y, k, m, n_inner, high, a, b, ahead, streamed, late)
    finish(y, late)
    if streamed:
        fence()


@inner
def staging_size(x, n_channels, n_inner):
    """Length of scratch for neighbouring planes of so many channels, wherever on a cache line they are to lie."""
    return n_channels * n_inner + 2 * lanes(x)


@inner
def staging_start(stage, y, m):
    """Where in scratch to begin, so that it lies on cache lines as y[m:] does."""
    return until_aligned(stage, 0) + (lanes(y) - until_aligned(y, m)) % lanes(y)


@inner
def stream_run(stage, k, y, m, n):
    """Copy n contiguous elements from stage[k:] to y[m:], lying alike on cache lines, past the caches."""
    step, zero = lanes(y), splat(y, 0.0)
    stop = m + n
    r = min(n, until_aligned(y, m))
    store_part(y, m, load_part(stage, k, r, zero), r)
    k += r
    m += r
    while m + step <= stop:
        stream(y, m, load(stage, k))
        k += step
        m += step
    if m < stop:
        store_part(y, m, load_part(stage, k, stop - m, zero), stop - m)


@linked
def normalize_long(x, y, table, grid, first, width, streamed):
    """y of `width` channels from `first` on."""
    n_outer, _, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    y0, yo, yc = row(grid, 2)
    k, m = x0 + first * xc, y0 + first * yc
    normalize_planes(x, y, table, grid, n_outer, width, n_inner, k, xo, xc, m, yo, yc, streamed)


@linked
def normalize_short(x, y, stage, table, grid, first, width, streamed):
    """As `normalize_long`, for short planes, which are streamed by way of scratch if they lie side by side in y.

    A plane of 7x7 has two whole lines, 14x14 has eleven, and parts at both ends, for which their lines are read first.
    Training passes over 25 MB in planes of 14x14 took 0.77 of the time, of 7x7 0.88.
    """
    n_outer, _, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    y0, yo, yc = row(grid, 2)
    staged = streamed and yc == n_inner
    turns, rows, target = (n_outer, 1, stage) if staged else (1, n_outer, y)
    for turn in range(turns - 1, -1, -1):
        k, m = x0 + first * xc + turn * xo, y0 + first * yc + turn * yo
        at = staging_start(stage, y, m) if staged else m
        by_plane = streamed and not staged
        normalize_planes(x, target, table, grid, rows, width, n_inner, k, xo, xc, at, yo, yc, by_plane)
        if staged:
            stream_run(stage, at, y, m, width * n_inner)
    if staged:
        fence()


@linked
def normalize_span(x, y, table, grid, item, streamed):
    """y of the planes, or the piece of a plane, that are one work item."""
    n_outer, n_channels, n_inner = row(grid, 0)
    x0, xo, xc = row(grid, 1)
    y0, yo, yc = row(grid, 2)
    first, last, i, n = span(item, n_outer * n_channels, n_inner)
    o = first // n_channels
    c = first - o * n_channels
    if brief(x, n):
        while first < last:
            end = min(n_channels, c + last - first)
            k, m = x0 + o * xo + c * xc, y0 + o * yo + c * yc
            normalize_brief(x, y, table, n_channels, c, end, k, xc, m, yc, n)
            first += end - c
            c = 0
            o += 1
        return
    late = nothing(x, y0)
    for _ in range(first, last):
        high, a, b = splat(x, table[c]), splat(x, table[n_channels + c]), splat(x, table[2 * n_channels + c])
        k, m = x0 + o * xo + c * xc + i, y0 + o * yo + c * yc + i
        late = normalize_run(x, y, k, m, n, high, a, b, 0, streamed, late)
        c += 1
        if c == n_channels:
            c = 0
            o += 1
    finish(y, late)
    if streamed:
        fence()


@kernel
def normalize_channels_first(
    x: In, y: Out, mean: Row, var: Row, weight: Row, bias: Row, grid: Grid, eps: float, streamed: bool
) -> None:
    """y = (x - mean) * weight / sqrt(var + eps) + bias; moves 2 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    table = np.empty(3 * n_channels, x.dtype)
    given = np.empty((4, n_channels))
    read_rows(given, (mean, var, weight, bias))
    put_affines(x, given[0], given[1], given[2], given[3], eps, 0, n_channels, table, 0, n_channels)
    for index in prange(n_spans(n_outer * n_channels, n_inner)):
        normalize_span(x, y, table, grid, np.int64(index), streamed)


@inline
def gradient_run(dy, x, dx, g, k, m, n, x_high, g_high, r, a, b, d, g_ahead, x_ahead, streamed, late):
    """n contiguous elements of one channel, from dy[g:] and x[k:] to dx[m:], but for the last vector.

    As in `normalize_run`.
    """
    step = lanes(x)
    stop = k + n
    if n >= LONG * step:
        if x_ahead != 0:
            far_last(dy, g + n + g_ahead)
            far_last(x, stop + x_ahead)
        head = until_aligned(dx, m)
        w0, v0 = load(dy, g), load(x, k)
        w, v = load(dy, g + head), load(x, k + head)
        in_order()
        finish(dx, late)
        late = slope(w0, v0, x_high, g_high, r, a, b, d), m, head if streamed else step
        g += head
        k += head
        m += head
    else:
        streamed = False
        w, v = load_part(dy, g, n, g_high), load_part(x, k, n, x_high)
    finish(dx, late)
    while k + 3 * step <= stop:
        if x_ahead != 0:
            far_two(dy, g + g_ahead)
            far_two(x, k + x_ahead)
        w1, v1 = load(dy, g + step), load(x, k + step)
        w2, v2 = load(dy, g + 2 * step), load(x, k + 2 * step)
        put(dx, m, slope(w, v, x_high, g_high, r, a, b, d), streamed)
        put(dx, m + step, slope(w1, v1, x_high, g_high, r, a, b, d), streamed)
        w, v = w2, v2
        g += 2 * step
        k += 2 * step
        m += 2 * step
    while k + 2 * step <= stop:
        w1, v1 = load(dy, g + step), load(x, k + step)
        put(dx, m, slope(w, v, x_high, g_high, r, a, b, d), streamed)
        w, v = w1, v1
        g += step
        k += step
        m += step
    if k + step < stop:
        back = 0 if streamed else 2 * step - (stop - k)
        g += step - back
        k += step - back
        w1, v1 = load_part(dy, g, stop - k, g_high), load_part(x, k, stop - k, x_high)
        in_order()
        put(dx, m, slope(w, v, x_high, g_high, r, a, b, d), streamed)
        m += step - back
        w, v = w1, v1
    return slope(w, v, x_high, g_high, r, a, b, d), m, stop - k


@inner
def gradient_planes(dy, x, dx, table, grid, n_outer, n_channels, n_inner, g0, go, gc, x0, xo, xc, d0, do, dc, streamed):
    """All planes of neighbouring channels, as in `normalize_planes`."""
    if brief(x, n_inner):
        for o in range(n_outer - 1, -1, -1):
            g, k, m = g0 + o * go, x0 + o * xo, d0 + o * do
            gradient_brief(dy, x, dx, table, n_channels, 0, n_channels, g, gc, k, xc, m, dc, n_inner)
        return
    late = nothing(x, d0)
    asked = planes_asked(x, grid, 2)
    for o in range(n_outer - 1, -1, -1):
        g_ahead, x_ahead = (n_channels * gc, n_channels * xc) if o < asked else (0, 0)
        for c in range(n_channels):
            x_high, g_high = splat(x, table[c]), splat(x, table[n_channels + c])
            r, a = splat(x, table[2 * n_channels + c]), splat(x, table[3 * n_channels + c])
            b, d = splat(x, table[4 * n_channels + c]), splat(x, table[5 * n_channels + c])
            g, k, m = g0 + o * go + c * gc, x0 + o * xo + c * xc, d0 + o * do + c * dc
            late = gradient_run(
                dy, x, dx, g, k, m, n_inner, x_high, g_high, r, a, b, d, g_ahead, x_ahead, streamed, late
            )
    finish(dx, late)
    if streamed:
        fence()


@linked
def gradient_long(dy, x, dx, table, grid, first, width, streamed):
    """dx of `width` channels from `first` on."""
    n_outer, _, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    d0, do, dc = row(grid, 3)
    g, k, m = g0 + first * gc, x0 + first * xc, d0 + first * dc
    gradient_planes(dy, x, dx, table, grid, n_outer, width, n_inner, g, go, gc, k, xo, xc, m, do, dc, streamed)


@linked
def gradient_short(dy, x, dx, stage, table, grid, first, width, streamed):
    """As `gradient_long`, in the way of `normalize_short`."""
    n_outer, _, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    d0, do, dc = row(grid, 3)
    staged = streamed and dc == n_inner
    turns, rows, target = (n_outer, 1, stage) if staged else (1, n_outer, dx)
    for turn in range(turns - 1, -1, -1):
        g, k, m = g0 + first * gc + turn * go, x0 + first * xc + turn * xo, d0 + first * dc + turn * do
        at = staging_start(stage, dx, m) if staged else m
        by_plane = streamed and not staged
        gradient_planes(dy, x, target, table, grid, rows, width, n_inner, g, go, gc, k, xo, xc, at, do, dc, by_plane)
        if staged:
            stream_run(stage, at, dx, m, width * n_inner)
    if staged:
        fence()


@linked
def gradient_span(dy, x, dx, table, grid, item, streamed):
    """dx of one work item, as in `normalize_span`."""
    n_outer, n_channels, n_inner = row(grid, 0)
    g0, go, gc = row(grid, 1)
    x0, xo, xc = row(grid, 2)
    d0, do, dc = row(grid, 3)
    first, last, i, n = span(item, n_outer * n_channels, n_inner)
    o = first // n_channels
    c = first - o * n_channels
    if brief(x, n):
        while first < last:
            end = min(n_channels, c + last - first)
            g, k, m = g0 + o * go + c * gc, x0 + o * xo + c * xc, d0 + o * do + c * dc
            gradient_brief(dy, x, dx, table, n_channels, c, end, g, gc, k, xc, m, dc, n)
            first += end - c
            c = 0
            o += 1
        return
    late = nothing(x, d0)
    for _ in range(first, last):
        x_high, g_high = splat(x, table[c]), splat(x, table[n_channels + c])
        r, a = splat(x, table[2 * n_channels + c]), splat(x, table[3 * n_channels + c])
        b, d = splat(x, table[4 * n_channels + c]), splat(x, table[5 * n_channels + c])
        g, k, m = g0 + o * go + c * gc + i, x0 + o * xo + c * xc + i, d0 + o * do + c * dc + i
        late = gradient_run(dy, x, dx, g, k, m, n, x_high, g_high, r, a, b, d, 0, 0, streamed, late)
        c += 1
        if c == n_channels:
            c = 0
            o += 1
    finish(dx, late)
    if streamed:
        fence()


@kernel
def backward_elemt_channels_first(
    dy: In,
    x: In,
    dx: Out,
    mean: Row,
    invstd: Row,
    weight: Row,
    sums: Table,
    grid: Grid,
    count: float,
    streamed: bool,
) -> None:
    """dx from dy, x and the two sums over `count` elements a channel; moves 3 elements' bytes an element."""
    n_outer, n_channels, n_inner = row(grid, 0)
    table = np.empty(6 * n_channels, x.dtype)
    given = np.empty((3, n_channels))
    read_rows(given, (mean, invstd, weight))
    put_gradients(x, given[0], given[1], given[2], sums, 0, n_channels, count, table, 0, n_channels)
    for index in prange(n_spans(n_outer * n_channels, n_inner)):
        gradient_span(dy, x, dx, table, grid, np.int64(index), streamed)
