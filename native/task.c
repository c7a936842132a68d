/* Spare tasks: made, lent to the first step of an app, kept or ended. See task.h; their coroutine is parked.c. */
#include "task.h"

#include "await.h"

/* ---- whether anybody could tell ---- */

/* Weak references to `object`. The list is CPython's own (cpython/weakrefobject.h). */
static Py_ssize_t
weakref_count(PyObject *object)
{
    Py_ssize_t offset = Py_TYPE(object)->tp_weaklistoffset; /* negative where CPython manages it */
    if (offset == 0)
        return 0;
    PyWeakReference *ref = *(PyWeakReference **)((char *)object + offset);
    Py_ssize_t count = 0;
    for (; ref != NULL; ref = ref->wr_next)
        count++;
    return count;
}

/* Whether attribute or method result `value` (stolen) is `wanted`; errors count as no. */
bool
is_and_drop(PyObject *value, PyObject *wanted)
{
    bool same = value == wanted;
    if (value == NULL)
        PyErr_Clear();
    Py_XDECREF(value);
    return same;
}

static bool
zero_and_drop(PyObject *value)
{
    bool zero = value != NULL && PyLong_Check(value) && PyLong_AsLong(value) == 0;
    if (PyErr_Occurred())
        PyErr_Clear();
    Py_XDECREF(value);
    return zero;
}

/* Whether the task looks as it did when it was made, given the references it should have. */
/* Whether someone set an attribute on the task. */
static bool
has_attributes(PyObject *task)
{
    PyObject **dict = _PyObject_GetDictPtr(task);
    return dict != NULL && *dict != NULL && PyDict_GET_SIZE(*dict) != 0;
}

bool
parked_is_clean(const Parked *parked, Py_ssize_t references)
{
    const State *state = parked->factory->state;
    PyObject *task = parked->task;
    return Py_REFCNT(task) == references && weakref_count(task) == parked->weakrefs && !has_attributes(task) &&
           PyObject_Size(parked->task_context) == 0 && /* Task.get_context(), from 3.12 on */
           is_and_drop(PyObject_GetAttr(task, state->names.callbacks), Py_None) &&
           is_and_drop(PyObject_GetAttr(task, state->names.must_cancel), Py_False) &&
           zero_and_drop(call_method0(task, state->names.cancelling)) &&
           is_and_drop(call_method0(task, state->names.get_name), parked->name);
}

/* ---- making, keeping and ending spares ---- */

static Parked *
parked_new(Factory *factory, ParkedMode mode)
{
    State *state = factory->state;
    Parked *parked = PyObject_GC_New(Parked, state->parked_type);
    if (parked == NULL)
        return NULL;
    memset((char *)parked + sizeof(PyObject), 0, sizeof(Parked) - sizeof(PyObject));
    parked->factory = (Factory *)Py_NewRef(factory);
    parked->mode = mode;
    PyObject_GC_Track(parked);

    /* With a context of its own: the one that is current may be a request's, which it would keep alive. */
    parked->task_context = PyContext_New();
    if (parked->task_context == NULL)
        goto fail;
    PyObject *args[3] = {(PyObject *)parked, factory->loop, parked->task_context};
    PyObject *names = PyTuple_Pack(2, state->names.loop, state->names.context);
    if (names == NULL)
        goto fail;
    parked->task = PyObject_Vectorcall(state->Task, args, 1, names);
    Py_DECREF(names);
    if (parked->task == NULL)
        goto fail;
    parked->name = call_method0(parked->task, state->names.get_name);
    if (parked->name == NULL)
        goto fail;
    parked->weakrefs = weakref_count(parked->task);
    return parked;
fail:
    Py_DECREF(parked);
    return NULL;
}

Parked *
task_pop_spare(Factory *factory)
{
    Parked *parked = factory->spares;
    if (parked == NULL)
        return NULL;
    factory->spares = parked->next;
    factory->spare_count--;
    parked->next = NULL;
    return parked;
}

int
task_prepare(Factory *factory)
{
    Parked *parked = parked_new(factory, PARKED_CALIBRATE);
    if (parked == NULL)
        return -1;
    Py_DECREF(parked);
    parked = parked_new(factory, PARKED_NEW);
    if (parked == NULL)
        return -1;
    factory->spares = parked;
    factory->spare_count = 1;
    return 0;
}

/* Keeps a clean spare. Steals the reference. */
void
spare_keep(Parked *parked)
{
    Factory *factory = parked->factory;
    parked->next = factory->spares;
    factory->spares = parked;
    factory->spare_count++;
}

/* Resolves the lot, so that the task makes its next step. May run Python. */
void
parked_wake(Parked *parked)
{
    /* No lot: its first step is still to come. A lot that is done: the app cancelled its own task. */
    futures_resolve(parked->factory->state, &parked->lot);
}

/* Lets an idle or new task end on its next step. Steals the reference. May run Python. */
static void
parked_retire(Parked *parked)
{
    parked->mode = PARKED_ENDED;
    parked_wake(parked);
    Py_CLEAR(parked->task);
    Py_DECREF(parked);
}

/* Whether someone got hold of an idle spare (asyncio.all_tasks() shows it) and cancelled or woke it. */
static bool
was_disturbed(const Parked *parked)
{
    const State *state = parked->factory->state;
    PyObject *untouched = parked->lot != NULL ? call_method0(parked->lot, state->names.done)
                                              : PyObject_GetAttr(parked->task, state->names.must_cancel);
    return !is_and_drop(untouched, Py_False);
}

/* A spare for one request; new reference, NULL with an exception. */
static Parked *
spare_take(Factory *factory)
{
    Parked *parked;
    while ((parked = task_pop_spare(factory)) != NULL) {
        CHECK(parked->mode == PARKED_NEW || parked->mode == PARKED_IDLE);
        if (!was_disturbed(parked))
            return parked;
        parked_retire(parked);
    }
    return parked_new(factory, PARKED_NEW);
}

void
task_release_spares(Factory *factory)
{
    Parked *parked;
    while ((parked = task_pop_spare(factory)) != NULL)
        parked_retire(parked);
}

void
task_cancel(Parked *parked)
{
    if (parked->task == NULL)
        return;
    PyObject *task = Py_NewRef(parked->task);
    PyObject *result = call_method0(task, parked->factory->state->names.cancel);
    if (result == NULL)
        PyErr_WriteUnraisable(task);
    Py_XDECREF(result);
    Py_DECREF(task);
}

/* ---- stepping an app ---- */

/* Leaves the context that is entered, keeping a pending exception. */
static void
leave_context(PyObject *context)
{
    PyObject *pending = error_take();
    if (PyContext_Exit(context) < 0)
        PyErr_WriteUnraisable(context);
    error_restore(pending);
}

/* One later step of the app in its context. `error`: throw it in (borrowed), or NULL: go on. */
PySendResult
step_in_context(const State *state, PyObject *coroutine, PyObject *context, PyObject *error, PyObject **result)
{
    PySendResult outcome;
    *result = NULL;
    if (PyContext_Enter(context) < 0)
        return PYGEN_ERROR;
    if (error == NULL) {
        outcome = PyIter_Send(coroutine, Py_None, result);
    }
    else {
        *result = call_method1(coroutine, state->names.throw_, error);
        outcome = *result != NULL ? PYGEN_NEXT : PYGEN_ERROR;
        if (outcome == PYGEN_ERROR && PyErr_ExceptionMatches(PyExc_StopIteration)) {
            PyErr_Clear();
            *result = Py_NewRef(Py_None);
            outcome = PYGEN_RETURN;
        }
    }
    leave_context(context);
    return outcome;
}

/* Tells the cycle how the app ended. Consumes the pending exception if `failed`. */
void
report_done(Cycle *cycle, bool failed)
{
    PyObject *error = failed ? error_take() : NULL;
    cycle_app_done(cycle, error);
    Py_XDECREF(error);
}

/* Makes the task that stepped aside current again; clears *outer, keeps a pending exception. */
static void
restore_outer(const State *state, PyObject *loop, PyObject **outer)
{
    PyObject *pending = error_take();
    PyObject *done = PyObject_CallFunctionObjArgs(state->enter_task, loop, *outer, NULL);
    if (done == NULL)
        PyErr_WriteUnraisable(*outer);
    Py_XDECREF(done);
    Py_CLEAR(*outer);
    error_restore(pending);
}

/* Makes `task` the current one. If another is (a test drives us from a task), that one steps aside and
 * is returned in *outer. 0, or -1. */
int
task_enter(const State *state, PyObject *loop, PyObject *task, PyObject **outer)
{
    PyObject *args[2] = {loop, task};
    *outer = NULL;
    PyObject *done = PyObject_Vectorcall(state->enter_task, args, 2, NULL);
    if (done == NULL && PyErr_ExceptionMatches(PyExc_RuntimeError)) {
        PyErr_Clear();
        *outer = PyObject_CallOneArg(state->current_task, loop);
        if (*outer == NULL)
            return -1;
        PyObject *left = PyObject_CallFunctionObjArgs(state->leave_task, loop, *outer, NULL);
        if (left == NULL) {
            Py_CLEAR(*outer);
            return -1;
        }
        Py_DECREF(left);
        done = PyObject_Vectorcall(state->enter_task, args, 2, NULL);
    }
    if (done == NULL) {
        if (*outer != NULL)
            restore_outer(state, loop, outer);
        return -1;
    }
    Py_DECREF(done);
    return 0;
}

/* Undoes enter_task; keeps a pending exception. Steals `outer`. */
void
task_leave(const State *state, PyObject *loop, PyObject *task, PyObject *outer)
{
    PyObject *pending = error_take();
    PyObject *args[2] = {loop, task};
    PyObject *done = PyObject_Vectorcall(state->leave_task, args, 2, NULL);
    if (done == NULL)
        PyErr_WriteUnraisable(task);
    Py_XDECREF(done);
    error_restore(pending);
    if (outer != NULL)
        restore_outer(state, loop, &outer);
}

/* The app suspended in its first step: the spare takes it over, as `parked->coroutine` is its already. Steals
 * `parked`, which the cycle keeps, `context` and `yielded`. */
static void
parked_take_over(Parked *parked, Cycle *cycle, PyObject *context, PyObject *yielded)
{
    parked->mode = PARKED_TAKEN;
    parked->cycle = (Cycle *)Py_NewRef(cycle);
    parked->context = context;
    parked->by_wakeup = parked->lot != NULL;
    parked->yielded = yielded;
    cycle->parked = parked;
    parked_wake(parked);
}

/* Calls the app and makes its first step, inside the context. Sets parked->coroutine. */
static PySendResult
first_step(Parked *parked, Cycle *cycle, PyObject *context, PyObject *scope, PyObject **result)
{
    PySendResult outcome = PYGEN_ERROR;
    *result = NULL;
    if (PyContext_Enter(context) < 0)
        return PYGEN_ERROR;
    PyObject *coroutine = cycle_call_app(cycle, scope);
    if (coroutine != NULL) {
        parked->coroutine = coroutine;
        outcome = PyIter_Send(coroutine, Py_None, result);
    }
    leave_context(context);
    return outcome;
}

void
task_run(Factory *factory, Cycle *cycle, PyObject *scope)
{
    const State *state = factory->state;
    PyObject *result = NULL;
    PyObject *outer = NULL;
    Parked *parked = NULL;
    PyObject *context = factory->context != NULL ? PyContext_Copy(factory->context) : PyContext_New();
    if (context == NULL || (parked = spare_take(factory)) == NULL)
        goto fail;

    ParkedMode before = parked->mode;
    Py_ssize_t references = Py_REFCNT(parked->task);
    if (task_enter(state, factory->loop, parked->task, &outer) < 0)
        goto fail;
    parked->mode = PARKED_STEPPING;
    PySendResult outcome = first_step(parked, cycle, context, scope, &result);
    task_leave(state, factory->loop, parked->task, outer);
    Py_DECREF(scope);

    if (outcome == PYGEN_NEXT) {
        parked_take_over(parked, cycle, context, result);
        return;
    }
    parked->mode = before;
    PyObject *pending = error_take();
    Py_CLEAR(parked->coroutine);
    Py_DECREF(context);
    Py_XDECREF(result);
    error_restore(pending);
    report_done(cycle, outcome == PYGEN_ERROR);
    if (!factory->closed && parked_is_clean(parked, references))
        spare_keep(parked);
    else
        parked_retire(parked);
    return;
fail:
    report_done(cycle, true);
    Py_DECREF(scope);
    Py_XDECREF(context);
    if (parked != NULL)
        parked_retire(parked);
}
