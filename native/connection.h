/* Connection: the asyncio.Protocol of one connection, and httptools' callback object.
 *
 * intake.c, request.c and fields.c are the way in (transport -> httptools -> a cycle -> app), http1.c the way out
 * (the cycle's wire: heads, framing, one writev), refusal.c what the app does not see, ending.c the ways it ends,
 * deadline.c how long the client may take. This header is what they share. A connection of HTTP/2 has all of its requests in
 * `http2` (http2.h), and neither parser nor current request.
 *
 * Requests run one after the other: the next one is not parsed before `current` is answered, and the app never runs
 * inside a parser callback. While a connection is corked its output is only gathered; uncorking sends it.
 *
 * What the parser is given at a time never reaches from one message into the next: a request line, the fields up to the
 * empty line, a body up to where it may end. So it is always known where a request begins, and where the parser disagrees
 * nothing is executed.
 */
#ifndef SHARDSERVE_CONNECTION_H
#define SHARDSERVE_CONNECTION_H

#include "native.h"

#include "cycle.h"
#include "factory.h"
#include "line.h"
#include "list.h"
#include "writer.h"

typedef enum {
    FRAMING_NONE,    /* HEAD, 204, 205, 304: no body on the wire */
    FRAMING_LENGTH,  /* RFC 9112 §6.2 */
    FRAMING_CHUNKED, /* RFC 9112 §7.1 */
    FRAMING_CLOSE,   /* HTTP/1.0: the end of the connection is the end of the body */
} Framing;

typedef enum {
    INPUT_LINE, /* a request line comes next; a part of it may be in partial_line */
    INPUT_HEAD, /* inside the fields */
    INPUT_BODY, /* inside the body, or its trailers */
} Input;

struct Http2;
struct WebSocket;

typedef struct Connection {
    PyObject_HEAD
    Factory *factory;      /* strong */
    PyObject *transport;   /* strong from connection_made to connection_lost */
    PyObject *parser;      /* strong, likewise */
    PyObject *scope_base;  /* scope_template() */
    PyObject *client;      /* (host, port) or None */
    PyObject *tls_version; /* str, where there is TLS and the access log asks for it; or NULL */
    PyObject *announced;   /* set_addresses(): (client, server, scheme), until connection_made(); or NULL */
    struct WebSocket *websocket; /* strong; NULL: this is HTTP. Else what comes is frames (websocket.h) */
    struct Http2 *http2;   /* owned; NULL: this is HTTP/1.1 (http2.h) */
    PyObject *weak_list;
    int fd;                /* the plain socket below the transport, or -1: there is none (TLS), or no more output */
    int queue_fd;          /* the socket, also below TLS, while the transport lives: what it holds is asked, or dropped */
    struct File *file;     /* being sent (file.h), or NULL */
    Link all;              /* Factory.connections */
    Link timer;            /* one of Factory.deadlines */
    int64_t deadline_ms;
    int64_t window_begin;  /* DEADLINE_BODY: what body_received was when it began */
    Link stall_timer;      /* Factory.stalls, while the transport may hold output */
    int64_t stall_look_ms; /* when that is looked at next */
    int64_t taken_ms;      /* when the client was last seen to take some of it */
    Link idle_timer;       /* Factory.idles, of a WebSocket */
    int64_t idle_look_ms;
    uint64_t sent_bytes;   /* written to the socket or given to the transport, ever */
    int64_t taken_bytes;   /* of these, as far as the client has acknowledged them */
    bool secure;           /* TLS: it has no half-closed state */
    bool tunnelled;        /* it is a WebSocket's, and its transport a stream of HTTP/2 (tunnel.h) */
    bool trusted;          /* its word on the client is taken (forwarded.h) */
    bool rejected;         /* connection_reject() was here */
    bool turned_away;      /* limit_connections: counted in Factory.turned_away_count */

    /* in */
    Cycle *incoming;       /* strong: its head is being parsed */
    Cycle *current;        /* strong: its response is due */
    Cycle *receiving;      /* borrowed: `current`, while its body is being parsed; else NULL */
    PyObject *unparsed;    /* bytes read but not parsed, from unparsed_at on */
    Py_ssize_t unparsed_at;
    PyObject *partial_line; /* the beginning of a request line, or NULL */
    const char *line_text; /* the line that is looked at and parsed, while it is */
    RequestLine line;
    int64_t head_bytes;    /* of the incoming fields */
    int64_t field_count;
    int64_t body_overhead; /* chunk framing and trailers beyond the body bytes they brought */
    int64_t body_received; /* of the request being received */
    int64_t content_length; /* of the incoming request, -1: none */
    int64_t request_count; /* begun on this connection */
    int64_t discard_left;  /* of a body nobody wants: read no more than this */
    unsigned end_matched;  /* of a CRLF CRLF that may be cut between two reads: line_head_end() */
    int host_count;
    int reject_status;     /* what a parser callback refused with, and why */
    const char *reject_reason;
    uint8_t input;         /* Input */
    uint8_t deadline;      /* Deadline: what `timer` is for */
    uint8_t coding;        /* Coding of the incoming request, in fields.h */
    bool reprieved;        /* its time is over, but bytes of it wait in the socket */
    bool expectation_failed;
    bool underscored;      /* a field name of the incoming request has an underscore */
    bool forwarded;        /* it has fields that say on whose behalf it comes */
    bool wants_upgrade;
    bool wants_websocket;  /* the upgrade it wants */
    bool connection_upgrade;
    bool body_behind_upgrade; /* the parser will stop before the body: request_upgrade_ignored() */
    bool continuing;          /* inside that: the parser reads a head of ours */
    bool connection_close;
    bool connection_keep_alive;
    bool discarding;
    bool reading_paused;
    bool input_ended; /* the peer has sent its last byte */
    bool more_to_feed; /* connection_feed has more than the slice whose requests run */
    bool last_batch;  /* draining: no request that is read from now on is taken */
    bool running;     /* connection_run is on the stack */
    bool feeding;     /* the parser is on the stack: no cycle may be dropped (an allocation can run any code) */
    bool gone_pending; /* connection_gone() came while feeding */
    bool lost_pending; /* connection_lost() came while feeding */
    bool resume_scheduled;

    /* out */
    Writer out;
    WriterMark head_mark; /* where the head of the current response begins, while head_open */
    PyObject *write_futures;
    int corked;
    uint8_t framing;  /* Framing of the current response */
    bool head_open;   /* its head lacks the framing fields and the empty line */
    bool keep;        /* the connection outlives the current response */
    bool close_after; /* close once the output is gone */
    bool write_paused;
    bool output_closed; /* nothing may be written any more */
    bool flushing;    /* output_flush is on the stack */
    bool handed_off;  /* the transport may hold output of ours */
    bool lingering;   /* our side is closed; input is read and dropped until the peer closes */
    bool closing;     /* close() or abort() was called on the transport, or will be: close_when_taken */
    bool close_when_taken; /* close() once the transport has sent what it holds: resume_writing() */
    bool served_any;
} Connection;

extern PyType_Spec connection_spec;

/* A connection for Factory.__call__; NULL with an exception. */
PyObject *connection_new(Factory *factory);

/* A connection whose reading is paused hears of nothing: asks the socket whether the peer is still there. */
void connection_poll_paused(Connection *connection);

/* Closes gracefully: output first. Errors are unraisable. May run Python. */
void connection_close(Connection *connection);

/* Cuts the connection now. May run Python. */
void connection_abort(Connection *connection);

/* Whether bytes wait in the socket. */
bool connection_has_unread(const Connection *connection);

/* Whether no request has begun: nothing parsed, queued, or waiting in the socket. */
bool connection_is_idle(const Connection *connection);

/* http1.c: the wire, and what connection.c needs of the way out. */
extern const Wire http1_wire;

/* Writes a whole response of our own, with `reason` as its body unless it answers a HEAD (RFC 9110 §9.3.2), and leaves the
 * rest to the caller. */
void http1_simple_response(Connection *connection, int status, const char *reason, bool head_only, bool version_10, bool keep);

/* The first body message decides the framing (RFC 9112 §6): `length` bytes of it, and whether more will come. Nothing if that
 * was before. 0, or -1 with MemoryError. */
int http1_begin_body(Connection *connection, Cycle *cycle, int64_t length, bool more);

/* The line before the bytes of a chunk (RFC 9112 §7.1). 0, or -1 with MemoryError. */
int http1_begin_chunk(Connection *connection, int64_t length);

/* Answers the current request, which the app will not see. The caller holds references to both. May run Python. */
void http1_refuse(Connection *connection, Cycle *cycle, int status);

/* Ends the connection with a reset: what the kernel still holds for it is dropped. And only that tells a client of HTTP/1.0
 * that a body without a length is not complete. May run Python. */
void http1_reset(Connection *connection);

/* intake.c and ending.c, for http1.c */

/* The current response is complete. Drops the connection's reference. May run Python. */
void connection_response_done(Connection *connection, Cycle *cycle);

/* The peer is gone: the cycles hear of it. May run Python. */
void connection_gone(Connection *connection);

/* Keeps the rest of `data` (bytes) from `at` on, in front of what is kept already, or all of it behind that. An error ends
 * the connection. */
void connection_hold_back(Connection *connection, PyObject *data, Py_ssize_t at);
void connection_hold_later(Connection *connection, PyObject *data);

/* Parses what was held back, from the loop's next turn. */
void connection_schedule_resume(Connection *connection);

/* Nothing is due: the keep-alive clock starts, or a drain that is past its grace closes. */
void connection_now_idle(Connection *connection);

/* Reads or stops reading, as there is room; the deadlines follow. */
void connection_adjust_reading(Connection *connection);

/* Calls a transport method without arguments; errors are unraisable. May run Python. */
void connection_call_transport(Connection *connection, PyObject *name);

/* The scope of a request. NULL: out of memory, which is reported. May run Python. */
PyObject *intake_scope(Connection *connection, Cycle *cycle, bool forwarded);

/* Calls the app, or what serves the path in its place. Steals the scope. May run Python. */
void intake_start(Cycle *cycle, PyObject *scope);

/* intake.c, for connection.c: asyncio.Protocol */
PyObject *connection_data_received(PyObject *self, PyObject *data);

/* No output from now on. */
static inline void
connection_close_output(Connection *connection)
{
    connection->fd = -1;
    connection->output_closed = true;
}

/* refusal.c, for intake.c and deadline.c */

/* What is being received is no request that we answer: gives the answer `status` where one can still be given, and lets
 * the connection end once it is flushed. Nothing more is parsed. May run Python. */
void connection_reject(Connection *connection, int status, const char *reason);

/* Tells the worker of that, and of what else is ended for its peer's conduct. `status`: of HTTP, a close code of WebSocket,
 * or one of these. May run Python. */
#define REPORT_CLOSED 0  /* the connection, without an answer */
#define REPORT_RESET (-1) /* one stream of it (HTTP/2) */
void connection_report(const Connection *connection, int status, const char *reason);

/* limit_concurrency is reached: answers the current request with 503 in the app's place. May run Python. */
void connection_refuse_overload(Connection *connection);

/* ending.c, for connection.c and intake.c */

/* The peer has sent its last byte and everything is parsed: what is incomplete stays so. May run Python. */
void connection_input_over(Connection *connection);

/* Lets go of the current request: its app hears of a disconnect. May run Python. */
void connection_drop_current(Connection *connection);

/* Drops a request whose head is still being parsed. */
void connection_drop_incoming(Connection *connection);

/* asyncio.Protocol: the peer has sent its last byte. True: keep the connection, there is something to answer. */
PyObject *connection_eof_received(PyObject *self, PyObject *unused);

/* It is none of the factory's connections any more. Runs no Python. */
void connection_leave_lists(Connection *connection);

/* asyncio.Protocol: the end. */
PyObject *connection_lost(PyObject *self, PyObject *error);

/* Ends with CHECKs of everything that must hold between two calls. */
#ifdef SHARDSERVE_DEBUG
void connection_check(const Connection *connection);
#else
static inline void
connection_check(const Connection *connection)
{
    (void)connection;
}
#endif

#endif
