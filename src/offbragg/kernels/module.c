/* The kernels for Python: buffers in, buffers out, the GIL released while it takes.
 * What belongs to the transform is in module_transform.c, to the volume file in module_brick.c.
 *
 * The limited API of Python 3.11, so that one build serves all later ones. The wrappers in
 * __init__.py say what the arguments mean; here their sizes are checked once more.
 */
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#include "kernels.h"
#include "module_brick.h"
#include "module_transform.h"
#include "transform.h"

static const char *const NAMES[] = {"portable", "avx2", "avx512"};

static int check_level(int level)
{
    if (level >= 0 && level <= ob_best_level())
        return 0;
    PyErr_Format(PyExc_ValueError, "this processor has no kernel level %d", level);
    return -1;
}

static int check_words(const Py_buffer *view, const char *what)
{
    if (view->len % 4 == 0 && (uintptr_t)view->buf % 4 == 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "%s must be aligned 32-bit words", what);
    return -1;
}

static int check_room(const Py_buffer *out, size_t n)
{
    if (n > OB_MOST) {
        PyErr_Format(PyExc_ValueError, "a chunk of %zu pixels cannot be", n);
        return -1;
    }
    if ((size_t)out->len >= ob_chunk_bound(n))
        return 0;
    PyErr_Format(PyExc_ValueError, "a chunk of %zu pixels needs a buffer of %zu bytes, not %zd", n,
                 ob_chunk_bound(n), out->len);
    return -1;
}

static PyObject *levels(PyObject *self, PyObject *nothing)
{
    PyObject *found = PyList_New(0);
    (void)self;
    (void)nothing;
    for (int i = ob_best_level(); found != NULL && i >= 0; i--) {
        PyObject *name = PyUnicode_FromString(NAMES[i]);
        if (name == NULL || PyList_Append(found, name) < 0)
            Py_CLEAR(found);
        Py_XDECREF(name);
    }
    return found;
}

static PyObject *chunk_bound(PyObject *self, PyObject *args)
{
    Py_ssize_t n;
    (void)self;
    if (!PyArg_ParseTuple(args, "n", &n))
        return NULL;
    if (n < 0 || (size_t)n > OB_MOST) {
        PyErr_Format(PyExc_ValueError, "a chunk of %zd pixels cannot be", n);
        return NULL;
    }
    return PyLong_FromSize_t(ob_chunk_bound((size_t)n));
}

static PyObject *decode(PyObject *self, PyObject *args)
{
    int level, status = 0;
    size_t done = 0;
    Py_buffer in, out;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "iy*w*", &level, &in, &out))
        return NULL;
    if (check_level(level) == 0 && check_words(&out, "pixels") == 0) {
        Py_BEGIN_ALLOW_THREADS
        status = ob_decode(level, in.buf, (size_t)in.len, out.buf, (size_t)out.len / 4, &done);
        Py_END_ALLOW_THREADS
        result = Py_BuildValue("in", status, (Py_ssize_t)done);
    }
    PyBuffer_Release(&in);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *encode(PyObject *self, PyObject *args)
{
    int level;
    size_t length = 0;
    Py_buffer in, out;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "iy*w*", &level, &in, &out))
        return NULL;
    if (check_level(level) == 0 && check_words(&in, "pixels") == 0 &&
        check_room(&out, (size_t)in.len / 4) == 0) {
        Py_BEGIN_ALLOW_THREADS
        length = ob_encode(level, in.buf, (size_t)in.len / 4, out.buf);
        Py_END_ALLOW_THREADS
        result = PyLong_FromSize_t(length);
    }
    PyBuffer_Release(&in);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *encode_cells(PyObject *self, PyObject *args)
{
    int level, wide;
    size_t length = 0;
    Py_buffer in, out;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "ipy*w*", &level, &wide, &in, &out))
        return NULL;
    size_t words = (size_t)in.len / 4;
    if (check_level(level) == 0 && check_words(&in, "cells") == 0 && check_room(&out, words) == 0) {
        if ((size_t)out.len < ob_chunk_bound(words) + 4 || (wide && words % 2)) {
            PyErr_Format(PyExc_ValueError, "%zd bytes of cells do not go into %zd", in.len, out.len);
        } else {
            Py_BEGIN_ALLOW_THREADS
            length = ob_encode_cells(level, in.buf, wide ? 8 : 4, wide ? words / 2 : words, out.buf);
            uint32_t sum = ob_fletcher32(out.buf, length);
            memcpy((uint8_t *)out.buf + length, &sum, 4);
            Py_END_ALLOW_THREADS
            result = PyLong_FromSize_t(length + 4);
        }
    }
    PyBuffer_Release(&in);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *decode_encode(PyObject *self, PyObject *args)
{
    int level, status = 0;
    Py_ssize_t n;
    size_t done = 0, length = 0;
    Py_buffer in, out, image = {0};
    PyObject *keep, *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "iy*nw*O", &level, &in, &n, &out, &keep))
        return NULL;
    if (keep != Py_None && PyObject_GetBuffer(keep, &image, PyBUF_WRITABLE) < 0)
        goto end;
    if (n < 0 || (size_t)n > OB_MOST) {
        PyErr_Format(PyExc_ValueError, "a frame of %zd pixels cannot be", n);
        goto end;
    }
    if (keep != Py_None && (check_words(&image, "the image") < 0 || image.len / 4 != n)) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "an image of %zd pixels cannot take %zd",
                         image.len / 4, n);
        goto end;
    }
    if (check_level(level) == 0 && check_room(&out, (size_t)n) == 0) {
        Py_BEGIN_ALLOW_THREADS
        status = ob_decode_encode(level, in.buf, (size_t)in.len, image.buf, (size_t)n, out.buf,
                                  &done, &length);
        Py_END_ALLOW_THREADS
        result = Py_BuildValue("inn", status, (Py_ssize_t)done, (Py_ssize_t)length);
    }
end:
    PyBuffer_Release(&in);
    PyBuffer_Release(&out);
    if (image.obj != NULL)
        PyBuffer_Release(&image);
    return result;
}

static PyObject *md5(PyObject *self, PyObject *args)
{
    int level;
    PyObject *given, *result = NULL;
    Py_ssize_t count = 0, held = 0;
    Py_buffer *views = NULL;
    const uint8_t **data = NULL;
    size_t *sizes = NULL;
    uint8_t *digests = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "iO!", &level, &PyTuple_Type, &given) || check_level(level) < 0)
        return NULL;
    count = PyTuple_Size(given);
    views = PyMem_Calloc((size_t)count + 1, sizeof *views);
    data = PyMem_Calloc((size_t)count + 1, sizeof *data);
    sizes = PyMem_Calloc((size_t)count + 1, sizeof *sizes);
    digests = PyMem_Calloc((size_t)count + 1, 16);
    if (views == NULL || data == NULL || sizes == NULL || digests == NULL) {
        PyErr_NoMemory();
        goto end;
    }
    for (; held < count; held++) {
        if (PyObject_GetBuffer(PyTuple_GetItem(given, held), &views[held], PyBUF_SIMPLE) < 0)
            goto end;
        data[held] = views[held].buf;
        sizes[held] = (size_t)views[held].len;
    }
    Py_BEGIN_ALLOW_THREADS
    ob_md5(level, data, sizes, (size_t)count, digests);
    Py_END_ALLOW_THREADS
    result = PyList_New(count);
    for (Py_ssize_t i = 0; result != NULL && i < count; i++) {
        PyObject *digest = PyBytes_FromStringAndSize((const char *)digests + 16 * i, 16);
        if (digest == NULL || PyList_SetItem(result, i, digest) < 0)
            Py_CLEAR(result);
    }
end:
    for (Py_ssize_t i = 0; i < held; i++)
        PyBuffer_Release(&views[i]);
    PyMem_Free(views);
    PyMem_Free(data);
    PyMem_Free(sizes);
    PyMem_Free(digests);
    return result;
}

static PyObject *crc64(PyObject *self, PyObject *args)
{
    int level;
    unsigned long long value;
    Py_buffer in;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "iKy*", &level, &value, &in))
        return NULL;
    if (check_level(level) == 0) {
        Py_BEGIN_ALLOW_THREADS
        value = ob_crc64(level, value, in.buf, (size_t)in.len);
        Py_END_ALLOW_THREADS
        result = PyLong_FromUnsignedLongLong(value);
    }
    PyBuffer_Release(&in);
    return result;
}

static PyObject *crc64_combine(PyObject *self, PyObject *args)
{
    unsigned long long first, second, length;
    (void)self;
    if (!PyArg_ParseTuple(args, "KKK", &first, &second, &length))
        return NULL;
    return PyLong_FromUnsignedLongLong(ob_crc64_combine(first, second, length));
}

static PyObject *strips(PyObject *self, PyObject *args)
{
    int swap, wrong = 0;
    Py_buffer in, offsets, lengths, out;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*y*iw*", &in, &offsets, &lengths, &swap, &out))
        return NULL;
    if (offsets.len != lengths.len || offsets.len % 8 || (uintptr_t)offsets.buf % 8 ||
        (uintptr_t)lengths.buf % 8) {
        PyErr_SetString(PyExc_ValueError, "offsets and lengths must be as many 64-bit words");
    } else if (check_words(&out, "pixels") == 0) {
        Py_BEGIN_ALLOW_THREADS
        wrong = ob_strips(in.buf, (size_t)in.len, offsets.buf, lengths.buf,
                          (size_t)offsets.len / 8, swap, out.buf, (size_t)out.len / 4);
        Py_END_ALLOW_THREADS
        result = PyBool_FromLong(!wrong);
    }
    PyBuffer_Release(&in);
    PyBuffer_Release(&offsets);
    PyBuffer_Release(&lengths);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *decode_chunk(PyObject *self, PyObject *args)
{
    int level, status = 0;
    Py_ssize_t n, first;
    size_t done = 0;
    Py_buffer in, out;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "iy*nnw*", &level, &in, &n, &first, &out))
        return NULL;
    if (n < 0 || (size_t)n > OB_MOST || first < 0 || first > n || out.len / 4 > n - first) {
        PyErr_Format(PyExc_ValueError, "a chunk of %zd pixels has no %zd pixels from %zd on", n,
                     out.len / 4, first);
    } else if (check_level(level) == 0 && check_words(&out, "pixels") == 0) {
        Py_BEGIN_ALLOW_THREADS
        status = ob_decode_chunk(level, in.buf, (size_t)in.len, (size_t)n, (size_t)first,
                                 (size_t)out.len / 4, out.buf, &done);
        Py_END_ALLOW_THREADS
        result = Py_BuildValue("in", status, (Py_ssize_t)done);
    }
    PyBuffer_Release(&in);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *decode_cells(PyObject *self, PyObject *args)
{
    int level, wide, status = 0;
    Py_ssize_t n, first;
    size_t done = 0;
    Py_buffer in, out;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "ipy*nnw*", &level, &wide, &in, &n, &first, &out))
        return NULL;
    const size_t width = wide ? 8 : 4, count = (size_t)out.len / width;
    if (n < 0 || (size_t)n > OB_MOST / 2 || first < 0 || first > n ||
        count > (size_t)(n - first) || (size_t)out.len % width) {
        PyErr_Format(PyExc_ValueError, "a chunk of %zd cells has no %zd from %zd on", n,
                     (Py_ssize_t)count, first);
    } else if (check_level(level) == 0 && check_words(&out, "cells") == 0) {
        Py_BEGIN_ALLOW_THREADS
        status = ob_decode_cells(level, in.buf, (size_t)in.len, width, (size_t)n, (size_t)first,
                                 count, out.buf, &done);
        Py_END_ALLOW_THREADS
        result = Py_BuildValue("in", status, (Py_ssize_t)done);
    }
    PyBuffer_Release(&in);
    PyBuffer_Release(&out);
    return result;
}

/* None, or as many doubles as cells */
static int get_cells(PyObject *given, Py_buffer *view, Py_ssize_t cells, int writable)
{
    if (given == Py_None)
        return 0;
    if (PyObject_GetBuffer(given, view, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0)
        return -1;
    if (view->len / 8 == cells && view->len % 8 == 0 && (uintptr_t)view->buf % 8 == 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "an array of %zd bytes does not hold %zd cells of 8, aligned",
                 view->len, cells);
    return -1;
}

static PyObject *symmetrise(PyObject *self, PyObject *args)
{
    PyObject *array, *share, *out, *result = NULL;
    Py_buffer of = {0}, by = {0}, to = {0}, operations, steps;
    long long first[3], shape[3];
    Py_ssize_t part, parts, cells = 1;
    int wrong = 1;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOO(LLL)(LLL)y*y*nn", &array, &share, &out, &first[0], &first[1],
                          &first[2], &shape[0], &shape[1], &shape[2], &operations, &steps, &part,
                          &parts))
        return NULL;
    for (int i = 0; i < 3; i++) {
        if (shape[i] < 1 || shape[i] > PY_SSIZE_T_MAX / 8 / cells) {
            PyErr_Format(PyExc_ValueError, "a box of %lld x %lld x %lld cells cannot be", shape[0],
                         shape[1], shape[2]);
            goto end;
        }
        cells *= (Py_ssize_t)shape[i];
    }
    if (get_cells(array, &of, cells, 0) < 0 || get_cells(share, &by, cells, 0) < 0 ||
        get_cells(out, &to, cells, 1) < 0)
        goto end;
    if (to.buf != NULL && part >= 0 && parts > 0 && operations.len % 9 == 0) {
        int64_t from[3] = {first[0], first[1], first[2]}, size[3] = {shape[0], shape[1], shape[2]};
        Py_BEGIN_ALLOW_THREADS
        wrong = ob_symmetrise(of.buf, by.buf, to.buf, from, size, operations.buf,
                              (size_t)operations.len / 9, steps.buf, (size_t)steps.len,
                              (size_t)part, (size_t)parts);
        Py_END_ALLOW_THREADS
    }
    if (wrong < 0)
        PyErr_NoMemory();
    else if (wrong)
        PyErr_SetString(PyExc_ValueError,
                        "the operations are not a group of whole numbers with the identity first, "
                        "or the steps or parts are not theirs");
    else
        result = Py_NewRef(Py_None);
end:
    PyBuffer_Release(&operations);
    PyBuffer_Release(&steps);
    if (of.obj != NULL)
        PyBuffer_Release(&of);
    if (by.obj != NULL)
        PyBuffer_Release(&by);
    if (to.obj != NULL)
        PyBuffer_Release(&to);
    return result;
}

static PyObject *tiles(PyObject *self, PyObject *args)
{
    int level;
    Py_ssize_t rows, columns;
    Py_buffer in, number, middle, highest;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "iy*nnw*w*w*", &level, &in, &rows, &columns, &number, &middle,
                          &highest))
        return NULL;
    const int possible = rows >= 0 && columns >= 0 && rows <= (Py_ssize_t)OB_MOST &&
                         columns <= (Py_ssize_t)OB_MOST;
    const size_t down = possible ? ((size_t)rows + OB_TILE - 1) / OB_TILE : 0;
    const size_t across = possible ? ((size_t)columns + OB_TILE - 1) / OB_TILE : 0;
    if (!possible || (size_t)in.len != 4 * (size_t)rows * (size_t)columns ||
        (size_t)number.len != 4 * down * across || (size_t)middle.len != 4 * down * across ||
        (size_t)highest.len != 4 * down * (size_t)columns) {
        PyErr_Format(PyExc_ValueError, "buffers are not those of a frame of %zd rows, %zd columns",
                     rows, columns);
    } else if (check_level(level) == 0 && check_words(&in, "counts") == 0 &&
               check_words(&number, "number") == 0 && check_words(&middle, "middle") == 0 &&
               check_words(&highest, "highest") == 0) {
        Py_BEGIN_ALLOW_THREADS
        ob_tiles(level, in.buf, (size_t)rows, (size_t)columns, number.buf, middle.buf, highest.buf);
        Py_END_ALLOW_THREADS
        result = Py_None;
        Py_INCREF(result);
    }
    PyBuffer_Release(&in);
    PyBuffer_Release(&number);
    PyBuffer_Release(&middle);
    PyBuffer_Release(&highest);
    return result;
}

static PyMethodDef methods[] = {
    {"levels", levels, METH_NOARGS, "Names of the levels that run here, best first."},
    {"chunk_bound", chunk_bound, METH_VARARGS, "Bytes that a chunk of n pixels may take."},
    {"decode", decode, METH_VARARGS, "(level, stream, out) -> (status, pixels)"},
    {"encode", encode, METH_VARARGS, "(level, pixels, out) -> length"},
    {"encode_cells", encode_cells, METH_VARARGS, "(level, wide, cells, out) -> length"},
    {"decode_encode", decode_encode, METH_VARARGS,
     "(level, stream, n, out, image or None) -> (status, pixels, length)"},
    {"md5", md5, METH_VARARGS, "(level, buffers) -> digests"},
    {"crc64", crc64, METH_VARARGS, "(level, before, data) -> CRC-64/XZ"},
    {"crc64_combine", crc64_combine, METH_VARARGS, "(first, second, length) -> CRC of both"},
    {"strips", strips, METH_VARARGS, "(data, offsets, lengths, swap, out) -> whether they fit"},
    {"decode_chunk", decode_chunk, METH_VARARGS,
     "(level, chunk, n, first, out) -> (status, pixels)"},
    {"decode_cells", decode_cells, METH_VARARGS,
     "(level, wide, chunk, n, first, out) -> (status, cells)"},
    {"transform", ob_py_transform, METH_VARARGS, "Add the pixels of frames to the cells of a grid."},
    {"variance", ob_py_variance, METH_VARARGS, "Add the variance of divided pixels to the cells."},
    {"places", ob_py_places, METH_VARARGS, "Find the cells of the pixels of a frame."},
    {"fold", ob_py_fold, METH_VARARGS, "Bring places into the part that a group does not repeat."},
    {"symmetrise", symmetrise, METH_VARARGS,
     "(array or None, share or None, out, first, shape, operations, steps, part, parts)"},
    {"bricks", ob_py_bricks, METH_VARARGS, "Compress all that is stored of bricks."},
    {"brick_of_cells", ob_py_brick_of_cells, METH_VARARGS, "The same of one, of cells as they are."},
    {"brick_sizes", ob_py_brick_sizes, METH_VARARGS, "Bytes of scratch, and of chunks, of a brick."},
    {"shells", ob_py_shells, METH_VARARGS, "Count the cells of a brick by distance."},
    {"tiles", tiles, METH_VARARGS, "(level, counts, rows, columns, number, middle, highest)"},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_kernels", "See offbragg.kernels.", 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__kernels(void)
{
    ob_crc64_init();
    ob_transform_init();
    return PyModuleDef_Init(&module);
}
