/* Character classes of HTTP. Pure functions over the caller's bytes: nothing is owned, nothing is kept. */
#include "chars.h"

#include <arpa/inet.h>
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

static inline int
hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = lower(c);
    return (c >= 'a' && c <= 'f') ? c - 'a' + 10 : -1;
}

/* RFC 3986 §2.3 unreserved and §2.2 sub-delims: what a host name is made of. */
static const uint64_t NAME_CHAR[4] = {0x2bff7fd200000000ull, 0x47fffffe87fffffeull, 0, 0};

static inline bool
is_name_char(char c)
{
    unsigned char code = (unsigned char)c;
    return (NAME_CHAR[code >> 6] >> (code & 63)) & 1;
}

/* RFC 3986 §3.2.2: IPv6address. */
static bool
is_ipv6(const char *text, size_t length)
{
    char address[INET6_ADDRSTRLEN];
    struct in6_addr parsed;
    if (length >= sizeof(address) || memchr(text, '\0', length) != NULL)
        return false;
    memcpy(address, text, length);
    address[length] = '\0';
    return inet_pton(AF_INET6, address, &parsed) == 1;
}

/* RFC 3986 §3.2.2: IPvFuture = "v" 1*HEXDIG "." 1*( unreserved / sub-delims / ":" ). */
static bool
is_ip_future(const char *text, size_t length)
{
    size_t at = 1;
    if (length == 0 || lower(text[0]) != 'v')
        return false;
    while (at < length && hex_value(text[at]) >= 0)
        at++;
    if (at == 1 || at + 1 >= length || text[at++] != '.')
        return false;
    while (at < length && (is_name_char(text[at]) || text[at] == ':'))
        at++;
    return at == length;
}

/* The length of the IP-literal at the start of `text`, with its brackets; 0: there is none. */
static size_t
ip_literal(const char *text, size_t length)
{
    const char *end = memchr(text, ']', length);
    if (end == NULL)
        return 0;
    size_t inside = (size_t)(end - text) - 1;
    return is_ipv6(text + 1, inside) || is_ip_future(text + 1, inside) ? inside + 2 : 0;
}

/* The length of the reg-name (or IPv4 address) at the start of `text`. */
static size_t
reg_name(const char *text, size_t length)
{
    size_t at = 0;
    while (at < length) {
        if (is_name_char(text[at]))
            at++;
        else if (text[at] == '%' && length - at > 2 && hex_value(text[at + 1]) >= 0 && hex_value(text[at + 2]) >= 0)
            at += 3;
        else
            break;
    }
    return at;
}

bool
chars_is_host(const char *text, size_t length)
{
    if (length == 0)
        return true; /* RFC 9110 §7.2: of a target that has no authority */
    size_t at = text[0] == '[' ? ip_literal(text, length) : reg_name(text, length);
    if (at == 0 || (at < length && text[at++] != ':'))
        return false;
    while (at < length && text[at] >= '0' && text[at] <= '9')
        at++;
    return at == length;
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
