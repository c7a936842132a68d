/* Fields by which a proxy says on whose behalf it comes: X-Forwarded-* and Forwarded (RFC 7239).
 *
 * What they mean is decided in Python (shardserve/asgi/forwarded.py), and only for peers that are trusted: a request
 * without these fields, or of another peer, costs nothing.
 */
#ifndef SHARDSERVE_FORWARDED_H
#define SHARDSERVE_FORWARDED_H

#include "connection.h"

/* Whether `name` (lower case, shared or not) is one of them. */
bool forwarded_is_field(PyObject *name);

/* The request of `connection` has such fields: a trusted peer's are applied to `scope`, and the cycle's client is whom
 * they name; the first of anybody else are told to proxy.untrusted(). 0, or -1: what decides failed, and that is written
 * as unraisable. May run Python. */
int forwarded_apply(Connection *connection, Cycle *cycle, PyObject *scope);

#endif
