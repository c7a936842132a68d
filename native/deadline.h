/* Deadlines of connections, without a timer each.
 *
 * A connection waits for one thing of its client at a time, or for none. Every kind of waiting has one length, so
 * its connections stand in one list, in the order they will be due; the worker's tick looks at the first of each. Output that
 * waits for the client has a list of its own, beside it.
 *
 * After a loop that was blocked everybody looks late. So a connection with unread bytes in its socket is given until the
 * next tick, once.
 */
#ifndef SHARDSERVE_DEADLINE_H
#define SHARDSERVE_DEADLINE_H

#include "native.h"

typedef enum {
    DEADLINE_NONE,
    DEADLINE_FIRST_BYTE, /* a new connection: closed */
    DEADLINE_IDLE,       /* between requests: closed */
    DEADLINE_HEAD,       /* from a request's first byte to the end of its head: 408 */
    DEADLINE_BODY,       /* so much of a body in each window: 408 */
    DEADLINE_LINGER,     /* our side is closed, the client's is not: aborted */
    DEADLINE_WS_PING,    /* a WebSocket: pinged */
    DEADLINE_WS_PONG,    /* a pinged one: anything it sends */
    DEADLINE_WS_CLOSE,   /* one to which we sent a close frame: closed */
    DEADLINE_KINDS,
} Deadline;

struct Connection;
struct Factory;

/* The connection waits for this from now on, and for nothing else. */
void deadline_start(struct Connection *connection, Deadline kind);

/* It waits for nothing. */
void deadline_stop(struct Connection *connection);

/* After bytes were parsed: starts what the client owes now, if it is not running already, or stops it. */
void deadline_after_input(struct Connection *connection);

/* What the transport holds of our output, or -1: it does not say. May run Python. */
int64_t deadline_held_bytes(const struct Connection *connection);

/* The transport holds output: whether the client takes any of it is watched until it is gone. */
void deadline_watch_output(struct Connection *connection);

/* A WebSocket without messages is looked at so many times within its limit, and closed at the last. */
#define IDLE_LOOKS 4

/* From now on, if there is a limit. */
void deadline_watch_idle(struct Connection *connection);

/* The next look. */
void deadline_look_again(struct Connection *connection, int64_t now_ms);

/* Ends every connection whose time is over. 0, or -1 with MemoryError. May run Python. */
int deadline_enforce(struct Factory *factory);

#endif
