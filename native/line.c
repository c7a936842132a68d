/* The request line and the end of a head. See line.h for why. */
#define _GNU_SOURCE /* memmem */
#include "line.h"

#include "chars.h"

#include <string.h>

/* " HTTP/1.1" */
#define VERSION_BYTES 9

/* The method's length, 0 if `text` has no space within reach and may still get one, or minus the status. */
static int
method_end(const char *text, size_t length)
{
    size_t reach = length < LINE_METHOD_BYTES + 1 ? length : LINE_METHOD_BYTES + 1;
    const char *space = memchr(text, ' ', reach);
    size_t method = space == NULL ? reach : (size_t)(space - text);
    if (method > 0 && !chars_is_token(text, method))
        return -400;
    if (space == NULL)
        return reach > LINE_METHOD_BYTES ? -501 : 0;
    return method == 0 ? -400 : (int)method;
}

int
line_may_begin(const char *text, size_t length)
{
    int end = method_end(text, length);
    return end < 0 ? -end : 0;
}

LineMethod
line_method(const char *text, size_t length)
{
#define X(name)                                                                                                        \
    if (length == sizeof(#name) - 1 && memcmp(text, #name, sizeof(#name) - 1) == 0)                                   \
        return LINE_##name;
    LINE_METHODS(X)
#undef X
    return LINE_OTHER;
}

/* RFC 9112 §2.3. 0 and *version_10, or the status. */
static int
check_version(const char *text, bool *version_10)
{
    if (memcmp(text, " HTTP/", 6) != 0 || text[6] < '0' || text[6] > '9' || text[7] != '.' || text[8] < '0' || text[8] > '9')
        return 400;
    if (text[6] != '1' || text[8] > '1')
        return 505;
    *version_10 = text[8] == '0';
    return 0;
}

/* RFC 9112 §3.2, as far as it is about the form; which characters a URI may have is httptools' to say. */
bool
line_is_target(const char *text, size_t length, LineMethod method)
{
    if (length == 0 || memchr(text, ' ', length) != NULL || memchr(text, '#', length) != NULL)
        return false;
    if (text[0] == '/')
        return true;
    if (text[0] == '*')
        return length == 1 && method == LINE_OPTIONS;
    return (length > 7 && chars_equal_lower(text, "http://", 7)) || (length > 8 && chars_equal_lower(text, "https://", 8));
}

int
line_check(const char *text, size_t length, RequestLine *line)
{
    int method = method_end(text, length);
    if (method <= 0)
        return method == 0 ? 400 : -method;
    if (length < (size_t)method + 1 + VERSION_BYTES)
        return 400;
    int status = check_version(text + length - VERSION_BYTES, &line->version_10);
    if (status != 0)
        return status;
    if (method == 7 && memcmp(text, "CONNECT", 7) == 0)
        return 501; /* RFC 9110 §9.3.6: we are no proxy */
    line->method = line_method(text, (size_t)method);
    line->method_length = (size_t)method;
    line->target_length = length - VERSION_BYTES - (size_t)method - 1;
    return line_is_target(text + method + 1, line->target_length, line->method) ? 0 : 400;
}

size_t
line_head_end(const char *text, size_t length, unsigned *matched)
{
    static const char END[] = "\r\n\r\n";
    size_t at = 0;
    while (*matched > 0 && at < length) {
        if (text[at] == END[*matched]) {
            at++;
            if (++*matched == 4) {
                *matched = 0;
                return at;
            }
        }
        else {
            *matched = text[at] == '\r';
            at += *matched;
        }
    }
    const char *end = at < length ? memmem(text + at, length - at, END, 4) : NULL;
    if (end != NULL)
        return (size_t)(end - text) + 4;
    for (unsigned part = 3; part > 0 && *matched == 0; part--)
        if (length - at >= part && memcmp(text + length - part, END, part) == 0)
            *matched = part;
    return 0;
}
