/* The request line and the end of a head, looked at before httptools sees them. Pure; no Python.h.
 *
 * httptools stays the authority on everything behind the line. The line itself is given to it only whole and only if it
 * is exactly what RFC 9112 §3 says: httptools lets several spaces pass, a missing version, "*" with any method, and knows
 * methods of other protocols, but not those that it does not know.
 */
#ifndef SHARDSERVE_LINE_H
#define SHARDSERVE_LINE_H

#include <stdbool.h>
#include <stddef.h>

/* A longer method is none that anybody implements: 501 (RFC 9112 §3). */
#define LINE_METHOD_BYTES 32

/* The methods that have a number; httptools never hears of any other. */
#define LINE_METHODS(X) X(GET) X(POST) X(PUT) X(DELETE) X(HEAD) X(PATCH) X(OPTIONS)

typedef enum {
#define X(name) LINE_##name,
    LINE_METHODS(X)
#undef X
    LINE_OTHER, /* any other token: the app may know it (RFC 9110 §9.1) */
} LineMethod;

typedef struct {
    LineMethod method;
    size_t method_length; /* the first bytes of the line; the target begins one byte further */
    size_t target_length;
    bool version_10;      /* else 1.1 */
} RequestLine;

/* Reads `text`, a request line without its CRLF. 0 and *line, or the status that refuses it: 400, 501 (CONNECT, or a
 * method that is too long) or 505. */
int line_check(const char *text, size_t length, RequestLine *line);

/* `text` is the beginning of a line whose end has not come: 0 if it can become a request line, else the status. It
 * looks at the method only. */
int line_may_begin(const char *text, size_t length);

/* The number of a method. */
LineMethod line_method(const char *text, size_t length);

/* Whether `text` has the form of a request target for that method (RFC 9112 §3.2). */
bool line_is_target(const char *text, size_t length, LineMethod method);

/* The offset behind the first CRLF CRLF in `text`, or 0: there is none. `*matched` is how many bytes of one (0-3) the bytes
 * before `text` ended with; it is updated, so that the answer does not depend on how the bytes are cut. */
size_t line_head_end(const char *text, size_t length, unsigned *matched);

#endif
