/* Character classes of HTTP. Pure functions over the caller's bytes: nothing is owned, nothing is kept. */
#include "chars.h"

#include <string.h>

/* RFC 9110 §5.6.2: tchar. One bit a character, four 64-bit words. */
static const uint64_t TCHAR[4] = {
    /* ! # $ % & ' * + - . and 0-9 */
    0x03ff6cfa00000000ull,
    /* A-Z ^ _ ` a-z | ~ */
    0x57ffffffc7fffffeull,
    0,
    0,
};

static inline bool
is_tchar(unsigned char c)
{
    return (TCHAR[c >> 6] >> (c & 63)) & 1;
}

bool
chars_is_token(const char *text, size_t length)
{
    if (length == 0)
        return false;
    for (size_t i = 0; i < length; i++)
        if (!is_tchar((unsigned char)text[i]))
            return false;
    return true;
}

bool
chars_is_field_value(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return false;
    }
    return true;
}

static inline char
lower(char c)
{
    return (c >= 'A' && c <= 'Z') ? (char)(c | 0x20) : c;
}

bool
chars_equal_lower(const char *text, const char *lower_text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (lower(text[i]) != lower_text[i])
            return false;
    return true;
}

void
chars_lower(char *to, const char *from, size_t length)
{
    for (size_t i = 0; i < length; i++)
        to[i] = lower(from[i]);
}

int64_t
chars_content_length(const char *text, size_t length)
{
    const int64_t limit = (int64_t)1 << 62;
    int64_t number = 0;
    if (length == 0)
        return -1;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        int digit = text[i] - '0';
        if (number > (limit - digit) / 10)
            return -1;
        number = number * 10 + digit;
    }
    return number;
}

static inline bool
is_ows(char c)
{
    return c == ' ' || c == '\t';
}

bool
chars_list_has(const char *text, size_t length, const char *lower_text)
{
    size_t want = strlen(lower_text);
    const char *end = text + length;
    while (text < end) {
        const char *comma = memchr(text, ',', (size_t)(end - text));
        const char *stop = comma ? comma : end;
        const char *last = stop;
        while (text < last && is_ows(*text))
            text++;
        while (last > text && is_ows(last[-1]))
            last--;
        if ((size_t)(last - text) == want && chars_equal_lower(text, lower_text, want))
            return true;
        if (comma == NULL)
            break;
        text = comma + 1;
    }
    return false;
}

static inline int
hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = lower(c);
    return (c >= 'a' && c <= 'f') ? c - 'a' + 10 : -1;
}

size_t
chars_percent_decode(char *to, const char *from, size_t length)
{
    size_t written = 0;
    for (size_t i = 0; i < length; i++) {
        if (from[i] == '%' && length - i > 2) {
            int high = hex_value(from[i + 1]);
            int low = hex_value(from[i + 2]);
            if (high >= 0 && low >= 0) {
                to[written++] = (char)(high * 16 + low);
                i += 2;
                continue;
            }
        }
        to[written++] = from[i];
    }
    return written;
}

static char *
put_base(char *to, uint64_t number, unsigned base)
{
    char digits[20];
    int count = 0;
    do {
        digits[count++] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number > 0);
    while (count > 0)
        *to++ = digits[--count];
    return to;
}

char *
chars_put_decimal(char *to, uint64_t number)
{
    return put_base(to, number, 10);
}

char *
chars_put_hex(char *to, uint64_t number)
{
    return put_base(to, number, 16);
}
