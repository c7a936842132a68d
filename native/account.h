/* What is counted and logged of a request: once, when it is over for the wire.
 *
 * Figures (figures.h) count every response, and requests whose client did not wait for one; the access log (accesslog.h, or a
 * callable of Python) gets a line for each response of which at least the head was sent.
 */
#ifndef SHARDSERVE_ACCOUNT_H
#define SHARDSERVE_ACCOUNT_H

#include "native.h"

#include "connection.h"

/* Nanoseconds of CLOCK_MONOTONIC: exact, unlike factory_now_ms(). */
int64_t account_now_ns(void);

/* A head of the app's is encoded from `fields` (PySequence_Fast): notes what else is to be known of it, for the request id and
 * the access log. Runs no Python. 0, or -1 with MemoryError. */
int account_head(Cycle *cycle, PyObject *fields);

/* The response of `cycle` is one of ours, with the reason as its body. */
void account_answered(Cycle *cycle, int status);

/* The response of `cycle` is complete, or cut by us; cycle->status 0: there was none. May run Python. */
void account_response(const Connection *connection, Cycle *cycle);

/* The connection lets go of `cycle` before its response is complete. May run Python. */
void account_broken_off(const Connection *connection, Cycle *cycle);

/* Counts the open connections by what they do. Runs no Python. */
void account_connections(Factory *factory);

#endif
