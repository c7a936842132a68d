/* The response head. One place decides what of an app's fields may reach the wire. */
#include "head.h"

#include "chars.h"
#include "fields.h"

const char *
head_reason(int status)
{
    switch (status) {
    case 100: return "Continue";
    case 101: return "Switching Protocols";
    case 102: return "Processing";
    case 103: return "Early Hints";
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 203: return "Non-Authoritative Information";
    case 204: return "No Content";
    case 205: return "Reset Content";
    case 206: return "Partial Content";
    case 207: return "Multi-Status";
    case 208: return "Already Reported";
    case 226: return "IM Used";
    case 300: return "Multiple Choices";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 303: return "See Other";
    case 304: return "Not Modified";
    case 305: return "Use Proxy";
    case 307: return "Temporary Redirect";
    case 308: return "Permanent Redirect";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 402: return "Payment Required";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 406: return "Not Acceptable";
    case 407: return "Proxy Authentication Required";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 410: return "Gone";
    case 411: return "Length Required";
    case 412: return "Precondition Failed";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 415: return "Unsupported Media Type";
    case 416: return "Range Not Satisfiable";
    case 417: return "Expectation Failed";
    case 418: return "I'm a Teapot";
    case 421: return "Misdirected Request";
    case 422: return "Unprocessable Content";
    case 423: return "Locked";
    case 424: return "Failed Dependency";
    case 425: return "Too Early";
    case 426: return "Upgrade Required";
    case 428: return "Precondition Required";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 451: return "Unavailable For Legal Reasons";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    case 506: return "Variant Also Negotiates";
    case 507: return "Insufficient Storage";
    case 508: return "Loop Detected";
    case 510: return "Not Extended";
    case 511: return "Network Authentication Required";
    default: return "";
    }
}

int
head_status_line(Writer *writer, int status)
{
    const char *reason = head_reason(status);
    size_t length = strlen(reason);
    char *to = writer_reserve(writer, sizeof("HTTP/1.1 200 \r\n") + length);
    if (to == NULL)
        return -1;
    memcpy(to, "HTTP/1.1 ", 9);
    to = chars_put_decimal(to + 9, (uint64_t)status);
    /* RFC 9112 §4: the space is there even when the reason is not. */
    *to++ = ' ';
    memcpy(to, reason, length);
    to += length;
    *to++ = '\r';
    *to++ = '\n';
    writer_commit(writer, to);
    return 0;
}

/* Content-Length once, or the same number again (RFC 9110 §8.6 lets equal values be merged). */
static FieldVerdict
judge_content_length(int status, const char *value, size_t length, HeadFacts *facts)
{
    int64_t number = chars_content_length(value, length);
    if (number < 0)
        return FIELD_BAD_LENGTH;
    if (status == 204 || status == 205)
        return FIELD_DROP; /* the wire knows */
    if (facts->content_length >= 0)
        return facts->content_length == number ? FIELD_DROP : FIELD_BAD_LENGTH;
    facts->content_length = number;
    return FIELD_SEND;
}

/* text/event-stream, with or without parameters. `length` is 17 or more. */
static bool
is_event_stream(const char *value, size_t length)
{
    return chars_equal_lower(value, "text/event-stream", 17) &&
           (length == 17 || value[17] == ';' || value[17] == ' ' || value[17] == '\t');
}

/* The few fields the server itself has a say in; the rest is sent as it is. */
static FieldVerdict
judge_field(int status, const char *name, size_t name_length, const char *value, size_t value_length, HeadFacts *facts)
{
    switch (name_length) {
    case 4:
        if (chars_equal_lower(name, "date", 4))
            facts->has_date = true;
        break;
    case 6:
        if (chars_equal_lower(name, "server", 6))
            facts->has_server = true;
        break;
    case 7:
        if (chars_equal_lower(name, "upgrade", 7))
            facts->connection_upgrade = true; /* RFC 9110 §7.8: never without the option */
        break;
    case 10:
        if (chars_equal_lower(name, "connection", 10)) {
            facts->connection_close |= chars_list_has(value, value_length, "close");
            facts->connection_upgrade |= chars_list_has(value, value_length, "upgrade");
            return FIELD_DROP;
        }
        if (chars_equal_lower(name, "keep-alive", 10))
            return FIELD_DROP;
        break;
    case 12:
        if (value_length >= 17 && chars_equal_lower(name, "content-type", 12))
            facts->event_stream = is_event_stream(value, value_length);
        break;
    case 14:
        if (chars_equal_lower(name, "content-length", 14))
            return judge_content_length(status, value, value_length, facts);
        break;
    case 17:
        if (chars_equal_lower(name, "transfer-encoding", 17))
            return FIELD_DROP;
        break;
    }
    return FIELD_SEND;
}

static bool
is_pair(PyObject *item)
{
    return (PyTuple_Check(item) || PyList_Check(item)) && PySequence_Fast_GET_SIZE(item) == 2;
}

/* Takes one item of the app's list apart: FIELD_SEND, or what is wrong with it. */
static inline FieldVerdict
split_field(PyObject *item, HeadField *field)
{
    PyObject **pair = is_pair(item) ? PySequence_Fast_ITEMS(item) : NULL;
    if (UNLIKELY(pair == NULL || !PyBytes_Check(pair[0]) || !PyBytes_Check(pair[1])))
        return FIELD_NO_PAIR;
    *field = (HeadField){PyBytes_AS_STRING(pair[0]), PyBytes_AS_STRING(pair[1]), (size_t)PyBytes_GET_SIZE(pair[0]),
                         (size_t)PyBytes_GET_SIZE(pair[1])};
    if (UNLIKELY(!chars_is_token(field->name, field->name_length) || !chars_is_field_value(field->value, field->value_length)))
        return FIELD_BAD;
    return FIELD_SEND;
}

static inline FieldVerdict
judge_item(int status, PyObject *item, HeadField *field, HeadFacts *facts)
{
    FieldVerdict verdict = split_field(item, field);
    if (UNLIKELY(verdict != FIELD_SEND))
        return verdict;
    return judge_field(status, field->name, field->name_length, field->value, field->value_length, facts);
}

FieldVerdict
head_judge(int status, PyObject *item, HeadField *field, HeadFacts *facts)
{
    return judge_item(status, item, field, facts);
}

/* What a trailer must not be, besides what fields.c knows: it comes too late to say how the content is to be read. */
static bool
is_no_trailer(const char *name, size_t length)
{
    return fields_forbid_trailer(name, length) || (length > 8 && chars_equal_lower(name, "content-", 8)) ||
           (length == 10 && chars_equal_lower(name, "set-cookie", 10));
}

FieldVerdict
head_judge_trailer(PyObject *item, HeadField *field, HeadFacts *facts)
{
    FieldVerdict verdict = split_field(item, field);
    if (verdict == FIELD_NO_PAIR)
        return verdict;
    if (is_no_trailer(field->name, field->name_length))
        return FIELD_NO_TRAILER;
    return verdict != FIELD_SEND ? verdict : judge_item(200, item, field, facts);
}

bool
head_judge_link(PyObject *link)
{
    return PyBytes_Check(link) && chars_is_field_value(PyBytes_AS_STRING(link), (size_t)PyBytes_GET_SIZE(link));
}

/* ---- refused ---- */

/* Raises HeaderError for a name or a value that cannot go on any wire. */
static void
refuse_field(const State *state, PyObject *name, PyObject *value)
{
    if (!chars_is_token(PyBytes_AS_STRING(name), (size_t)PyBytes_GET_SIZE(name)))
        PyErr_Format(state->HeaderError, "invalid header name %R: it must be a token (RFC 9110 section 5.1)", name);
    else
        PyErr_Format(state->HeaderError, "invalid value of header %R: %R has a control character (RFC 9110 section 5.5)",
                     name, value);
}

/* Raises HeaderError for what judge_content_length() found bad. */
static void
refuse_content_length(const State *state, PyObject *value, const HeadFacts *facts)
{
    int64_t number = chars_content_length(PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value));
    if (number < 0)
        PyErr_Format(state->HeaderError, "content-length must be a number of bytes, not '%.40s'", PyBytes_AS_STRING(value));
    else
        PyErr_Format(state->HeaderError, "two content-length headers differ: %lld and %lld",
                     (long long)facts->content_length, (long long)number);
}

/* Raises MessageError for what is_pair() or the types of its parts refused. */
static void
refuse_item(const State *state, PyObject *item)
{
    if (!is_pair(item))
        PyErr_Format(state->MessageError, "each header must be a pair [name, value], not %.80s", Py_TYPE(item)->tp_name);
    else
        PyErr_Format(state->MessageError, "a header must be two byte strings, not (%.80s, %.80s)",
                     Py_TYPE(PySequence_Fast_GET_ITEM(item, 0))->tp_name, Py_TYPE(PySequence_Fast_GET_ITEM(item, 1))->tp_name);
}

void
head_refuse(const State *state, FieldVerdict verdict, PyObject *item, const HeadFacts *facts)
{
    Py_INCREF(item); /* repr() of a subclass of bytes may run Python, which may change the app's list, and its items */
    if (verdict == FIELD_NO_PAIR) {
        refuse_item(state, item);
        Py_DECREF(item);
        return;
    }
    PyObject *name = Py_NewRef(PySequence_Fast_GET_ITEM(item, 0));
    PyObject *value = Py_NewRef(PySequence_Fast_GET_ITEM(item, 1));
    if (verdict == FIELD_NO_TRAILER)
        PyErr_Format(state->HeaderError, "%.80s cannot be a trailer (RFC 9110 section 6.5.1)", PyBytes_AS_STRING(name));
    else if (verdict == FIELD_BAD_LENGTH)
        refuse_content_length(state, value, facts);
    else
        refuse_field(state, name, value);
    Py_DECREF(name);
    Py_DECREF(value);
    Py_DECREF(item);
}

void
head_refuse_link(const State *state, PyObject *link)
{
    if (!PyBytes_Check(link))
        PyErr_Format(state->MessageError, "http.response.early_hint: a link must be a byte string, not %.80s",
                     Py_TYPE(link)->tp_name);
    else
        PyErr_SetString(state->HeaderError, "http.response.early_hint: a link has a control character (RFC 9110 section 5.5)");
}

/* ---- encoded for HTTP/1.1 ---- */

/* Appends one field line. 0, or -1 with MemoryError. */
static inline int
put_field(Writer *writer, const HeadField *field)
{
    char *to = writer_reserve(writer, field->name_length + field->value_length + 4);
    if (to == NULL)
        return -1;
    memcpy(to, field->name, field->name_length);
    to += field->name_length;
    *to++ = ':';
    *to++ = ' ';
    memcpy(to, field->value, field->value_length);
    to += field->value_length;
    *to++ = '\r';
    *to++ = '\n';
    writer_commit(writer, to);
    return 0;
}

/* One item that was judged: sent, left out, or refused. The output goes back to `mark` before anything is raised: that is an
 * allocation, which may run the app, which may send. 0, or -1 with an exception. */
static inline int
obey(const State *state, Writer *writer, WriterMark mark, FieldVerdict verdict, PyObject *item, const HeadField *field,
     const HeadFacts *facts)
{
    if (LIKELY(verdict == FIELD_SEND)) {
        if (LIKELY(put_field(writer, field) == 0))
            return 0;
        writer_rollback(writer, mark);
        return -1;
    }
    if (verdict == FIELD_DROP)
        return 0;
    writer_rollback(writer, mark);
    head_refuse(state, verdict, item, facts);
    return -1;
}

int
head_encode(const State *state, Writer *writer, int status, PyObject *fields, HeadFacts *facts)
{
    WriterMark mark = writer_mark(writer);
    *facts = (HeadFacts){.content_length = -1};
    if (head_status_line(writer, status) < 0)
        return -1;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(fields);
    PyObject **items = PySequence_Fast_ITEMS(fields);
    for (Py_ssize_t i = 0; i < count; i++) {
        HeadField field;
        FieldVerdict verdict = judge_item(status, items[i], &field, facts);
        if (obey(state, writer, mark, verdict, items[i], &field, facts) < 0)
            return -1;
    }
    return 0;
}

int
head_encode_trailers(const State *state, Writer *writer, WriterMark mark, PyObject *fields)
{
    HeadFacts facts = {.content_length = -1};
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(fields); i++) {
        HeadField field;
        PyObject *item = PySequence_Fast_GET_ITEM(fields, i);
        FieldVerdict verdict = head_judge_trailer(item, &field, &facts);
        if (obey(state, writer, mark, verdict, item, &field, &facts) < 0)
            return -1;
    }
    return 0;
}

int
head_encode_links(const State *state, Writer *writer, WriterMark mark, PyObject *links)
{
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(links); i++) {
        PyObject *link = PySequence_Fast_GET_ITEM(links, i);
        if (!head_judge_link(link)) {
            writer_rollback(writer, mark);
            head_refuse_link(state, link);
            return -1;
        }
        if (put_field(writer, &(HeadField){"link", PyBytes_AS_STRING(link), 4, (size_t)PyBytes_GET_SIZE(link)}) < 0) {
            writer_rollback(writer, mark);
            return -1;
        }
    }
    return 0;
}
