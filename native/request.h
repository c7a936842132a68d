/* httptools' callbacks: a request as the parser reports it becomes the connection's current Cycle.
 *
 * They run inside feed_data: they record, and never call the app. One that raises stops the parser for
 * good; what to answer is in connection->reject_status by then.
 */
#ifndef SHARDSERVE_REQUEST_H
#define SHARDSERVE_REQUEST_H

#include "native.h"

struct Connection;

/* The first byte of a request: connection->line is its line. */
PyObject *request_on_message_begin(PyObject *self, PyObject *unused);

/* The request target. */
PyObject *request_on_url(PyObject *self, PyObject *url);

/* One field, or a trailer. */
PyObject *request_on_header(PyObject *self, PyObject *const *args, Py_ssize_t count);

/* The empty line: the request is the current one, or is refused. */
PyObject *request_on_headers_complete(PyObject *self, PyObject *unused);

/* Body bytes. */
PyObject *request_on_body(PyObject *self, PyObject *body);

/* The last byte of a request. */
PyObject *request_on_message_complete(PyObject *self, PyObject *unused);

/* Stops the parser: the client gets `status`, and `reason` (static), which the log has, too. Returns -1 with an exception. */
int request_refuse(struct Connection *connection, int status, const char *reason);

/* The parser stopped at an Upgrade that we ignore: another one, told the body's framing, reads the body. New reference
 * (None); NULL with an exception. */
PyObject *request_upgrade_ignored(PyObject *connection);

/* Fills State.methods. 0, or -1. */
int request_init_methods(State *state);

#endif
