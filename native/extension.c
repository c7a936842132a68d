/* What an app may send besides start and body: the ASGI extensions of an HTTP response. See cycle.h.
 *
 * https://asgi.readthedocs.io/en/latest/extensions.html: pathsend, zerocopysend, trailers, early hints, debug. Each looks at
 * the order of the response once more after it has run code of the app.
 */
#define _GNU_SOURCE /* F_DUPFD_CLOEXEC */
#include "cycle.h"

#include "await.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- files ---- */

/* A descriptor of our own, and the part of its file that is to be sent. */
typedef struct {
    int fd;
    int64_t offset;
    int64_t length;
} Part;

/* The size of the regular file `fd`; -1 with an exception: IsADirectoryError, MessageError or OSError. */
static int64_t
regular_size(const State *state, int fd, PyObject *path)
{
    struct stat facts;
    int result = fstat(fd, &facts);
    if (result == 0 && S_ISREG(facts.st_mode))
        return facts.st_size;
    if (result == 0 && !S_ISDIR(facts.st_mode)) {
        PyErr_SetString(state->MessageError, "only a regular file can be sent");
        return -1;
    }
    if (result == 0)
        errno = EISDIR;
    PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
    return -1;
}

/* http.response.pathsend: opens the file. 0, or -1 with an exception. May run Python. */
static int
open_path(const State *state, PyObject *message, Part *part)
{
    PyObject *given = PyDict_GetItemWithError(message, state->names.path);
    PyObject *path = NULL;
    if (given == NULL) {
        if (!PyErr_Occurred())
            PyErr_SetString(state->MessageError, "http.response.pathsend: there is no \"path\"");
        return -1;
    }
    Py_INCREF(given);
    int converted = PyUnicode_FSConverter(given, &path);
    if (!converted && PyErr_ExceptionMatches(PyExc_TypeError))
        PyErr_Format(state->MessageError, "http.response.pathsend: \"path\" must be a path, not %.80s", Py_TYPE(given)->tp_name);
    /* A FIFO must not make us wait for a writer. */
    part->fd = converted ? open(PyBytes_AS_STRING(path), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK) : -1;
    if (converted && part->fd < 0)
        PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, given);
    part->offset = 0;
    part->length = part->fd < 0 ? -1 : regular_size(state, part->fd, given);
    Py_XDECREF(path);
    Py_DECREF(given);
    return part->length < 0 ? -1 : 0;
}

#define NOT_GIVEN (-2)

/* message[key] as a number of bytes; `otherwise` if it is not there or None; -1 with an exception. */
static int64_t
message_size(const State *state, PyObject *message, PyObject *key, int64_t otherwise)
{
    PyObject *value = PyDict_GetItemWithError(message, key);
    if (value == NULL || value == Py_None)
        return PyErr_Occurred() ? -1 : otherwise;
    int overflow = 0;
    long long size = PyLong_Check(value) ? PyLong_AsLongLongAndOverflow(value, &overflow) : -1;
    if (size >= 0 && !overflow)
        return size;
    PyErr_Format(state->MessageError, "http.response.zerocopysend: \"%U\" must be a number of bytes", key);
    return -1;
}

/* Which part of its file is meant. Without an offset it is the one behind the descriptor's position, which moves on. 0, or
 * -1 with an exception. */
static int
choose_part(const State *state, PyObject *message, Part *part)
{
    int64_t size = regular_size(state, part->fd, Py_None);
    off_t position = size < 0 ? 0 : lseek(part->fd, 0, SEEK_CUR);
    int64_t count = size < 0 ? -1 : message_size(state, message, state->names.count, INT64_MAX);
    part->offset = count < 0 ? -1 : message_size(state, message, state->names.offset, NOT_GIVEN);
    if (part->offset == -1)
        return -1;
    bool from_position = part->offset == NOT_GIVEN;
    if (from_position)
        part->offset = position < 0 ? 0 : position;
    part->length = part->offset >= size ? 0 : size - part->offset;
    if (count < part->length)
        part->length = count;
    if (from_position)
        (void)lseek(part->fd, part->offset + part->length, SEEK_SET);
    return 0;
}

/* A descriptor of our own for the same file, or -1 with OSError: also if it was not opened for reading, as that would show
 * only when the head is on its way. */
static int
duplicate(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && ((flags & O_ACCMODE) == O_WRONLY || flags & O_PATH)) {
        errno = EBADF;
        flags = -1;
    }
    int own = flags < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0)
        PyErr_SetFromErrno(PyExc_OSError);
    return own;
}

/* http.response.zerocopysend: 0, or -1 with an exception. May run Python. */
static int
duplicate_file(const State *state, PyObject *message, Part *part)
{
    PyObject *file = PyDict_GetItemWithError(message, state->names.file);
    if (file == NULL) {
        if (!PyErr_Occurred())
            PyErr_SetString(state->MessageError, "http.response.zerocopysend: there is no \"file\"");
        return -1;
    }
    Py_INCREF(file);
    int fd = PyObject_AsFileDescriptor(file);
    if (fd < 0 && PyErr_ExceptionMatches(PyExc_TypeError))
        PyErr_Format(state->MessageError, "http.response.zerocopysend: \"file\" must have a descriptor; %.80s has none",
                     Py_TYPE(file)->tp_name);
    Py_DECREF(file);
    if (fd < 0)
        return -1;
    part->fd = duplicate(fd);
    return part->fd < 0 ? -1 : choose_part(state, message, part);
}

/* 0, or -1 with an exception. May run Python. */
static int
send_file(Cycle *cycle, PyObject *message, bool is_path)
{
    const State *state = cycle->factory->state;
    Part part = {.fd = -1};
    int more = is_path ? 0 : message_flag(message, state->names.more_body);
    int result = more < 0 || cycle_check_order(cycle, MESSAGE_BODY) < 0 ? -1 : 0;
    if (result == 0)
        result = is_path ? open_path(state, message, &part) : duplicate_file(state, message, &part);
    if (result == 0)
        result = cycle_check_order(cycle, MESSAGE_BODY); /* finding the file may have run the app */
    if (result == 0)
        result = cycle_check_length(cycle, part.length, more);
    if (result < 0) {
        if (part.fd >= 0)
            close(part.fd);
        return -1;
    }
    bool goes_on = cycle_body_begins(cycle, part.length, more);
    return cycle_body_ends(cycle, cycle->wire->file(cycle, part.fd, part.offset, part.length, goes_on), goes_on);
}

/* ---- trailers ---- */

/* 0, or -1 with an exception. May run Python. */
static int
send_trailers(Cycle *cycle, PyObject *message)
{
    const State *state = cycle->factory->state;
    if (cycle->drops_trailers && cycle->response == RESPONSE_DONE)
        return 0;
    int more = message_flag(message, state->names.more_trailers);
    PyObject *fields = more < 0 ? NULL
                                : message_items(state, message, state->names.headers,
                                                "http.response.trailers: \"headers\" must be an iterable of [name, value] pairs");
    if (fields == NULL)
        return -1;
    int result = cycle_check_order(cycle, MESSAGE_TRAILERS);
    if (result == 0)
        result = cycle->wire->trailers(cycle, fields, more);
    Py_DECREF(fields);
    if (result == 0 && !more)
        futures_wake(state, &cycle->receive_futures);
    return result;
}

/* ---- before the response ---- */

/* 0, or -1 with an exception. May run Python. */
static int
send_hint(Cycle *cycle, PyObject *message)
{
    const State *state = cycle->factory->state;
    PyObject *links = message_items(state, message, state->names.links,
                                    "http.response.early_hint: \"links\" must be an iterable of byte strings");
    if (links == NULL)
        return -1;
    int result = cycle_check_order(cycle, MESSAGE_EARLY);
    /* RFC 9110 §15.2: HTTP/1.0 has no interim responses, and none comes behind the final head. */
    if (result == 0 && !cycle->version_10 && cycle->response == RESPONSE_NONE)
        result = cycle->wire->hint(cycle, links);
    Py_DECREF(links);
    return result;
}

/* 0, or -1 with an exception. May run Python. */
static int
send_debug(Cycle *cycle, PyObject *message)
{
    const Factory *factory = cycle->factory;
    PyObject *info = PyDict_GetItemWithError(message, factory->state->names.info);
    if (info == NULL && PyErr_Occurred())
        return -1;
    if (cycle_check_order(cycle, MESSAGE_EARLY) < 0)
        return -1;
    if (cycle->response != RESPONSE_NONE) {
        PyErr_SetString(factory->state->MessageError, "http.response.debug must come before http.response.start");
        return -1;
    }
    if (factory->on_debug == NULL || info == NULL)
        return 0;
    PyObject *on_debug = Py_NewRef(factory->on_debug);
    Py_INCREF(info);
    PyObject *result = PyObject_CallOneArg(on_debug, info);
    if (result == NULL)
        PyErr_WriteUnraisable(on_debug);
    Py_XDECREF(result);
    Py_DECREF(info);
    Py_DECREF(on_debug);
    return 0;
}

/* ---- any of them ---- */

int
cycle_send_extension(Cycle *cycle, PyObject *type, PyObject *message)
{
    const State *state = cycle->factory->state;
    if (PyUnicode_Compare(type, state->names.pathsend) == 0)
        return send_file(cycle, message, true);
    if (PyUnicode_Compare(type, state->names.zerocopysend) == 0)
        return send_file(cycle, message, false);
    if (PyUnicode_Compare(type, state->names.http_response_trailers) == 0)
        return send_trailers(cycle, message);
    if (PyUnicode_Compare(type, state->names.early_hint) == 0)
        return send_hint(cycle, message);
    if (PyUnicode_Compare(type, state->names.debug) == 0)
        return send_debug(cycle, message);
    PyErr_Format(state->MessageError, "send(): unknown message type %R; an HTTP response is "
                 "http.response.start, then http.response.body", type);
    return -1;
}
