/* Output of a connection, whatever protocol it speaks: gathered in its Writer while it is corked, then sent.
 *
 * It goes straight to the socket where there is a plain one and the transport below holds nothing of ours, with one system
 * call; else the transport takes it.
 */
#ifndef SHARDSERVE_OUTPUT_H
#define SHARDSERVE_OUTPUT_H

#include "native.h"

#include "connection.h"

/* Sends what is gathered; closes if that was the last. May run Python. */
void output_flush(Connection *connection);

/* asyncio.Protocol: the transport's buffer is full: send() waits. */
PyObject *output_pause_writing(PyObject *self, PyObject *unused);

/* asyncio.Protocol: it has room again. May run Python. */
PyObject *output_resume_writing(PyObject *self, PyObject *unused);


/* Between these two, output is only gathered; they nest. */
void output_cork(Connection *connection);

/* The last one sends. May run Python. */
void output_uncork(Connection *connection);

/* Whether the transport must take the output: there is no plain socket below it, or it still has output of ours. May run
 * Python. */
bool output_needs_transport(Connection *connection);

#endif
