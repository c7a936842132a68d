/* The AccessLog object: made, asked whether, gathering, handing on. See accesslog.h. What a line is made of is access_ops.c. */
#include "accesslog.h"

#include "access_ops.h"
#include "escape.h"
#include "scope.h"

#define DEFAULT_LIMIT_BYTES 65536
/* What a burst of long lines took is given back. */
#define KEPT_BYTES 262144

/* ---- made ---- */

static void
program_clear(Program *program)
{
    for (Py_ssize_t i = 0; i < program->count; i++)
        Py_CLEAR(program->steps[i].argument);
    PyMem_Free(program->steps);
    *program = (Program){0};
}

/* One (op, argument) pair. 0, or -1 with TypeError or ValueError. */
static int
take_step(AccessLog *log, Step *step, PyObject *item)
{
    const char *name;
    PyObject *argument;
    if (!PyTuple_CheckExact(item)) {
        PyErr_SetString(PyExc_TypeError, "a program must be pairs (op, argument)");
        return -1;
    }
    if (!PyArg_ParseTuple(item, "sO;a program must be pairs (op, argument)", &name, &argument))
        return -1;
    int op = access_op_named(name);
    if (op < 0) {
        PyErr_Format(PyExc_ValueError, "'%.80s' is no operation of an access log", name);
        return -1;
    }
    bool given = PyBytes_CheckExact(argument);
    if (!given && argument != Py_None) {
        PyErr_Format(PyExc_TypeError, "the argument of %s must be bytes or None, not %.80s", name, Py_TYPE(argument)->tp_name);
        return -1;
    }
    AccessOpFacts facts = access_op_facts(op);
    if (facts.argument == ACCESS_NEEDED ? !given : facts.argument == ACCESS_NONE && given) {
        PyErr_Format(PyExc_ValueError, "%s %s an argument", name, given ? "takes no" : "needs");
        return -1;
    }
    if (facts.argument == ACCESS_OPTIONAL && given && PyBytes_GET_SIZE(argument) > 0 &&
        strcmp(PyBytes_AS_STRING(argument), "colours") != 0) {
        PyErr_Format(PyExc_ValueError, "%s knows colours, and no other argument", name);
        return -1;
    }
    step->op = (uint8_t)op;
    step->argument = given ? Py_NewRef(argument) : NULL;
    log->wants_tls |= facts.tls;
    if (!facts.response_field)
        return 0;
    if (log->response_names == NULL && (log->response_names = PyList_New(0)) == NULL)
        return -1;
    int known = PySequence_Contains(log->response_names, argument);
    return known != 0 ? (known < 0 ? -1 : 0) : PyList_Append(log->response_names, argument);
}

/* 0, or -1 with an exception. */
static int
take_program(AccessLog *log, Program *program, PyObject *given)
{
    PyObject *items = PySequence_Tuple(given); /* may run Python */
    if (items == NULL)
        return -1;
    int result = 0;
    program->steps = PyMem_Calloc((size_t)PyTuple_GET_SIZE(items) + 1, sizeof(Step));
    if (program->steps == NULL)
        result = (PyErr_NoMemory(), -1);
    for (Py_ssize_t i = 0; result == 0 && i < PyTuple_GET_SIZE(items); i++) {
        program->count = i + 1;
        result = take_step(log, &program->steps[i], PyTuple_GET_ITEM(items, i));
    }
    Py_DECREF(items);
    return result;
}

/* The globs, as a tuple of bytes. 0, or -1 with an exception. */
static int
take_exclude(AccessLog *log, PyObject *given)
{
    PyObject *globs = given == NULL ? PyTuple_New(0) : PySequence_Tuple(given); /* may run Python */
    if (globs == NULL)
        return -1;
    Py_SETREF(log->exclude, globs);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(globs); i++) {
        if (!PyBytes_CheckExact(PyTuple_GET_ITEM(globs, i))) {
            PyErr_SetString(PyExc_TypeError, "exclude must be a sequence of bytes");
            return -1;
        }
    }
    return 0;
}

static PyObject *
accesslog_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *const names[] = {"program", "websocket_program", "write", "schedule", "exclude",
                                  "sample",  "json",              "buffer_bytes", NULL};
    PyObject *program, *websocket_program, *write = NULL, *schedule = NULL, *exclude = NULL;
    double sample = 1.0;
    int json = 0;
    Py_ssize_t limit = DEFAULT_LIMIT_BYTES;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|$OOOdpn:AccessLog", (char **)names, &program, &websocket_program, &write,
                                     &schedule, &exclude, &sample, &json, &limit))
        return NULL;
    if (write == NULL || schedule == NULL || !PyCallable_Check(write) || !PyCallable_Check(schedule)) {
        PyErr_SetString(PyExc_TypeError, "AccessLog() needs write and schedule, which are called");
        return NULL;
    }
    if (!(sample >= 0.0 && sample <= 1.0) || limit < 1 || limit > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "sample must be 0 to 1, buffer_bytes 1 to 2147483647");
        return NULL;
    }
    AccessLog *log = (AccessLog *)type->tp_alloc(type, 0);
    if (log == NULL)
        return NULL;
    log->exclude = PyTuple_New(0); /* the arguments can run code that finds the log before it is whole */
    if (log->exclude == NULL) {
        Py_DECREF(log);
        return NULL;
    }
    log->write = Py_NewRef(write);
    log->schedule = Py_NewRef(schedule);
    log->json = json != 0;
    log->limit = (size_t)limit;
    log->sample = (uint64_t)(sample * 4294967296.0);
    log->clf.moment = log->iso.moment = -1;
    if (take_program(log, &log->request, program) < 0 || take_program(log, &log->websocket, websocket_program) < 0 ||
        take_exclude(log, exclude) < 0)
        Py_CLEAR(log);
    return (PyObject *)log;
}

/* ---- asked whether ---- */

static bool
is_excluded(const AccessLog *log, const Cycle *cycle)
{
    Py_ssize_t length;
    const char *path = scope_target(cycle->target, &length);
    const char *mark = memchr(path, '?', (size_t)length);
    if (mark != NULL)
        length = mark - path;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(log->exclude); i++) {
        PyObject *glob = PyTuple_GET_ITEM(log->exclude, i);
        if (escape_glob(PyBytes_AS_STRING(glob), (size_t)PyBytes_GET_SIZE(glob), path, (size_t)length))
            return true;
    }
    return false;
}

/* Whether this one is in the sample. Errors of the server always are. An additive sequence (multiples of the golden ratio)
 * has the share right at once, and no rhythm that traffic could have, too. */
static bool
is_sampled(AccessLog *log, const Cycle *cycle)
{
    if (LIKELY(log->sample >> 32 != 0) || cycle->status >= 500)
        return true;
    log->sampled += UINT64_C(0x9e3779b97f4a7c15);
    return log->sampled >> 32 < log->sample;
}

/* ---- gathering ---- */

bool
accesslog_enlarge(AccessLog *log, size_t length)
{
    size_t capacity = (log->used + length) * 2;
    if (capacity < 4096)
        capacity = 4096;
    char *buffer = PyMem_Realloc(log->buffer, capacity);
    if (buffer == NULL)
        return false;
    log->buffer = buffer;
    log->capacity = capacity;
    return true;
}

/* Calls `schedule`, or hands on what is there. Errors are unraisable. May run Python. */
static void
tell(AccessLog *log, bool was_empty)
{
    if (log->schedule == NULL)
        return; /* the collector has cleared it */
    Py_INCREF(log);
    PyObject *callable = Py_NewRef(log->schedule);
    PyObject *result = NULL;
    if (log->used >= log->limit)
        result = accesslog_flush((PyObject *)log, NULL);
    else if (was_empty)
        result = PyObject_CallNoArgs(callable);
    else
        result = Py_NewRef(Py_None);
    if (result == NULL)
        PyErr_WriteUnraisable(callable);
    Py_XDECREF(result);
    Py_DECREF(callable);
    Py_DECREF(log);
}

/* There is no memory for the line that begins at `begun`. A part of it is worse than none. */
static void
drop_line(AccessLog *log, size_t begun)
{
    log->used = begun;
    PyErr_NoMemory();
    PyErr_WriteUnraisable((PyObject *)log);
}

void
accesslog_add(AccessLog *log, const AccessEntry *entry)
{
    const Cycle *cycle = entry->cycle;
    if (UNLIKELY(PyTuple_GET_SIZE(log->exclude) > 0 && is_excluded(log, cycle)) || !is_sampled(log, cycle))
        return;
    const Program *program = UNLIKELY(cycle->method == cycle->factory->state->names.method_websocket) ? &log->websocket
                                                                                                      : &log->request;
    size_t begun = log->used;
    for (Py_ssize_t i = 0; i < program->count; i++) {
        if (UNLIKELY(!access_op_run(log, entry, &program->steps[i]))) {
            drop_line(log, begun);
            return;
        }
    }
    char *end = accesslog_room(log, 1);
    if (UNLIKELY(end == NULL)) {
        drop_line(log, begun);
        return;
    }
    *end = '\n';
    accesslog_grow(log, end + 1);
    log->lines++;
    if (begun == 0 || log->used >= log->limit)
        tell(log, begun == 0);
}

PyObject **
accesslog_capture(const AccessLog *log, PyObject *fields)
{
    if (LIKELY(log->response_names == NULL))
        return NULL;
    Py_ssize_t count = PyList_GET_SIZE(log->response_names);
    /* No tuple: to make one may run the collector, and so the app. */
    PyObject **values = PyMem_Calloc((size_t)count + 1, sizeof(PyObject *));
    if (values == NULL)
        return (PyObject **)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *value = access_find_response_field(fields, PyList_GET_ITEM(log->response_names, i));
        /* of an exact type, whatever the app's is */
        values[i] = value == NULL ? Py_NewRef(Py_None)
                                  : PyBytes_FromStringAndSize(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value));
        if (values[i] == NULL) {
            accesslog_forget(values);
            return NULL;
        }
    }
    return values;
}

void
accesslog_forget(PyObject **values)
{
    for (PyObject **value = values; value != NULL && *value != NULL; value++)
        Py_DECREF(*value);
    PyMem_Free(values);
}

/* ---- handing on ---- */

PyObject *
accesslog_flush(PyObject *self, PyObject *unused)
{
    AccessLog *log = (AccessLog *)self;
    (void)unused;
    if (log->used == 0 || log->write == NULL)
        Py_RETURN_NONE;
    PyObject *lines = PyBytes_FromStringAndSize(log->buffer, (Py_ssize_t)log->used);
    if (lines == NULL)
        return NULL;
    log->used = 0; /* before others get to run */
    if (log->capacity > KEPT_BYTES + log->limit) {
        PyMem_Free(log->buffer);
        log->buffer = NULL;
        log->capacity = 0;
    }
    PyObject *write = Py_NewRef(log->write);
    PyObject *result = PyObject_CallOneArg(write, lines);
    if (result == NULL)
        PyErr_WriteUnraisable(write);
    Py_XDECREF(result);
    Py_DECREF(write);
    Py_DECREF(lines);
    Py_RETURN_NONE;
}

static PyObject *
accesslog_get_lines(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((AccessLog *)self)->lines);
}

/* ---- type ---- */

static int
accesslog_traverse(PyObject *self, visitproc visit, void *arg)
{
    AccessLog *log = (AccessLog *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(log->write);
    Py_VISIT(log->schedule);
    Py_VISIT(log->exclude);
    Py_VISIT(log->response_names);
    return 0;
}

static int
accesslog_clear(PyObject *self)
{
    AccessLog *log = (AccessLog *)self;
    Py_CLEAR(log->write); /* it often belongs to who owns us; the rest is bytes */
    Py_CLEAR(log->schedule);
    return 0;
}

static void
accesslog_dealloc(PyObject *self)
{
    AccessLog *log = (AccessLog *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    accesslog_clear(self);
    program_clear(&log->request);
    program_clear(&log->websocket);
    Py_CLEAR(log->exclude);
    Py_CLEAR(log->response_names);
    PyMem_Free(log->buffer);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef accesslog_methods[] = {
    {"flush", accesslog_flush, METH_NOARGS, "Hand what is gathered to write()."},
    {NULL},
};

static PyGetSetDef accesslog_getset[] = {
    {"lines", accesslog_get_lines, NULL, "How many lines were made.", NULL},
    {NULL},
};

static PyType_Slot accesslog_slots[] = {
    {Py_tp_new, accesslog_new},
    {Py_tp_dealloc, accesslog_dealloc},
    {Py_tp_traverse, accesslog_traverse},
    {Py_tp_clear, accesslog_clear},
    {Py_tp_methods, accesslog_methods},
    {Py_tp_getset, accesslog_getset},
    {Py_tp_doc, "Gathers lines of the access log. See shardserve/_native.pyi."},
    {0, NULL},
};

PyType_Spec accesslog_spec = {
    .name = "shardserve._native.AccessLog",
    .basicsize = sizeof(AccessLog),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = accesslog_slots,
};
