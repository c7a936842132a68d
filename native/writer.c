/* Output of one connection. See writer.h. In the order bytes move: gather, send, hand the rest on. */
#include "writer.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* Blocks kept for reuse; beyond a burst of this many busy connections they go back to malloc. */
#define POOL_BLOCKS SPARES(64)

/* ---- blocks ---- */

static Block *
pool_take(Pool *pool)
{
    Block *block = pool->free;
    if (block != NULL) {
        pool->free = block->next;
        pool->count--;
        return block;
    }
    block = PyMem_Malloc(sizeof(Block));
    if (block == NULL)
        return NULL;
    block->arena = PyMem_Malloc(WRITER_ARENA_BYTES);
    if (block->arena == NULL) {
        PyMem_Free(block);
        return NULL;
    }
    block->capacity = WRITER_ARENA_BYTES;
    return block;
}

static void
pool_give(Pool *pool, Block *block)
{
    if (pool->count < POOL_BLOCKS && block->capacity == WRITER_ARENA_BYTES) {
        block->next = pool->free;
        pool->free = block;
        pool->count++;
        return;
    }
    PyMem_Free(block->arena);
    PyMem_Free(block);
}

void
pool_clear(Pool *pool)
{
    while (pool->free != NULL) {
        Block *block = pool->free;
        pool->free = block->next;
        PyMem_Free(block->arena);
        PyMem_Free(block);
    }
    pool->count = 0;
}

/* ---- gather ---- */

char *
writer_reserve(Writer *writer, size_t length)
{
    Block *block = writer->block;
    if (block == NULL) {
        block = pool_take(writer->pool);
        if (block == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        block->used = 0;
        block->segments = 0;
        writer->block = block;
    }
    if (UNLIKELY(block->capacity - block->used < length)) {
        size_t capacity = block->capacity;
        while (capacity - block->used < length)
            capacity *= 2;
        char *arena = PyMem_Realloc(block->arena, capacity);
        if (arena == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        block->arena = arena;
        block->capacity = capacity;
    }
    return block->arena + block->used;
}

void
writer_commit(Writer *writer, char *end)
{
    Block *block = writer->block;
    size_t offset = block->used;
    size_t length = (size_t)(end - block->arena) - offset;
    if (length == 0)
        return;
    block->used += length;
    writer->total += length;
    Segment *last = block->segments > 0 ? &block->segment[block->segments - 1] : NULL;
    if (last != NULL && last->owner == NULL) {
        /* Arena segments next to each other are adjacent in the arena too. */
        CHECK(last->offset + last->length == offset);
        last->length += length;
        return;
    }
    /* writer_body leaves the last place to the arena, so there is always room here. */
    CHECK(block->segments < WRITER_SEGMENTS);
    block->segment[block->segments++] = (Segment){NULL, offset, length};
}

int
writer_copy(Writer *writer, const char *data, size_t length)
{
    char *to = writer_reserve(writer, length);
    if (to == NULL)
        return -1;
    memcpy(to, data, length);
    writer_commit(writer, to + length);
    return 0;
}

int
writer_slice(Writer *writer, PyObject *bytes, size_t offset, size_t length)
{
    Block *block = writer->block;
    if (length <= WRITER_COPY_BYTES || (block != NULL && block->segments >= WRITER_SEGMENTS - 1))
        return writer_copy(writer, PyBytes_AS_STRING(bytes) + offset, length);
    if (writer_reserve(writer, 0) == NULL)
        return -1;
    block = writer->block;
    block->segment[block->segments++] = (Segment){Py_NewRef(bytes), offset, length};
    writer->total += length;
    return 0;
}

int
writer_body(Writer *writer, PyObject *bytes)
{
    return writer_slice(writer, bytes, 0, (size_t)PyBytes_GET_SIZE(bytes));
}

WriterMark
writer_mark(const Writer *writer)
{
    const Block *block = writer->block;
    if (block == NULL)
        return (WriterMark){0, 0, 0, 0};
    size_t last = block->segments > 0 ? block->segment[block->segments - 1].length : 0;
    return (WriterMark){block->segments, block->used, writer->total, last};
}

void
writer_rollback(Writer *writer, WriterMark mark)
{
    Block *block = writer->block;
    if (block == NULL)
        return;
    if (mark.total == 0) {
        writer_clear(writer);
        return;
    }
    while (block->segments > mark.segments)
        Py_CLEAR(block->segment[--block->segments].owner);
    block->segment[mark.segments - 1].length = mark.last_length;
    block->used = mark.used;
    writer->total = mark.total;
}

PyObject *
writer_cut(Writer *writer, WriterMark mark)
{
    Block *block = writer->block;
    CHECK(block != NULL);
    PyObject *bytes = PyBytes_FromStringAndSize(block->arena + mark.used, (Py_ssize_t)(block->used - mark.used));
    if (bytes != NULL)
        writer_rollback(writer, mark);
    return bytes;
}

/* ---- send ---- */

static inline const char *
segment_data(const Block *block, const Segment *segment)
{
    const char *base = segment->owner != NULL ? PyBytes_AS_STRING(segment->owner) : block->arena;
    return base + segment->offset;
}

/* Drops the first `sent` bytes. */
static void
writer_advance(Writer *writer, size_t sent)
{
    Block *block = writer->block;
    int gone = 0;
    writer->total -= sent;
    while (sent > 0) {
        Segment *segment = &block->segment[gone];
        if (sent < segment->length) {
            segment->offset += sent;
            segment->length -= sent;
            break;
        }
        sent -= segment->length;
        Py_CLEAR(segment->owner);
        gone++;
    }
    block->segments -= gone;
    memmove(block->segment, block->segment + gone, (size_t)block->segments * sizeof(Segment));
}

WriterResult
writer_send(Writer *writer, int fd)
{
    Block *block = writer->block;
    ssize_t sent;
    if (block == NULL)
        return WRITER_SENT;
    do {
        if (block->segments == 1) {
            sent = send(fd, segment_data(block, &block->segment[0]), block->segment[0].length,
                        MSG_NOSIGNAL | MSG_DONTWAIT);
        }
        else {
            struct iovec vector[WRITER_SEGMENTS];
            for (int i = 0; i < block->segments; i++) {
                vector[i].iov_base = (void *)segment_data(block, &block->segment[i]);
                vector[i].iov_len = block->segment[i].length;
            }
            /* writev with MSG_NOSIGNAL: a peer that went away is an errno, never a signal. */
            struct msghdr message = {.msg_iov = vector, .msg_iovlen = (size_t)block->segments};
            sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        }
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == ENOMEM)
            return WRITER_PARTIAL;
        writer_clear(writer);
        return WRITER_BROKEN;
    }
    if ((size_t)sent == writer->total) {
        writer_clear(writer);
        return WRITER_SENT;
    }
    writer_advance(writer, (size_t)sent);
    return WRITER_PARTIAL;
}

/* ---- hand the rest on ---- */

/* One segment as a new bytes-like object. A body stays uncopied: a memoryview keeps it alive. */
static PyObject *
segment_object(const Block *block, const Segment *segment)
{
    if (segment->owner == NULL)
        return PyBytes_FromStringAndSize(block->arena + segment->offset, (Py_ssize_t)segment->length);
    if (segment->offset == 0 && segment->length == (size_t)PyBytes_GET_SIZE(segment->owner))
        return Py_NewRef(segment->owner);
    PyObject *view = PyMemoryView_FromObject(segment->owner);
    if (view == NULL)
        return NULL;
    PyObject *rest = PySequence_GetSlice(view, (Py_ssize_t)segment->offset,
                                         (Py_ssize_t)(segment->offset + segment->length));
    Py_DECREF(view);
    return rest;
}

/* Gives a block back whose output is gone. */
static void
block_release(Pool *pool, Block *block)
{
    for (int i = 0; i < block->segments; i++)
        Py_CLEAR(block->segment[i].owner);
    pool_give(pool, block);
}

PyObject *
writer_take(Writer *writer)
{
    /* Off the writer first: an allocation can run any code, and that can write. */
    Block *block = writer->block;
    int segments = block == NULL ? 0 : block->segments;
    writer->block = NULL;
    writer->total = 0;
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < segments; i++) {
        PyObject *part = segment_object(block, &block->segment[i]);
        if (part == NULL || PyList_Append(list, part) < 0)
            Py_CLEAR(list);
        Py_XDECREF(part);
    }
    if (block != NULL)
        block_release(writer->pool, block);
    return list;
}

PyObject *
writer_take_joined(Writer *writer)
{
    Block *block = writer->block; /* as in writer_take() */
    size_t total = writer->total;
    writer->block = NULL;
    writer->total = 0;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total);
    char *to = bytes == NULL ? NULL : PyBytes_AS_STRING(bytes);
    for (int i = 0; to != NULL && block != NULL && i < block->segments; i++) {
        memcpy(to, segment_data(block, &block->segment[i]), block->segment[i].length);
        to += block->segment[i].length;
    }
    if (block != NULL)
        block_release(writer->pool, block);
    return bytes;
}

void
writer_clear(Writer *writer)
{
    Block *block = writer->block;
    if (block == NULL)
        return;
    writer->block = NULL;
    writer->total = 0;
    block_release(writer->pool, block);
}
