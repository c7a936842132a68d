/* Bytes that come in pieces and wait to be taken: NULL, one bytes object, or a list of them. Whoever looks may find that list
 * (gc.get_objects()) and change it, and making objects may run the collector, and that any code: also code that takes what
 * waits. So nothing is believed of *pieces after an allocation.
 */
#ifndef SHARDSERVE_PIECES_H
#define SHARDSERVE_PIECES_H

#include "native.h"

/* Puts `bytes` behind what waits. 0, or -1 with MemoryError. */
int pieces_add(PyObject **pieces, PyObject *bytes);

/* Appends a few bytes to the last piece, if that is short and nobody else's: as an object of its own each would take far more
 * memory than the windows allow. 1: done; 0: they need an object of their own; -1 with MemoryError. Runs no Python. */
int pieces_add_small(const State *state, PyObject **pieces, const uint8_t *data, size_t length);

/* Takes what waits, as one bytes object. New reference; NULL: nothing waits, or MemoryError. */
PyObject *pieces_take(const State *state, PyObject **pieces);

#endif
