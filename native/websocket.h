/* WebSocket: one connection after its handshake, and the rules of ASGI for it (RFC 6455, ASGI WebSocket spec).
 *
 * It stands between a Connection and a Cycle: websocket.c is the object and its queue, ws_open.c the handshake, ws_intake.c
 * the way in (bytes -> frames -> messages -> app), ws_channel.c what the app hears and says, ws_end.c the ways it ends.
 *
 * The authority is the websockets package behind Factory.websocket, the engine (shardserve/ws/engine.py). C takes only what
 * it is sure of: whole, unfragmented, uncompressed data frames of valid UTF-8. Every other frame goes to the engine as
 * it came, one at a time, and what the engine answers is done. Between messages the engine keeps nothing for a connection.
 */
#ifndef SHARDSERVE_WEBSOCKET_H
#define SHARDSERVE_WEBSOCKET_H

#include "native.h"

#include "connection.h"
#include "cycle.h"
#include "ring.h"

typedef enum {
    WS_OPENING, /* the handshake waits for the app */
    WS_DENYING, /* the app answers it with an HTTP response of its own */
    WS_OPEN,
    WS_CLOSING, /* our close frame is on its way, the client's has not come */
    WS_CLOSED,  /* denied, or nothing goes either way any more */
    WS_STATES,
} WsState;

/* RFC 6455 §7.4.1 */
enum {
    WS_CODE_NORMAL = 1000,
    WS_CODE_GOING_AWAY = 1001,
    WS_CODE_ABNORMAL = 1006, /* never on the wire: no close frame came */
    WS_CODE_INTERNAL_ERROR = 1011,
    WS_CODE_SERVICE_RESTART = 1012, /* IANA registry */
};

/* Messages that are queued without an allocation. */
/* Beyond so many bytes of messages nothing is parsed ahead of the app. */
#define WS_QUEUE_HIGH_BYTES 65536

typedef struct WebSocket {
    PyObject_HEAD
    Factory *factory;    /* strong */
    PyObject *fields;    /* of the response that accepts, until it is sent */
    PyObject *extensions; /* what the engine agreed with the client; NULL: none */
    PyObject *peer;      /* the engine's, while a fragmented message is in progress */
    uint8_t state;       /* WsState */
    bool accepted;       /* the 101 is sent: from then on it is not HTTP's */
    bool connect_told;   /* receive() has said websocket.connect */
    bool closed_by_app;
    bool feeding;        /* a frame is being taken */
    bool turn_given;     /* the app has had a chance to take what is queued before the next frame is the engine's */
    bool turning;        /* what the app leaves unparsed is seen to when it comes back */
    bool answers_wait;   /* the engine answered while output waited for the client: no more, until it takes some */
    bool alive;          /* something came since the last ping */
    bool fragment_compressed;
    /* in: the beginning of a frame whose rest has not come */
    PyObject *partial;      /* bytes with room for more, nobody else's */
    Py_ssize_t partial_bytes; /* of it, filled */
    int64_t fragment_bytes; /* of the fragmented message in progress, as they came */
    /* messages for the app: str or bytes, a ring */
    Ring queue;
    int64_t queue_bytes;
    /* what websocket.disconnect will say */
    int close_code; /* 0: nothing has ended it yet */
    PyObject *close_reason; /* str, or NULL */
    /* for timeout-ws-idle */
    uint64_t messages; /* both ways */
    uint64_t messages_seen;
    int idle_looks;
} WebSocket;

extern PyType_Spec websocket_spec;

/* websocket.c */

/* A handshake that the engine takes: `fields` and `extensions` (borrowed) are its answer. New reference, NULL with an
 * exception. */
WebSocket *websocket_new(Factory *factory, PyObject *fields, PyObject *extensions);

/* Appends a message (steals it) for the app. 0, or -1 with MemoryError. */
int websocket_queue(WebSocket *websocket, PyObject *message);

/* The oldest message: new reference, NULL if there is none. */
PyObject *websocket_unqueue(WebSocket *websocket);

/* Whether nothing more is to be parsed ahead of the app. */
bool websocket_is_full(const WebSocket *websocket);

/* Drops what belongs to input that will not be completed. May run Python. */
void websocket_drop_input(WebSocket *websocket);

/* ws_open.c */

/* Whether the current request, whose head is parsed, is a handshake for us. */
bool websocket_is_wanted(const Connection *connection, const Cycle *cycle);

/* Asks the engine about the handshake of `cycle`, and gives it to the app or refuses it. The caller holds references to
 * both. May run Python. */
void websocket_run(Connection *connection, Cycle *cycle);

/* websocket.accept: sends the 101 and makes frames of what comes from now on. 0, or -1 with an exception and nothing sent.
 * May run Python. */
int websocket_accept(Cycle *cycle, PyObject *message);

/* websocket.close before that. 0, or -1. May run Python. */
int websocket_deny(Cycle *cycle);

/* ws_intake.c */

/* data_received() of an accepted WebSocket. May run Python. */
void websocket_data_received(Connection *connection, PyObject *data);

/* What was held back is parsed as far as the app can take it. From the loop. May run Python. */
void websocket_resume(Connection *connection);

/* Whether the socket is to be left unread: the app lags. */
bool websocket_pauses(const Connection *connection);

/* ws_channel.c, for channel.c and cycle.c */

/* What receive() gives: new reference; NULL without an exception: nothing yet. */
PyObject *websocket_take_message(Cycle *cycle);

/* What send() does. 0, or -1 with an exception. May run Python. */
int websocket_send(Cycle *cycle, PyObject *message);

/* ws_end.c */

/* Puts bytes of the engine's (a close frame, a pong) behind the output. 0, or -1 with an exception. */
int websocket_write(Connection *connection, PyObject *frames);

/* Sends our close frame, and waits for the client's. `reason`: a str (borrowed). 0, or -1 with what the engine raised
 * (ValueError: it may not be sent) and nothing done. May run Python. */
int websocket_close(Connection *connection, WebSocket *websocket, int code, PyObject *reason);

/* The same with words of ours, in every state: a handshake is left to the app, a failure cuts. */
void websocket_close_for(Connection *connection, int code, const char *reason);

/* Nothing goes either way any more: the app hears `code` and `reason` (borrowed, or NULL); the connection is closed
 * behind its output. `linger`: the client may be sending still. Runs no Python. */
void websocket_end(Connection *connection, WebSocket *websocket, int code, PyObject *reason, bool linger);

/* The engine failed us: its exception (pending) is written as unraisable, the connection ends with 1011. May run Python. */
void websocket_engine_failed(Connection *connection, WebSocket *websocket);

/* Lets the app's receive() look again. May run Python. */
void websocket_wake(Connection *connection);

/* The app of an accepted WebSocket returned or raised (borrowed, or NULL): closes it. What the client got of that: a borrowed
 * str. May run Python. */
PyObject *websocket_app_done(Cycle *cycle, PyObject *error);

/* eof_received(): whether the connection is kept, for what is still to be parsed. May run Python. */
bool websocket_eof(Connection *connection);

/* Its time is over: DEADLINE_WS_PING, _PONG or _CLOSE. May run Python. */
void websocket_deadline(Connection *connection);

/* Looks whether messages have come or gone since the last time. May run Python. */
void websocket_look_idle(Connection *connection, int64_t now_ms);

/* A drain ends what has no end: 1012. Whether there was something to end. May run Python. */
bool websocket_restart(Connection *connection);

#endif
