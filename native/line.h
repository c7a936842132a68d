/* A look at a request line that httptools has already accepted. Pure; no Python.h.
 *
 * httptools stays the authority: it tells that a request is valid. What it does not tell cheaply is
 * the version and the method (each a Python call and a new object), so they are read here, from
 * the same bytes, and only where they stand exactly as expected. "false" means: ask httptools.
 */
#ifndef SHARDSERVE_LINE_H
#define SHARDSERVE_LINE_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    size_t method_length; /* the method is the first bytes of the line */
    size_t line_length;   /* with its CRLF */
} RequestLine;

/* True if `text` begins with METHOD SP ... SP "HTTP/1.1" CRLF; then *line is set. */
bool line_peek(const char *text, size_t length, RequestLine *line);

/* The length of the head that begins at `text` (request line, fields and the empty line), or 0 if it
 * does not end within `length`. */
size_t line_head_length(const char *text, size_t length);

#endif
