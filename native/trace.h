/* Who a request is: its request id, and its place in a trace (W3C Trace Context).
 *
 * A client may name a request; what it says is taken if it is harmless, else an id is made. Made ids are unique: two keys out
 * of the kernel's random numbers for each factory, and a counter.
 */
#ifndef SHARDSERVE_TRACE_H
#define SHARDSERVE_TRACE_H

#include "native.h"

struct Cycle;

#define TRACE_ID_LENGTH 32

typedef struct {
    PyObject *request_id_field; /* bytes in wire case; NULL: requests have no ids */
    PyObject *request_id_name;  /* the same in lower case, as requests bring it */
    bool makes_traceparent;
    bool seeded;
    uint64_t keys[3];
    uint64_t count;
} Trace;

/* From the factory's arguments; `field` may be NULL or None. 0, or -1 with TypeError or ValueError. */
int trace_take(Trace *trace, PyObject *field, bool makes_traceparent);

/* Lets go of the name. */
void trace_clear(Trace *trace);

/* Before the scope is built: sets cycle->request_id, and fields of cycle->headers that are to be made. 0, or -1 with
 * MemoryError. Runs no app code, but drops the client's own values. */
int trace_begin(struct Cycle *cycle);

/* The trace id (TRACE_ID_LENGTH hex digits) of the request's traceparent field, or NULL. cycle->headers must be there. Borrowed from it. */
const char *trace_id(const struct Cycle *cycle);

/* Whether the app's own fields (PySequence_Fast of pairs of bytes, already encoded) have the request id's. */
bool trace_has_own_id(const struct Cycle *cycle, PyObject *fields);

/* The value of the first field of this name (lower case) in a request's headers, NULL if it has none, and how many there are.
 * The app may have made anything of the list. Borrowed. */
PyObject *trace_find_field(PyObject *headers, PyObject *name, int *count);

#endif
