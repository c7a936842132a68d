/* How the requests and connections of a ProtocolFactory come to an end. Their contract is shardserve/_native.pyi.
 *
 * A drain lets everything finish. What would never finish by itself, a response without a length whose app waits
 * for its client to go, is told so (end_streams): receive() says http.disconnect while send() goes on working.
 * What is left after that is cut (abort). Nothing here decides when: the worker does.
 */
#ifndef SHARDSERVE_DRAIN_H
#define SHARDSERVE_DRAIN_H

#include "native.h"

#include "factory.h"

/* Every open connection, as a new list: what is done to one may end others. NULL with MemoryError. */
PyObject *factory_open_connections(Factory *factory);

/* ProtocolFactory.drain(on_empty, *, grace_ms): None; NULL with an exception. May run Python. */
PyObject *factory_drain(PyObject *self, PyObject *args, PyObject *kwargs);

/* ProtocolFactory.end_streams(): how many requests were told now; NULL with MemoryError. Those that come to be
 * endless later are told then, by cycle.c, and are not counted. May run Python. */
PyObject *factory_end_streams(PyObject *self, PyObject *unused);

/* ProtocolFactory.abort(): how many requests were in flight; NULL with MemoryError. May run Python. */
PyObject *factory_abort(PyObject *self, PyObject *unused);

#endif
