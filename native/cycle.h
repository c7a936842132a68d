/* The Cycle: one request and its response as ASGI sees them. It knows no wire.
 *
 * A wire (HTTP/1.1, HTTP/2) fills in the request, starts the cycle and implements the
 * v-table below. The cycle holds the ASGI rules: the order of messages, what receive() answers, who
 * hears of a disconnect, what happens when the app fails. The response's order is one table, in channel.c.
 *
 * A response may have no end: its app waits in receive() for the client to go. end_streams() (drain.h) tells such
 * an app that it has. What the app then leaves unfinished is ended properly if it is an event stream, which may
 * end anywhere; else it is cut, so that the client does not take a part for the whole.
 *
 * `send` and `receive` are objects of their own, made with the cycle and reused with it only when the
 * app kept neither: an old `send` can never write into another response.
 */
#ifndef SHARDSERVE_CYCLE_H
#define SHARDSERVE_CYCLE_H

#include "native.h"

#include "factory.h"
#include "head.h"
#include "list.h"

struct Waiter;
struct Parked;
struct WebSocket;

/* Body bytes held for an app that does not read: above it the wire stops reading. */
#define CYCLE_BODY_HIGH_BYTES 65536
#define CYCLE_BODY_LOW_BYTES 16384

typedef enum {
    RESPONSE_NONE, /* no http.response.start yet */
    RESPONSE_HEAD, /* start accepted, nothing on the wire */
    RESPONSE_BODY, /* the head is on its way */
    RESPONSE_TRAILERS, /* so is the body; the trailers are not */
    RESPONSE_DONE, /* complete, or cut */
} ResponseState;

struct Cycle;

/* What a cycle asks of its wire. Each may run Python unless it says otherwise; `cycle->stream` is
 * what the wire put there. Those that return int give 0, or -1 with an exception. */
typedef struct {
    /* Accept the response head; nothing needs to leave yet. Fills cycle->facts. */
    int (*head)(struct Cycle *cycle, int status, PyObject *fields);
    /* Body bytes (a bytes object); !more ends the response. The cycle has checked the length. */
    int (*body)(struct Cycle *cycle, PyObject *bytes, bool more);
    /* A part of a regular file as body bytes, otherwise like body(). Takes the descriptor over, whatever it returns. Until
     * it is sent, the stream is congested. */
    int (*file)(struct Cycle *cycle, int fd, int64_t offset, int64_t length, bool more);
    /* Trailer fields (PySequence_Fast), after the last of the body was given with `more`; !more ends the response: once they
     * are encoded it is RESPONSE_DONE. */
    int (*trailers)(struct Cycle *cycle, PyObject *fields, bool more);
    /* An interim response (RFC 9110 §15.2) with one Link field for each bytes object of `links` (PySequence_Fast). */
    int (*hint)(struct Cycle *cycle, PyObject *links);
    /* Nothing is on the wire: forget the head and answer 500. */
    void (*fail)(struct Cycle *cycle);
    /* The response cannot be finished: cut it so that the client can tell. */
    void (*cut)(struct Cycle *cycle);
    /* The app waits for body bytes (100-continue is due, reading must go on). */
    int (*want_body)(struct Cycle *cycle);
    /* send() should wait. Runs no Python. */
    bool (*congested)(const struct Cycle *cycle);
    /* A future (new reference) that is resolved once that is over. */
    PyObject *(*wait_writable)(struct Cycle *cycle);
    /* websocket.accept, with all fields of its response but those that are the wire's. 0, or -1 with an exception and nothing
     * written. */
    int (*accept)(struct Cycle *cycle, PyObject *fields);
    /* The app has taken so many bytes of the body. Runs no Python. NULL: the wire does not ask. */
    void (*took_body)(struct Cycle *cycle, size_t length);
    /* Between these two, output may be gathered. The stream outlives its cycle, so it is named itself. */
    void (*cork)(PyObject *stream);
    void (*uncork)(PyObject *stream);
} Wire;

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    struct Cycle *cycle; /* strong */
} Channel;               /* the type of both `send` and `receive` */

typedef struct Cycle {
    PyObject_HEAD
    Factory *factory; /* strong */
    const Wire *wire;
    PyObject *stream; /* strong; NULL once the wire has let go of the cycle */
    struct Cycle *next; /* in the factory's free list */
    Channel *send;
    Channel *receive;
    struct Waiter *waiter; /* the last one receive() returned, reused when free */
    struct WebSocket *websocket; /* strong: the request is a handshake (websocket.h); else NULL */
    PyObject *left_behind; /* strong: the connection of HTTP/2 whose stream went before the app ended; or NULL */
    /* the request */
    PyObject *method;  /* str */
    PyObject *target;  /* bytes, as on the wire */
    PyObject *headers; /* list of (name, value) */
    PyObject *client;  /* (host, port) or None */
    PyObject *request_id; /* bytes, or NULL (trace.h) */
    PyObject **response_fields; /* what the access log wants of them: accesslog_capture(); or NULL */
    bool version_10;
    bool version_2;
    bool head_only; /* HEAD */
    bool keep_alive; /* the client wants the connection kept (HTTP/1) */
    bool takes_trailers; /* TE: trailers */
    uint8_t method_kind; /* LineMethod */
    int64_t begun_ns;    /* when its line had come: account_now_ns() */
    /* its body */
    PyObject *body; /* bytes, or a list of them, or NULL */
    size_t body_bytes;
    int64_t body_received; /* body bytes that came, ever */
    bool body_complete;
    bool body_delivered; /* the app has the last of it */
    bool expects_continue;
    bool disconnected; /* the client is gone, both ways */
    bool input_closed; /* the client will send no more */
    bool stream_ended; /* end_streams(): receive() says http.disconnect, although the client is there */
    bool told_disconnect; /* receive() has said http.disconnect: the app may stop where it is */
    /* the response */
    uint8_t response; /* ResponseState */
    bool no_body;     /* HEAD, 204, 205, 304 */
    bool trailers;    /* http.response.start announced them, and they will be sent */
    bool drops_trailers; /* it did, and they will not */
    bool trailers_begun; /* for the wire */
    bool sending_file; /* likewise: the last message was a file, and not all of it is taken */
    bool accounted;    /* its figures and its line, before its end: account_broken_off() */
    bool has_own_id;   /* the app has given the field of the request id itself */
    int status;
    HeadFacts facts;
    int64_t first_byte_ns; /* when the head was on its way; 0: that is when all of it was */
    uint64_t body_sent;
    void *lane; /* the wire's own: HTTP/2 has its Stream there */
    /* the app */
    PyObject *app; /* borrowed from the factory: another one than its own; or NULL */
    bool started;
    bool app_done;
    PyObject *receive_futures; /* list of futures, or NULL */
    struct Parked *parked;     /* strong: the task that runs a suspended app */
    Link in_flight;            /* Factory.cycles; the list owns a reference */
} Cycle;

extern PyType_Spec cycle_spec;
extern PyType_Spec send_spec;
extern PyType_Spec receive_spec;

/* A cycle for a new request of `stream`; new reference, NULL with an exception. */
Cycle *cycle_new(Factory *factory, const Wire *wire, PyObject *stream);

/* Appends request body bytes (borrowed) and wakes receive(). 0, or -1. May run Python. */
int cycle_feed_body(Cycle *cycle, PyObject *bytes);

/* The request body is complete. May run Python. */
void cycle_feed_end(Cycle *cycle);

/* Calls the app with `scope` (steals it) and steps it. App errors never come out. The caller holds a
 * reference to the cycle. May run Python. */
void cycle_start(Cycle *cycle, PyObject *scope);

/* Calls the app; the caller has entered the request's context and task. New reference to the iterator that
 * is to be stepped; NULL with an exception. May run Python. */
PyObject *cycle_call_app(Cycle *cycle, PyObject *scope);

/* The client went away: receive() says http.disconnect, send() raises. The wire lets go. May run Python. */
void cycle_disconnect(Cycle *cycle);

/* The half-closed peer will send no more, but still reads: receive() says http.disconnect, send() works. */
void cycle_input_closed(Cycle *cycle);

/* Something is there for receive(): steps an app that waits for it, or lets its task do so. Not below a parser. May run
 * Python. */
void cycle_wake_receiver(Cycle *cycle);

/* Whether end_streams() means this request: its response has begun and has no length, its body has been given to the
 * app, and the app does not hear of an end anyway. A response without its first body message may still get a
 * length, so it counts only if it is an event stream. Runs no Python. */
bool cycle_is_endless(const Cycle *cycle);

/* If cycle_is_endless: receive() says http.disconnect from now on, send() works. Whether it was. May run Python. */
bool cycle_end_stream(Cycle *cycle);

/* Drops the caller's reference, keeping the cycle for reuse if no one else has one. */
void cycle_release(Cycle *cycle);

/* The app's coroutine ended; `error` is what it raised (borrowed) or NULL. May run Python. */
void cycle_app_done(Cycle *cycle, PyObject *error);

/* A new send or receive of `cycle` (channel.c); NULL with an exception. */
Channel *channel_new(PyTypeObject *type, Cycle *cycle, bool is_send);

/* channel.c: what send() does with http.response.start and .body, for a handshake that is denied. 0, or -1 with an
 * exception. May run Python. */
int cycle_send_start(Cycle *cycle, PyObject *message);
int cycle_send_body(Cycle *cycle, PyObject *message);

/* channel.c, for extension.c. The order of a response: each message is of one of these kinds. */
typedef enum { MESSAGE_START, MESSAGE_BODY, MESSAGE_TRAILERS, MESSAGE_EARLY } MessageKind;

/* Whether a message of this kind may come now. 0, or -1 with ClientDisconnected or MessageError. */
int cycle_check_order(const Cycle *cycle, MessageKind kind);

/* Whether so many body bytes may come (RFC 9110 §8.6). 0, or -1 with BodyLengthError. */
int cycle_check_length(const Cycle *cycle, int64_t length, bool more);

/* Before and after body bytes are given to the wire: the state that follows, and what the wire's result means. `more` is
 * the app's; cycle_body_begins() returns the wire's, which trailers prolong. cycle_body_ends() returns `result`. May run
 * Python. */
bool cycle_body_begins(Cycle *cycle, int64_t length, bool more);
int cycle_body_ends(Cycle *cycle, int result, bool more);

/* message[key] as a truth value, false if it is not there: 1, 0, or -1 with an exception. May run Python. */
int message_flag(PyObject *message, PyObject *key);

/* message[key] as a list or tuple (new reference); an empty one if it is not there. NULL with MemoryError or MessageError,
 * which says `what` it must be. May run Python. */
PyObject *message_items(const State *state, PyObject *message, PyObject *key, const char *what);

/* extension.c: any other message of an HTTP response. 0, or -1 with an exception. May run Python. */
int cycle_send_extension(Cycle *cycle, PyObject *type, PyObject *message);

/* For the waiters (await.h): the next message for the app (new reference), NULL without an exception if there
 * is none yet; whether send() should wait; a future (new reference) that is resolved when either changes. */
PyObject *cycle_take_message(Cycle *cycle);
bool cycle_congested(const Cycle *cycle);
PyObject *cycle_wait(Cycle *cycle, bool receiving);

/* Frees the factory's spare cycles. */
void cycle_clear_free(Factory *factory);

#endif
