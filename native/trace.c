/* Request ids and traceparent. See trace.h. */
#include "trace.h"

#include "chars.h"
#include "cycle.h"
#include "fields.h"

#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define LONGEST_REQUEST_ID 128
/* version "-" trace-id "-" parent-id "-" flags: W3C Trace Context §3.2 */
#define TRACEPARENT_LENGTH 55

/* ---- made ---- */

int
trace_take(Trace *trace, PyObject *field, bool makes_traceparent)
{
    trace->makes_traceparent = makes_traceparent;
    if (field == NULL || field == Py_None)
        return 0;
    if (!PyBytes_CheckExact(field)) {
        PyErr_SetString(PyExc_TypeError, "request_id_field must be bytes or None");
        return -1;
    }
    Py_ssize_t length = PyBytes_GET_SIZE(field);
    const char *text = PyBytes_AS_STRING(field);
    if (!chars_is_token(text, (size_t)length) || length > 64 || fields_forbid_trailer(text, (size_t)length)) {
        PyErr_Format(PyExc_ValueError, "request_id_field %R must be the name of a field that means nothing to the server", field);
        return -1;
    }
    trace->request_id_name = PyBytes_FromStringAndSize(NULL, length);
    if (trace->request_id_name == NULL)
        return -1;
    chars_lower(PyBytes_AS_STRING(trace->request_id_name), text, (size_t)length);
    trace->request_id_field = Py_NewRef(field);
    return 0;
}

void
trace_clear(Trace *trace)
{
    Py_CLEAR(trace->request_id_field);
    Py_CLEAR(trace->request_id_name);
}

/* ---- ids ---- */

/* A bijection that looks random (splitmix64's finalizer): different numbers give different ids. */
static uint64_t
scrambled(uint64_t x)
{
    x ^= x >> 30;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static void
seed(Trace *trace)
{
    if (getrandom(trace->keys, sizeof(trace->keys), GRND_NONBLOCK) != (ssize_t)sizeof(trace->keys)) {
        /* Before the kernel has gathered any randomness: no two processes start at the same time with the same pid. */
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        uint64_t here = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
        for (int i = 0; i < 3; i++)
            trace->keys[i] = scrambled(here ^ ((uint64_t)getpid() << 40) ^ ((uint64_t)i << 32));
    }
    trace->seeded = true;
}

/* Sixteen hex digits of the next number under one of the keys; never all zero. */
static void
put_id(const Trace *trace, int key, char *to)
{
    static const char digits[] = "0123456789abcdef";
    uint64_t id = scrambled(trace->keys[key] + trace->count * UINT64_C(0x9e3779b97f4a7c15));
    if (UNLIKELY(id == 0))
        id = 1;
    for (int i = 15; i >= 0; i--, id >>= 4)
        to[i] = digits[id & 15];
}

static void
next_id(Trace *trace)
{
    if (UNLIKELY(!trace->seeded))
        seed(trace);
    trace->count++;
}

/* ---- fields ---- */

/* Whether `pair` is a field of this name, as the wire made it. The app may have put anything into the list. */
static bool
is_named(PyObject *pair, PyObject *name)
{
    PyObject *found = PyTuple_CheckExact(pair) && PyTuple_GET_SIZE(pair) == 2 ? PyTuple_GET_ITEM(pair, 0) : NULL;
    return found != NULL && PyBytes_CheckExact(found) && PyBytes_GET_SIZE(found) == PyBytes_GET_SIZE(name) &&
           memcmp(PyBytes_AS_STRING(found), PyBytes_AS_STRING(name), (size_t)PyBytes_GET_SIZE(name)) == 0;
}

PyObject *
trace_find_field(PyObject *headers, PyObject *name, int *count)
{
    PyObject *value = NULL;
    *count = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(headers); i++) {
        PyObject *pair = PyList_GET_ITEM(headers, i);
        if (is_named(pair, name) && (*count)++ == 0 && PyBytes_CheckExact(PyTuple_GET_ITEM(pair, 1)))
            value = PyTuple_GET_ITEM(pair, 1);
    }
    return value;
}

/* Takes every field of this name out and puts one at the end. The list is still ours alone. 0, or -1 with MemoryError. */
static int
replace_field(PyObject *headers, PyObject *name, PyObject *value)
{
    for (Py_ssize_t i = PyList_GET_SIZE(headers) - 1; i >= 0; i--)
        if (is_named(PyList_GET_ITEM(headers, i), name) && PyList_SetSlice(headers, i, i + 1, NULL) < 0)
            return -1;
    PyObject *pair = PyTuple_Pack(2, name, value);
    int result = pair == NULL ? -1 : PyList_Append(headers, pair);
    Py_XDECREF(pair);
    return result;
}

/* ---- request ids ---- */

/* What a client may call a request: it goes into logs, fields and other people's systems. */
static bool
is_request_id(PyObject *value)
{
    Py_ssize_t length = value == NULL ? 0 : PyBytes_GET_SIZE(value);
    const char *text = value == NULL ? NULL : PyBytes_AS_STRING(value);
    if (length < 1 || length > LONGEST_REQUEST_ID)
        return false;
    for (Py_ssize_t i = 0; i < length; i++) {
        char c = text[i];
        bool alphanumeric = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
        if (!alphanumeric && (c == '\0' || strchr("._~+/=:@-", c) == NULL))
            return false;
    }
    return true;
}

/* 0, or -1 with MemoryError. */
static int
take_request_id(Trace *trace, Cycle *cycle)
{
    int count;
    PyObject *given = trace_find_field(cycle->headers, trace->request_id_name, &count);
    if (count == 1 && is_request_id(given)) {
        cycle->request_id = Py_NewRef(given);
        return 0;
    }
    char text[32];
    next_id(trace);
    put_id(trace, 0, text);
    put_id(trace, 1, text + 16);
    cycle->request_id = PyBytes_FromStringAndSize(text, sizeof(text));
    return cycle->request_id == NULL ? -1 : replace_field(cycle->headers, trace->request_id_name, cycle->request_id);
}

bool
trace_has_own_id(const Cycle *cycle, PyObject *fields)
{
    PyObject *name = cycle->factory->trace.request_id_name;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(fields); i++) {
        PyObject *found = PySequence_Fast_GET_ITEM(PySequence_Fast_GET_ITEM(fields, i), 0);
        if (PyBytes_GET_SIZE(found) == PyBytes_GET_SIZE(name) &&
            chars_equal_lower(PyBytes_AS_STRING(found), PyBytes_AS_STRING(name), (size_t)PyBytes_GET_SIZE(name)))
            return true;
    }
    return false;
}

/* ---- traceparent ---- */

/* Whether these are `length` lower-case hex digits (HEXDIGLC), not all zero unless they may. */
static bool
is_hex(const char *text, int length, bool zero)
{
    bool any = zero;
    for (int i = 0; i < length; i++) {
        if (!((text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f')))
            return false;
        any |= text[i] != '0';
    }
    return any;
}

/* W3C Trace Context §3.2.2, §4.3: a higher version may go on behind a dash; version ff is none. */
static bool
is_traceparent(const char *text, Py_ssize_t length)
{
    if (length < TRACEPARENT_LENGTH || text[2] != '-' || text[35] != '-' || text[52] != '-' || !is_hex(text, 2, true) ||
        memcmp(text, "ff", 2) == 0 || !is_hex(text + 3, 32, false) || !is_hex(text + 36, 16, false) ||
        !is_hex(text + 53, 2, true))
        return false;
    return length == TRACEPARENT_LENGTH || (memcmp(text, "00", 2) != 0 && text[TRACEPARENT_LENGTH] == '-');
}

const char *
trace_id(const Cycle *cycle)
{
    int count;
    PyObject *value = trace_find_field(cycle->headers, cycle->factory->state->field_traceparent, &count);
    if (count != 1 || value == NULL || !is_traceparent(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)))
        return NULL;
    return PyBytes_AS_STRING(value) + 3;
}

/* 0, or -1 with MemoryError. */
static int
make_traceparent(Trace *trace, Cycle *cycle)
{
    char text[TRACEPARENT_LENGTH];
    next_id(trace);
    memcpy(text, "00-", 3);
    put_id(trace, 0, text + 3);
    put_id(trace, 1, text + 19);
    text[35] = '-';
    put_id(trace, 2, text + 36);
    memcpy(text + 52, "-01", 3);
    PyObject *value = PyBytes_FromStringAndSize(text, sizeof(text));
    int result = value == NULL ? -1 : replace_field(cycle->headers, cycle->factory->state->field_traceparent, value);
    Py_XDECREF(value);
    return result;
}

int
trace_begin(Cycle *cycle)
{
    Trace *trace = &cycle->factory->trace;
    if (trace->request_id_name != NULL && take_request_id(trace, cycle) < 0)
        return -1;
    return trace->makes_traceparent && trace_id(cycle) == NULL ? make_traceparent(trace, cycle) : 0;
}
