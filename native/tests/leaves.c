/* See leaves.h. The models below are slow and obvious on purpose. */
#define _GNU_SOURCE /* strncasecmp */
#include "leaves.h"

#include "../chars.h"
#include "../line.h"
#include "guard.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void
leaves_must(int condition, const char *text, const char *file, int line)
{
    if (condition)
        return;
    fprintf(stderr, "%s:%d: broken: %s\n", file, line, text);
    abort();
}

/* ---- models ---- */

static bool
model_is_token(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == 0 || c > 126 || !(isalnum(c) || strchr("!#$%&'*+-.^_`|~", c) != NULL))
            return false;
    }
    return length > 0;
}

static bool
model_is_field_value(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c != '\t' && (c < 32 || c == 127))
            return false;
    }
    return true;
}

static int64_t
model_content_length(const char *text, size_t length)
{
    /* 2^62 has 19 digits; leading zeros are legal. */
    while (length > 1 && text[0] == '0' && isdigit((unsigned char)text[1])) {
        text++;
        length--;
    }
    char digits[21] = {0};
    if (length == 0 || length > 20)
        return -1;
    for (size_t i = 0; i < length; i++)
        if (text[i] < '0' || text[i] > '9')
            return -1;
    memcpy(digits, text, length);
    if (length == 20)
        return -1;
    uint64_t number = strtoull(digits, NULL, 10);
    return number <= (uint64_t)1 << 62 ? (int64_t)number : -1;
}

static bool
model_list_has(const char *text, size_t length, const char *lower)
{
    size_t begin = 0;
    while (begin <= length) {
        size_t end = begin;
        while (end < length && text[end] != ',')
            end++;
        size_t from = begin, to = end;
        while (from < to && (text[from] == ' ' || text[from] == '\t'))
            from++;
        while (to > from && (text[to - 1] == ' ' || text[to - 1] == '\t'))
            to--;
        bool same = to - from == strlen(lower);
        for (size_t i = 0; same && i < to - from; i++) {
            char c = text[from + i];
            same = (c >= 'A' && c <= 'Z' ? c + 32 : c) == lower[i];
        }
        if (same)
            return true;
        begin = end + 1;
    }
    return false;
}

static int
model_hex(char c)
{
    const char *all = "0123456789abcdefABCDEF";
    const char *at = c == 0 ? NULL : strchr(all, c);
    return at == NULL ? -1 : at - all < 16 ? (int)(at - all) : (int)(at - all) - 6;
}

/* RFC 3986 §2.3 and §2.2: unreserved and sub-delims. */
static bool
model_is_name_char(char c)
{
    return c != 0 && (unsigned char)c < 127 && (isalnum((unsigned char)c) || strchr("-._~!$&'()*+,;=", c) != NULL);
}

/* What stands in the brackets of RFC 3986's IP-literal; inet_pton() knows IPv6 addresses. */
static bool
model_is_literal(const char *text, size_t length)
{
    char address[64] = {0};
    unsigned char bytes[16];
    if (length > 0 && (text[0] == 'v' || text[0] == 'V')) {
        size_t at = 1;
        while (at < length && model_hex(text[at]) >= 0)
            at++;
        if (at == 1 || at + 1 >= length || text[at++] != '.')
            return false;
        while (at < length && (model_is_name_char(text[at]) || text[at] == ':'))
            at++;
        return at == length;
    }
    if (length >= sizeof(address) || memchr(text, 0, length) != NULL)
        return false;
    memcpy(address, text, length);
    return inet_pton(AF_INET6, address, bytes) == 1;
}

static bool
model_is_host(const char *text, size_t length)
{
    size_t at = 0;
    if (length == 0)
        return true;
    if (text[0] == '[') {
        const char *end = memchr(text, ']', length);
        if (end == NULL || !model_is_literal(text + 1, (size_t)(end - text) - 1))
            return false;
        at = (size_t)(end - text) + 1;
    }
    else {
        while (at < length && text[at] != ':') {
            bool encoded = text[at] == '%' && length - at > 2 && model_hex(text[at + 1]) >= 0 && model_hex(text[at + 2]) >= 0;
            if (!encoded && !model_is_name_char(text[at]))
                return false;
            at += encoded ? 3 : 1;
        }
        if (at == 0)
            return false;
    }
    if (at < length && text[at++] != ':')
        return false;
    for (; at < length; at++)
        if (!isdigit((unsigned char)text[at]))
            return false;
    return true;
}

/* The first word of a line, of which no more than one byte beyond the longest method is looked at. 0, or the status. */
static int
model_method(const char *text, size_t length, size_t *method)
{
    *method = 0;
    while (*method < length && text[*method] != ' ' && *method <= LINE_METHOD_BYTES)
        ++*method;
    if (*method == 0)
        return length == 0 ? 0 : 400;
    if (!model_is_token(text, *method))
        return 400;
    return *method > LINE_METHOD_BYTES ? 501 : 0;
}

static int
model_line(const char *text, size_t length, RequestLine *line)
{
    char copy[4097] = {0}, target[4097], version[4097], rest;
    int status = model_method(text, length, &line->method_length);
    if (status != 0)
        return status;
    if (line->method_length == length)
        return 400;
    for (size_t i = 0; i < length && i + 1 < sizeof(copy); i++) {
        bool other_space = isspace((unsigned char)text[i]) && text[i] != ' ';
        copy[i] = text[i] == 0 || other_space ? 'x' : text[i]; /* they would end a word of sscanf() */
    }
    char *last = strrchr(copy, ' ');
    int major, minor;
    if (strlen(last) != 9 || sscanf(last, " HTTP/%1d.%1d%c", &major, &minor, &rest) != 2)
        return 400;
    if (last == copy + line->method_length)
        return 400; /* two words */
    if (major != 1 || minor > 1)
        return 505;
    line->version_10 = minor == 0;
    if (strncmp(copy, "CONNECT ", 8) == 0)
        return 501;
    line->target_length = length - 9 - line->method_length - 1;
    if (sscanf(copy, "%*s %4096s %4096s%c", target, version, &rest) != 2 || strlen(target) != line->target_length ||
        strncmp(version, "HTTP/", 5) != 0 || strchr(target, '#') != NULL)
        return 400;
    if (target[0] == '/' || (strcmp(target, "*") == 0 && strncmp(copy, "OPTIONS ", 8) == 0))
        return 0;
    return (strncasecmp(target, "http://", 7) == 0 && target[7] != 0) ||
                   (strncasecmp(target, "https://", 8) == 0 && target[8] != 0)
               ? 0
               : 400;
}

/* ---- checks ---- */

static void
check_copies(const char *text, size_t length)
{
    Guarded lower = guard_room(length);
    Guarded decoded = guard_room(length);
    chars_lower(lower.text, text, length);
    for (size_t i = 0; i < length; i++)
        MUST(lower.text[i] == (text[i] >= 'A' && text[i] <= 'Z' ? text[i] + 32 : text[i]));
    MUST(chars_equal_lower(text, lower.text, length));
    size_t written = chars_percent_decode(decoded.text, text, length);
    size_t at = 0;
    for (size_t i = 0; i < length; i++, at++) {
        char wanted = text[i];
        if (text[i] == '%' && i + 2 < length && model_hex(text[i + 1]) >= 0 && model_hex(text[i + 2]) >= 0) {
            wanted = (char)(model_hex(text[i + 1]) * 16 + model_hex(text[i + 2]));
            i += 2;
        }
        MUST(at < written && decoded.text[at] == wanted);
    }
    MUST(at == written);
    guard_free(&lower);
    guard_free(&decoded);
}

static void
check_numbers(const char *text, size_t length)
{
    uint64_t number = 0;
    memcpy(&number, text, length < sizeof(number) ? length : sizeof(number));
    char wanted[32];
    Guarded room = guard_room(20);
    char *end = chars_put_decimal(room.text, number);
    MUST(snprintf(wanted, sizeof(wanted), "%" PRIu64, number) == end - room.text);
    MUST(memcmp(room.text, wanted, (size_t)(end - room.text)) == 0);
    end = chars_put_hex(room.text, number);
    MUST(snprintf(wanted, sizeof(wanted), "%" PRIx64, number) == end - room.text);
    MUST(memcmp(room.text, wanted, (size_t)(end - room.text)) == 0);
    guard_free(&room);
}

void
leaves_check_chars(const char *text, size_t length)
{
    static const char *const MEMBERS[] = {"close", "keep-alive", "upgrade", "chunked", "x", ""};
    MUST(chars_is_token(text, length) == model_is_token(text, length));
    MUST(chars_is_field_value(text, length) == model_is_field_value(text, length));
    MUST(chars_content_length(text, length) == model_content_length(text, length));
    for (size_t i = 0; i + 1 < sizeof(MEMBERS) / sizeof(MEMBERS[0]); i++)
        MUST(chars_list_has(text, length, MEMBERS[i]) == model_list_has(text, length, MEMBERS[i]));
    MUST(chars_is_host(text, length) == model_is_host(text, length));
    check_copies(text, length);
    check_numbers(text, length);
}

static void
check_request_line(const char *text, size_t length)
{
    static const char *const METHODS[] = {
#define X(name) #name,
        LINE_METHODS(X)
#undef X
    };
    RequestLine line = {0}, wanted = {0};
    int status = line_check(text, length, &line);
    MUST(status == model_line(text, length, &wanted));
    if (status != 0)
        return;
    MUST(line.method_length == wanted.method_length && line.target_length == wanted.target_length);
    MUST(line.version_10 == wanted.version_10);
    for (size_t i = 0; i < LINE_OTHER; i++) {
        bool is = strlen(METHODS[i]) == line.method_length && memcmp(METHODS[i], text, line.method_length) == 0;
        MUST(is == (line.method == (LineMethod)i));
    }
}

/* What is told of a beginning is what will be told of the whole line. */
static void
check_beginnings(const char *text, size_t length)
{
    RequestLine line;
    int whole = line_check(text, length, &line);
    size_t method;
    for (size_t part = 0; part <= length && part <= LINE_METHOD_BYTES + 8; part++) {
        int status = line_may_begin(text, part);
        MUST(status == model_method(text, part, &method));
        MUST(status == 0 || status == whole);
    }
}

/* Fed in two reads, of which the first has `cut` bytes, behind `before` bytes of an end: the same as in one. */
static void
check_head_end(const char *text, size_t length, size_t cut, unsigned before, size_t wanted)
{
    unsigned matched = before;
    size_t found = line_head_end(text, cut, &matched);
    MUST(found <= cut && matched <= 3);
    if (found == 0) {
        found = line_head_end(text + cut, length - cut, &matched);
        MUST(found <= length - cut && matched <= 3);
        found = found == 0 ? 0 : cut + found;
    }
    MUST(found == wanted);
}

static void
check_head_ends(const char *text, size_t length)
{
    for (unsigned before = 0; before < 4; before++) {
        /* A plain search in the bytes before and these. */
        Guarded all = guard_room(length + before);
        memcpy(all.text, "\r\n\r", before);
        if (length > 0)
            memcpy(all.text + before, text, length);
        size_t wanted = 0;
        for (size_t i = 0; wanted == 0 && i + 4 <= length + before; i++)
            if (memcmp(all.text + i, "\r\n\r\n", 4) == 0)
                wanted = i + 4 - before;
        guard_free(&all);
        size_t step = 1 + length / 64;
        for (size_t cut = 0; cut <= length; cut += step)
            check_head_end(text, length, cut, before, wanted);
        check_head_end(text, length, length, before, wanted);
        unsigned matched = before;
        size_t at = 0;
        while (at < length && line_head_end(text + at, 1, &matched) == 0)
            at++;
        MUST(wanted == (at < length ? at + 1 : 0));
    }
}

void
leaves_check_line(const char *text, size_t length)
{
    check_request_line(text, length);
    check_beginnings(text, length);
    check_head_ends(text, length);
}
