/* The awaitables that receive() and send() return. Each passes as a coroutine (send, throw, close).
 *
 * Ready: one immortal object whose result is None: what send() returns while there is room.
 * Waiter: polls its Cycle; as long as there is nothing, it waits for a future of the loop. It takes its
 * message when it is stepped, not when it is made, so a receive() that is cancelled loses nothing.
 */
#ifndef SHARDSERVE_AWAIT_H
#define SHARDSERVE_AWAIT_H

#include "native.h"

struct Cycle;

typedef enum { WAITER_RECEIVE, WAITER_DRAIN } WaiterKind;

typedef struct Waiter {
    PyObject_HEAD
    const State *state;    /* borrowed from the cycle's factory */
    struct Cycle *cycle;   /* strong; NULL once finished */
    PyObject *future_iter; /* strong, while waiting */
    WaiterKind kind;
} Waiter;

extern PyType_Spec ready_spec;
extern PyType_Spec waiter_spec;

/* A new waiter for `cycle`; NULL with an exception. */
Waiter *waiter_new(struct Cycle *cycle, WaiterKind kind);

/* Makes a used, unreferenced waiter new again. */
void waiter_reuse(Waiter *waiter, struct Cycle *cycle);

/* Resolves every future of the list *futures (a list or NULL) that is not done, and clears *futures.
 * Errors are written as unraisable. May run Python. */
void futures_wake(const State *state, PyObject **futures);

/* Resolves the one future *future (or NULL) with None, if it is not done, and clears *future. Likewise. */
void futures_resolve(const State *state, PyObject **future);

/* A new future of `loop`, also appended to *futures (made if NULL). New reference; NULL with an
 * exception. May run Python. */
PyObject *futures_add(const State *state, PyObject *loop, PyObject **futures);

#endif
