/* Connection: the asyncio.Protocol of one HTTP/1.1 connection and httptools' callback object.
 *
 * intake.c and request.c are the way in (transport -> httptools -> queue of cycles -> app), http1.c the way out
 * (the cycle's wire: heads, framing, one writev), refusal.c what the app does not see, ending.c the ways it ends.
 * This header is what they share.
 *
 * Requests are parsed at most one slice ahead and run strictly in order: `head` is the one whose response
 * is due; the app never runs inside a parser callback. While a connection is corked its output is only
 * gathered; uncorking sends it.
 */
#ifndef SHARDSERVE_CONNECTION_H
#define SHARDSERVE_CONNECTION_H

#include "native.h"

#include "cycle.h"
#include "factory.h"
#include "list.h"
#include "writer.h"

typedef enum {
    FRAMING_NONE,    /* HEAD, 204, 304: no body on the wire */
    FRAMING_LENGTH,  /* RFC 9112 §6.2 */
    FRAMING_CHUNKED, /* RFC 9112 §7.1 */
    FRAMING_CLOSE,   /* HTTP/1.0: the end of the connection is the end of the body */
} Framing;

typedef struct {
    PyObject_HEAD
    Factory *factory;      /* strong */
    PyObject *transport;   /* strong from connection_made to connection_lost */
    PyObject *parser;      /* strong, likewise */
    PyObject *scope_base;  /* scope_template() */
    PyObject *client;      /* (host, port) or None */
    PyObject *weak_list;
    int fd;                /* the plain socket below the transport, or -1: there is none, or no more output */
    Link all;              /* Factory.connections */
    Link timer;            /* Factory.idle or Factory.lingering */
    int64_t deadline_ms;

    /* in */
    Cycle *incoming;       /* strong: its head is being parsed */
    Cycle *head;           /* strong: first of the queue, through Cycle.next */
    Cycle *tail;           /* borrowed: last of the queue */
    Cycle *receiving;      /* borrowed, in the queue: its body is being parsed */
    PyObject *unparsed;    /* bytes read but not parsed, from unparsed_at on */
    Py_ssize_t unparsed_at;
    size_t head_bytes;     /* of an incomplete head, counted by slices */
    size_t field_bytes;    /* of the incoming head, counted by fields */
    int64_t body_overhead; /* chunk framing and trailers beyond the body bytes they brought */
    int64_t body_received; /* of the request being received */
    int64_t content_length; /* of the incoming request, -1: none */
    int host_count;
    int begun_in_slice;    /* requests that began in the slice being parsed */
    int64_t discard_left;  /* of a body nobody wants: read no more than this */
    const char *line_at;   /* where the incoming request's line stands, or NULL: unknown */
    bool line_used;        /* line_at is that of a request that has begun */
    const char *feed_end;  /* end of the bytes being parsed, NULL outside */
    int reject_status;     /* answer this when the queue is empty, then close */
    const char *reject_reason;
    bool chunked;
    bool wants_upgrade;
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
    bool feeding;     /* the parser is on the stack: the queue must not be torn down (an allocation can run any code) */
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
    bool flushing;    /* http1_flush is on the stack */
    bool handed_off;  /* the transport may hold output of ours */
    bool lingering;   /* our side is closed; input is read and dropped until the peer closes */
    bool closing;     /* close() or abort() was called on the transport */
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

/* Whether no request has begun: nothing parsed, queued, or waiting in the socket. */
bool connection_is_idle(const Connection *connection);

/* http1.c: the wire, and what connection.c needs of the way out. */
extern const Wire http1_wire;

/* Sends what is gathered; closes if that was the last. May run Python. */
void http1_flush(Connection *connection);

/* asyncio.Protocol: the transport's buffer is full: send() waits. */
PyObject *http1_pause_writing(PyObject *self, PyObject *unused);

/* asyncio.Protocol: it has room again. May run Python. */
PyObject *http1_resume_writing(PyObject *self, PyObject *unused);


/* Between these two, output is only gathered; they nest. */
void http1_cork(Connection *connection);

/* The last one sends. May run Python. */
void http1_uncork(Connection *connection);

/* Writes a whole response of our own, `reason` as its body, and leaves the rest to the caller. `cycle` is the request
 * that it answers, or NULL: one that was not understood. */
void http1_simple_response(Connection *connection, int status, const char *reason, const Cycle *cycle, bool keep);

/* Answers a request of the queue's head, which the app will not see; the queue moves on. The caller holds references
 * to both. May run Python. */
void http1_refuse(Connection *connection, Cycle *cycle, int status);

/* intake.c and ending.c, for http1.c */

/* The current response is complete: the queue moves on. Drops the queue's reference. May run Python. */
void connection_response_done(Connection *connection, Cycle *cycle);

/* The peer is gone: every cycle hears of it. May run Python. */
void connection_gone(Connection *connection);

/* Runs the queue (and parses what was held back) from the loop's next turn. */
void connection_schedule_resume(Connection *connection);

/* Nothing is due: the keep-alive clock starts, or a drain that is past its grace closes. */
void connection_now_idle(Connection *connection);

/* The keep-alive clock starts. */
void connection_start_idle_timer(Connection *connection);

/* Reads or stops reading, as the queue has room. */
void connection_adjust_reading(Connection *connection);

/* Calls a transport method without arguments; errors are unraisable. May run Python. */
void connection_call_transport(Connection *connection, PyObject *name);

/* intake.c, for connection.c: asyncio.Protocol */
PyObject *connection_data_received(PyObject *self, PyObject *data);

/* No output from now on. */
static inline void
connection_close_output(Connection *connection)
{
    connection->fd = -1;
    connection->output_closed = true;
}

/* refusal.c, for intake.c */

/* What is being received is no request that we answer: `status` is due once what came before it is answered; then the
 * connection ends. Keeps `reason` (static). May run Python. */
void connection_reject(Connection *connection, int status, const char *reason);

/* Writes that answer: nothing is before it any more. May run Python. */
void connection_write_rejection(Connection *connection);

/* limit_concurrency is reached: answers the head of the queue with 503 in the app's place. False: not now, a client
 * that does not read its answers would fill the memory with them; http1_resume_writing() goes on. May run Python. */
bool connection_refuse_overload(Connection *connection);

/* ending.c, for connection.c and intake.c */

/* The peer has sent its last byte and everything is parsed: what is incomplete stays so. May run Python. */
void connection_input_over(Connection *connection);


/* Drops the queue from *at on; `new_tail` is the last that stays, or NULL. May run Python. */
void connection_drop_queue(Connection *connection, Cycle **at, Cycle *new_tail);

/* Drops a request whose head is still being parsed. */
void connection_drop_incoming(Connection *connection);

/* asyncio.Protocol: the peer has sent its last byte. True: keep the connection, there is something to answer. */
PyObject *connection_eof_received(PyObject *self, PyObject *unused);

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
