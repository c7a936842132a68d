/* Spare tasks: an app runs inside a true asyncio.Task that nobody had to make for it.
 *
 * Theory of operation. A Parked object is a coroutine, written in C, that an ordinary asyncio.Task runs.
 * Usually it is parked: suspended on a future of its own (the lot). To serve a request we enter the
 * *idle* task (so that asyncio.current_task() is true), step the app's coroutine once inside a copy of the
 * worker's context, and leave the task again. Most apps finish in that step: nothing was scheduled,
 * nothing was allocated, and the task is as it was.
 *
 * If the app suspends, the parked coroutine takes it over, together with its context and the future it
 * yielded, and the lot is resolved. On its next step the task yields the app's own future, and from
 * then on it is an ordinary task running the app. Another spare takes its place.
 *
 * While the task waits for a receive() it can be spared that, too. task_step_at_once() steps the app under the task's
 * identity as the first step was, and if the app comes to wait in a receive() again it waits for the same future: for its
 * task nothing has happened. If it waits for something else, or ends, that future is resolved and the task goes on from there.
 *
 * A task is used again only if nobody can tell: no new reference or weak reference to it, no
 * done-callback, no cancellation, the same name. Otherwise it ends, like any task whose work is done.
 */
#ifndef SHARDSERVE_TASK_H
#define SHARDSERVE_TASK_H

#include "native.h"

#include "cycle.h"
#include "factory.h"

typedef enum {
    PARKED_NEW,       /* its task has not made its first step */
    PARKED_IDLE,      /* suspended on the lot */
    PARKED_STEPPING,  /* lends its identity to the first step of an app */
    PARKED_TAKEN,     /* holds a suspended app that its task has not seen yet */
    PARKED_RUNNING,   /* its task runs the app */
    PARKED_FINISHED,  /* the app has ended outside of its task, which does not know it yet */
    PARKED_CALIBRATE, /* measures the references of a clean task inside a step, then ends */
    PARKED_ENDED,
} ParkedMode;

typedef struct Parked {
    PyObject_HEAD
    Factory *factory; /* strong */
    PyObject *task;   /* strong until ended */
    PyObject *task_context; /* the task's own, empty: apps run in copies of Factory.context */
    PyObject *name;   /* the task's name when it was made */
    Py_ssize_t weakrefs; /* asyncio's own */
    ParkedMode mode;
    struct Parked *next; /* in Factory.spares, which owns a reference */
    PyObject *lot;       /* strong while idle */
    /* the app taken over */
    Cycle *cycle;
    PyObject *coroutine;
    PyObject *context;
    PyObject *yielded; /* until the task has seen it */
    PyObject *rests_on; /* the future of a receive() that the task waits for, if it does and nothing else has happened */
    bool cancelled;    /* PARKED_FINISHED: how the app ended */
    bool failed;
    bool at_once;      /* task_step_at_once() is on the stack */
    bool executing;    /* parked_step is on the stack */
    bool by_wakeup;    /* the next (or present) step of the task comes from a future's callback */
} Parked;

extern PyType_Spec parked_spec;

/* Makes the first spare and the task that calibrates. 0, or -1. May run Python. */
int task_prepare(Factory *factory);

/* Calls the app of `cycle` with `scope` (steals it) and runs it up to its first suspension; when it ends,
 * now or later, cycle_app_done is called. The caller holds a reference to the cycle. May run Python. */
void task_run(Factory *factory, Cycle *cycle, PyObject *scope);

/* Steps an app that waits in receive(), as its task would on the loop's next turn. False, and nothing done, where only the
 * task itself can do it: the app waits for something else, or was cancelled. The caller holds a reference to the cycle.
 * May run Python. */
bool task_step_at_once(Cycle *cycle);

/* Whether the app of `cycle` is stepped so just now. */
static inline bool
task_is_at_once(const Cycle *cycle)
{
    return cycle->parked != NULL && cycle->parked->at_once;
}

/* The future that a receive() of `cycle` yields, as it is, while task_step_at_once() steps its app: new reference, without an
 * exception NULL if there is none. */
PyObject *task_resting_future(const Cycle *cycle);

/* Cancels the task of a suspended app. Errors are written as unraisable. May run Python. */
void task_cancel(Parked *parked);

/* Takes a spare, whatever its state, out of the pool: new reference, or NULL if there is none. Runs no Python. */
Parked *task_pop_spare(Factory *factory);

/* Lets every spare end on the loop's next turn. May run Python. */
void task_release_spares(Factory *factory);

/* task.c, for parked.c */

/* Spares kept: enough for the handlers that usually wait at the same time. */
#define SPARE_LIMIT 256

/* Whether the task looks as it did when it was made, given the references it should have. */
bool parked_is_clean(const Parked *parked, Py_ssize_t references);

/* Keeps a clean spare. Steals the reference. */
void spare_keep(Parked *parked);

/* Resolves the lot, so that the task makes its next step. May run Python. */
void parked_wake(Parked *parked);

/* One later step of the app in its context. `error`: throw it in (borrowed), or NULL: go on. May run Python. */
PySendResult step_in_context(const State *state, PyObject *coroutine, PyObject *context, PyObject *error,
                             PyObject **result);

/* Makes `task` the current one. If another is (a test drives us from a task), that one steps aside and
 * is returned in *outer. 0, or -1. */
int task_enter(const State *state, PyObject *loop, PyObject *task, PyObject **outer);

/* Undoes task_enter; keeps a pending exception. Steals `outer`. */
void task_leave(const State *state, PyObject *loop, PyObject *task, PyObject *outer);

/* Tells the cycle how the app ended. Consumes the pending exception if `failed`. May run Python. */
void report_done(Cycle *cycle, bool failed);

/* Whether attribute or method result `value` (stolen, may be NULL) is `wanted`; errors are cleared and count as no. */
bool is_and_drop(PyObject *value, PyObject *wanted);

#endif
