/* What a peer may do over HTTP/2, how often, and how long it may take (RFC 9113 §10.5). See http2.h.
 *
 * Frames that cost their sender less than us fill buckets; one that is over ends the connection. Time is looked at from the
 * factory's tick: a stream has no timer.
 */
#include "http2_stream.h"

#ifdef SHARDSERVE_NGHTTP2

#include "deadline.h"
#include "output.h"

/* Streams reset before they were answered, or for what the peer did wrong: so many at once, so many a second. A browser
 * that leaves a page resets what it waits for: up to a hundred. */
#define RESETS_MOST 200
#define RESETS_A_SECOND 20
/* A GOAWAY waits so long for the streams that are open. */
#define OWED_MS 1000
/* The PING behind the first of two should be back by then. */
#define PING_BACK_MS 5000
/* Frames that carry nothing: PING, SETTINGS, PRIORITY_UPDATE, windows opened by a few bytes, DATA without data. */
#define CONTROLS_MOST 1000
#define CONTROLS_A_SECOND 100
/* For each DATA frame of ours a peer may send so many of those: it opens the windows of the stream and the connection. */
#define CONTROLS_A_FRAME 2

/* ---- how often ---- */

/* Sends the peer away. May be called by nghttp2's callbacks. */
static void
calm(Connection *connection, const char *reason)
{
    Http2 *http2 = connection->http2;
    if (http2->ended)
        return;
    http2->calm = reason;
    http2_end_session(connection, NGHTTP2_ENHANCE_YOUR_CALM);
}

void
guard_reset(Connection *connection)
{
    if (bucket_fill(&connection->http2->resets, factory_now_ms(), RESETS_MOST, RESETS_A_SECOND))
        calm(connection, "HTTP/2: ENHANCE_YOUR_CALM: too many streams were reset");
}

void
guard_control(Connection *connection)
{
    if (bucket_fill(&connection->http2->controls, factory_now_ms(), CONTROLS_MOST, CONTROLS_A_SECOND))
        calm(connection, "HTTP/2: ENHANCE_YOUR_CALM: too many frames that carry nothing");
}

void
guard_sent(Connection *connection)
{
    bucket_drain(&connection->http2->controls, CONTROLS_A_FRAME);
}

/* What a peer did for which nghttp2 resets a stream; NULL: it was no fault of the peer's. */
static const char *
stream_fault(uint32_t code)
{
    switch (code) {
    case NGHTTP2_PROTOCOL_ERROR: return "HTTP/2: PROTOCOL_ERROR: the request is malformed";
    case NGHTTP2_FLOW_CONTROL_ERROR: return "HTTP/2: FLOW_CONTROL_ERROR: against the stream's windows";
    case NGHTTP2_STREAM_CLOSED: return "HTTP/2: STREAM_CLOSED: a frame behind the end of the request";
    case NGHTTP2_FRAME_SIZE_ERROR: return "HTTP/2: FRAME_SIZE_ERROR: a frame of the wrong length";
    default: return NULL;
    }
}

void
guard_stream_fault(Connection *connection, Stream *stream, uint32_t code)
{
    const char *fault = stream_fault(code);
    if (fault == NULL)
        return;
    guard_reset(connection);
    if (stream == NULL || connection->http2->ended)
        return; /* it is over, or the connection is */
    stream->trouble = fault;
    stream_note(stream);
}

void
guard_session_fault(Connection *connection, const nghttp2_goaway *frame)
{
    Http2 *http2 = connection->http2;
    if (frame->error_code == NGHTTP2_NO_ERROR || http2->ended)
        return;
    http2->ended = true;
    (void)snprintf(http2->fault, sizeof(http2->fault), "HTTP/2: %s%s%.*s", nghttp2_http2_strerror(frame->error_code),
                   frame->opaque_data_len > 0 ? ": " : "", (int)frame->opaque_data_len, (const char *)frame->opaque_data);
    http2->calm = http2->fault;
}

void
http2_end_session(Connection *connection, uint32_t code)
{
    Http2 *http2 = connection->http2;
    if (http2->ended || http2->session == NULL)
        return;
    http2->ended = true;
    (void)nghttp2_session_terminate_session(http2->session, code);
}

void
http2_report_calm(Connection *connection)
{
    const char *reason = connection->http2->calm;
    connection->http2->calm = NULL;
    if (reason == NULL || connection->rejected)
        return;
    connection->rejected = true;
    connection_report(connection, REPORT_CLOSED, reason);
}

void
http2_reject(Connection *connection, const char *reason)
{
    calm(connection, reason);
    http2_report_calm(connection);
    wire2_flush(connection);
}

/* ---- what is waited for ---- */

void
http2_deadline(Connection *connection)
{
    const Http2 *http2 = connection->http2;
    if (connection->closing || connection->lingering || connection->transport == NULL)
        return;
    Deadline owed = http2->fields_of != 0                           ? DEADLINE_HEAD
                    : http2->stream_count > 0                         ? DEADLINE_NONE
                    : http2->greeted                                ? DEADLINE_IDLE
                    : connection->deadline == DEADLINE_FIRST_BYTE   ? DEADLINE_HEAD
                                                                    : (Deadline)connection->deadline;
    if (owed == DEADLINE_NONE)
        deadline_stop(connection);
    else if (owed != connection->deadline)
        deadline_start(connection, owed);
}

void
http2_end_waiting(Connection *connection)
{
    Http2 *http2 = connection->http2;
    Py_INCREF(connection);
    if (connection->deadline == DEADLINE_HEAD) {
        http2->calm = http2->greeted ? "HTTP/2: the request head was not complete within timeout-request-head"
                                     : "HTTP/2: the preface was not complete within timeout-request-head";
        http2_end_session(connection, NGHTTP2_NO_ERROR);
        http2_report_calm(connection);
    }
    else {
        http2_end_session(connection, NGHTTP2_NO_ERROR);
    }
    deadline_stop(connection);
    output_flush(connection);
    connection_check(connection);
    Py_DECREF(connection);
}

/* ---- how long ---- */

bool
guard_may_wait(const Stream *stream)
{
    const Cycle *cycle = stream->cycle;
    const Limits *limits = &stream->connection->factory->limits;
    nghttp2_session *session = stream->connection->http2->session;
    return (cycle != NULL && cycle->expects_continue && stream->received == 0) ||
           stream->unconsumed >= limits->http2_initial_stream_window_size / 2 || session == NULL ||
           nghttp2_session_get_local_window_size(session) == 0;
}

/* Whether the peer owes more of a body than it sends. What its app has answered already may stay open for as long as both
 * like: streams in both directions. */
static bool
sends_too_slowly(Stream *stream, int64_t now_ms)
{
    const Limits *limits = &stream->connection->factory->limits;
    const Cycle *cycle = stream->cycle;
    if (cycle == NULL || stream->input_done || !cycle->started || cycle->response >= RESPONSE_BODY ||
        limits->body_min_rate == 0 || limits->body_window_ms == 0)
        return false;
    bool may_wait = guard_may_wait(stream);
    if (now_ms - stream->window_ms < limits->body_window_ms && !may_wait)
        return false;
    int64_t came = stream->received - stream->window_received;
    stream->window_ms = now_ms;
    stream->window_received = stream->received;
    return !may_wait && came < limits->body_min_rate * limits->body_window_ms / 1000;
}

/* Whether output waits for a window that the peer does not open. */
static bool
takes_nothing(const Stream *stream, int64_t now_ms)
{
    nghttp2_session *session = stream->connection->http2->session;
    int64_t limit_ms = stream->connection->factory->limits.write_stall_ms;
    if (limit_ms == 0 || stream->closed || stream->reset || !stream->head_given ||
        (stream->queued == 0 && stream->file < 0) || now_ms - stream->progress_ms < limit_ms)
        return false;
    return nghttp2_session_get_remote_window_size(session) <= 0 ||
           nghttp2_session_get_stream_remote_window_size(session, stream->id) <= 0;
}

/* RFC 9113 §8.1: the answer is complete, the rest of the request is not needed. Some clients (curl 7.88) take the two together
 * for a failure, so that the RST_STREAM comes later. */
#define STOP_INPUT_MS 100

/* Ends a stream that took too long, or notes that it is to be refused. Runs no Python. */
static void
look_at_stream(const Connection *connection, Stream *stream, int64_t now_ms)
{
    if (stream->end_sent && !stream->input_done && now_ms - stream->end_ms >= STOP_INPUT_MS) {
        stream_reset(stream, NGHTTP2_NO_ERROR);
    }
    else if (stream->reject_status == 0 && sends_too_slowly(stream, now_ms)) {
        stream->reject_status = 408;
        stream->reject_reason = "the request body came more slowly than min-request-body-rate";
        stream_note(stream);
    }
    else if (takes_nothing(stream, now_ms)) {
        stream_reset(stream, NGHTTP2_CANCEL);
        if (connection->rejected)
            return;
        stream->trouble = "it took none of its response within timeout-write-stall";
        stream_note(stream);
    }
}

/* Asks a silent peer whether it is there, while it waits for something. May run Python. */
static void
look_at_silence(Connection *connection, int64_t now_ms)
{
    Http2 *http2 = connection->http2;
    const Limits *limits = &connection->factory->limits;
    if (limits->http2_ping_interval_ms == 0 || connection->reading_paused)
        return;
    if (http2->ping_ms == 0) {
        if (now_ms - http2->input_ms < limits->http2_ping_interval_ms)
            return;
        http2->ping_ms = now_ms;
        (void)nghttp2_submit_ping(http2->session, NGHTTP2_FLAG_NONE, NULL);
    }
    else if (http2->input_ms > http2->ping_ms) {
        http2->ping_ms = 0; /* anything is an answer */
    }
    else if (limits->http2_ping_timeout_ms > 0 && now_ms - http2->ping_ms >= limits->http2_ping_timeout_ms &&
             !connection_has_unread(connection)) {
        connection_report(connection, REPORT_CLOSED, "HTTP/2: it did not answer a PING within http2-ping-timeout");
        connection_abort(connection);
        connection_gone(connection);
    }
}

void
http2_look(Connection *connection, int64_t now_ms)
{
    Http2 *http2 = connection->http2;
    if (http2->session == NULL || connection->closing || connection->lingering)
        return;
    bool unanswered = http2->goaway == GOAWAY_NOTICE && now_ms - http2->owed_ms >= PING_BACK_MS;
    if ((http2->goaway == GOAWAY_OWED && now_ms - http2->owed_ms >= OWED_MS) || unanswered)
        http2_next_goaway(connection);
    for (Link *link = http2->streams.next; link != &http2->streams; link = link->next)
        look_at_stream(connection, LIST_OWNER(link, Stream, all), now_ms);
    if (http2->stream_count > 0)
        look_at_silence(connection, now_ms);
    if (!list_empty(&http2->noted) || (http2->session != NULL && nghttp2_session_want_write(http2->session)))
        output_flush(connection); /* which settles what was noted, and sends what that brings */
}

#endif
