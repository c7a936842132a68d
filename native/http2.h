/* HTTP/2 (RFC 9113) of one connection. nghttp2 is the authority on frames, HPACK, stream states and windows; this is what
 * stands between it and the Cycle.
 *
 * http2.c is the session (begun, fed, its output taken) and what those of a factory share; http2_stream.c the memory of streams;
 * http2_intake.c nghttp2's callbacks on the way in, http2_request.c requests from their first field to the app; http2_head.c
 * and http2_wire.c the way out; http2_guard.c how long and how much a peer may; http2_end.c drains and ends; tunnel.c is
 * WebSocket (RFC 8441).
 *
 * Rules. No app runs inside of nghttp2: its callbacks note what came, in lists, and what follows is done when it has
 * returned. But they make objects, so the collector may run any code there: while nghttp2 is on the stack
 * Connection.feeding is set, nothing is sent, and no stream is freed. A Stream is freed by http2_settle() and
 * http2_drop() alone. Cycle.lane is the cycle's Stream, Cycle.stream the Connection (for a WebSocket: the tunnel's).
 *
 * Without nghttp2 (SHARDSERVE_NGHTTP2 is not defined) every one of these files is empty, and a Connection never has an Http2.
 */
#ifndef SHARDSERVE_HTTP2_H
#define SHARDSERVE_HTTP2_H

#include "native.h"

#include "connection.h"
#include "cycle.h"

/* The length of the client's connection preface (RFC 9113 §3.4). */
#define HTTP2_PREFACE_BYTES 24

/* module attribute nghttp2_version: a new str, or None. NULL with MemoryError. */
PyObject *http2_version(void);

#ifdef SHARDSERVE_NGHTTP2

/* What the connections of a factory share: for Factory.http2. NULL with an exception. The factory's limits are taken. */
struct Http2Shared *http2_shared_new(const Factory *factory);

/* Frees it; NULL is none. */
void http2_shared_free(struct Http2Shared *shared);

/* How `data` begins: 1: with the client's preface; 0: it may become one; -1: it is something else. */
int http2_begins(PyObject *data);

/* The connection speaks HTTP/2 from now on; our SETTINGS wait to be sent. Whether that is so: where there is no memory for it,
 * it is cut. May run Python. */
bool http2_begin(Connection *connection);

/* data_received(). May run Python. */
void http2_data_received(Connection *connection, PyObject *data);

/* From the loop: what was held back, and output that nobody has sent. May run Python. */
void http2_resume(Connection *connection);

/* Gathers frames in Connection.out, as far as they may be sent now. Whether there are any. */
bool http2_fill(Connection *connection);

/* Does what nghttp2's callbacks have noted. Not while nghttp2 is on the stack. May run Python. */
void http2_settle(Connection *connection);

/* resume_writing(): those who wait for room go on. May run Python. */
void http2_writable(Connection *connection);

/* Whether the socket is to be left unread: its client does not read. */
bool http2_pauses(const Connection *connection);

/* What the connection waits for, after bytes came or a stream went. */
void http2_deadline(Connection *connection);

/* The streams that are open. */
int http2_stream_count(const Connection *connection);

/* Its time is over: DEADLINE_HEAD, or it was idle for too long. May run Python. */
void http2_end_waiting(Connection *connection);

/* The connection is not wanted: GOAWAY(ENHANCE_YOUR_CALM), and `reason` (static) for the log. May run Python. */
void http2_reject(Connection *connection, const char *reason);

/* From the tick: streams whose peer sends or takes nothing, and PINGs. May run Python. */
void http2_look(Connection *connection, int64_t now_ms);

/* GOAWAY to come: no request is lost (RFC 9113 §6.8). May run Python. */
void http2_drain(Connection *connection);

/* The grace of a drain is over: no more requests are taken. May run Python. */
void http2_finish(Connection *connection);

/* Lets go of every stream: their apps hear of a disconnect. May run Python. */
void http2_drop(Connection *connection);

/* Of the input of a WebSocket's own connection all but `held` bytes have been taken. Runs no Python. */
void tunnel_taken(Connection *inner, int64_t held);

/* An app ended whose stream had gone before. */
void http2_app_done(Connection *connection);

/* For the type of Connection. */
int http2_traverse(const Connection *connection, visitproc visit, void *arg);
void http2_free(Connection *connection);

extern PyType_Spec http2_tunnel_spec;

#ifdef SHARDSERVE_DEBUG
/* CHECKs of everything that must hold between two calls. */
void http2_check(const Connection *connection);
#endif

#else /* no nghttp2: none of these is ever called with a connection that has an Http2 */

/* ValueError: what to install. */
static inline struct Http2Shared *
http2_shared_new(const Factory *factory)
{
    (void)factory;
    PyErr_SetString(PyExc_ValueError, "this build has no HTTP/2: install libnghttp2-dev, then shardserve again");
    return NULL;
}

#define http2_shared_free(shared) ((void)(shared))
#define http2_begins(data) (-1)
#define http2_begin(connection) (false)
#define http2_data_received(connection, data) ((void)0)
#define http2_resume(connection) ((void)0)
#define http2_fill(connection) (false)
#define http2_settle(connection) ((void)0)
#define http2_writable(connection) ((void)0)
#define http2_pauses(connection) (false)
#define http2_deadline(connection) ((void)0)
#define http2_stream_count(connection) (0)
#define http2_end_waiting(connection) ((void)0)
#define http2_reject(connection, reason) ((void)0)
#define http2_look(connection, now_ms) ((void)(now_ms))
#define http2_drain(connection) ((void)0)
#define http2_finish(connection) ((void)0)
#define http2_drop(connection) ((void)0)
#define tunnel_taken(inner, held) ((void)0)
#define http2_app_done(connection) ((void)0)
#define http2_traverse(connection, visit, arg) (0)
#define http2_free(connection) ((void)0)
#define http2_check(connection) ((void)0)

#endif
#endif
