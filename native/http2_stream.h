/* What the files of HTTP/2 share: a session's state, its streams, the calls between them. See http2.h.
 *
 * http2_stream.c: memory of streams. http2_intake.c http2_request.c: the way in. http2_head.c http2_wire.c: the way out.
 * http2_guard.c http2_end.c: limits and ends.
 */
#ifndef SHARDSERVE_HTTP2_STREAM_H
#define SHARDSERVE_HTTP2_STREAM_H

#include "native.h"

#ifdef SHARDSERVE_NGHTTP2

#include <nghttp2/nghttp2.h>

#include "bucket.h"
#include "connection.h"
#include "cycle.h"
#include "head.h"
#include "http2.h"
#include "ring.h"

/* Output of one stream that waits: above it send() waits, until there is less than the lower one. */
#define STREAM_HIGH_BYTES 65536
#define STREAM_LOW_BYTES 16384
/* Of what nghttp2 says of a peer's mistake, so much is kept. */
#define FAULT_TEXT_BYTES 96
/* A file is read in pieces of up to this. */
#define STREAM_FILE_BYTES 65536

/* Fields of a response, and their texts. In one piece of memory. */
typedef struct HeadBlock {
    struct HeadBlock *next; /* spare */
    nghttp2_nv *nv;
    size_t count;
    size_t room; /* for nv */
    char *text;
    size_t used;
    size_t capacity; /* for text */
    bool standard;   /* of the size that is kept for reuse */
} HeadBlock;

#define NAME_SLOTS 512 /* a power of two, far more than there are common field names */

typedef struct Http2Shared {
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
    struct Stream *free_streams;
    int free_stream_count;
    HeadBlock *free_blocks;
    int free_block_count;
    HeadField *fixed; /* Factory.fixed_fields, in lower case */
    size_t fixed_count;
    char *fixed_text;
    PyObject *names[NAME_SLOTS]; /* common field names by hash: borrowed from State.field_names */
} Http2Shared;

struct Tunnel;

typedef struct Stream {
    struct Stream *next;    /* spare */
    Connection *connection; /* borrowed: it owns us */
    Link all;               /* Http2.streams */
    Link queue;             /* Http2.ready or Http2.closed */
    Link noted;             /* Http2.noted: something is to be done for it */
    Cycle *cycle;           /* strong; NULL: the response is given, or the request is the tunnel's */
    struct Tunnel *tunnel;  /* strong: a WebSocket; else NULL */
    int32_t id;
    bool closed; /* by nghttp2: it must not be named any more */
    /* in */
    bool head_only;      /* HEAD */
    bool input_done;     /* END_STREAM has come */
    bool websocket;      /* extended CONNECT, of the protocol that we know */
    bool unknown_protocol;
    bool forwarded;      /* Connection.forwarded, of its head */
    bool refused;          /* what reject_status says is done */
    int reject_status;
    const char *reject_reason;
    int64_t header_bytes; /* of the header list (RFC 9113 §6.5.2) */
    int64_t received;     /* body bytes */
    int64_t unconsumed;   /* of these, those that our windows do not have back */
    Py_ssize_t cookie_at; /* where in the fields; -1: nowhere */
    PyObject *authority;  /* bytes, until the head is complete; or NULL */
    int64_t begun_ms;
    int64_t window_ms;    /* when the present window of min-request-body-rate began */
    int64_t window_received;
    /* out */
    HeadBlock *block;     /* the head: not given to nghttp2 yet, or not sent yet */
    bool head_given;      /* nghttp2 has it */
    bool deferred;        /* nghttp2 waits for nghttp2_session_resume_data() */
    bool ended;           /* nothing comes behind what is queued */
    bool end_sent;        /* END_STREAM is on its way */
    int64_t end_ms;       /* since when, where the client may still be sending */
    bool has_trailers;    /* they are given to nghttp2 when the body is sent */
    bool file_read;       /* the file has been read to its end: noted */
    bool file_more;
    bool reset;           /* RST_STREAM was given to nghttp2 */
    int file;             /* a descriptor that is sent, or -1 */
    int64_t file_offset;
    int64_t file_left;
    const char *trouble;  /* what the log is to hear of it: noted */
    Ring chunks;          /* of bytes */
    size_t chunk_offset;  /* what is gone of the first */
    int64_t queued;       /* bytes in them */
    int64_t progress_ms;  /* when some of it was sent, or it was queued behind nothing */
    HeadBlock *trailers;
    PyObject *write_futures;
} Stream;

typedef enum {
    GOAWAY_NONE,
    GOAWAY_OWED,   /* one is due when no stream is open, or when that takes too long */
    GOAWAY_NOTICE, /* a GOAWAY that still allows every stream, and a PING behind it */
    GOAWAY_FINAL,  /* the one that says which stream was the last */
} Goaway;

typedef struct Http2 {
    nghttp2_session *session; /* NULL: it is over */
    Link streams;
    Link ready;  /* Stream.queue: their heads are complete, and nobody has looked at them */
    Link closed; /* Stream.queue: closed by nghttp2, to be let go of */
    Link noted;  /* Stream.noted */
    int stream_count;
    int open_count; /* of these, those that nghttp2 has not closed */
    int unfinished; /* apps of streams that are gone */
    Stream *incoming; /* whose fields come; NULL: none, or those of a stream that we refuse */
    int32_t fields_of; /* whose fields are not complete; 0: nobody's, or they do not matter any more */
    int64_t field_bytes; /* of them, names and values */
    bool greeted;     /* the client's SETTINGS have come */
    Bucket resets;
    Bucket controls;
    bool settle;       /* http2_settle() is on the stack */
    Stream *settling;  /* what it is at; NULL once that is freed */
    const char *calm; /* why the peer is sent away, to be reported; or NULL */
    char fault[FAULT_TEXT_BYTES]; /* nghttp2's own words for it */
    bool ended;       /* GOAWAY with an error is on its way: nothing that comes matters */
    uint8_t goaway;   /* Goaway */
    int32_t last_id;  /* GOAWAY_FINAL: the last stream that is taken */
    int64_t owed_ms;  /* since when one is owed */
    int64_t busy_ms;  /* when the last stream went */
    int64_t input_ms; /* when something came last */
    int64_t ping_ms;  /* when we asked whether the peer is there; 0: we do not ask */
} Http2;

/* http2_stream.c: memory of streams */

/* A new stream with its cycle; NULL with MemoryError. */
Stream *stream_new(Connection *connection, int32_t id);

/* Lets its app go, hears no more of nghttp2, and frees it. May run Python. */
void stream_free(Stream *stream);

/* Its cycle hears of a disconnect, if there is one. May run Python. */
void stream_let_go(Stream *stream);

/* Frees it without a word to anybody: the garbage collector has found its connection. */
void stream_discard(Stream *stream);

/* Appends `bytes` (borrowed) to the output. 0, or -1 with MemoryError. */
int stream_queue(Stream *stream, PyObject *bytes);

/* Drops what is queued, and the file: the cycle has not sent it. */
void stream_drop_output(Stream *stream);

/* Moves `length` bytes of what is queued into Connection.out. 0, or -1 with MemoryError. */
int stream_move(Stream *stream, size_t length);

/* Puts it into Http2.noted. */
void stream_note(Stream *stream);

/* Gives body bytes back to the windows. */
void stream_consume(Stream *stream, int64_t length);

/* RST_STREAM, once. */
void stream_reset(Stream *stream, uint32_t code);

/* Wakes those who wait for the stream's output. May run Python. */
void stream_wake(Stream *stream);

/* http2.c: of a field name, for Http2Shared.names */
uint32_t http2_name_hash(const char *text, size_t length);

/* http2_intake.c */
/* HEADERS of a request, or of trailers, begin. */
int http2_on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user);
/* One field of them. */
int http2_on_header(nghttp2_session *session, const nghttp2_frame *frame, nghttp2_rcbuf *name, nghttp2_rcbuf *value,
                    uint8_t flags, void *user);
/* One that makes the request malformed (RFC 9113 §8.1.1). */
int http2_on_invalid_header(nghttp2_session *session, const nghttp2_frame *frame, nghttp2_rcbuf *name,
                            nghttp2_rcbuf *value, uint8_t flags, void *user);
/* A frame is complete. */
int http2_on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user);
/* A piece of DATA. */
int http2_on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t length, void *user);
/* nghttp2 has closed a stream. */
int http2_on_close(nghttp2_session *session, int32_t id, uint32_t code, void *user);

/* http2_request.c */

/* One field of the incoming request, whose `cycle` the caller holds: making objects may run the collector, and that any code.
 * 0; or -1 with MemoryError. What is refused is noted in the stream. */
int request2_take(Stream *stream, Cycle *cycle, const nghttp2_vec *name, const nghttp2_vec *value);

/* The head is complete. 0, or -1 with MemoryError. Likewise. */
int request2_complete(Stream *stream, Cycle *cycle);

/* Gives nghttp2 an answer of our own; `id`: the request's, or NULL. Runs no app. */
void request2_answer(Stream *stream, int status, const char *reason, PyObject *id);

/* Runs what is ready. May run Python. */
void request2_run(Connection *connection);

/* Answers a request in its app's place, which hears of a disconnect if it runs already. May run Python. */
void request2_refuse(Connection *connection, Stream *stream, int status, const char *reason);

/* http2_head.c */

/* The fields of a response as the app gave them (PySequence_Fast), judged as head_encode() judges them; fills *facts. Runs
 * no Python, and leaves room for what response_head_end() adds. NULL with HeaderError, MessageError or MemoryError. */
HeadBlock *head2_encode(Factory *factory, int status, PyObject *fields, HeadFacts *facts);

/* The same of trailers, and of the Link fields of a hint. */
HeadBlock *head2_encode_trailers(Factory *factory, PyObject *fields);
HeadBlock *head2_encode_links(Factory *factory, PyObject *links);

/* A head of our own, with a text of that length, for the request with that id (NULL: none). NULL with MemoryError. */
HeadBlock *head2_simple(Factory *factory, int status, size_t length, PyObject *id);

/* A head that is a status, with room for nothing else. NULL with MemoryError. */
HeadBlock *head2_status(Factory *factory, int status);

/* One block of two, which are freed. NULL with MemoryError; the first is left as it was. */
HeadBlock *head2_join(Http2Shared *shared, HeadBlock *first, HeadBlock *second);

/* What every response has that its app did not give. `id`: the request's, or NULL; content_length -1: none. */
void head2_end(Factory *factory, HeadBlock *block, const HeadFacts *facts, PyObject *id, int64_t content_length);

/* Back to the spare ones; NULL is none. */
void head2_free(Http2Shared *shared, HeadBlock *block);

/* http2_wire.c */
extern const Wire http2_wire;

/* What a stream's DATA is to carry now; nothing of it is copied. */
ssize_t http2_on_read(nghttp2_session *session, int32_t id, uint8_t *buffer, size_t length, uint32_t *flags,
                      nghttp2_data_source *source, void *user);
/* DATA of that length go into Connection.out. */
int http2_on_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *header, size_t length,
                       nghttp2_data_source *source, void *user);
/* A frame is on its way. */
int http2_on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *user);
/* A frame could not be sent. */
int http2_on_frame_not_sent(nghttp2_session *session, const nghttp2_frame *frame, int error, void *user);

/* The stream's head, as the app gave it, is Stream.block; fills *facts. 0, or -1 with an exception. Runs no Python. */
int wire2_take_head(Stream *stream, Cycle *cycle, int status, PyObject *fields, HeadFacts *facts);

/* Gives nghttp2 Stream.block; `body`: DATA will follow. */
void wire2_give_head(Stream *stream, bool body);

/* There is new output behind the head, or its end. */
void wire2_continue(Stream *stream);

/* The response of `cycle`, which the stream has, is complete for its app. May run Python. */
void wire2_response_done(Stream *stream, Cycle *cycle);

/* What a note is about: the log, a file that has been read, room. May run Python. */
void wire2_settle(Stream *stream);

/* Sends, unless somebody else will. The connection is there until it returns. May run Python. */
void wire2_flush(Connection *connection);

/* http2_guard.c */

/* A peer did what it may not do often. */
void guard_reset(Connection *connection);
void guard_control(Connection *connection);

/* Whether the peer cannot send more of a body, or need not: its windows are nearly shut, or the app has not asked. */
bool guard_may_wait(const Stream *stream);

/* We sent DATA: they allow for frames of the peer's. */
void guard_sent(Connection *connection);

/* The connection ends with this error; what comes is not looked at. */
void http2_end_session(Connection *connection, uint32_t code);

/* nghttp2 ends the stream (whose note it becomes), or the session, for what its peer did: RST_STREAM, GOAWAY on their way. */
void guard_stream_fault(Connection *connection, Stream *stream, uint32_t code);
void guard_session_fault(Connection *connection, const nghttp2_goaway *frame);

/* What ended the session is told, once. May run Python. */
void http2_report_calm(Connection *connection);

/* http2_end.c */

/* No further stream will be taken: the last GOAWAY. Runs no Python. */
void http2_last_goaway(Connection *connection);

/* A GOAWAY has been owed for too long, or the first was not answered: the first of two, or the last. Runs no Python. */
void http2_next_goaway(Connection *connection);

/* The first GOAWAY is on its way: the PING behind it. nghttp2 would send it before, if both were given to it at once. */
void http2_ask_behind_goaway(Connection *connection);

/* Whether `opaque` is that PING's. */
bool http2_is_drain_ping(const uint8_t *opaque);

/* Nothing more is to come or go: the connection is closed behind its output. */
void http2_close_if_over(Connection *connection);

/* tunnel.c: WebSocket. The stream's cycle becomes a WebSocket's handshake. May run Python. */
void tunnel_open(Connection *connection, Stream *stream);

/* Wire.accept. */
int tunnel_accept(Cycle *cycle, PyObject *fields);

/* The handshake was answered otherwise. The WebSocket's connection, borrowed. Runs no Python. */
Connection *tunnel_denied(Stream *stream);

/* Output was queued: the WebSocket may have to wait. */
void tunnel_queued(Stream *stream);

/* Bytes came. 0, or -1 with MemoryError. */
int tunnel_feed(Stream *stream, const uint8_t *data, size_t length);

/* Gives what came to the WebSocket; END_STREAM, too. May run Python. */
void tunnel_deliver(Stream *stream);

/* There is room again. May run Python. */
void tunnel_writable(Stream *stream);

/* The stream is gone. May run Python. */
void tunnel_lost(Stream *stream);

/* For stream_discard(). */
void tunnel_discard(Stream *stream);

#endif
#endif
