/* Streams: made, their output, freed. See http2_stream.h. */
#include "http2_stream.h"

#ifdef SHARDSERVE_NGHTTP2

#include "account.h"
#include "await.h"

#include <unistd.h>

#define FREE_STREAMS SPARES(256)

/* ---- made ---- */

Stream *
stream_new(Connection *connection, int32_t id)
{
    Factory *factory = connection->factory;
    Http2Shared *shared = factory->http2;
    Cycle *cycle = cycle_new(factory, &http2_wire, (PyObject *)connection);
    if (cycle == NULL)
        return NULL;
    Stream *stream = shared->free_streams; /* now: making the cycle can have run any code */
    if (stream != NULL) {
        shared->free_streams = stream->next;
        shared->free_stream_count--;
    }
    else if ((stream = PyMem_Malloc(sizeof(Stream))) == NULL) {
        PyErr_NoMemory();
        Py_CLEAR(cycle->stream);
        cycle->app_done = true;
        cycle_release(cycle);
        return NULL;
    }
    memset(stream, 0, sizeof(Stream));
    list_init(&stream->all);
    list_init(&stream->queue);
    list_init(&stream->noted);
    stream->connection = connection;
    stream->cycle = cycle;
    stream->id = id;
    stream->begun_ms = factory_now_ms();
    stream->cookie_at = -1;
    stream->file = -1;
    cycle->lane = stream;
    list_append(&connection->http2->streams, &stream->all);
    connection->http2->stream_count++;
    connection->http2->open_count++;
    return stream;
}

/* ---- output ---- */

int
stream_queue(Stream *stream, PyObject *bytes)
{
    Py_ssize_t length = PyBytes_GET_SIZE(bytes);
    if (length == 0)
        return 0;
    if (ring_push(&stream->chunks, bytes) < 0)
        return -1;
    Py_INCREF(bytes);
    if (stream->queued == 0)
        stream->progress_ms = factory_now_ms();
    stream->queued += length;
    return 0;
}

/* Drops the first chunk. */
static void
drop_chunk(Stream *stream)
{
    PyObject *chunk = ring_pop(&stream->chunks);
    stream->chunk_offset = 0;
    Py_DECREF(chunk); /* bytes: runs no Python */
}

int
stream_move(Stream *stream, size_t length)
{
    Writer *out = &stream->connection->out;
    CHECK((int64_t)length <= stream->queued);
    stream->queued -= (int64_t)length;
    while (length > 0) {
        PyObject *chunk = *ring_slot(&stream->chunks, 0);
        size_t size = (size_t)PyBytes_GET_SIZE(chunk);
        size_t part = size - stream->chunk_offset;
        if (part > length)
            part = length;
        if (writer_slice(out, chunk, stream->chunk_offset, part) < 0)
            return -1;
        length -= part;
        stream->chunk_offset += part;
        if (stream->chunk_offset == size)
            drop_chunk(stream);
    }
    return 0;
}

void
stream_drop_output(Stream *stream)
{
    if (stream->cycle != NULL)
        stream->cycle->body_sent -= (uint64_t)(stream->queued + stream->file_left);
    while (stream->chunks.count > 0)
        drop_chunk(stream);
    stream->queued = 0;
    if (stream->file >= 0)
        close(stream->file);
    stream->file = -1;
    stream->file_left = 0;
}

void
stream_wake(Stream *stream)
{
    const State *state = stream->connection->factory->state;
    if (stream->tunnel != NULL) {
        tunnel_writable(stream);
        return;
    }
    PyObject *futures = stream->write_futures; /* off the stream: who is woken may end it */
    stream->write_futures = NULL;
    futures_wake(state, &futures);
}

/* ---- noted, reset ---- */

void
stream_note(Stream *stream)
{
    if (list_empty(&stream->noted))
        list_append(&stream->connection->http2->noted, &stream->noted);
}

void
stream_consume(Stream *stream, int64_t length)
{
    Http2 *http2 = stream->connection->http2;
    if (length > stream->unconsumed)
        length = stream->unconsumed;
    if (length <= 0)
        return;
    stream->unconsumed -= length;
    if (http2->session == NULL)
        return;
    /* NOMEM is all that can fail here; the session will find out. */
    if (stream->closed)
        (void)nghttp2_session_consume_connection(http2->session, (size_t)length);
    else
        (void)nghttp2_session_consume(http2->session, stream->id, (size_t)length);
}

void
stream_reset(Stream *stream, uint32_t code)
{
    Http2 *http2 = stream->connection->http2;
    if (stream->reset || stream->closed || http2->session == NULL)
        return;
    stream->reset = true;
    (void)nghttp2_submit_rst_stream(http2->session, NGHTTP2_FLAG_NONE, stream->id, code);
}

/* ---- freed ---- */

void
stream_let_go(Stream *stream)
{
    Connection *connection = stream->connection;
    Cycle *cycle = stream->cycle;
    if (cycle == NULL)
        return;
    Py_INCREF(cycle);
    account_broken_off(connection, cycle); /* may run Python, and that may finish the response, or free the stream */
    if (cycle->lane != stream) {
        cycle_release(cycle);
        return;
    }
    Py_DECREF(cycle);
    stream->cycle = NULL;
    cycle->lane = NULL;
    cycle->sending_file = false;
    if (cycle->started && !cycle->app_done) {
        connection->http2->unfinished++;
        Py_XSETREF(cycle->left_behind, Py_NewRef(connection));
    }
    cycle_disconnect(cycle);
    cycle_release(cycle);
}

/* What is left of it. Runs no Python but what dropping the last reference to a cycle runs. */
static void
give_back(Stream *stream)
{
    Http2Shared *shared = stream->connection->factory->http2;
    stream_drop_output(stream);
    Py_CLEAR(stream->authority);
    head2_free(shared, stream->block);
    head2_free(shared, stream->trailers);
    if (shared->free_stream_count < FREE_STREAMS) {
        stream->next = shared->free_streams;
        shared->free_streams = stream;
        shared->free_stream_count++;
        return;
    }
    PyMem_Free(stream);
}

/* In no list any more: nobody else frees it. */
static void
leave_lists(Stream *stream)
{
    list_remove(&stream->all);
    list_remove(&stream->queue);
    list_remove(&stream->noted);
}

void
stream_free(Stream *stream)
{
    Connection *connection = stream->connection;
    Http2 *http2 = connection->http2;
    CHECK(!connection->feeding);
    leave_lists(stream);
    http2->stream_count--;
    http2->busy_ms = factory_now_ms();
    if (http2->incoming == stream)
        http2->incoming = NULL;
    if (http2->settling == stream)
        http2->settling = NULL;
    if (http2->session != NULL && !stream->closed)
        nghttp2_session_set_stream_user_data(http2->session, stream->id, NULL);
    stream_consume(stream, stream->unconsumed);
    stream->closed = true;
    stream_drop_output(stream);
    stream_let_go(stream);
    stream_wake(stream);
    if (stream->tunnel != NULL)
        tunnel_lost(stream);
    give_back(stream);
}

void
stream_discard(Stream *stream)
{
    Cycle *cycle = stream->cycle;
    leave_lists(stream);
    stream->cycle = NULL;
    if (cycle != NULL) {
        cycle->lane = NULL;
        cycle->disconnected = true;
    }
    tunnel_discard(stream);
    Py_CLEAR(stream->write_futures);
    give_back(stream);
    Py_XDECREF(cycle);
}

#endif
