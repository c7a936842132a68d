/* The response head: status line and field lines, validated and encoded in one pass. */
#ifndef SHARDSERVE_HEAD_H
#define SHARDSERVE_HEAD_H

#include "native.h"
#include "writer.h"

/* What the app's own fields said, for the wire to frame by. */
typedef struct {
    int64_t content_length; /* -1: none */
    bool has_date;
    bool has_server;
    bool connection_close;
    bool connection_upgrade; /* RFC 9110 §7.8: an Upgrade field is announced (a 426, say) */
    bool event_stream; /* Content-Type: text/event-stream (WHATWG HTML §9.2): it has no end of its own */
} HeadFacts;

/* One field of the app's, borrowed from its bytes objects. */
typedef struct {
    const char *name;
    const char *value;
    size_t name_length;
    size_t value_length;
} HeadField;

typedef enum {
    FIELD_SEND,
    FIELD_DROP,       /* read, not sent: the server frames */
    FIELD_NO_PAIR,    /* not two byte strings */
    FIELD_BAD,        /* its name is no token, or its value has a control character */
    FIELD_BAD_LENGTH, /* a Content-Length that is no number, or another one than before */
    FIELD_NO_TRAILER,
} FieldVerdict;

/* RFC 9110 §15 reason phrase for `status`, "" if it has none. */
const char *head_reason(int status);

/* Appends "HTTP/1.1 <status> <reason>" CRLF. 0, or -1 with MemoryError. */
int head_status_line(Writer *writer, int status);

/* Appends the status line and the fields, without the empty line that ends a head, and fills *facts.
 *
 * `fields` is what PySequence_Fast made of the app's headers: a list or tuple of [name, value]. Framing
 * and connection fields (transfer-encoding, connection, keep-alive) are read, not sent: the
 * server frames. Content-Length is dropped where the wire knows better (204, RFC 9110 §8.6; 205).
 * Runs no Python. 0, or -1 with HeaderError or MessageError: the writer is as it was, until saying so ran Python. */
int head_encode(const State *state, Writer *writer, int status, PyObject *fields, HeadFacts *facts);

/* Appends trailer fields (RFC 9110 §6.5), without the empty line that ends them. HeaderError also for a field that
 * frames, routes, authorizes or says how the content is to be read (§6.5.1). Runs no Python. 0, or -1 with an exception: then
 * the writer is as it was at `mark`, and Python may have run since, which may have written. */
int head_encode_trailers(const State *state, Writer *writer, WriterMark mark, PyObject *fields);

/* Appends one Link field (RFC 8288 §3) for each bytes object of `links`. Likewise. */
int head_encode_links(const State *state, Writer *writer, WriterMark mark, PyObject *links);

/* The same judgement of one item, for a wire that encodes otherwise: fills *field, and what it says into *facts. Runs no
 * Python, raises nothing. */
FieldVerdict head_judge(int status, PyObject *item, HeadField *field, HeadFacts *facts);

/* Likewise of an item of trailers. */
FieldVerdict head_judge_trailer(PyObject *item, HeadField *field, HeadFacts *facts);

/* Whether `link` can be the value of a Link field. */
bool head_judge_link(PyObject *link);

/* Raises what a verdict behind FIELD_DROP means. May run Python. */
void head_refuse(const State *state, FieldVerdict verdict, PyObject *item, const HeadFacts *facts);

/* Raises what is wrong with `link`. */
void head_refuse_link(const State *state, PyObject *link);

#endif
