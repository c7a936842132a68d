/* httptools' callbacks: a request as the parser reports it becomes a Cycle in the connection's queue.
 *
 * They run inside feed_data: they record, and never call the app. One that raises stops the parser for
 * good; what to answer is in connection->reject_status by then.
 */
#ifndef SHARDSERVE_REQUEST_H
#define SHARDSERVE_REQUEST_H

#include "native.h"

/* The first byte of a request. */
PyObject *request_on_message_begin(PyObject *self, PyObject *unused);

/* The request target, or a part of it. */
PyObject *request_on_url(PyObject *self, PyObject *url);

/* One field, or a trailer. */
PyObject *request_on_header(PyObject *self, PyObject *const *args, Py_ssize_t count);

/* The empty line: the request joins the queue, or is refused. */
PyObject *request_on_headers_complete(PyObject *self, PyObject *unused);

/* Body bytes. */
PyObject *request_on_body(PyObject *self, PyObject *body);

/* The last byte of a request. */
PyObject *request_on_message_complete(PyObject *self, PyObject *unused);

/* The parser stopped at an Upgrade that we ignore: gives it the body's framing anew, so that it reads the body. New
 * reference (None); NULL with an exception. */
PyObject *request_upgrade_ignored(PyObject *connection);

/* The body that nobody wanted has been read: the connection is free for the next request. */
void request_discarded(PyObject *connection);

/* Fills State.field_names and the field_* pointers. 0, or -1. */
int request_init_names(State *state);

#endif
