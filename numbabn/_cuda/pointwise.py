"""What each packet meets: y from x, dx from dy and x. Each is read before it is written: in place is as good."""

from __future__ import annotations

from .._compile_cuda import i32, inner
from .packets import load, store
from .walk import ahead


@inner
def normalize_packets(
    x, y, of_x, of_y, column, count, step_x, step_y, column_step,
    width, wrap_x, wrap_y, high, a, b,
):  # fmt: skip
    """A thread's packets of y, four reads in flight."""
    while count >= i32(4):
        x0, y0, c = of_x, of_y, column
        of_x, column = ahead(x0, c, step_x, column_step, width, wrap_x)
        of_y, column = ahead(y0, c, step_y, column_step, width, wrap_y)
        x1, y1, c = of_x, of_y, column
        of_x, column = ahead(x1, c, step_x, column_step, width, wrap_x)
        of_y, column = ahead(y1, c, step_y, column_step, width, wrap_y)
        x2, y2, c = of_x, of_y, column
        of_x, column = ahead(x2, c, step_x, column_step, width, wrap_x)
        of_y, column = ahead(y2, c, step_y, column_step, width, wrap_y)
        x3, y3, c = of_x, of_y, column
        of_x, column = ahead(x3, c, step_x, column_step, width, wrap_x)
        of_y, column = ahead(y3, c, step_y, column_step, width, wrap_y)
        v0, v1, v2, v3 = load(x, x0), load(x, x1), load(x, x2), load(x, x3)
        store(y, y0, (v0 - high) * a + b)
        store(y, y1, (v1 - high) * a + b)
        store(y, y2, (v2 - high) * a + b)
        store(y, y3, (v3 - high) * a + b)
        count = i32(count - i32(4))
    while count > i32(0):
        store(y, of_y, (load(x, of_x) - high) * a + b)
        c = column
        of_x, column = ahead(of_x, c, step_x, column_step, width, wrap_x)
        of_y, column = ahead(of_y, c, step_y, column_step, width, wrap_y)
        count = i32(count - i32(1))


@inner
def slope(g, v, high, g_high, r, a, b, d):
    """dx of one packet of dy and x."""
    return (g - g_high) * a + ((v - high) * r * b + d)


@inner
def gradient_packets(
    dy, x, dx, of_dy, of_x, of_dx, column, count, step_dy, step_x,
    step_dx, column_step, width, wrap_dy, wrap_x, wrap_dx, high, g_high,
    r, a, b, d,
):  # fmt: skip
    """A thread's packets of dx, four reads in flight."""
    while count >= i32(2):
        g0, x0, d0, c = of_dy, of_x, of_dx, column
        of_dy, column = ahead(g0, c, step_dy, column_step, width, wrap_dy)
        of_x, column = ahead(x0, c, step_x, column_step, width, wrap_x)
        of_dx, column = ahead(d0, c, step_dx, column_step, width, wrap_dx)
        g1, x1, d1, c = of_dy, of_x, of_dx, column
        of_dy, column = ahead(g1, c, step_dy, column_step, width, wrap_dy)
        of_x, column = ahead(x1, c, step_x, column_step, width, wrap_x)
        of_dx, column = ahead(d1, c, step_dx, column_step, width, wrap_dx)
        v0, v1, v2, v3 = load(dy, g0), load(x, x0), load(dy, g1), load(x, x1)
        store(dx, d0, slope(v0, v1, high, g_high, r, a, b, d))
        store(dx, d1, slope(v2, v3, high, g_high, r, a, b, d))
        count = i32(count - i32(2))
    if count > i32(0):
        store(dx, of_dx, slope(load(dy, of_dy), load(x, of_x), high, g_high, r, a, b, d))
