/* A look at a request line that httptools has already accepted. See line.h for why. */
#define _GNU_SOURCE /* memmem */
#include "line.h"

#include <string.h>

bool
line_peek(const char *text, size_t length, RequestLine *line)
{
    static const char TAIL[] = " HTTP/1.1\r\n";
    const size_t tail = sizeof(TAIL) - 1;
    const char *end = memchr(text, '\n', length);
    if (end == NULL)
        return false;
    size_t line_length = (size_t)(end - text) + 1;
    if (line_length <= tail || memcmp(end + 1 - tail, TAIL, tail) != 0)
        return false;
    const char *space = memchr(text, ' ', line_length - tail);
    if (space == NULL || space == text)
        return false;
    line->method_length = (size_t)(space - text);
    line->line_length = line_length;
    return true;
}

size_t
line_head_length(const char *text, size_t length)
{
    const char *end = memmem(text, length, "\r\n\r\n", 4);
    return end == NULL ? 0 : (size_t)(end - text) + 4;
}
