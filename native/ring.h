/* A queue of Python objects: the first few need no allocation, and once it is empty it holds none. Runs no Python.
 *
 * A ring that is all zeros is a new one.
 */
#ifndef SHARDSERVE_RING_H
#define SHARDSERVE_RING_H

#include "native.h"

#define RING_INLINE 4

typedef struct {
    PyObject *inline_slots[RING_INLINE];
    PyObject **slots; /* NULL: inline_slots */
    int room;         /* for so many: of `slots` */
    int first;
    int count;
} Ring;

/* Room for twice as many. 0, or -1 with MemoryError. */
int ring_grow(Ring *ring);

/* Where the object is that `index` others are before. */
static inline PyObject **
ring_slot(Ring *ring, int index)
{
    if (LIKELY(ring->slots == NULL))
        return &ring->inline_slots[(ring->first + index) % RING_INLINE];
    return &ring->slots[(ring->first + index) % ring->room];
}

/* Puts `object` behind the others: steals it. 0, or -1 with MemoryError: it is the caller's still. */
static inline int
ring_push(Ring *ring, PyObject *object)
{
    if (UNLIKELY(ring->count == (ring->slots == NULL ? RING_INLINE : ring->room)) && ring_grow(ring) < 0)
        return -1;
    *ring_slot(ring, ring->count) = object;
    ring->count++;
    return 0;
}

/* Takes the first; the caller owns it. NULL: there is none. */
static inline PyObject *
ring_pop(Ring *ring)
{
    if (ring->count == 0)
        return NULL;
    PyObject *object = *ring_slot(ring, 0);
    ring->first = (ring->first + 1) % (ring->slots == NULL ? RING_INLINE : ring->room);
    if (--ring->count == 0) {
        ring->first = 0;
        if (UNLIKELY(ring->slots != NULL)) {
            PyMem_Free(ring->slots); /* a burst is over */
            ring->slots = NULL;
        }
    }
    return object;
}

#endif
