/* Figures in shared memory. See figures.h. */
#include "figures.h"

/* ---- made ---- */

/* Reads a tuple of ascending positive ints, which may be NULL. 0, or -1 with TypeError or ValueError. */
static int
take_bounds(Histogram *histogram, PyObject *bounds)
{
    Py_ssize_t count = bounds == NULL || bounds == Py_None ? 0 : PyTuple_CheckExact(bounds) ? PyTuple_GET_SIZE(bounds) : -1;
    if (count < 0 || count > FIGURE_MOST_BOUNDS) {
        PyErr_Format(PyExc_TypeError, "bounds must be a tuple of at most %d ints", FIGURE_MOST_BOUNDS);
        return -1;
    }
    uint64_t last = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyTuple_GET_ITEM(bounds, i);
        uint64_t bound = PyLong_CheckExact(item) ? PyLong_AsUnsignedLongLong(item) : 0;
        if (PyErr_Occurred())
            PyErr_Clear();
        if (bound <= last || bound > INT64_MAX) {
            PyErr_SetString(PyExc_ValueError, "bounds must be positive ints in ascending order");
            return -1;
        }
        histogram->bounds[i] = last = bound;
    }
    histogram->count = (int)count;
    int at = 0;
    for (int digits = 0; digits <= 64; digits++) {
        uint64_t least = digits == 0 ? 0 : (uint64_t)1 << (digits - 1);
        while (at < count && histogram->bounds[at] < least)
            at++;
        histogram->first[digits] = (uint8_t)at;
    }
    return 0;
}

/* Shared memory of exactly `count` figures, or our own. 0, or -1. */
static int
take_memory(Figures *figures, PyObject *view, Py_ssize_t count)
{
    if (view == NULL || view == Py_None) {
        figures->own = PyMem_Calloc((size_t)count, sizeof(uint64_t));
        figures->figures = figures->own;
        return figures->own == NULL ? (PyErr_NoMemory(), -1) : 0;
    }
    if (PyObject_GetBuffer(view, &figures->view, PyBUF_WRITABLE | PyBUF_FORMAT | PyBUF_ND) < 0)
        return -1;
    const Py_buffer *buffer = &figures->view;
    bool fits = buffer->ndim == 1 && buffer->itemsize == sizeof(uint64_t) && buffer->format != NULL &&
                strcmp(buffer->format, "Q") == 0 && buffer->len == count * (Py_ssize_t)sizeof(uint64_t) &&
                (uintptr_t)buffer->buf % sizeof(uint64_t) == 0;
    if (!fits) {
        PyErr_Format(PyExc_ValueError, "figures must be a buffer of %zd unsigned 64-bit numbers (format \"Q\"), not %zd bytes",
                     count, buffer->len);
        PyBuffer_Release(&figures->view);
        return -1;
    }
    figures->figures = buffer->buf;
    return 0;
}

int
figures_take(Figures *figures, PyObject *view, PyObject *duration_bounds, PyObject *size_bounds)
{
    Histogram *const histograms[] = {&figures->duration_us, &figures->first_byte_us, &figures->request_body_bytes,
                                     &figures->response_body_bytes};
    Py_ssize_t count = FIGURE_COUNT + FIGURE_METHODS * FIGURE_CLASSES;
    for (int i = 0; i < 4; i++) {
        if (take_bounds(histograms[i], i < 2 ? duration_bounds : size_bounds) < 0)
            return -1;
        count += histograms[i]->count + 2;
    }
    if (take_memory(figures, view, count) < 0)
        return -1;
    uint64_t *at = figures->figures + FIGURE_COUNT + FIGURE_METHODS * FIGURE_CLASSES;
    for (int i = 0; i < 4; i++) {
        histograms[i]->sum = at;
        at += histograms[i]->count + 2;
    }
    return 0;
}

void
figures_release(Figures *figures)
{
    figures->figures = NULL;
    PyMem_Free(figures->own);
    figures->own = NULL;
    if (figures->view.obj != NULL)
        PyBuffer_Release(&figures->view);
}

int
figures_init_module(PyObject *module)
{
    static const char *const names[] = {
#define X(name) #name,
        FIGURE_NAMES(X)
#undef X
    };
    static const char *const methods[] = {
#define X(name) #name,
        LINE_METHODS(X)
#undef X
        "other",
    };
    const struct {
        const char *attribute;
        const char *const *texts;
        int count;
    } tables[] = {{"figure_names", names, FIGURE_COUNT}, {"methods", methods, FIGURE_METHODS}};
    for (int table = 0; table < 2; table++) {
        PyObject *tuple = PyTuple_New(tables[table].count);
        for (int i = 0; tuple != NULL && i < tables[table].count; i++) {
            PyObject *text = PyUnicode_FromString(tables[table].texts[i]);
            if (text == NULL)
                Py_CLEAR(tuple);
            else
                PyTuple_SET_ITEM(tuple, i, text);
        }
        int result = tuple == NULL ? -1 : PyModule_AddObjectRef(module, tables[table].attribute, tuple);
        Py_XDECREF(tuple);
        if (result < 0)
            return -1;
    }
    return 0;
}

/* ---- counted ---- */

void
histogram_add(Histogram *histogram, uint64_t value)
{
    int at = histogram->first[value == 0 ? 0 : 64 - __builtin_clzll(value)];
    while (at < histogram->count && histogram->bounds[at] < value)
        at++;
    uint64_t *bucket = histogram->sum + 1 + at;
    figure_store(histogram->sum, *histogram->sum + value);
    figure_store(bucket, *bucket + 1);
}

void
figures_response(Figures *figures, int method, int status)
{
    int kind = status / 100 - 1;
    kind = kind < 0 ? 0 : kind >= FIGURE_CLASSES ? FIGURE_CLASSES - 1 : kind; /* 600 and more: the app's mistake */
    uint64_t *figure = figures->figures + FIGURE_COUNT + method * FIGURE_CLASSES + kind;
    figure_store(figure, *figure + 1);
}
