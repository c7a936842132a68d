/* A queue of Python objects: how it grows. See ring.h. */
#include "ring.h"

int
ring_grow(Ring *ring)
{
    int room = ring->slots == NULL ? RING_INLINE : ring->room;
    PyObject **wider = PyMem_New(PyObject *, (size_t)room * 2);
    if (wider == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (int i = 0; i < ring->count; i++)
        wider[i] = *ring_slot(ring, i);
    PyMem_Free(ring->slots);
    ring->slots = wider;
    ring->room = room * 2;
    ring->first = 0;
    return 0;
}
