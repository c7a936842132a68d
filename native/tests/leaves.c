/* See leaves.h. The models below are slow and obvious on purpose. */
#include "leaves.h"

#include "../chars.h"
#include "../line.h"
#include "guard.h"

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
    check_copies(text, length);
    check_numbers(text, length);
}

void
leaves_check_line(const char *text, size_t length)
{
    RequestLine line;
    if (line_peek(text, length, &line)) {
        MUST(line.method_length > 0 && line.line_length <= length);
        MUST(line.method_length + 1 + 11 <= line.line_length + 1);
        MUST(text[line.method_length] == ' ');
        MUST(memchr(text, ' ', line.method_length) == NULL);
        MUST(memchr(text, '\n', line.line_length - 1) == NULL);
        MUST(memcmp(text + line.line_length - 11, " HTTP/1.1\r\n", 11) == 0);
    }
    size_t head = line_head_length(text, length);
    size_t wanted = 0;
    for (size_t i = 0; wanted == 0 && i + 4 <= length; i++)
        if (memcmp(text + i, "\r\n\r\n", 4) == 0)
            wanted = i + 4;
    MUST(head == wanted);
}
