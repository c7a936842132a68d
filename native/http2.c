/* The session of HTTP/2: what connections share, begun, fed, its output taken, let go of. See http2.h. */
#include "http2.h"

#include "http2_stream.h"

PyObject *
http2_version(void)
{
#ifdef SHARDSERVE_NGHTTP2
    return PyUnicode_FromString(nghttp2_version(0)->version_str);
#else
    Py_RETURN_NONE;
#endif
}

#ifdef SHARDSERVE_NGHTTP2

#include "chars.h"
#include "output.h"

/* Every frame that nghttp2 may have to send at once goes into one header block of at most this. */
#define HEAD_MOST_BYTES (1 << 20)
/* RFC 9113 §4.2: what SETTINGS_MAX_FRAME_SIZE may be. */
#define FRAME_LEAST_BYTES 16384
#define FRAME_MOST_BYTES 16777215
/* RFC 9113 §10.5: acknowledgements that wait to be sent, SETTINGS in one frame. */
#define ACKS_MOST 1000
#define SETTINGS_MOST 32

/* ---- what connections share ---- */

/* FNV-1a. */
uint32_t
http2_name_hash(const char *text, size_t length)
{
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (uint8_t)text[i]) * 16777619u;
    return hash;
}

/* The common field names in lower case, by hash. */
static void
index_names(Http2Shared *shared, const State *state)
{
    PyObject *key, *name;
    Py_ssize_t at = 0;
    while (PyDict_Next(state->field_names, &at, &key, &name)) {
        if (key != name)
            continue; /* as browsers write it over HTTP/1.1 */
        uint32_t slot = http2_name_hash(PyBytes_AS_STRING(name), (size_t)PyBytes_GET_SIZE(name));
        while (shared->names[slot % NAME_SLOTS] != NULL)
            slot++;
        shared->names[slot % NAME_SLOTS] = name;
    }
}

/* Factory.fixed_fields ("name: value" CRLF each) as fields. 0, or -1 with MemoryError. */
static int
index_fixed_fields(Http2Shared *shared, PyObject *lines)
{
    size_t length = (size_t)PyBytes_GET_SIZE(lines);
    const char *text = PyBytes_AS_STRING(lines);
    size_t count = 0;
    for (size_t i = 0; i < length; i++)
        count += text[i] == '\n';
    shared->fixed_text = PyMem_Malloc(length + 1);
    shared->fixed = PyMem_Calloc(count + 1, sizeof(HeadField));
    if (shared->fixed_text == NULL || shared->fixed == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(shared->fixed_text, text, length);
    char *line = shared->fixed_text;
    for (size_t i = 0; i < count; i++) {
        char *end = memchr(line, '\r', length - (size_t)(line - shared->fixed_text));
        char *colon = memchr(line, ':', (size_t)(end - line));
        chars_lower(line, line, (size_t)(colon - line));
        shared->fixed[i] = (HeadField){line, colon + 2, (size_t)(colon - line), (size_t)(end - colon) - 2};
        line = end + 2;
    }
    shared->fixed_count = count;
    return 0;
}

static int
make_callbacks(Http2Shared *shared)
{
    if (nghttp2_session_callbacks_new(&shared->callbacks) != 0)
        return -1;
    nghttp2_session_callbacks_set_on_begin_headers_callback(shared->callbacks, http2_on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback2(shared->callbacks, http2_on_header);
    nghttp2_session_callbacks_set_on_invalid_header_callback2(shared->callbacks, http2_on_invalid_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(shared->callbacks, http2_on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(shared->callbacks, http2_on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(shared->callbacks, http2_on_close);
    nghttp2_session_callbacks_set_send_data_callback(shared->callbacks, http2_on_send_data);
    nghttp2_session_callbacks_set_on_frame_send_callback(shared->callbacks, http2_on_frame_sent);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(shared->callbacks, http2_on_frame_not_sent);
    return 0;
}

static int
make_option(Http2Shared *shared)
{
    if (nghttp2_option_new(&shared->option) != 0)
        return -1;
    nghttp2_option_set_no_auto_window_update(shared->option, 1); /* the app's receive() opens them */
    nghttp2_option_set_no_closed_streams(shared->option, 1);
    nghttp2_option_set_max_send_header_block_length(shared->option, HEAD_MOST_BYTES);
    nghttp2_option_set_max_outbound_ack(shared->option, ACKS_MOST);
    nghttp2_option_set_max_settings(shared->option, SETTINGS_MOST);
    nghttp2_option_set_builtin_recv_extension_type(shared->option, NGHTTP2_PRIORITY_UPDATE);
#ifdef SHARDSERVE_NGHTTP2_RESET_LIMIT
    /* http2_guard.c counts more than these, and has another answer. */
    nghttp2_option_set_stream_reset_rate_limit(shared->option, UINT32_MAX, UINT32_MAX);
#endif
    return 0;
}

Http2Shared *
http2_shared_new(const Factory *factory)
{
    Http2Shared *shared = PyMem_Calloc(1, sizeof(Http2Shared));
    if (shared == NULL || make_callbacks(shared) < 0 || make_option(shared) < 0) {
        PyErr_NoMemory();
        http2_shared_free(shared);
        return NULL;
    }
    index_names(shared, factory->state);
    if (index_fixed_fields(shared, factory->fixed_fields) == 0)
        return shared;
    http2_shared_free(shared);
    return NULL;
}

void
http2_shared_free(Http2Shared *shared)
{
    if (shared == NULL)
        return;
    nghttp2_session_callbacks_del(shared->callbacks);
    nghttp2_option_del(shared->option);
    while (shared->free_streams != NULL) {
        Stream *stream = shared->free_streams;
        shared->free_streams = stream->next;
        PyMem_Free(stream);
    }
    while (shared->free_blocks != NULL) {
        HeadBlock *block = shared->free_blocks;
        shared->free_blocks = block->next;
        PyMem_Free(block);
    }
    PyMem_Free(shared->fixed);
    PyMem_Free(shared->fixed_text);
    PyMem_Free(shared);
}

/* ---- begun ---- */

int
http2_begins(PyObject *data)
{
    Py_ssize_t length = PyBytes_GET_SIZE(data);
    Py_ssize_t look = length < HTTP2_PREFACE_BYTES ? length : HTTP2_PREFACE_BYTES;
    if (memcmp(PyBytes_AS_STRING(data), NGHTTP2_CLIENT_MAGIC, (size_t)look) != 0)
        return -1;
    return look == HTTP2_PREFACE_BYTES;
}

/* Our SETTINGS, and the connection's window, which no SETTINGS can widen (RFC 9113 §6.9.2). */
static int
submit_settings(const Factory *factory, nghttp2_session *session)
{
    const Limits *limits = &factory->limits;
    int64_t frame = limits->http2_max_frame_size;
    frame = frame < FRAME_LEAST_BYTES ? FRAME_LEAST_BYTES : frame > FRAME_MOST_BYTES ? FRAME_MOST_BYTES : frame;
    nghttp2_settings_entry entries[7] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, (uint32_t)limits->http2_max_concurrent_streams},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, (uint32_t)limits->http2_initial_stream_window_size},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, (uint32_t)frame},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)limits->http2_max_header_list_size},
        {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1}, /* RFC 9218 §2.1 */
    };
    size_t count = 5;
    if (limits->http2_header_table_size != NGHTTP2_DEFAULT_HEADER_TABLE_SIZE)
        entries[count++] = (nghttp2_settings_entry){NGHTTP2_SETTINGS_HEADER_TABLE_SIZE,
                                                    (uint32_t)limits->http2_header_table_size};
    if (factory->websocket != NULL)
        entries[count++] = (nghttp2_settings_entry){NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1}; /* RFC 8441 §3 */
    int result = nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, entries, count);
    if (result == 0)
        result = nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0,
                                                       (int32_t)limits->http2_initial_connection_window_size);
    return result;
}

/* 0, or -1 with an exception. */
static int
begin(Connection *connection)
{
    Factory *factory = connection->factory;
    CHECK(connection->http2 == NULL);
    if (PyDict_SetItem(connection->scope_base, factory->state->names.http_version, factory->state->names.version_2) < 0)
        return -1;
    Http2 *http2 = PyMem_Calloc(1, sizeof(Http2));
    int result = http2 == NULL ? NGHTTP2_ERR_NOMEM
                               : nghttp2_session_server_new2(&http2->session, factory->http2->callbacks, connection,
                                                             factory->http2->option);
    if (result == 0)
        result = submit_settings(factory, http2->session);
    if (result != 0) {
        if (http2 != NULL)
            nghttp2_session_del(http2->session);
        PyMem_Free(http2);
        PyErr_NoMemory();
        return -1;
    }
    list_init(&http2->streams);
    list_init(&http2->ready);
    list_init(&http2->closed);
    list_init(&http2->noted);
    http2->input_ms = factory_now_ms();
    connection->http2 = http2;
    Py_CLEAR(connection->parser);
    return 0;
}

bool
http2_begin(Connection *connection)
{
    if (begin(connection) < 0) {
        PyErr_WriteUnraisable((PyObject *)connection);
        connection_abort(connection);
        return false;
    }
    if (connection->factory->draining)
        http2_drain(connection);
    return true;
}

/* ---- fed ---- */

/* What ended the connection while nghttp2 was on the stack. Whether something did. May run Python. */
static bool
ended_meanwhile(Connection *connection)
{
    if (LIKELY(!connection->lost_pending && !connection->gone_pending))
        return false;
    bool lost = connection->lost_pending;
    connection->lost_pending = connection->gone_pending = false;
    connection_gone(connection);
    if (lost)
        Py_XDECREF(connection_lost((PyObject *)connection, Py_None));
    return true;
}

/* nghttp2 gave up. An exception of ours is pending where a callback failed. May run Python. */
static void
session_failed(Connection *connection, int error)
{
    Http2 *http2 = connection->http2;
    PyObject *pending = error_take();
    if (pending != NULL || error == NGHTTP2_ERR_NOMEM) {
        if (pending != NULL)
            error_restore(pending);
        else
            PyErr_NoMemory();
        PyErr_WriteUnraisable((PyObject *)connection);
        connection_abort(connection);
        connection_gone(connection);
        return;
    }
    if (error == NGHTTP2_ERR_BAD_CLIENT_MAGIC)
        http2->calm = "HTTP/2: PROTOCOL_ERROR: the first bytes are not the client preface";
    else if (http2->calm == NULL)
        http2->calm = "HTTP/2: ENHANCE_YOUR_CALM: too many CONTINUATION frames, or frames that want an answer";
    http2_end_session(connection, error == NGHTTP2_ERR_BAD_CLIENT_MAGIC ? NGHTTP2_PROTOCOL_ERROR
                                                                       : NGHTTP2_ENHANCE_YOUR_CALM);
}

/* Gives nghttp2 bytes, and does what they bring. May run Python. */
static void
feed(Connection *connection, PyObject *data, Py_ssize_t at)
{
    Http2 *http2 = connection->http2;
    if (http2->session == NULL || http2->ended)
        return;
    http2->input_ms = factory_now_ms();
    connection->feeding = true;
    ssize_t taken = nghttp2_session_mem_recv(http2->session, (const uint8_t *)PyBytes_AS_STRING(data) + at,
                                             (size_t)(PyBytes_GET_SIZE(data) - at));
    connection->feeding = false;
    if (UNLIKELY(ended_meanwhile(connection))) {
        PyErr_Clear();
        return;
    }
    if (UNLIKELY(taken < 0))
        session_failed(connection, (int)taken);
    if (UNLIKELY(http2->calm != NULL))
        http2_report_calm(connection); /* before streams end by it: it is not their client that leaves */
    request2_run(connection);
    http2_settle(connection);
}

void
http2_data_received(Connection *connection, PyObject *data)
{
    if (connection->unparsed != NULL || connection->running || connection->feeding) {
        connection_hold_later(connection, data);
        connection_schedule_resume(connection);
        connection_adjust_reading(connection);
        return;
    }
    output_cork(connection);
    feed(connection, data, 0);
    output_uncork(connection);
    connection_adjust_reading(connection);
}

void
http2_resume(Connection *connection)
{
    output_cork(connection);
    PyObject *data = connection->running || connection->feeding ? NULL : connection->unparsed;
    if (data != NULL) {
        Py_ssize_t at = connection->unparsed_at;
        connection->unparsed = NULL;
        connection->unparsed_at = 0;
        feed(connection, data, at);
        Py_DECREF(data);
    }
    http2_settle(connection);
    output_uncork(connection);
    connection_adjust_reading(connection);
}

bool
http2_pauses(const Connection *connection)
{
    return connection->write_paused || connection->unparsed != NULL;
}

int
http2_stream_count(const Connection *connection)
{
    return connection->http2->stream_count;
}

/* ---- its output ---- */

bool
http2_fill(Connection *connection)
{
    Http2 *http2 = connection->http2;
    if (http2->session == NULL || connection->feeding || connection->write_paused || connection->output_closed)
        return false;
    size_t before = connection->out.total;
    ssize_t length = 0;
    connection->feeding = true;
    while (connection->out.total < WRITER_FLUSH_BYTES) {
        const uint8_t *frame;
        length = nghttp2_session_mem_send(http2->session, &frame);
        if (length == 0 && http2->goaway == GOAWAY_OWED && http2->open_count == 0 && connection->served_any) {
            http2_last_goaway(connection); /* in the same write as the last response */
            continue;
        }
        if (length <= 0 || writer_copy(&connection->out, (const char *)frame, (size_t)length) < 0)
            break; /* DATA have gone into the writer themselves: http2_on_send_data() */
    }
    connection->feeding = false;
    if (UNLIKELY(ended_meanwhile(connection)))
        return false;
    if (UNLIKELY(length < 0 || PyErr_Occurred())) {
        session_failed(connection, NGHTTP2_ERR_NOMEM);
        return false;
    }
    return connection->out.total > before;
}

void
http2_settle(Connection *connection)
{
    Http2 *http2 = connection->http2;
    if (connection->feeding || http2->settle)
        return; /* whoever settles will see what there is now, too */
    http2->settle = true;
    for (;;) {
        if (!list_empty(&http2->noted)) {
            Stream *stream = LIST_OWNER(http2->noted.next, Stream, noted);
            list_remove(&stream->noted);
            wire2_settle(stream);
        }
        else if (!list_empty(&http2->closed)) {
            stream_free(LIST_OWNER(http2->closed.next, Stream, queue));
        }
        else {
            break;
        }
    }
    http2->settle = false;
    if (UNLIKELY(http2->calm != NULL))
        http2_report_calm(connection);
    http2_close_if_over(connection);
    http2_deadline(connection);
}

void
http2_writable(Connection *connection)
{
    Http2 *http2 = connection->http2;
    output_flush(connection);
    /* Who is woken may end any stream: each is noted first. */
    for (Link *link = http2->streams.next; link != &http2->streams; link = link->next) {
        Stream *stream = LIST_OWNER(link, Stream, all);
        if (stream->write_futures != NULL || stream->tunnel != NULL)
            stream_note(stream);
    }
    http2_settle(connection);
    connection_adjust_reading(connection);
}

/* ---- let go of ---- */

void
http2_drop(Connection *connection)
{
    Http2 *http2 = connection->http2;
    CHECK(!connection->feeding);
    if (http2->session != NULL) {
        nghttp2_session *session = http2->session;
        http2->session = NULL;
        nghttp2_session_del(session);
    }
    while (!list_empty(&http2->streams))
        stream_free(LIST_OWNER(http2->streams.next, Stream, all));
}

void
http2_app_done(Connection *connection)
{
    if (connection->http2 != NULL)
        connection->http2->unfinished--;
}

int
http2_traverse(const Connection *connection, visitproc visit, void *arg)
{
    const Http2 *http2 = connection->http2;
    for (const Link *link = http2->streams.next; link != &http2->streams; link = link->next) {
        const Stream *stream = LIST_OWNER(link, Stream, all);
        Py_VISIT(stream->cycle);
        Py_VISIT(stream->tunnel);
        Py_VISIT(stream->write_futures);
    }
    return 0;
}

void
http2_free(Connection *connection)
{
    if (connection->http2 == NULL)
        return;
    Http2 *http2 = connection->http2;
    connection->http2 = NULL;
    nghttp2_session_del(http2->session);
    while (!list_empty(&http2->streams))
        stream_discard(LIST_OWNER(http2->streams.next, Stream, all));
    PyMem_Free(http2);
}

#ifdef SHARDSERVE_DEBUG
void
http2_check(const Connection *connection)
{
    const Http2 *http2 = connection->http2;
    int count = 0;
    CHECK(connection->current == NULL && connection->incoming == NULL && connection->parser == NULL);
    for (const Link *link = http2->streams.next; link != &http2->streams; link = link->next) {
        Stream *stream = LIST_OWNER(link, Stream, all);
        int64_t queued = 0;
        count++;
        CHECK(stream->connection == connection);
        CHECK(stream->cycle == NULL || (stream->cycle->lane == stream && stream->cycle->stream == (PyObject *)connection));
        CHECK(stream->cycle == NULL || stream->tunnel == NULL);
        for (int i = 0; i < stream->chunks.count; i++)
            queued += PyBytes_GET_SIZE(*ring_slot(&stream->chunks, i));
        CHECK(queued == stream->queued + (int64_t)stream->chunk_offset);
        CHECK(stream->file >= 0 || stream->file_left == 0);
    }
    CHECK(count == http2->stream_count);
    CHECK(http2->unfinished >= 0);
}
#endif

#endif
