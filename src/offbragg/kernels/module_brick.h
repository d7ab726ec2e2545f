/* What module.c takes from module_brick.c */
#ifndef OFFBRAGG_MODULE_BRICK_H
#define OFFBRAGG_MODULE_BRICK_H

PyObject *ob_py_bricks(PyObject *self, PyObject *args);
PyObject *ob_py_brick_of_cells(PyObject *self, PyObject *args);
PyObject *ob_py_brick_sizes(PyObject *self, PyObject *args);
PyObject *ob_py_shells(PyObject *self, PyObject *args);

#endif
