/* What module.c takes from module_transform.c */
#ifndef OFFBRAGG_MODULE_TRANSFORM_H
#define OFFBRAGG_MODULE_TRANSFORM_H

PyObject *ob_py_transform(PyObject *self, PyObject *args);
PyObject *ob_py_variance(PyObject *self, PyObject *args);
PyObject *ob_py_places(PyObject *self, PyObject *args);
PyObject *ob_py_fold(PyObject *self, PyObject *args);

#endif
