/* The parked coroutine: what a spare's task steps. See task.h for how the two work together. */
#include "task.h"

#include "await.h"

/* ---- the parked coroutine, as its task steps it ---- */

/* Marks the future as just yielded: another task may have waited for it since. Whatever else the app yielded,
 * the task itself will complain about. */
static void
mark_blocking(const State *state, PyObject *future)
{
    if (PyObject_SetAttr(future, state->names.future_blocking, Py_True) < 0)
        PyErr_Clear();
}

/* Suspends on a new lot: what a task yields when it parks. NULL with an exception. */
static PyObject *
parked_park(Parked *parked)
{
    const State *state = parked->factory->state;
    PyObject *lot = call_method0(parked->factory->loop, state->names.create_future);
    if (lot == NULL)
        return NULL;
    mark_blocking(state, lot);
    Py_XSETREF(parked->lot, lot);
    parked->mode = PARKED_IDLE;
    return Py_NewRef(lot);
}

/* First step: note the references; second step, woken by a future: note them again, and end. */
static PySendResult
parked_calibrate(Parked *parked, PyObject **result)
{
    Factory *factory = parked->factory;
    if (factory->step_refs != 0) {
        factory->wakeup_refs = Py_REFCNT(parked->task);
        parked->mode = PARKED_ENDED;
        Py_CLEAR(parked->task);
        *result = Py_NewRef(Py_None);
        return PYGEN_RETURN;
    }
    factory->step_refs = Py_REFCNT(parked->task);
    *result = parked_park(parked);
    if (*result == NULL)
        return PYGEN_ERROR;
    parked->mode = PARKED_CALIBRATE;
    parked_wake(parked);
    return PYGEN_NEXT;
}

/* The app is done: tells its cycle, and takes the cycle's reference to `parked`. Consumes the pending exception if `failed`.
 * Whether it was cancelled. May run Python. */
static bool
finish_app(Parked *parked, bool failed)
{
    Cycle *cycle = parked->cycle;
    bool cancelled = failed && PyErr_ExceptionMatches(parked->factory->state->CancelledError);
    parked->cycle = NULL;
    Py_CLEAR(parked->coroutine);
    Py_CLEAR(parked->context);
    CHECK(cycle->parked == parked);
    cycle->parked = NULL;
    Py_CLEAR(parked->yielded);
    report_done(cycle, failed);
    cycle_release(cycle);
    return cancelled;
}

/* Inside the task of an app that is done: parks again if nobody can tell, else lets the task end. Steals `parked`. */
static PySendResult
park_or_end(Parked *parked, bool may_reuse, PyObject **result)
{
    Factory *factory = parked->factory;
    Py_ssize_t clean_refs = parked->by_wakeup ? factory->wakeup_refs : factory->step_refs;
    if (may_reuse && !factory->closed && clean_refs != 0 && factory->spare_count < SPARE_LIMIT &&
        parked_is_clean(parked, clean_refs)) {
        *result = parked_park(parked);
        if (*result == NULL) {
            Py_DECREF(parked);
            return PYGEN_ERROR;
        }
        spare_keep(parked);
        return PYGEN_NEXT;
    }
    parked->mode = PARKED_ENDED;
    Py_CLEAR(parked->task);
    Py_DECREF(parked); /* the task that is stepping us has its own */
    *result = Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

/* The app is done inside its task. */
static PySendResult
parked_app_done(Parked *parked, bool failed, bool may_reuse, PyObject **result)
{
    const State *state = parked->factory->state;
    bool cancelled = finish_app(parked, failed);
    PySendResult outcome = park_or_end(parked, may_reuse && !failed, result);
    if (cancelled && outcome == PYGEN_RETURN) {
        Py_CLEAR(*result);
        PyErr_SetNone(state->CancelledError);
        return PYGEN_ERROR;
    }
    return outcome;
}

/* Whether `future` is one that a receive() of the app waits for, and the only one. */
static bool
is_receive_future(const Parked *parked, PyObject *future)
{
    PyObject *futures = parked->cycle->receive_futures;
    return futures != NULL && PyList_GET_SIZE(futures) == 1 && PyList_GET_ITEM(futures, 0) == future;
}

/* The task is about to wait for what the app yielded. */
static void
note_rest(Parked *parked, PyObject *yielded)
{
    if (is_receive_future(parked, yielded))
        Py_XSETREF(parked->rests_on, Py_NewRef(yielded));
}

/* One step of the app inside its own task; what it wrote leaves when the step is over. */
static PySendResult
parked_step(Parked *parked, PyObject *error, PyObject **result)
{
    const State *state = parked->factory->state;
    Cycle *cycle = (Cycle *)Py_NewRef(parked->cycle);
    PyObject *coroutine = Py_NewRef(parked->coroutine);
    PyObject *context = Py_NewRef(parked->context);
    PyObject *stream = Py_XNewRef(cycle->stream);
    parked->mode = PARKED_RUNNING;
    Py_CLEAR(parked->rests_on);
    if (stream != NULL)
        cycle->wire->cork(stream);
    parked->executing = true;
    PySendResult outcome = step_in_context(state, coroutine, context, error, result);
    Py_DECREF(coroutine);
    Py_DECREF(context);
    if (outcome == PYGEN_NEXT) {
        parked->by_wakeup = *result != Py_None; /* a bare yield is rescheduled, not woken */
        note_rest(parked, *result);
    }
    else {
        Py_CLEAR(*result);
        outcome = parked_app_done(parked, outcome == PYGEN_ERROR, error == NULL, result);
    }
    parked->executing = false;
    if (stream != NULL) {
        PyObject *pending = error_take();
        cycle->wire->uncork(stream);
        error_restore(pending);
        Py_DECREF(stream);
    }
    cycle_release(cycle);
    return outcome;
}

/* The task sees the app for the first time. */
static PySendResult
parked_deliver(Parked *parked, PyObject **result)
{
    PyObject *yielded = parked->yielded;
    parked->yielded = NULL;
    if (yielded == Py_None) {
        Py_DECREF(yielded);
        return parked_step(parked, NULL, result); /* a bare yield: one turn of the loop has passed */
    }
    parked->mode = PARKED_RUNNING;
    parked->by_wakeup = true;
    note_rest(parked, yielded);
    *result = yielded;
    mark_blocking(parked->factory->state, yielded);
    return PYGEN_NEXT;
}

/* ---- without its task ---- */

PyObject *
task_resting_future(const Cycle *cycle)
{
    const Parked *parked = cycle->parked;
    if (parked == NULL || !parked->at_once || parked->rests_on == NULL)
        return NULL;
    PyObject *future = Py_NewRef(parked->rests_on);
    mark_blocking(parked->factory->state, future); /* for another task, if it is one that asks (eager tasks, 3.12) */
    return future;
}

/* Whether the app waits in its only receive(), nobody has cancelled that, and the task has not been woken. */
static bool
is_resting(const Parked *parked)
{
    if (parked->mode != PARKED_RUNNING || parked->executing || parked->rests_on == NULL ||
        !is_receive_future(parked, parked->rests_on))
        return false;
    return is_and_drop(call_method0(parked->rests_on, parked->factory->state->names.done), Py_False);
}

/* What the app came to when it was stepped at once. */
static void
settle(Parked *parked, PySendResult outcome, PyObject *result)
{
    const State *state = parked->factory->state;
    if (outcome == PYGEN_NEXT && result == parked->rests_on && is_receive_future(parked, result)) {
        /* It may be done: the app has cancelled its own task, which will throw that in where the app waits now. */
        Py_DECREF(result);
        return;
    }
    PyObject *future = parked->rests_on;
    parked->rests_on = NULL;
    if (outcome == PYGEN_NEXT) {
        parked->mode = PARKED_TAKEN;
        parked->by_wakeup = true;
        parked->yielded = result;
    }
    else {
        Py_XDECREF(result);
        parked->mode = PARKED_FINISHED;
        parked->by_wakeup = true;
        parked->cancelled = finish_app(parked, outcome == PYGEN_ERROR);
        parked->failed = outcome == PYGEN_ERROR;
        Py_DECREF(parked); /* the cycle's: its task has another */
    }
    futures_resolve(state, &future);
}

bool
task_step_at_once(Cycle *cycle)
{
    Parked *parked = cycle->parked;
    if (parked == NULL || !is_resting(parked))
        return false;
    const State *state = parked->factory->state;
    PyObject *outer = NULL;
    PyObject *result = NULL;
    Py_INCREF(parked);
    if (task_enter(state, parked->factory->loop, parked->task, &outer) < 0) {
        PyErr_Clear();
        Py_DECREF(parked);
        return false;
    }
    PyObject *coroutine = Py_NewRef(parked->coroutine);
    PyObject *context = Py_NewRef(parked->context);
    PyObject *task = Py_NewRef(parked->task);
    parked->executing = parked->at_once = true;
    PySendResult outcome = step_in_context(state, coroutine, context, NULL, &result);
    parked->at_once = false;
    Py_DECREF(coroutine);
    Py_DECREF(context);
    task_leave(state, parked->factory->loop, task, outer);
    Py_DECREF(task);
    settle(parked, outcome, result);
    parked->executing = false;
    Py_DECREF(parked);
    return true;
}

/* The app has ended, and its task hears of it. */
static PySendResult
parked_task_hears(Parked *parked, PyObject **result)
{
    if (parked->cancelled) {
        parked->mode = PARKED_ENDED;
        Py_CLEAR(parked->task);
        PyErr_SetNone(parked->factory->state->CancelledError);
        return PYGEN_ERROR;
    }
    return park_or_end((Parked *)Py_NewRef(parked), !parked->failed, result);
}

/* An idle spare is cancelled (a loop that shuts down cancels every task): it leaves the pool and ends. */
static void
parked_leave_pool(Parked *parked)
{
    Factory *factory = parked->factory;
    for (Parked **at = &factory->spares; *at != NULL; at = &(*at)->next) {
        if (*at == parked) {
            *at = parked->next;
            parked->next = NULL;
            factory->spare_count--;
            Py_CLEAR(parked->lot);
            parked->mode = PARKED_ENDED;
            Py_CLEAR(parked->task);
            Py_DECREF(parked);
            return;
        }
    }
}

/* Python's own coroutines refuse to be stepped while they run. True with ValueError. */
static bool
is_executing(const Parked *parked)
{
    if (!parked->executing && parked->mode != PARKED_STEPPING)
        return false;
    PyErr_SetString(PyExc_ValueError, "coroutine already executing");
    return true;
}

static PySendResult
parked_am_send(PyObject *self, PyObject *value, PyObject **result)
{
    Parked *parked = (Parked *)self;
    (void)value;
    *result = NULL;
    if (is_executing(parked))
        return PYGEN_ERROR;
    switch (parked->mode) {
    case PARKED_NEW:
        *result = parked_park(parked);
        return *result != NULL ? PYGEN_NEXT : PYGEN_ERROR;
    case PARKED_TAKEN: return parked_deliver(parked, result);
    case PARKED_RUNNING: return parked_step(parked, NULL, result);
    case PARKED_FINISHED: return parked_task_hears(parked, result);
    case PARKED_CALIBRATE: return parked_calibrate(parked, result);
    case PARKED_IDLE: parked_leave_pool(parked); break; /* someone woke it: it is not ours any more */
    case PARKED_STEPPING:
    case PARKED_ENDED: break;
    }
    *result = Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

/* ---- the coroutine protocol for everyone else ---- */

static PyObject *
as_python_result(PySendResult outcome, PyObject *result)
{
    if (outcome == PYGEN_RETURN) {
        PyErr_SetNone(PyExc_StopIteration);
        Py_DECREF(result);
        return NULL;
    }
    return outcome == PYGEN_NEXT ? result : NULL;
}

static PyObject *
parked_send(PyObject *self, PyObject *value)
{
    PyObject *result;
    PySendResult outcome = parked_am_send(self, value, &result);
    return as_python_result(outcome, result);
}

static PyObject *
parked_iternext(PyObject *self)
{
    return parked_send(self, Py_None);
}

/* The app suspended, was taken over and is cancelled before its task saw what it waits for: do what
 * task.cancel() would have done, cancel that. True: the cancellation comes back through it. */
static bool
cancel_what_it_waits_for(Parked *parked, PyObject *error)
{
    const State *state = parked->factory->state;
    PyObject *yielded = parked->yielded;
    if (yielded == NULL || yielded == Py_None || !PyErr_GivenExceptionMatches(error, state->CancelledError))
        return false;
    Py_INCREF(yielded);
    PyObject *cancelled = call_method0(yielded, state->names.cancel);
    if (cancelled == NULL)
        PyErr_Clear();
    bool same = parked->yielded == yielded; /* cancel() can run any code */
    Py_DECREF(yielded);
    return is_and_drop(cancelled, Py_True) && same;
}

/* throw(value), as tasks call it, or throw(type, value, traceback). */
static PyObject *
parked_throw(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Parked *parked = (Parked *)self;
    PyObject *result = NULL;
    PySendResult outcome = PYGEN_ERROR;
    if (is_executing(parked))
        return NULL;
    if (count < 1 || count > 3) {
        PyErr_SetString(PyExc_TypeError, "throw() takes 1 to 3 arguments");
        return NULL;
    }
    PyObject *error = args[0];
    if (!PyExceptionInstance_Check(error) && count > 1 && PyExceptionInstance_Check(args[1]))
        error = args[1];
    Py_INCREF(error);
    if (PyExceptionClass_Check(error)) {
        PyObject *instance = PyObject_CallNoArgs(error);
        Py_SETREF(error, instance);
        if (error == NULL)
            return NULL;
    }
    Py_INCREF(parked);
    switch (parked->mode) {
    case PARKED_TAKEN:
        if (cancel_what_it_waits_for(parked, error)) {
            outcome = parked_deliver(parked, &result);
            break;
        }
        outcome = parked_step(parked, error, &result);
        break;
    case PARKED_RUNNING: outcome = parked_step(parked, error, &result); break;
    default:
        parked_leave_pool(parked);
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        break;
    }
    Py_DECREF(parked);
    Py_DECREF(error);
    return as_python_result(outcome, result);
}

static PyObject *
parked_close(PyObject *self, PyObject *unused)
{
    Parked *parked = (Parked *)self;
    (void)unused;
    if (parked->coroutine != NULL) {
        PyObject *coroutine = Py_NewRef(parked->coroutine);
        PyObject *closed = call_method0(coroutine, parked->factory->state->names.close);
        Py_DECREF(coroutine);
        return closed;
    }
    Py_RETURN_NONE;
}

/* cr_frame and friends: a debugger that looks at the task sees the app. None while parked. */
static PyObject *
parked_app_attribute(PyObject *self, void *name)
{
    Parked *parked = (Parked *)self;
    if (parked->coroutine == NULL)
        Py_RETURN_NONE;
    PyObject *coroutine = Py_NewRef(parked->coroutine);
    PyObject *value = PyObject_GetAttrString(coroutine, (const char *)name);
    Py_DECREF(coroutine);
    if (value == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    return value;
}

static int
parked_traverse(PyObject *self, visitproc visit, void *arg)
{
    Parked *parked = (Parked *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(parked->factory);
    Py_VISIT(parked->task);
    Py_VISIT(parked->task_context);
    Py_VISIT(parked->name);
    Py_VISIT(parked->lot);
    Py_VISIT(parked->cycle);
    Py_VISIT(parked->coroutine);
    Py_VISIT(parked->context);
    Py_VISIT(parked->yielded);
    Py_VISIT(parked->rests_on);
    return 0;
}

static int
parked_clear(PyObject *self)
{
    Parked *parked = (Parked *)self;
    /* The factory stays until dealloc: methods of a cleared object still look at it. */
    parked->mode = PARKED_ENDED;
    Py_CLEAR(parked->task);
    Py_CLEAR(parked->task_context);
    Py_CLEAR(parked->name);
    Py_CLEAR(parked->lot);
    Py_CLEAR(parked->cycle);
    Py_CLEAR(parked->coroutine);
    Py_CLEAR(parked->context);
    Py_CLEAR(parked->yielded);
    Py_CLEAR(parked->rests_on);
    return 0;
}

static void
parked_dealloc(PyObject *self)
{
    Parked *parked = (Parked *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    parked_clear(self);
    Py_CLEAR(parked->factory);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef parked_methods[] = {
    {"send", parked_send, METH_O, "send(None): the next step."},
    {"throw", (PyCFunction)(void (*)(void))parked_throw, METH_FASTCALL, "throw(error): raises it in the app."},
    {"close", parked_close, METH_NOARGS, "close(): closes the app's coroutine."},
    {"__await__", (PyCFunction)PyObject_SelfIter, METH_NOARGS, "Itself."},
    {NULL},
};

static PyGetSetDef parked_getset[] = {
    {"cr_frame", parked_app_attribute, NULL, "The app's frame, or None.", "cr_frame"},
    {"cr_code", parked_app_attribute, NULL, "The app's code, or None.", "cr_code"},
    {"cr_await", parked_app_attribute, NULL, "What the app waits for, or None.", "cr_await"},
    {"cr_running", parked_app_attribute, NULL, "Whether the app is being stepped, or None.", "cr_running"},
    {"cr_suspended", parked_app_attribute, NULL, "Whether the app waits, or None.", "cr_suspended"},
    {NULL},
};

static PyType_Slot parked_slots[] = {
    {Py_tp_dealloc, parked_dealloc},
    {Py_tp_traverse, parked_traverse},
    {Py_tp_clear, parked_clear},
    {Py_tp_methods, parked_methods},
    {Py_tp_getset, parked_getset},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, parked_iternext},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, parked_am_send},
    {0, NULL},
};

PyType_Spec parked_spec = {
    .name = "shardserve._native.Parked",
    .basicsize = sizeof(Parked),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = parked_slots,
};
