/* What a client may take: sizes, counts and times, as ProtocolFactory is given them (shardserve/_native.pyi). */
#ifndef SHARDSERVE_LIMIT_H
#define SHARDSERVE_LIMIT_H

#include "native.h"

typedef struct {
    /* Sizes and counts: the most that is allowed. INT64_MAX: any. */
    int64_t request_line;       /* bytes, without CRLF */
    int64_t request_head;       /* bytes of all fields, with the empty line */
    int64_t request_field_size; /* bytes of one field, with ": " and CRLF */
    int64_t request_fields;
    int64_t request_body;       /* bytes */
    int64_t pipelined;          /* bytes held behind the request that is being answered */
    int64_t keep_alive_requests;
    int64_t connections;
    int64_t concurrency;        /* requests in flight */
    /* Times, and what must come in them. 0: never asked. */
    int64_t first_byte_ms;
    int64_t head_ms;
    int64_t body_window_ms;
    int64_t body_min_rate;      /* bytes a second */
    int64_t write_stall_ms;
    int64_t keep_alive_ms;      /* 0 is no time at all */
    /* WebSocket. The most, or INT64_MAX: any. */
    int64_t ws_max_size;        /* bytes of a message */
    int64_t ws_max_queue;       /* messages that wait for the app */
    int64_t ws_compress_min;    /* bytes: a shorter message is never compressed */
    /* Times. 0: never. */
    int64_t ws_ping_interval_ms;
    int64_t ws_ping_timeout_ms;
    int64_t ws_idle_ms;
    int64_t ws_close_ms;
    /* HTTP/2 (RFC 9113 §6.5.2): what our SETTINGS say. */
    int64_t http2_max_concurrent_streams;
    int64_t http2_initial_stream_window_size;     /* bytes */
    int64_t http2_initial_connection_window_size; /* bytes */
    int64_t http2_max_frame_size;                 /* bytes */
    int64_t http2_max_header_list_size;           /* bytes */
    int64_t http2_header_table_size;              /* bytes */
    /* Times. 0: never. */
    int64_t http2_ping_interval_ms;
    int64_t http2_ping_timeout_ms;
} Limits;

/* Fills *limits from the arguments that it knows, and removes those from `kwargs` (a dict of the caller's own). 0, or -1
 * with an exception. May run Python. */
int limits_take(Limits *limits, PyObject *kwargs);

#endif
