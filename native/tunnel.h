/* The transport of a WebSocket over HTTP/2 (RFC 8441): what its own Connection has in the place of a socket.
 *
 * The stream of an extended CONNECT is a connection inside of a connection. So it gets a Connection of its own, which takes
 * and gives the frames of RFC 6455 as any other does, and a Tunnel below it, which makes DATA of them. The windows of the
 * stream are its back-pressure, both ways.
 */
#ifndef SHARDSERVE_TUNNEL_H
#define SHARDSERVE_TUNNEL_H

#include "native.h"

#ifdef SHARDSERVE_NGHTTP2

#include "http2_stream.h"

typedef struct Tunnel {
    PyObject_HEAD
    Connection *outer; /* strong: whose stream it is */
    Connection *inner; /* strong: the WebSocket's */
    Stream *stream;    /* borrowed; NULL: it is gone */
    PyObject *input;   /* bytes, or a list of them, that the WebSocket has not been given; or NULL */
    bool paused;       /* it does not want any */
    bool eof_told;     /* it knows that the client will send no more */
    bool closed;       /* close() or write_eof() was called */
    int64_t owed;      /* bytes it was given that the windows do not have back */
} Tunnel;

#endif
#endif
