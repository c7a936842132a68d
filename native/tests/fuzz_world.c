/* libFuzzer, and a world without sockets and time, for fuzz_connection.py: the module `fuzz_world`.
 *
 * It is linked into one library with the sanitized extension, and the extension's calls of the names below come
 * here (ld --wrap): a clock that only the input moves, and one socket that takes as much as the input says. So an
 * input means the same every time, and none costs a system call.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The socket's number: no descriptor of this process is as high. */
#define SOCKET_FD (1 << 20)
/* Where the clock begins: Sun, 06 Nov 1994 08:49:37 GMT. */
#define BEGIN_S 784111777

/* Of libclang_rt.fuzzer_no_main; it has no header. */
int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*one_input)(const uint8_t *, size_t));

int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
ssize_t __wrap_send(int fd, const void *data, size_t length, int flags);
ssize_t __wrap_sendfile(int fd, int file, off_t *offset, size_t length);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_recv(int fd, void *data, size_t length, int flags);
int __wrap_poll(struct pollfd *ask, nfds_t count, int timeout_ms);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t length);
int __wrap_ioctl(int fd, unsigned long request, int *value);

static struct {
    int64_t now_ms;
    char *output;
    size_t output_length, output_room;
    Py_ssize_t room;  /* bytes that the socket still takes; negative: any number */
    bool broken;      /* the peer has reset the connection */
    bool behind;      /* the transport holds output: nothing may pass it */
    short poll_events;
    bool waiting;     /* a byte can be peeked at */
    PyObject *callback;
} world = {.room = -1};

static void
impossible(const char *text)
{
    fprintf(stderr, "broken: %s\n", text);
    abort();
}

/* ---- what the extension calls ---- */

int
__wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
    /* The date does not move, so that two runs of one input can be compared byte by byte. */
    int64_t passed_ms = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE ? 0 : world.now_ms;
    now->tv_sec = BEGIN_S + passed_ms / 1000;
    now->tv_nsec = passed_ms % 1000 * 1000000;
    return 0;
}

static ssize_t
take(const struct iovec *parts, size_t count)
{
    size_t taken = 0;
    if (world.broken) {
        errno = EPIPE;
        return -1;
    }
    if (world.behind)
        impossible("output passed the output that the transport holds");
    for (size_t i = 0; i < count; i++) {
        size_t length = parts[i].iov_len;
        if (world.room >= 0 && length > (size_t)world.room - taken)
            length = (size_t)world.room - taken;
        if (world.output_length + length > world.output_room) {
            world.output_room = (world.output_length + length) * 2;
            world.output = realloc(world.output, world.output_room);
            if (world.output == NULL)
                impossible("out of memory");
        }
        if (length > 0)
            memcpy(world.output + world.output_length, parts[i].iov_base, length);
        world.output_length += length;
        taken += length;
        if (length < parts[i].iov_len)
            break;
    }
    if (world.room >= 0)
        world.room -= (Py_ssize_t)taken;
    if (taken > 0)
        return (ssize_t)taken;
    errno = EAGAIN;
    return -1;
}

static void
must_be_ours(int fd)
{
    if (fd != SOCKET_FD)
        impossible("a descriptor that is not the connection's");
}

ssize_t
__wrap_send(int fd, const void *data, size_t length, int flags)
{
    struct iovec part = {.iov_base = (void *)data, .iov_len = length};
    (void)flags;
    must_be_ours(fd);
    return take(&part, 1);
}

ssize_t
__wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
    (void)flags;
    must_be_ours(fd);
    return take(message->msg_iov, message->msg_iovlen);
}

ssize_t
__wrap_sendfile(int fd, int file, off_t *offset, size_t length)
{
    static char piece[65536];
    must_be_ours(fd);
    ssize_t count = pread(file, piece, length < sizeof(piece) ? length : sizeof(piece), *offset);
    if (count <= 0)
        return count;
    struct iovec part = {.iov_base = piece, .iov_len = (size_t)count};
    ssize_t taken = take(&part, 1);
    if (taken > 0)
        *offset += taken;
    return taken;
}

ssize_t
__wrap_recv(int fd, void *data, size_t length, int flags)
{
    must_be_ours(fd);
    if (!(flags & MSG_PEEK) || length == 0)
        impossible("only the transport reads");
    if (world.waiting) {
        *(char *)data = 'G';
        return 1;
    }
    errno = EAGAIN;
    return -1;
}

int
__wrap_poll(struct pollfd *ask, nfds_t count, int timeout_ms)
{
    if (count != 1 || timeout_ms != 0)
        impossible("a poll that may wait");
    must_be_ours(ask->fd);
    ask->revents = (short)(world.poll_events & (ask->events | POLLERR | POLLHUP));
    return ask->revents != 0;
}

int
__wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
    (void)level, (void)name, (void)value, (void)length;
    must_be_ours(fd);
    return 0;
}

/* SIOCOUTQ: what the kernel has not got rid of. Here it has no buffer. */
int
__wrap_ioctl(int fd, unsigned long request, int *value)
{
    if (request != SIOCOUTQ)
        impossible("an ioctl nobody knows");
    must_be_ours(fd);
    *value = 0;
    return 0;
}

/* ---- what the harness calls ---- */

static int
one_input(const uint8_t *data, size_t length)
{
    PyObject *result = PyObject_CallFunction(world.callback, "y#", (const char *)data, (Py_ssize_t)length);
    if (result == NULL) {
        PyErr_Print();
        fflush(NULL);
        abort(); /* libFuzzer keeps the input */
    }
    Py_DECREF(result);
    return 0;
}

static PyObject *
fuzz_run(PyObject *self, PyObject *args)
{
    PyObject *list;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!O", &PyList_Type, &list, &world.callback))
        return NULL;
    int count = (int)PyList_GET_SIZE(list);
    char **words = calloc((size_t)count + 1, sizeof(char *)); /* libFuzzer keeps them */
    for (int i = 0; words != NULL && i < count; i++) {
        const char *word = PyUnicode_AsUTF8(PyList_GET_ITEM(list, i));
        if (word == NULL)
            return NULL;
        words[i] = strdup(word);
    }
    return PyLong_FromLong(words == NULL ? -1 : LLVMFuzzerRunDriver(&count, &words, one_input));
}

static PyObject *
fuzz_reset(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    world.output_length = 0;
    world.room = -1;
    world.broken = world.behind = world.waiting = false;
    world.poll_events = 0;
    Py_RETURN_NONE;
}

static PyObject *
fuzz_now_ms(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    return PyLong_FromLongLong(world.now_ms);
}

static PyObject *
fuzz_pass_ms(PyObject *self, PyObject *passed)
{
    (void)self;
    int64_t passed_ms = PyLong_AsLongLong(passed);
    if (PyErr_Occurred())
        return NULL;
    world.now_ms += passed_ms;
    Py_RETURN_NONE;
}

static PyObject *
fuzz_socket(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"room", "broken", "behind", "poll_events", "waiting", NULL};
    Py_ssize_t room = world.room;
    int broken = world.broken, behind = world.behind, poll_events = world.poll_events, waiting = world.waiting;
    (void)self;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$nppip", names, &room, &broken, &behind, &poll_events, &waiting))
        return NULL;
    world.room = room;
    world.broken = broken;
    world.behind = behind;
    world.poll_events = (short)poll_events;
    world.waiting = waiting;
    Py_RETURN_NONE;
}

static PyObject *
fuzz_take(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    PyObject *output = PyBytes_FromStringAndSize(world.output, (Py_ssize_t)world.output_length);
    world.output_length = 0;
    return output;
}

static PyMethodDef fuzz_methods[] = {
    {"run", fuzz_run, METH_VARARGS, "run(argv, one_input): libFuzzer. An exception of one_input(bytes) aborts."},
    {"reset", fuzz_reset, METH_NOARGS, "A new socket. The clock goes on."},
    {"now_ms", fuzz_now_ms, METH_NOARGS, "The clock."},
    {"pass_ms", fuzz_pass_ms, METH_O, "pass_ms(ms): the clock goes on."},
    {"socket", (PyCFunction)(void (*)(void))fuzz_socket, METH_VARARGS | METH_KEYWORDS,
     "socket(*, room, broken, behind, poll_events, waiting): what it does from now on."},
    {"take", fuzz_take, METH_NOARGS, "What was sent since the last time."},
    {NULL},
};

static int
fuzz_exec(PyObject *module)
{
    return PyModule_AddIntConstant(module, "SOCKET_FD", SOCKET_FD);
}

static PyModuleDef_Slot fuzz_slots[] = {{Py_mod_exec, fuzz_exec}, {0, NULL}};

static struct PyModuleDef fuzz_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fuzz_world",
    .m_methods = fuzz_methods,
    .m_slots = fuzz_slots,
};

PyMODINIT_FUNC PyInit_fuzz_world(void);

PyMODINIT_FUNC
PyInit_fuzz_world(void)
{
    return PyModuleDef_Init(&fuzz_module);
}
