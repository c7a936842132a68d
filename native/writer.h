/* Output of one connection: bytes in an arena and references to the app's bodies, sent by one writev.
 *
 * A Writer borrows a Block from its Pool only while it holds output, so an idle connection costs
 * a few words. Nothing here runs Python, except that dropping a body's last reference frees bytes.
 */
#ifndef SHARDSERVE_WRITER_H
#define SHARDSERVE_WRITER_H

#include "native.h"

#define WRITER_SEGMENTS 32
#define WRITER_ARENA_BYTES 8192
/* A body up to this long is copied behind the head: one iovec less costs more than a small memcpy. */
#define WRITER_COPY_BYTES 2048
/* More than this and a corked connection sends what it has. */
#define WRITER_FLUSH_BYTES 65536

typedef struct {
    PyObject *owner; /* a bytes object (strong), or NULL: a range of the arena */
    size_t offset;
    size_t length;
} Segment;

typedef struct Block {
    struct Block *next; /* in the pool */
    char *arena;
    size_t capacity;
    size_t used;
    int segments;
    Segment segment[WRITER_SEGMENTS];
} Block;

/* Spare blocks of one worker. Zero-initialised is empty. */
typedef struct {
    Block *free;
    int count;
} Pool;

typedef struct {
    Pool *pool;   /* borrowed; set once */
    Block *block; /* NULL when there is no output */
    size_t total; /* bytes waiting */
} Writer;

/* A place in the output that writer_rollback can return to while nothing was sent since. */
typedef struct {
    int segments;
    size_t used;
    size_t total;
    size_t last_length;
} WriterMark;

typedef enum { WRITER_SENT, WRITER_PARTIAL, WRITER_BROKEN } WriterResult;

/* Room for `length` more arena bytes. Returns where to put them, or NULL with MemoryError. Valid until
 * the next call on this writer; end with writer_commit. */
char *writer_reserve(Writer *writer, size_t length);

/* The bytes from the last writer_reserve up to `end` are output. */
void writer_commit(Writer *writer, char *end);

/* Copies `length` bytes. 0, or -1 with MemoryError. */
int writer_copy(Writer *writer, const char *data, size_t length);

/* Appends a bytes object: copied if short, else a new reference is kept. 0, or -1 with MemoryError. */
int writer_body(Writer *writer, PyObject *bytes);

/* The same of a part of it. */
int writer_slice(Writer *writer, PyObject *bytes, size_t offset, size_t length);

/* The present end of the output. */
WriterMark writer_mark(const Writer *writer);

/* Drops everything behind `mark`. */
void writer_rollback(Writer *writer, WriterMark mark);

/* The arena bytes behind `mark` as new bytes, removed from the output; NULL with MemoryError. */
PyObject *writer_cut(Writer *writer, WriterMark mark);

/* One send or writev on `fd`. WRITER_SENT: all gone. WRITER_PARTIAL: the rest (perhaps all) is still
 * held: pass it on with writer_take. WRITER_BROKEN: the peer is gone; the output is dropped. */
WriterResult writer_send(Writer *writer, int fd);

/* The output as a new list of bytes-like objects for transport.writelines; the writer is empty
 * after it. NULL with MemoryError. */
PyObject *writer_take(Writer *writer);

/* The same as one bytes object. */
PyObject *writer_take_joined(Writer *writer);

/* Drops the output. */
void writer_clear(Writer *writer);

/* Frees the spare blocks. */
void pool_clear(Pool *pool);

#endif
