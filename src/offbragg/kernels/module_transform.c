/* The transform for Python; see module.c. */
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#include "module_transform.h"
#include "transform.h"

#include <float.h>

enum {
    COUNTS, TURNS, FLUX, INVERSE, FACTOR, LOW, HIGH, CHANGED, OPERATIONS, CANDIDATES, RATE,
    RATE_FLUX, VIEWS,
};

typedef struct {
    Py_buffer view[VIEWS];
    ob_exposures what;
    ob_band band;
    ob_sums sums;
    ob_fold fold;
    int level, subtract, folded;
} call;

static int is_of(const Py_buffer *view, size_t items, size_t size, const char *what)
{
    if ((size_t)view->len == items * size && (uintptr_t)view->buf % (size < 8 ? size : 8) == 0)
        return 1;
    PyErr_Format(PyExc_ValueError, "%s must be %zu aligned items of %zu bytes, not %zd bytes", what,
                 items, size, view->len);
    return 0;
}

static int check_level(int level)
{
    if (level >= 0 && level <= ob_best_level())
        return 1;
    PyErr_Format(PyExc_ValueError, "this processor has no kernel level %d", level);
    return 0;
}

static int check_size(Py_ssize_t rows, Py_ssize_t columns, const Py_ssize_t *band, ob_band *out)
{
    if (rows < 1 || columns < 1 || rows > 1 << 20 || columns > 1 << 20 || band[0] < 0 ||
        band[1] > rows || band[0] > band[1] || band[2] < 0 || band[3] > columns ||
        band[2] > band[3]) {
        PyErr_Format(PyExc_ValueError, "rows %zd to %zd, columns %zd to %zd are not in %zd x %zd",
                     band[0], band[1], band[2], band[3], rows, columns);
        return 0;
    }
    out->row[0] = (size_t)band[0];
    out->row[1] = (size_t)band[1];
    out->column[0] = (size_t)band[2];
    out->column[1] = (size_t)band[3];
    return 1;
}

static int make_grid(const int *shape, ob_grid *grid)
{
    int32_t cells[3] = {shape[0], shape[1], shape[2]};
    if (ob_make_grid(cells, grid) == 0)
        return 1;
    PyErr_Format(PyExc_ValueError, "a grid of %d x %d x %d cells cannot be numbered with 32 bits",
                 shape[0], shape[1], shape[2]);
    return 0;
}

/* Read a fold: (shape, first, operations, candidates, first of the part, its shape). */
static int get_fold(PyObject *tuple, Py_buffer *operations, Py_buffer *candidates, ob_fold *fold)
{
    int shape[3], part[3], *first = fold->first, *to_first = fold->to_first;
    if (!PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "a fold must be a tuple");
        return 0;
    }
    if (!PyArg_ParseTuple(tuple, "(iii)(iii)y*y*(iii)(iii)", &shape[0], &shape[1], &shape[2],
                          &first[0], &first[1], &first[2], operations, candidates, &to_first[0],
                          &to_first[1], &to_first[2], &part[0], &part[1], &part[2]) ||
        !make_grid(shape, &fold->grid) || !make_grid(part, &fold->part))
        return 0;
    const uint32_t *bricks = fold->grid.bricks;
    fold->count = (size_t)operations->len / 9;
    if (!is_of(operations, fold->count, 9, "operations") ||
        !is_of(candidates, (size_t)bricks[0] * bricks[1] * bricks[2], 8, "candidates"))
        return 0;
    int wrong = fold->count < 1 || fold->count > OB_MOST_OPERATIONS;
    for (int i = 0; i < 3; i++)
        wrong |= first[i] < -OB_MOST_LABEL || first[i] > OB_MOST_LABEL - shape[i] ||
                 to_first[i] < -4 * OB_MOST_LABEL || to_first[i] > 4 * OB_MOST_LABEL;
    for (Py_ssize_t i = 0; i < operations->len; i++) {
        int8_t entry = ((const int8_t *)operations->buf)[i];
        wrong |= entry < -1 || entry > 1;
    }
    if (wrong) {
        PyErr_Format(PyExc_ValueError, "a fold has 1 to %d operations of -1, 0 and 1, and labels "
                     "within %d", OB_MOST_OPERATIONS, OB_MOST_LABEL);
        return 0;
    }
    fold->operations = operations->buf;
    fold->candidates = candidates->buf;
    return 1;
}

static int check_flux(const float *flux, size_t frames)
{
    for (size_t i = 0; i < frames; i++)
        if (!(flux[i] >= 0.0f && flux[i] <= FLT_MAX)) {
            PyErr_Format(PyExc_ValueError, "the flux of frame %zu must be from 0 on, and finite", i);
            return 0;
        }
    return 1;
}

/* Check every size against every other, so that nothing outside the buffers is touched. */
static int begin(call *c, PyObject *args, Py_ssize_t *sides, Py_ssize_t *turns)
{
    Py_ssize_t rows, columns, band[4];
    int shape[3], most;
    PyObject *fold;

    memset(c, 0, sizeof *c);
    if (!PyArg_ParseTuple(
            args, "iy*y*y*y*y*(nn)(nnnn)(dd)i(iii)w*w*w*p(nn)Oz*z*", &c->level, &c->view[COUNTS],
            &c->view[TURNS], &c->view[FLUX], &c->view[INVERSE], &c->view[FACTOR], &rows, &columns,
            &band[0], &band[1], &band[2], &band[3], &c->what.x, &c->what.y, &most, &shape[0],
            &shape[1], &shape[2], &c->view[LOW], &c->view[HIGH], &c->view[CHANGED], &c->subtract,
            sides, turns, &fold, &c->view[RATE], &c->view[RATE_FLUX]))
        return 0;
    if (!check_level(c->level) || !check_size(rows, columns, band, &c->band) || !make_grid(shape, &c->sums.grid))
        return 0;
    if (*sides < 1 || *sides > 64 || *turns < 1 || *turns > 64 || most < 0) {
        PyErr_SetString(PyExc_ValueError, "1 to 64 parts, and valid counts from 0");
        return 0;
    }
    c->folded = fold != Py_None;
    if (c->folded) {
        if (!get_fold(fold, &c->view[OPERATIONS], &c->view[CANDIDATES], &c->fold))
            return 0;
        for (int i = 0; i < 3; i++)
            if (c->fold.part.shape[i] != shape[i]) {
                PyErr_SetString(PyExc_ValueError, "the sums must be those of the fold's part");
                return 0;
            }
        if ((uintptr_t)c->view[LOW].buf % 8) {
            PyErr_SetString(PyExc_ValueError, "sums with a fold must be aligned to 8 bytes");
            return 0;
        }
    }
    size_t pixels = (size_t)rows * (size_t)columns;
    size_t frames = (size_t)c->view[FLUX].len / 4;
    if (frames > SIZE_MAX / 8 / pixels || frames > SIZE_MAX / 8 / 64 / 12) {
        PyErr_SetString(PyExc_ValueError, "more frames than there can be");
        return 0;
    }
    const ob_grid *grid = &c->sums.grid;
    size_t bricks = (size_t)grid->bricks[0] * grid->bricks[1] * grid->bricks[2];
    if (!is_of(&c->view[FLUX], frames, 4, "flux") ||
        !is_of(&c->view[COUNTS], frames * pixels, 4, "counts") ||
        !is_of(&c->view[TURNS], frames * (size_t)*turns * 12, 8, "turns") ||
        !is_of(&c->view[INVERSE], pixels * (size_t)(*sides * *sides), 8, "inverse") ||
        !is_of(&c->view[FACTOR], pixels, 4, "factor") ||
        !is_of(&c->view[LOW], bricks * OB_BRICK * 2, 4, "low") ||
        !is_of(&c->view[HIGH], bricks * OB_BRICK * 2, 4, "high") ||
        !is_of(&c->view[CHANGED], bricks, 1, "changed"))
        return 0;
    if (!check_flux(c->view[FLUX].buf, frames))
        return 0;
    if (c->view[RATE].buf != NULL || c->view[RATE_FLUX].buf != NULL) {
        if (!is_of(&c->view[RATE], pixels, 4, "rate") ||
            !is_of(&c->view[RATE_FLUX], frames, 4, "rate_flux") ||
            !check_flux(c->view[RATE_FLUX].buf, frames))
            return 0;
        c->what.rate = c->view[RATE].buf;
        c->what.rate_flux = c->view[RATE_FLUX].buf;
    }
    c->what.counts = c->view[COUNTS].buf;
    c->what.turns = c->view[TURNS].buf;
    c->what.flux = c->view[FLUX].buf;
    c->what.inverse = c->view[INVERSE].buf;
    c->what.factor = c->view[FACTOR].buf;
    c->what.frames = frames;
    c->what.rows = (size_t)rows;
    c->what.columns = (size_t)columns;
    c->what.most = most;
    c->sums.low = c->view[LOW].buf;
    c->sums.high = c->view[HIGH].buf;
    c->sums.changed = c->view[CHANGED].buf;
    return 1;
}

static void end(call *c)
{
    for (int i = 0; i < VIEWS; i++)
        if (c->view[i].obj != NULL)
            PyBuffer_Release(&c->view[i]);
}

PyObject *ob_py_transform(PyObject *self, PyObject *args)
{
    call c;
    Py_ssize_t sides, turns;
    PyObject *result = NULL;
    (void)self;
    if (begin(&c, args, &sides, &turns)) {
        if (sides != 1 || turns != 1) {
            PyErr_SetString(PyExc_ValueError, "one turn for each frame, and one point of a pixel");
        } else {
            Py_BEGIN_ALLOW_THREADS
            ob_transform(c.level, &c.what, &c.band, c.folded ? &c.fold : NULL, &c.sums,
                         c.subtract);
            Py_END_ALLOW_THREADS
            result = Py_NewRef(Py_None);
        }
    }
    end(&c);
    return result;
}

PyObject *ob_py_variance(PyObject *self, PyObject *args)
{
    call c;
    Py_ssize_t sides, turns;
    int failed;
    PyObject *result = NULL;
    (void)self;
    if (begin(&c, args, &sides, &turns)) {
        Py_BEGIN_ALLOW_THREADS
        failed = ob_variance(c.level, &c.what, &c.band, (size_t)sides, (size_t)turns,
                             c.folded ? &c.fold : NULL, &c.sums, c.subtract);
        Py_END_ALLOW_THREADS
        result = failed ? PyErr_NoMemory() : Py_NewRef(Py_None);
    }
    end(&c);
    return result;
}

PyObject *ob_py_places(PyObject *self, PyObject *args)
{
    Py_buffer turn = {0}, inverse = {0}, out = {0};
    Py_ssize_t rows, columns, band[4];
    int shape[3];
    ob_exposures what = {0};
    ob_band part;
    ob_grid grid;
    PyObject *result = NULL;
    (void)self;
    if (PyArg_ParseTuple(args, "y*y*(nn)(nnnn)(dd)(iii)w*", &turn, &inverse, &rows, &columns,
                         &band[0], &band[1], &band[2], &band[3], &what.x, &what.y, &shape[0],
                         &shape[1], &shape[2], &out) &&
        check_size(rows, columns, band, &part) && make_grid(shape, &grid) &&
        is_of(&turn, 12, 8, "turn") &&
        is_of(&inverse, (size_t)rows * (size_t)columns, 8, "inverse") &&
        is_of(&out, (size_t)((band[1] - band[0]) * (band[3] - band[2])), 4, "out")) {
        what.turns = turn.buf;
        what.inverse = inverse.buf;
        what.rows = (size_t)rows;
        what.columns = (size_t)columns;
        Py_BEGIN_ALLOW_THREADS
        ob_places(&what, &part, &grid, out.buf);
        Py_END_ALLOW_THREADS
        result = Py_NewRef(Py_None);
    }
    if (turn.obj != NULL)
        PyBuffer_Release(&turn);
    if (inverse.obj != NULL)
        PyBuffer_Release(&inverse);
    if (out.obj != NULL)
        PyBuffer_Release(&out);
    return result;
}

PyObject *ob_py_fold(PyObject *self, PyObject *args)
{
    Py_buffer places = {0}, operations = {0}, candidates = {0};
    PyObject *tuple, *result = NULL;
    ob_fold fold = {0};
    int level;
    (void)self;
    if (PyArg_ParseTuple(args, "iw*O", &level, &places, &tuple) && check_level(level) &&
        get_fold(tuple, &operations, &candidates, &fold) &&
        is_of(&places, (size_t)places.len / 4, 4, "places")) {
        Py_BEGIN_ALLOW_THREADS
        ob_fold_places(level, &fold, places.buf, (size_t)places.len / 4);
        Py_END_ALLOW_THREADS
        result = Py_NewRef(Py_None);
    }
    if (places.obj != NULL)
        PyBuffer_Release(&places);
    if (operations.obj != NULL)
        PyBuffer_Release(&operations);
    if (candidates.obj != NULL)
        PyBuffer_Release(&candidates);
    return result;
}
