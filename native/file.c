/* Files as response bodies. See file.h. In the order bytes move: a part of a file, pumped, done. */
#include "file.h"

#include "account.h"

#include "await.h"
#include "output.h"

#include <errno.h>
#include <sys/sendfile.h>
#include <unistd.h>

/* One sendfile(2), and all of them before others get their turn: a disk may be slow. */
#define SENDFILE_BYTES (1 << 20)
#define TURN_BYTES (4 << 20)
/* What is copied at a time: sixteen TLS records. */
#define COPY_BYTES (256 << 10)
/* What the transport waits with for a full socket: little, because it is copied. */
#define PIECE_BYTES 16384

typedef struct File {
    int fd;
    int64_t offset;
    int64_t left;
    bool more;    /* the response goes on behind it */
    bool copied;  /* its file system has no sendfile */
    bool pumping; /* file_pump is on the stack, up to the end of the file */
    bool limited; /* the transport pauses at the first byte it has to hold */
} File;

/* ---- the transport ---- */

/* While a file is sent, the transport is to say when it holds nothing. May run Python. */
static void
limit_transport(Connection *connection, bool limited)
{
    const State *state = connection->factory->state;
    PyObject *transport = Py_XNewRef(connection->transport);
    if (transport == NULL)
        return;
    PyObject *zero = PyLong_FromLong(0);
    PyObject *names = PyTuple_Pack(1, state->names.high);
    PyObject *args[2] = {transport, zero};
    PyObject *result = NULL;
    if (zero != NULL && names != NULL)
        result = PyObject_VectorcallMethod(state->names.set_write_buffer_limits, args, 1, limited ? names : NULL);
    if (result == NULL)
        PyErr_WriteUnraisable(transport);
    Py_XDECREF(result);
    Py_XDECREF(names);
    Py_XDECREF(zero);
    Py_DECREF(transport);
}

/* ---- pieces ---- */

PyObject *
file_read_part(int fd, int64_t offset, int64_t length)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    int64_t taken = 0;
    while (bytes != NULL && taken < length) {
        ssize_t count = pread(fd, PyBytes_AS_STRING(bytes) + taken, (size_t)(length - taken), offset + taken);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0) {
            PyErr_SetFromErrno(PyExc_OSError);
            Py_CLEAR(bytes);
        }
        if (count <= 0)
            break;
        taken += count;
    }
    if (bytes != NULL && taken < length)
        _PyBytes_Resize(&bytes, (Py_ssize_t)taken);
    return bytes;
}

typedef enum { PUMP_ON, PUMP_WAIT, PUMP_BROKEN } Pump;

/* The file is shorter than it was, or cannot be read: the client must see that its body is not whole. May run Python. */
static Pump
break_off(Connection *connection, const char *reason)
{
    connection_report(connection, REPORT_CLOSED, reason);
    http1_reset(connection);
    connection_gone(connection);
    return PUMP_BROKEN;
}

/* A copy of the next piece goes to the transport. May run Python. */
static Pump
copy_piece(Connection *connection, File *file, int64_t most)
{
    int64_t length = file->left < most ? file->left : most;
    PyObject *bytes = file_read_part(file->fd, file->offset, length);
    bool whole = bytes != NULL && PyBytes_GET_SIZE(bytes) == length;
    if (bytes == NULL)
        PyErr_Clear();
    if (whole && writer_body(&connection->out, bytes) < 0) {
        PyErr_Clear();
        whole = false;
    }
    Py_XDECREF(bytes);
    if (!whole)
        return break_off(connection, "the file that it was sent became shorter, or could not be read");
    file->offset += length;
    file->left -= length;
    output_flush(connection);
    return connection->file != file ? PUMP_BROKEN : connection->write_paused ? PUMP_WAIT : PUMP_ON;
}

/* The socket is full, or the transport holds output: it gets a piece to wait with, and says when it holds nothing. May run
 * Python. */
static Pump
copy_to_wait(Connection *connection, File *file)
{
    if (!file->limited) {
        file->limited = true;
        limit_transport(connection, true);
        if (connection->file != file)
            return PUMP_BROKEN;
    }
    return connection->write_paused ? PUMP_WAIT : copy_piece(connection, file, PIECE_BYTES);
}

/* The next piece goes from file to socket. May run Python. */
static Pump
send_piece(Connection *connection, File *file)
{
    off_t offset = file->offset;
    size_t most = file->left < SENDFILE_BYTES ? (size_t)file->left : SENDFILE_BYTES;
    ssize_t sent = sendfile(connection->fd, file->fd, &offset, most);
    if (sent > 0) {
        file->offset += sent;
        file->left -= sent;
        connection->sent_bytes += (uint64_t)sent;
        return PUMP_ON;
    }
    if (sent == 0)
        return break_off(connection, "the file that it was sent became shorter");
    switch (errno) {
    case EINTR: return PUMP_ON;
    case EINVAL:
    case ENOSYS:
    case EOPNOTSUPP: file->copied = true; return PUMP_ON;
    case ENOBUFS:
    case ENOMEM:
    case EAGAIN:
        return copy_to_wait(connection, file);
    case EIO: return break_off(connection, "the file that it was sent could not be read");
    default:
        connection_abort(connection);
        connection_gone(connection);
        return PUMP_BROKEN;
    }
}

/* ---- done ---- */

/* All of it is on its way. It is still `pumping`, so nobody else ends it meanwhile. May run Python. */
static void
file_done(Connection *connection)
{
    File *file = connection->file;
    Cycle *cycle = connection->current;
    bool more = file->more;
    if (file->limited)
        limit_transport(connection, false);
    if (connection->file != file)
        return;
    file_drop(connection);
    cycle->sending_file = false;
    if (connection->framing == FRAMING_CHUNKED &&
        (writer_copy(&connection->out, "\r\n", 2) < 0 || (!more && writer_copy(&connection->out, "0\r\n\r\n", 5) < 0))) {
        PyErr_WriteUnraisable((PyObject *)connection);
        connection_abort(connection);
        connection_gone(connection);
        return;
    }
    if (!more)
        connection_response_done(connection, cycle);
    futures_wake(connection->factory->state, &connection->write_futures);
    if (!connection->corked)
        output_flush(connection);
}

int64_t
file_left(const Connection *connection)
{
    return connection->file == NULL ? 0 : connection->file->left;
}

void
file_drop(Connection *connection)
{
    File *file = connection->file;
    if (file == NULL)
        return;
    connection->file = NULL;
    close(file->fd);
    PyMem_Free(file);
}

/* ---- pumped ---- */

/* From the loop: others had their turn. May run Python. */
static PyObject *
file_resume(PyObject *self, PyObject *unused)
{
    Connection *connection = (Connection *)self;
    (void)unused;
    if (connection->file != NULL && !connection->write_paused)
        file_pump(connection);
    connection_check(connection);
    Py_RETURN_NONE;
}

/* Goes on in the loop's next turn. If it cannot, the connection and its file end. May run Python. */
static void
schedule_pump(Connection *connection)
{
    static PyMethodDef resume = {"_resume_file", file_resume, METH_NOARGS, NULL};
    const State *state = connection->factory->state;
    PyObject *callback = PyCFunction_New(&resume, (PyObject *)connection);
    PyObject *handle = callback == NULL ? NULL : call_method1(connection->factory->loop, state->names.call_soon, callback);
    if (handle == NULL) {
        PyErr_WriteUnraisable((PyObject *)connection);
        connection_abort(connection);
        connection_gone(connection);
    }
    Py_XDECREF(callback);
    Py_XDECREF(handle);
}

/* One piece, in the way that there is. May run Python. */
static Pump
pump_piece(Connection *connection, File *file)
{
    output_flush(connection); /* what stands before it */
    if (connection->file != file)
        return PUMP_BROKEN;
    if (connection->flushing) { /* below us: what stands before it is not out of our hands yet */
        schedule_pump(connection);
        return connection->file != file ? PUMP_BROKEN : PUMP_WAIT;
    }
    if (connection->write_paused || connection->output_closed)
        return PUMP_WAIT;
    bool by_transport = output_needs_transport(connection);
    if (connection->file != file)
        return PUMP_BROKEN;
    if (by_transport && connection->fd >= 0)
        return copy_to_wait(connection, file);
    return by_transport || file->copied ? copy_piece(connection, file, COPY_BYTES) : send_piece(connection, file);
}

void
file_pump(Connection *connection)
{
    File *file = connection->file;
    if (file->pumping)
        return;
    Py_INCREF(connection);
    Pump pump = PUMP_ON;
    int64_t begun = file->left;
    file->pumping = true;
    while (pump == PUMP_ON && file->left > 0 && begun - file->left < TURN_BYTES)
        pump = pump_piece(connection, file);
    if (pump != PUMP_BROKEN && file->left == 0) {
        file_done(connection);
    }
    else if (pump != PUMP_BROKEN) {
        file->pumping = false;
        if (pump == PUMP_ON)
            schedule_pump(connection);
    }
    Py_DECREF(connection);
}

/* ---- taken over ---- */

int
file_send_small(Cycle *cycle, int fd, int64_t offset, int64_t length, bool more)
{
    PyObject *bytes = file_read_part(fd, offset, length);
    close(fd);
    if (bytes != NULL && PyBytes_GET_SIZE(bytes) < length) {
        Py_CLEAR(bytes);
        PyErr_SetString(cycle->factory->state->BodyLengthError, "the file became shorter while it was read");
    }
    int result = bytes == NULL ? -1 : cycle->wire->body(cycle, bytes, more);
    Py_XDECREF(bytes);
    return result;
}

int
file_send(Cycle *cycle, int fd, int64_t offset, int64_t length, bool more)
{
    Connection *connection = (Connection *)cycle->stream;
    if (length <= FILE_SMALL_BYTES || cycle->no_body)
        return file_send_small(cycle, fd, offset, cycle->no_body ? 0 : length, more);
    File *file = connection->file == NULL ? PyMem_Malloc(sizeof(File)) : NULL;
    if (file == NULL || http1_begin_body(connection, cycle, length, more) < 0 ||
        (connection->framing == FRAMING_CHUNKED && http1_begin_chunk(connection, length) < 0)) {
        PyMem_Free(file);
        close(fd);
        return PyErr_Occurred() ? -1 : (PyErr_NoMemory(), -1);
    }
    if (cycle->first_byte_ns == 0)
        cycle->first_byte_ns = account_now_ns();
    *file = (File){.fd = fd, .offset = offset, .left = length, .more = more};
    connection->file = file;
    cycle->sending_file = true;
    Py_INCREF(connection);
    file_pump(connection);
    connection_check(connection);
    Py_DECREF(connection);
    return 0;
}
