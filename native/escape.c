/* Escaping, decoding and matching for the access log. See escape.h. */
#include "escape.h"

#include "chars.h"

/* By byte: what may stand as it is. */
static const uint8_t SAFE[256] = {
    [' '] = 1 << ESCAPE_WORDS,
    ['!'] = 3,
    ['#' ... '['] = 3,
    [']' ... '~'] = 3,
};

static inline bool
is_safe(Py_UCS4 c, EscapeKind kind)
{
    return c < 256 && SAFE[c] >> kind & 1;
}

static char *
put_escape(char *to, Py_UCS4 c, bool json)
{
    static const char digits[] = "0123456789abcdef";
    int count = c < 0x100 ? 2 : c < 0x10000 ? 4 : 8;
    if (json)
        *to++ = '\\';
    *to++ = '\\';
    *to++ = count == 2 ? 'x' : count == 4 ? 'u' : 'U';
    for (int shift = 4 * (count - 1); shift >= 0; shift -= 4)
        *to++ = digits[c >> shift & 15];
    return to;
}

char *
escape_bytes(char *to, const char *from, size_t length, EscapeKind kind, bool json)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)from[i];
        if (LIKELY(SAFE[c] >> kind & 1))
            *to++ = (char)c;
        else
            to = put_escape(to, c, json);
    }
    return to;
}

char *
escape_text(char *to, PyObject *text, EscapeKind kind, bool json)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(text);
    int width = PyUnicode_KIND(text);
    const void *data = PyUnicode_DATA(text);
    for (Py_ssize_t i = 0; i < length; i++) {
        Py_UCS4 c = PyUnicode_READ(width, data, i);
        if (LIKELY(is_safe(c, kind)))
            *to++ = (char)c;
        else
            to = put_escape(to, c, json);
    }
    return to;
}

/* RFC 4648 §4: the six bits of a digit, or -1. */
static int
base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

Py_ssize_t
escape_basic_user(const char *credentials, size_t length, char *to, size_t room)
{
    if (length < 7 || !chars_equal_lower(credentials, "basic ", 6))
        return -1;
    size_t at = 6;
    while (at < length && credentials[at] == ' ')
        at++;
    unsigned bits = 0;
    int held = 0;
    size_t count = 0;
    for (; at < length; at++) {
        int six = base64_digit(credentials[at]);
        if (six < 0)
            return -1; /* padding before a colon came: there is no password, so these are no credentials */
        bits = (bits << 6 | (unsigned)six) & 0xffff;
        held += 6;
        if (held < 8)
            continue;
        held -= 8;
        char byte = (char)(bits >> held & 0xff);
        if (byte == ':')
            return (Py_ssize_t)count;
        if (count == room)
            return -1;
        to[count++] = byte;
    }
    return -1;
}

bool
escape_glob(const char *glob, size_t glob_length, const char *text, size_t length)
{
    size_t g = 0, t = 0;
    size_t star = SIZE_MAX, resume = 0; /* behind the last *, and where it is tried to end next */
    while (t < length) {
        if (g < glob_length && glob[g] == '*') {
            star = ++g;
            resume = t;
        }
        else if (g < glob_length && (glob[g] == '?' || glob[g] == text[t])) {
            g++;
            t++;
        }
        else if (star != SIZE_MAX) {
            g = star;
            t = ++resume;
        }
        else {
            return false;
        }
    }
    while (g < glob_length && glob[g] == '*')
        g++;
    return g == glob_length;
}
