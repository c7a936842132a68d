/* Bytes that come in pieces and wait to be taken. See pieces.h. */
#include "pieces.h"

/* A piece that is shorter than this goes behind the last one, unless that is longer than the other. */
#define SMALL_BYTES 1024
#define JOINED_BYTES 4096

static bool
is_single(PyObject *pieces)
{
    return pieces != NULL && !PyList_CheckExact(pieces);
}

int
pieces_add(PyObject **pieces, PyObject *bytes)
{
    if (is_single(*pieces)) {
        PyObject *list = PyList_New(0);
        bool still = is_single(*pieces);
        if (list == NULL || (still && PyList_Append(list, *pieces) < 0)) {
            Py_XDECREF(list);
            return -1;
        }
        if (still)
            Py_SETREF(*pieces, list);
        else
            Py_DECREF(list);
    }
    if (*pieces == NULL) {
        *pieces = Py_NewRef(bytes);
        return 0;
    }
    return PyList_Append(*pieces, bytes);
}

int
pieces_add_small(const State *state, PyObject **pieces, const uint8_t *data, size_t length)
{
    Py_ssize_t count = *pieces == NULL ? 0 : PyList_CheckExact(*pieces) ? PyList_GET_SIZE(*pieces) : -1;
    if (count == 0 || length >= SMALL_BYTES)
        return 0;
    PyObject **last = count < 0 ? pieces : &((PyListObject *)*pieces)->ob_item[count - 1];
    if (!PyBytes_CheckExact(*last))
        return 0; /* somebody has found the list */
    Py_ssize_t size = PyBytes_GET_SIZE(*last);
    if (Py_REFCNT(*last) != 1 || size == 0 || size >= JOINED_BYTES)
        return 0;
    PyObject *wider = *last;
    if (_PyBytes_Resize(&wider, size + (Py_ssize_t)length) < 0) { /* which has freed it */
        *last = Py_NewRef(state->empty_bytes);
        return -1;
    }
    memcpy(PyBytes_AS_STRING(wider) + size, data, length);
    *last = wider;
    return 1;
}

PyObject *
pieces_take(const State *state, PyObject **pieces)
{
    PyObject *taken = *pieces;
    *pieces = NULL;
    if (taken == NULL || !PyList_CheckExact(taken))
        return taken;
    PyObject *joined = PyObject_CallMethod(state->empty_bytes, "join", "O", taken);
    Py_DECREF(taken);
    return joined;
}
