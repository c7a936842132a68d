/* The awaitables that receive() and send() return. See await.h. */
#include "await.h"

#include "cycle.h"
#include "factory.h"
#include "task.h"

/* ---- futures that wait for a cycle or a connection ---- */

/* Drops the futures that are done, most of them cancelled: an app may poll receive() with a timeout for ever. */
static void
futures_prune(const State *state, PyObject *list)
{
    for (Py_ssize_t i = PyList_GET_SIZE(list) - 1; i >= 0 && i < PyList_GET_SIZE(list); i--) {
        PyObject *future = Py_NewRef(PyList_GET_ITEM(list, i));
        PyObject *done = call_method0(future, state->names.done);
        if (done == NULL || (done == Py_True && i < PyList_GET_SIZE(list) && PySequence_DelItem(list, i) < 0))
            PyErr_WriteUnraisable(future);
        Py_XDECREF(done);
        Py_DECREF(future);
    }
}

PyObject *
futures_add(const State *state, PyObject *loop, PyObject **futures)
{
    PyObject *future = call_method0(loop, state->names.create_future);
    if (future == NULL)
        return NULL;
    if (*futures == NULL)
        *futures = PyList_New(0);
    else if (PyList_GET_SIZE(*futures) >= 8)
        futures_prune(state, *futures);
    if (*futures == NULL || PyList_Append(*futures, future) < 0) {
        Py_DECREF(future);
        return NULL;
    }
    return future;
}

void
futures_resolve(const State *state, PyObject **slot)
{
    PyObject *future = *slot;
    if (future == NULL)
        return;
    *slot = NULL;
    PyObject *done = call_method0(future, state->names.done);
    PyObject *result = NULL;
    if (done == Py_False)
        result = call_method1(future, state->names.set_result, Py_None);
    if (done == NULL || (done == Py_False && result == NULL))
        PyErr_WriteUnraisable(future);
    Py_XDECREF(done);
    Py_XDECREF(result);
    Py_DECREF(future);
}

void
futures_wake(const State *state, PyObject **futures)
{
    PyObject *list = *futures;
    if (list == NULL)
        return;
    *futures = NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        PyObject *future = Py_NewRef(PyList_GET_ITEM(list, i));
        futures_resolve(state, &future);
    }
    Py_DECREF(list);
}

/* ---- Ready ---- */

static PySendResult
ready_am_send(PyObject *self, PyObject *value, PyObject **result)
{
    (void)self;
    (void)value;
    *result = Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

static PyObject *
ready_send(PyObject *self, PyObject *value)
{
    (void)self;
    (void)value;
    PyErr_SetNone(PyExc_StopIteration);
    return NULL;
}

static PyObject *
ready_iternext(PyObject *self)
{
    (void)self;
    return NULL;
}

/* throw(value) or throw(type, value, traceback): raises it. Shared by the awaitables and the parked coroutine. */
static PyObject *
raise_thrown(PyObject *const *args, Py_ssize_t count)
{
    if (count < 1 || count > 3) {
        PyErr_SetString(PyExc_TypeError, "throw() takes 1 to 3 arguments");
        return NULL;
    }
    if (PyExceptionInstance_Check(args[0]))
        PyErr_SetObject((PyObject *)Py_TYPE(args[0]), args[0]);
    else
        PyErr_SetObject(args[0], count > 1 ? args[1] : NULL);
    return NULL;
}

static PyObject *
ready_throw(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    (void)self;
    return raise_thrown(args, count);
}

static PyObject *
ready_close(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    Py_RETURN_NONE;
}

static PyMethodDef ready_methods[] = {
    {"send", ready_send, METH_O, "send(value): finishes with None."},
    {"throw", (PyCFunction)(void (*)(void))ready_throw, METH_FASTCALL, "throw(error): raises it."},
    {"close", ready_close, METH_NOARGS, "close(): nothing to close."},
    {"__await__", (PyCFunction)PyObject_SelfIter, METH_NOARGS, "Itself."},
    {NULL},
};

static void
ready_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot ready_slots[] = {
    {Py_tp_dealloc, ready_dealloc},
    {Py_tp_methods, ready_methods},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, ready_iternext},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, ready_am_send},
    {0, NULL},
};

PyType_Spec ready_spec = {
    .name = "shardserve._native.Ready",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = ready_slots,
};

/* ---- Waiter ---- */

Waiter *
waiter_new(Cycle *cycle, WaiterKind kind)
{
    State *state = cycle->factory->state;
    Waiter *waiter = PyObject_GC_New(Waiter, state->waiter_type);
    if (waiter == NULL)
        return NULL;
    waiter->state = state;
    waiter->cycle = (Cycle *)Py_NewRef(cycle);
    waiter->future_iter = NULL;
    waiter->kind = kind;
    PyObject_GC_Track(waiter);
    return waiter;
}

void
waiter_reuse(Waiter *waiter, Cycle *cycle)
{
    CHECK(waiter->future_iter == NULL);
    Py_XSETREF(waiter->cycle, (Cycle *)Py_NewRef(cycle));
}

/* What a waiter of `kind` waits for: a new reference if it is there, NULL without an exception if not, NULL
 * with one if it never comes. */
static PyObject *
waiter_poll(Cycle *cycle, WaiterKind kind)
{
    if (kind == WAITER_RECEIVE)
        return cycle_take_message(cycle);
    return cycle_congested(cycle) ? NULL : Py_NewRef(Py_None);
}

static PySendResult
waiter_finish(Waiter *waiter)
{
    Py_CLEAR(waiter->future_iter);
    Py_CLEAR(waiter->cycle);
    return PYGEN_ERROR;
}

/* The iterator of a new future that is resolved when it is worth polling again. NULL with an exception. */
static PyObject *
future_iter(Cycle *cycle, WaiterKind kind)
{
    PyObject *future = cycle_wait(cycle, kind == WAITER_RECEIVE);
    if (future == NULL)
        return NULL;
    PyObject *iter = NULL;
    PyAsyncMethods *methods = Py_TYPE(future)->tp_as_async;
    if (methods != NULL && methods->am_await != NULL)
        iter = methods->am_await(future);
    else
        PyErr_Format(PyExc_TypeError, "the loop's future is a %.200s, which cannot be awaited", Py_TYPE(future)->tp_name);
    Py_DECREF(future);
    return iter;
}

static PySendResult
waiter_am_send(PyObject *self, PyObject *value, PyObject **result)
{
    Waiter *waiter = (Waiter *)self;
    (void)value;
    *result = NULL;
    bool at_once = waiter->kind == WAITER_RECEIVE && waiter->cycle != NULL && task_is_at_once(waiter->cycle);
    if (at_once)
        Py_CLEAR(waiter->future_iter); /* it was not the future that woke us */
    for (;;) {
        if (waiter->cycle == NULL) {
            PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited receive() or send()");
            return PYGEN_ERROR;
        }
        if (waiter->future_iter != NULL) {
            PyObject *iter = Py_NewRef(waiter->future_iter);
            PySendResult step = PyIter_Send(iter, Py_None, result);
            Py_DECREF(iter);
            if (step == PYGEN_NEXT)
                return PYGEN_NEXT;
            if (step == PYGEN_ERROR)
                return waiter_finish(waiter);
            Py_CLEAR(*result);
            Py_CLEAR(waiter->future_iter);
            continue;
        }
        Cycle *cycle = (Cycle *)Py_NewRef(waiter->cycle); /* close() may come in between */
        *result = waiter_poll(cycle, waiter->kind);
        bool wait = *result == NULL && !PyErr_Occurred();
        if (wait && at_once && (*result = task_resting_future(cycle)) != NULL) {
            Py_DECREF(cycle);
            return PYGEN_NEXT;
        }
        PyObject *iter = wait ? future_iter(cycle, waiter->kind) : NULL;
        Py_DECREF(cycle);
        if (iter != NULL) {
            Py_XSETREF(waiter->future_iter, iter);
            continue;
        }
        waiter_finish(waiter);
        return *result != NULL ? PYGEN_RETURN : PYGEN_ERROR;
    }
}

static PyObject *
waiter_send(PyObject *self, PyObject *value)
{
    PyObject *result;
    switch (waiter_am_send(self, value, &result)) {
    case PYGEN_NEXT: return result;
    case PYGEN_ERROR: return NULL;
    case PYGEN_RETURN: break;
    }
    if (result == Py_None) {
        PyErr_SetNone(PyExc_StopIteration);
    }
    else {
        /* A dict is never taken for the arguments of StopIteration; a tuple would be. */
        PyErr_SetObject(PyExc_StopIteration, result);
    }
    Py_DECREF(result);
    return NULL;
}

static PyObject *
waiter_iternext(PyObject *self)
{
    return waiter_send(self, Py_None);
}

static PyObject *
waiter_throw(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    waiter_finish((Waiter *)self);
    return raise_thrown(args, count);
}

static PyObject *
waiter_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    waiter_finish((Waiter *)self);
    Py_RETURN_NONE;
}

static int
waiter_traverse(PyObject *self, visitproc visit, void *arg)
{
    Waiter *waiter = (Waiter *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(waiter->cycle);
    Py_VISIT(waiter->future_iter);
    return 0;
}

static int
waiter_clear(PyObject *self)
{
    Waiter *waiter = (Waiter *)self;
    Py_CLEAR(waiter->cycle);
    Py_CLEAR(waiter->future_iter);
    return 0;
}

static void
waiter_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    waiter_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef waiter_methods[] = {
    {"send", waiter_send, METH_O, "send(None): the next step."},
    {"throw", (PyCFunction)(void (*)(void))waiter_throw, METH_FASTCALL, "throw(error): gives up and raises it."},
    {"close", waiter_close, METH_NOARGS, "close(): gives up."},
    {"__await__", (PyCFunction)PyObject_SelfIter, METH_NOARGS, "Itself."},
    {NULL},
};

static PyType_Slot waiter_slots[] = {
    {Py_tp_dealloc, waiter_dealloc},
    {Py_tp_traverse, waiter_traverse},
    {Py_tp_clear, waiter_clear},
    {Py_tp_methods, waiter_methods},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, waiter_iternext},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, waiter_am_send},
    {0, NULL},
};

PyType_Spec waiter_spec = {
    .name = "shardserve._native.Waiter",
    .basicsize = sizeof(Waiter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = waiter_slots,
};
