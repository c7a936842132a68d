/* The fields of a response over HTTP/2 (RFC 9113 §8.3.2). What of an app's fields may reach the wire is head.c's to say. */
#include "http2_stream.h"

#ifdef SHARDSERVE_NGHTTP2

#include "chars.h"
#include "head.h"

#include <time.h>

#define FREE_BLOCKS SPARES(256)
/* A block that is kept: so many fields, so much text. */
#define STANDARD_FIELDS 32
#define STANDARD_TEXT 2048
/* What head2_end() may add besides the factory's own fields: date, server, content-length and the request's id. */
#define END_FIELDS 4
#define END_TEXT (32 + 20 + 128 + 128)

#define AS_IS (NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE)

/* ---- blocks ---- */

/* Room for so much. NULL with MemoryError. */
static HeadBlock *
block_new(Http2Shared *shared, size_t fields, size_t text)
{
    HeadBlock *block = shared->free_blocks;
    bool standard = fields <= STANDARD_FIELDS && text <= STANDARD_TEXT;
    if (standard && block != NULL) {
        shared->free_blocks = block->next;
        shared->free_block_count--;
    }
    else {
        if (standard) {
            fields = STANDARD_FIELDS;
            text = STANDARD_TEXT;
        }
        block = PyMem_Malloc(sizeof(HeadBlock) + fields * sizeof(nghttp2_nv) + text);
        if (block == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        block->nv = (nghttp2_nv *)(block + 1);
        block->room = fields;
        block->text = (char *)(block->nv + fields);
        block->capacity = text;
        block->standard = standard;
    }
    block->next = NULL;
    block->count = 0;
    block->used = 0;
    return block;
}

void
head2_free(Http2Shared *shared, HeadBlock *block)
{
    if (block == NULL)
        return;
    if (block->standard && shared->free_block_count < FREE_BLOCKS) {
        block->next = shared->free_blocks;
        shared->free_blocks = block;
        shared->free_block_count++;
        return;
    }
    PyMem_Free(block);
}

/* ---- fields ---- */

/* A field whose texts live as long as the block. */
static inline void
put_nv(HeadBlock *block, const char *name, size_t name_length, const char *value, size_t value_length)
{
    CHECK(block->count < block->room);
    block->nv[block->count++] =
        (nghttp2_nv){(uint8_t *)name, (uint8_t *)value, name_length, value_length, AS_IS};
}

static char *
put_text(HeadBlock *block, const char *text, size_t length)
{
    CHECK(block->used + length <= block->capacity);
    char *to = block->text + block->used;
    memcpy(to, text, length);
    block->used += length;
    return to;
}

/* A field of the app's: its name in lower case (RFC 9113 §8.2.1), its value without space around it (§8.2.1). */
static void
put_field(HeadBlock *block, const HeadField *field)
{
    char *name = block->text + block->used;
    const char *value = field->value;
    size_t length = field->value_length;
    CHECK(block->used + field->name_length + length <= block->capacity);
    chars_lower(name, field->name, field->name_length);
    block->used += field->name_length;
    while (length > 0 && (*value == ' ' || *value == '\t')) {
        value++;
        length--;
    }
    while (length > 0 && (value[length - 1] == ' ' || value[length - 1] == '\t'))
        length--;
    put_nv(block, name, field->name_length, put_text(block, value, length), length);
}

#define PUT(block, name, value, length) put_nv((block), (name), sizeof(name) - 1, (value), (length))

static void
put_status(HeadBlock *block, int status)
{
    char digits[20];
    size_t length = (size_t)(chars_put_decimal(digits, (uint64_t)status) - digits);
    PUT(block, ":status", put_text(block, digits, length), length);
}

/* Whether the name says how HTTP/1.1 frames or switches (RFC 9113 §8.2.2). head.c leaves out the others. */
static bool
is_connection_specific(const HeadField *field)
{
    return (field->name_length == 7 && chars_equal_lower(field->name, "upgrade", 7)) ||
           (field->name_length == 16 && chars_equal_lower(field->name, "proxy-connection", 16));
}

/* How much text the fields have; what is no field counts nothing, and is found later. */
static size_t
text_length(PyObject *fields)
{
    size_t length = 0;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(fields); i++) {
        PyObject *item = PySequence_Fast_GET_ITEM(fields, i);
        if (!(PyTuple_Check(item) || PyList_Check(item)))
            continue;
        for (Py_ssize_t j = 0; j < PySequence_Fast_GET_SIZE(item); j++) {
            PyObject *part = PySequence_Fast_GET_ITEM(item, j);
            length += PyBytes_Check(part) ? (size_t)PyBytes_GET_SIZE(part) : 0;
        }
    }
    return length;
}

/* ---- the app's ---- */

/* Puts those that may be sent; `status` 0: they are trailers. The block; or NULL with HeaderError or MessageError, and it is
 * freed. */
static HeadBlock *
put_judged(Factory *factory, HeadBlock *block, int status, PyObject *fields, HeadFacts *facts)
{
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(fields); i++) {
        HeadField field;
        PyObject *item = PySequence_Fast_GET_ITEM(fields, i);
        FieldVerdict verdict =
            status == 0 ? head_judge_trailer(item, &field, facts) : head_judge(status, item, &field, facts);
        if (UNLIKELY(verdict > FIELD_DROP)) {
            head2_free(factory->http2, block); /* first: saying why may run the app */
            head_refuse(factory->state, verdict, item, facts);
            return NULL;
        }
        if (verdict == FIELD_SEND && !is_connection_specific(&field))
            put_field(block, &field);
    }
    return block;
}

HeadBlock *
head2_encode(Factory *factory, int status, PyObject *fields, HeadFacts *facts)
{
    Http2Shared *shared = factory->http2;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(fields);
    HeadBlock *block = block_new(shared, (size_t)count + shared->fixed_count + END_FIELDS + 1,
                                 text_length(fields) + END_TEXT);
    *facts = (HeadFacts){.content_length = -1};
    if (block == NULL)
        return NULL;
    put_status(block, status);
    return put_judged(factory, block, status, fields, facts);
}

HeadBlock *
head2_encode_trailers(Factory *factory, PyObject *fields)
{
    HeadFacts facts = {.content_length = -1};
    HeadBlock *block = block_new(factory->http2, (size_t)PySequence_Fast_GET_SIZE(fields), text_length(fields));
    return block == NULL ? NULL : put_judged(factory, block, 0, fields, &facts);
}

HeadBlock *
head2_encode_links(Factory *factory, PyObject *links)
{
    Http2Shared *shared = factory->http2;
    size_t length = END_TEXT;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(links); i++) {
        PyObject *link = PySequence_Fast_GET_ITEM(links, i);
        if (!head_judge_link(link)) {
            head_refuse_link(factory->state, link);
            return NULL;
        }
        length += (size_t)PyBytes_GET_SIZE(link);
    }
    HeadBlock *block = block_new(shared, (size_t)PySequence_Fast_GET_SIZE(links) + 1, length);
    if (block == NULL)
        return NULL;
    put_status(block, 103);
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(links); i++) {
        PyObject *link = PySequence_Fast_GET_ITEM(links, i);
        put_field(block, &(HeadField){"link", PyBytes_AS_STRING(link), 4, (size_t)PyBytes_GET_SIZE(link)});
    }
    return block;
}

/* ---- ours ---- */

HeadBlock *
head2_status(Factory *factory, int status)
{
    HeadBlock *block = block_new(factory->http2, 1, END_TEXT);
    if (block != NULL)
        put_status(block, status);
    return block;
}

HeadBlock *
head2_join(Http2Shared *shared, HeadBlock *first, HeadBlock *second)
{
    HeadBlock *both = block_new(shared, first->count + second->count, first->used + second->used);
    const HeadBlock *const parts[] = {first, second};
    for (size_t i = 0; both != NULL && i < 2; i++) {
        for (size_t j = 0; j < parts[i]->count; j++) {
            const nghttp2_nv *nv = &parts[i]->nv[j];
            const char *name = put_text(both, (const char *)nv->name, nv->namelen);
            put_nv(both, name, nv->namelen, put_text(both, (const char *)nv->value, nv->valuelen), nv->valuelen);
        }
    }
    head2_free(shared, second);
    if (both != NULL)
        head2_free(shared, first);
    return both;
}

HeadBlock *
head2_simple(Factory *factory, int status, size_t length, PyObject *id)
{
    static const char type[] = "text/plain; charset=utf-8";
    const HeadFacts facts = {.content_length = -1};
    HeadBlock *block = block_new(factory->http2, factory->http2->fixed_count + END_FIELDS + 3, END_TEXT);
    if (block == NULL)
        return NULL;
    put_status(block, status);
    if (status == 503)
        PUT(block, "retry-after", "1", 1); /* RFC 9110 §10.2.3 */
    PUT(block, "content-type", type, sizeof(type) - 1);
    head2_end(factory, block, &facts, id, (int64_t)length);
    return block;
}

void
head2_end(Factory *factory, HeadBlock *block, const HeadFacts *facts, PyObject *id, int64_t content_length)
{
    const Http2Shared *shared = factory->http2;
    static const size_t name = sizeof("date: ") - 1;
    if (factory->date_header && !facts->has_date) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME_COARSE, &now);
        const char *line = date_line(&factory->date, now.tv_sec);
        size_t length = DATE_LINE_LENGTH - name - 2;
        PUT(block, "date", put_text(block, line + name, length), length);
    }
    if (factory->server_header && !facts->has_server)
        PUT(block, "server", "shardserve", sizeof("shardserve") - 1);
    for (size_t i = 0; i < shared->fixed_count; i++) {
        const HeadField *field = &shared->fixed[i];
        put_nv(block, field->name, field->name_length, field->value, field->value_length);
    }
    if (UNLIKELY(id != NULL)) {
        PyObject *field = factory->trace.request_id_name;
        size_t length = (size_t)PyBytes_GET_SIZE(id); /* 128 at most (trace.h) */
        put_nv(block, PyBytes_AS_STRING(field), (size_t)PyBytes_GET_SIZE(field),
               put_text(block, PyBytes_AS_STRING(id), length), length);
    }
    if (content_length >= 0) {
        char digits[20];
        size_t length = (size_t)(chars_put_decimal(digits, (uint64_t)content_length) - digits);
        PUT(block, "content-length", put_text(block, digits, length), length);
    }
}

#endif
