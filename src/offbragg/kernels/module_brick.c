/* What a volume file has of bricks, for Python; see module.c. */
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#include "brick.h"
#include "module_brick.h"

enum { MOST_AT_ONCE = 1 << 16 };

typedef struct {
    Py_buffer numbers, half[OB_BRICK_PAIRS][2], scratch, out, lengths, bits, levels;
    ob_brick_sums sums;
    size_t bricks;
} call;

static int check_level(int level)
{
    if (level >= 0 && level <= ob_best_level())
        return 1;
    PyErr_Format(PyExc_ValueError, "this processor has no kernel level %d", level);
    return 0;
}

static int check_sides(const Py_ssize_t *given, Py_ssize_t most, size_t *side)
{
    for (int i = 0; i < 3; i++) {
        if (given[i] < 1 || given[i] > most) {
            PyErr_Format(PyExc_ValueError, "%zd cells along an edge are not 1 to %zd", given[i],
                         most);
            return 0;
        }
        side[i] = (size_t)given[i];
    }
    return 1;
}

static int has(const Py_buffer *view, size_t items, size_t size, const char *what)
{
    if ((size_t)view->len == items * size && (uintptr_t)view->buf % size == 0)
        return 1;
    PyErr_Format(PyExc_ValueError, "%s must be %zu aligned items of %zu bytes, not %zd bytes", what,
                 items, size, view->len);
    return 0;
}

static int has_room(const call *c, size_t bricks)
{
    const size_t needed = bricks * ob_brick_bound(&c->sums);
    if ((size_t)c->out.len >= needed)
        return 1;
    PyErr_Format(PyExc_ValueError, "the chunks of %zu bricks need %zu bytes, not %zd", bricks,
                 needed, c->out.len);
    return 0;
}

/* Read a pair of sums: None, or (low, high, what one means in the first and in the second). */
static int get_pair(PyObject *given, call *c, int which)
{
    ob_brick_pair *pair = &c->sums.pair[which];
    Py_buffer *half = c->half[which];
    const size_t size = 8 * (size_t)OB_BRICK;
    if (given == Py_None && which != OB_WHAT_COUNTS)
        return 1;
    if (!PyTuple_Check(given)) {
        PyErr_SetString(PyExc_TypeError, "sums must be a tuple");
        return 0;
    }
    if (!PyArg_ParseTuple(given, "y*y*dd", &half[0], &half[1], &pair->unit[0], &pair->unit[1]))
        return 0;
    if (which == OB_WHAT_COUNTS)
        c->bricks = (size_t)half[0].len / size;
    for (int i = 0; i < 2; i++)
        if ((size_t)half[i].len != c->bricks * size || (uintptr_t)half[i].buf % 4) {
            PyErr_Format(PyExc_ValueError, "sums of %zu bricks are not %zd aligned bytes",
                         c->bricks, half[i].len);
            return 0;
        }
    pair->low = half[0].buf;
    pair->high = half[1].buf;
    pair->there = 1;
    return 1;
}

static int begin(call *c, PyObject *args, int *level)
{
    Py_ssize_t side[3];
    PyObject *pairs[OB_BRICK_PAIRS], *out;

    memset(c, 0, sizeof *c);
    if (!PyArg_ParseTuple(args, "iy*OOO(nnn)w*Ow*w*w*", level, &c->numbers, &pairs[0], &pairs[1],
                          &pairs[2], &side[0], &side[1], &side[2], &c->scratch, &out, &c->lengths,
                          &c->bits, &c->levels))
        return 0;
    if (out != Py_None && PyObject_GetBuffer(out, &c->out, PyBUF_WRITABLE) < 0)
        return 0;
    if (!check_level(*level) || !check_sides(side, OB_SIDE, c->sums.side))
        return 0;
    for (int i = 0; i < OB_BRICK_PAIRS; i++)
        if (!get_pair(pairs[i], c, i))
            return 0;
    const size_t *s = c->sums.side, n = (size_t)c->numbers.len / 8;
    if (n > MOST_AT_ONCE) {
        PyErr_Format(PyExc_ValueError, "%zu bricks are more than go at once", n);
        return 0;
    }
    if (!has(&c->numbers, n, 8, "numbers") ||
        !has(&c->levels, n * 2 * ob_coarser_cells(s), 8, "levels") ||
        !has(&c->scratch, ob_brick_scratch(s) / 8, 8, "scratch"))
        return 0;
    if (c->out.obj != NULL && (!has_room(c, n) ||
                               !has(&c->lengths, n * OB_BRICK_ARRAYS, 8, "lengths") ||
                               !has(&c->bits, n * ((s[0] * s[1] * s[2] + 7) / 8), 1, "bits")))
        return 0;
    for (size_t i = 0; i < n; i++) {
        const int64_t number = ((const int64_t *)c->numbers.buf)[i];
        if (number < 0 || (uint64_t)number >= c->bricks) {
            PyErr_Format(PyExc_ValueError, "there is no brick %lld of %zu", (long long)number,
                         c->bricks);
            return 0;
        }
    }
    return 1;
}

static void release(Py_buffer *view)
{
    if (view->obj != NULL)
        PyBuffer_Release(view);
}

static void end(call *c)
{
    Py_buffer *others[] = {&c->numbers, &c->scratch, &c->out, &c->lengths, &c->bits, &c->levels};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        release(others[i]);
    for (int i = 0; i < OB_BRICK_PAIRS; i++)
        for (int j = 0; j < 2; j++)
            release(&c->half[i][j]);
}

/* Make bricks one after the other; says how many of them are made before one that cannot be. */
static size_t make(call *c, int level)
{
    const size_t *side = c->sums.side, n = (size_t)c->numbers.len / 8;
    const size_t bits = (side[0] * side[1] * side[2] + 7) / 8;
    const int64_t *numbers = c->numbers.buf;
    ob_brick_sums sums = c->sums;
    uint8_t *out = c->out.buf;

    for (size_t i = 0; i < n; i++) {
        for (int j = 0; j < OB_BRICK_PAIRS; j++)
            if (sums.pair[j].low != NULL) {
                sums.pair[j].low = c->sums.pair[j].low + 2 * OB_BRICK * (size_t)numbers[i];
                sums.pair[j].high = c->sums.pair[j].high + 2 * OB_BRICK * (size_t)numbers[i];
            }
        int64_t *lengths = out == NULL ? NULL : (int64_t *)c->lengths.buf + i * OB_BRICK_ARRAYS;
        if (ob_brick(level, &sums, c->scratch.buf, out, lengths,
                     out == NULL ? NULL : (uint8_t *)c->bits.buf + i * bits,
                     (double *)c->levels.buf + i * 2 * ob_coarser_cells(side)))
            return i;
        for (int j = 0; out != NULL && j < OB_BRICK_ARRAYS; j++)
            out += lengths[j]; /* at most ob_brick_bound in all: there is as much for the next */
    }
    return n;
}

PyObject *ob_py_bricks(PyObject *self, PyObject *args)
{
    call c;
    int level;
    size_t made;
    PyObject *result = NULL;
    (void)self;
    if (begin(&c, args, &level)) {
        Py_BEGIN_ALLOW_THREADS
        made = make(&c, level);
        Py_END_ALLOW_THREADS
        result = PyLong_FromSize_t(made);
    }
    end(&c);
    return result;
}

/* One brick of cells as they are: counts, weight, variance, background and its variance. */
PyObject *ob_py_brick_of_cells(PyObject *self, PyObject *args)
{
    static const int which[5][2] = {
        {OB_WHAT_COUNTS, 0}, {OB_WHAT_COUNTS, 1}, {OB_WHAT_SPREAD, 0}, {OB_WHAT_AIR, 0},
        {OB_WHAT_AIR, 1},
    };
    Py_buffer view[5], scratch = {0}, out = {0}, lengths = {0}, bits = {0}, levels = {0};
    Py_ssize_t side[3];
    ob_brick_sums sums = {.side = {0}};
    PyObject *result = NULL;
    int level, right;
    (void)self;
    memset(view, 0, sizeof view);
    if (PyArg_ParseTuple(args, "iy*y*z*z*z*(nnn)w*w*w*w*w*", &level, &view[0], &view[1], &view[2],
                         &view[3], &view[4], &side[0], &side[1], &side[2], &scratch, &out, &lengths,
                         &bits, &levels) &&
        check_level(level) && check_sides(side, OB_SIDE, sums.side)) {
        const size_t n = sums.side[0] * sums.side[1] * sums.side[2];
        right = (view[3].buf == NULL) == (view[4].buf == NULL);
        if (!right)
            PyErr_SetString(PyExc_ValueError, "a background and its variance, or neither");
        for (int i = 0; right && i < 5; i++)
            if (view[i].buf != NULL) {
                right = has(&view[i], n, 8, "cells");
                sums.pair[which[i][0]].cells[which[i][1]] = view[i].buf;
                sums.pair[which[i][0]].there = 1;
            }
        right = right && has(&levels, 2 * ob_coarser_cells(sums.side), 8, "levels") &&
                has(&scratch, ob_brick_scratch(sums.side) / 8, 8, "scratch") &&
                has(&lengths, OB_BRICK_ARRAYS, 8, "lengths") && has(&bits, (n + 7) / 8, 1, "bits");
        if (right && (size_t)out.len < ob_brick_bound(&sums)) {
            PyErr_Format(PyExc_ValueError, "the chunks of a brick need %zu bytes, not %zd",
                         ob_brick_bound(&sums), out.len);
            right = 0;
        }
        if (right) {
            Py_BEGIN_ALLOW_THREADS
            ob_brick(level, &sums, scratch.buf, out.buf, lengths.buf, bits.buf, levels.buf);
            Py_END_ALLOW_THREADS
            result = Py_NewRef(Py_None);
        }
    }
    Py_buffer *others[] = {&scratch, &out, &lengths, &bits, &levels};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        release(others[i]);
    for (int i = 0; i < 5; i++)
        release(&view[i]);
    return result;
}

PyObject *ob_py_brick_sizes(PyObject *self, PyObject *args)
{
    Py_ssize_t given[3];
    int spread, air;
    ob_brick_sums sums = {.side = {0}};
    (void)self;
    if (!PyArg_ParseTuple(args, "pp(nnn)", &spread, &air, &given[0], &given[1], &given[2]) ||
        !check_sides(given, OB_SIDE, sums.side))
        return NULL;
    sums.pair[OB_WHAT_SPREAD].there = spread;
    sums.pair[OB_WHAT_AIR].there = air;
    return Py_BuildValue("nn", (Py_ssize_t)ob_brick_scratch(sums.side),
                         (Py_ssize_t)ob_brick_bound(&sums));
}

PyObject *ob_py_shells(PyObject *self, PyObject *args)
{
    enum { H, K, L, HK, HL, KL, THRESHOLDS, BITS, ALL, SEEN, VIEWS };
    Py_buffer view[VIEWS];
    Py_ssize_t cut[3], side[3];
    int level;
    PyObject *result = NULL;
    ob_shells s = {.h = NULL};
    (void)self;
    memset(view, 0, sizeof view);
    if (PyArg_ParseTuple(args, "iy*y*y*z*z*z*(nnn)(nnn)y*y*w*w*", &level, &view[H], &view[K],
                         &view[L], &view[HK], &view[HL], &view[KL], &cut[0], &cut[1], &cut[2],
                         &side[0], &side[1], &side[2], &view[THRESHOLDS], &view[BITS], &view[ALL],
                         &view[SEEN]) &&
        check_level(level) && check_sides(side, OB_SIDE, s.side) &&
        check_sides(cut, OB_SIDE, s.cut)) {
        const size_t *n = s.cut;
        const int oblique = view[HK].buf != NULL;
        s.count = (size_t)view[THRESHOLDS].len / 8;
        if (cut[0] > side[0] || cut[1] > side[1] || cut[2] > side[2]) {
            PyErr_SetString(PyExc_ValueError, "a brick has more cells than its chunk");
        } else if (has(&view[H], n[2], 8, "h") && has(&view[K], n[1], 8, "k") &&
                   has(&view[L], n[0], 8, "l") &&
                   has(&view[THRESHOLDS], s.count, 8, "thresholds") &&
                   has(&view[BITS], (s.side[0] * s.side[1] * s.side[2] + 7) / 8, 1, "bits") &&
                   has(&view[ALL], s.count, 8, "all") && has(&view[SEEN], s.count, 8, "seen") &&
                   (!oblique || (has(&view[HK], n[2] * n[1], 8, "hk") &&
                                 has(&view[HL], n[2] * n[0], 8, "hl") &&
                                 has(&view[KL], n[1] * n[0], 8, "kl")))) {
            s.h = view[H].buf;
            s.k = view[K].buf;
            s.l = view[L].buf;
            s.thresholds = view[THRESHOLDS].buf;
            if (oblique) {
                s.hk = view[HK].buf;
                s.hl = view[HL].buf;
                s.kl = view[KL].buf;
            }
            Py_BEGIN_ALLOW_THREADS
            ob_count_shells(level, &s, view[BITS].buf, view[ALL].buf, view[SEEN].buf);
            Py_END_ALLOW_THREADS
            result = Py_NewRef(Py_None);
        }
    }
    for (int i = 0; i < VIEWS; i++)
        release(&view[i]);
    return result;
}
