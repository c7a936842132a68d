/* The ProtocolFactory: what a worker's connections share. One per worker.
 *
 * It is also the only way from an object of native/ to the module state: object -> factory -> state.
 */
#ifndef SHARDSERVE_FACTORY_H
#define SHARDSERVE_FACTORY_H

#include "native.h"

#include "date.h"
#include "deadline.h"
#include "figures.h"
#include "limit.h"
#include "list.h"
#include "trace.h"
#include "writer.h"

struct Cycle;
struct Parked;
struct AccessLog;
struct Http2Shared;

typedef struct Factory {
    PyObject_HEAD
    State *state;
    PyObject *module; /* keeps state alive */
    PyObject *loop;
    PyObject *app;
    PyObject *context;        /* copied for each request; NULL: each gets an empty one */
    PyObject *lifespan_state; /* dict, or NULL */
    PyObject *on_app_error;
    PyObject *on_reject;
    struct AccessLog *access_log; /* NULL: there is none, or a callable in its place: */
    PyObject *access;
    PyObject *on_empty; /* NULL until drain() */
    PyObject *on_crowded; /* NULL: nobody asks */
    PyObject *websocket;  /* the engine (websocket.h); NULL: a handshake is an ordinary GET */
    PyObject *tls_info;   /* NULL: no scope has the tls extension */
    PyObject *proxy;      /* forwarded.h; NULL: nobody's word on the client is taken */
    PyObject *on_debug;   /* NULL: http.response.debug is not offered */
    struct Http2Shared *http2; /* NULL: no connection speaks HTTP/2 */
    bool http2_alpn;      /* TLS connections that agreed on it do */
    bool http2_cleartext; /* plain ones that begin with its preface do */
    PyObject *static_routes; /* tuple of (prefix, app), the longest prefix first; NULL: none */
    /* scope */
    PyObject *scheme; /* of a connection without TLS */
    PyObject *root_path;       /* str */
    PyObject *root_path_bytes; /* bytes */
    PyObject *asgi;            /* {"version", "spec_version"} */
    PyObject *extensions_10;   /* templates of scope["extensions"]: HTTP/1.0 has no trailers and no hints */
    PyObject *extensions_11;
    PyObject *body_message;    /* template of http.request */
    PyObject *receive_message; /* template of websocket.receive */
    /* response head: fields of every response, encoded */
    PyObject *fixed_fields; /* bytes */
    bool server_header;
    bool date_header;
    DateCache date;
    /* connections */
    Link connections; /* Connection.all */
    Link deadlines[DEADLINE_KINDS]; /* Connection.timer, oldest deadline first */
    Link stalls;      /* Connection.stall_timer, likewise */
    Link idles;       /* Connection.idle_timer, likewise */
    Link cycles;      /* Cycle.in_flight: given to the app and not finished */
    Limits limits;
    Figures figures;
    Trace trace;
    uint8_t underscores; /* Underscores, in fields.h */
    bool told_untrusted; /* that a peer which is not trusted sends forwarded fields */
    Py_ssize_t connection_count;
    Py_ssize_t turned_away_count; /* of these: answered 503, and not gone yet */
    Py_ssize_t in_flight_count;
    uint64_t served;
    uint64_t refused;
    int crowded_fd; /* a socket with this number or above calls on_crowded; INT_MAX: none does */
    bool draining;
    bool closing_idle; /* of a drain, the grace is over */
    bool ending_streams; /* end_streams() was called: who comes to be endless is told at once */
    bool aborted; /* abort() cancelled what ran */
    bool closed;
    bool empty_scheduled;
    Pool pool;
    struct Cycle *free_cycles;
    int free_cycle_count;
    /* spare tasks (task.h) */
    struct Parked *spares;
    int spare_count;
    Py_ssize_t step_refs; /* references a clean spare has inside a step; 0: not measured yet */
    Py_ssize_t wakeup_refs;
} Factory;

extern PyType_Spec factory_spec;

/* Milliseconds of CLOCK_MONOTONIC_COARSE. */
int64_t factory_now_ms(void);

/* drain.c. After a connection or a cycle went: calls on_empty from the loop once nothing is left of a drain.
 * Errors are written as unraisable. May run Python. */
void factory_check_empty(Factory *factory);

#endif
