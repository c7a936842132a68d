/* AccessLog: lines of the access log, made from what a request leaves behind, gathered, and handed on.
 *
 * A line is a program (access_ops.h): literals, and operations that each append one fact (the end of the line is ours), made by Python from a format string
 * (shardserve/config/access_format.py). Nothing that a client or an app said gets out of its place: every byte but printable
 * ASCII is escaped, the quote and the backslash, too, and in single words the space. Where the lines go, and when, is Python's:
 * `schedule` hears of the first line in an empty buffer, `write` gets them.
 */
#ifndef SHARDSERVE_ACCESSLOG_H
#define SHARDSERVE_ACCESSLOG_H

#include "native.h"

#include "cycle.h"

typedef struct {
    uint8_t op;         /* an index of the table in access_ops.c */
    PyObject *argument; /* bytes, or NULL */
} Step;

typedef struct {
    Step *steps;
    Py_ssize_t count;
} Program;

/* A text that is the same for a while. */
typedef struct {
    int64_t moment;
    size_t length;
    char text[40];
} TimeCache;

typedef struct AccessLog {
    PyObject_HEAD
    Program request;
    Program websocket;        /* of handshakes, accepted or not */
    PyObject *write;
    PyObject *schedule;
    PyObject *exclude;        /* tuple of bytes: globs */
    PyObject *response_names; /* list of bytes: what response_field asks for, in lower case; NULL: nothing */
    bool json;
    bool wants_tls;
    uint64_t sample;          /* of 2^32 lines, so many are written */
    uint64_t sampled;
    char *buffer;
    size_t used;
    size_t capacity;
    size_t limit;             /* as much is handed on at once */
    uint64_t lines;
    TimeCache clf;
    TimeCache iso;
} AccessLog;

/* One finished response. */
typedef struct {
    const Cycle *cycle;
    PyObject *tls_version; /* str, or NULL */
    uint64_t duration_us;
    uint64_t first_byte_us;
    uint64_t request_bytes;
    uint64_t response_bytes;
} AccessEntry;

extern PyType_Spec accesslog_spec;

/* More memory, for `length` more bytes. False: there is none. */
bool accesslog_enlarge(AccessLog *log, size_t length);

/* Room for `length` more bytes of the line: where they go, or NULL: there is no memory. Ends with accesslog_grow. */
static inline char *
accesslog_room(AccessLog *log, size_t length)
{
    if (UNLIKELY(log->used + length > log->capacity) && !accesslog_enlarge(log, length))
        return NULL;
    return log->buffer + log->used;
}

/* The bytes from the last accesslog_room up to `end` are a part of the line. */
static inline void
accesslog_grow(AccessLog *log, const char *end)
{
    log->used = (size_t)(end - log->buffer);
    CHECK(log->used <= log->capacity);
}

/* AccessLog.flush(): None, or NULL with MemoryError. May run Python. */
PyObject *accesslog_flush(PyObject *self, PyObject *unused);

/* Appends the line of `entry`, unless it is excluded or not in the sample. Errors are unraisable. May run Python, but only
 * behind its last look at the entry. */
void accesslog_add(AccessLog *log, const AccessEntry *entry);

/* The values that the log wants of a response's fields (PySequence_Fast of pairs of bytes, already encoded), for
 * Cycle.response_fields: bytes or None each, and NULL behind the last. NULL: it wants none, or with MemoryError. Runs no
 * Python. */
PyObject **accesslog_capture(const AccessLog *log, PyObject *fields);

/* Lets go of what accesslog_capture() gave, which may be NULL. */
void accesslog_forget(PyObject **values);

#endif
