/* The ASGI HTTP scope (https://asgi.readthedocs.io/en/latest/specs/www.html#http-connection-scope). */
#ifndef SHARDSERVE_SCOPE_H
#define SHARDSERVE_SCOPE_H

#include "native.h"

#include "cycle.h"
#include "factory.h"

/* {"version": "3.0", "spec_version": "2.4"}: new dict, NULL with an exception. */
PyObject *scope_asgi(const State *state);

/* `tls`: a dict, the tls extension; or NULL. What every request of one connection shares, each other key present with None: copying a dict that
 * already has its keys is the cheapest way to make one. New dict, NULL with an exception. */
PyObject *scope_template(const Factory *factory, PyObject *client, PyObject *server, PyObject *scheme, PyObject *tls);

/* The path of a target, and a query behind it: without the scheme and authority of an absolute form, which fields_check()
 * has seen. Borrowed text; *length is 0 if there is neither. */
const char *scope_target(PyObject *target, Py_ssize_t *length);

/* The scope of one request: a copy of `scope_base`, filled in from the cycle. A target in absolute form
 * loses its scheme and authority (RFC 9112 §3.2.2). New dict; NULL with MemoryError. */
PyObject *scope_build(Cycle *cycle, PyObject *scope_base);

/* The same for a WebSocket handshake; `subprotocols`: a list of str (borrowed). New dict; NULL with an exception. */
PyObject *scope_build_websocket(Cycle *cycle, PyObject *scope_base, PyObject *subprotocols);

/* `raw` percent-decoded, as UTF-8 with U+FFFD for what is not: new str, NULL with MemoryError. */
PyObject *scope_decode_path(const char *raw, Py_ssize_t length);

#endif
