/* How a connection arrives: its socket, its addresses, TLS, and whose word is taken. Called by asyncio, see connection.h. */
#ifndef SHARDSERVE_ARRIVAL_H
#define SHARDSERVE_ARRIVAL_H

#include "native.h"

/* Connection.set_addresses(client, server, scheme=None): None; NULL with an exception. */
PyObject *arrival_set_addresses(PyObject *self, PyObject *args, PyObject *kwargs);

/* asyncio.Protocol: the transport is there. None; NULL with an exception. May run Python. */
PyObject *arrival_connection_made(PyObject *self, PyObject *transport);

#endif
