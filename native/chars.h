/* Character classes of HTTP, as pure functions. No Python.h: this leaf is fuzzed alone. */
#ifndef SHARDSERVE_CHARS_H
#define SHARDSERVE_CHARS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* RFC 9110 §5.6.2: token = 1*tchar. False for an empty name. */
bool chars_is_token(const char *text, size_t length);

/* RFC 9110 §5.5: field-value without CR, LF, NUL or another control character but HTAB. */
bool chars_is_field_value(const char *text, size_t length);

/* Compares without regard to ASCII case. `lower` must be lower case, `length` bytes long. */
bool chars_equal_lower(const char *text, const char *lower, size_t length);

/* Copies `length` bytes, A-Z as a-z. */
void chars_lower(char *to, const char *from, size_t length);

/* RFC 9110 §8.6: Content-Length = 1*DIGIT. Returns the number, or -1 if it is none or above 2^62. */
int64_t chars_content_length(const char *text, size_t length);

/* RFC 9110 §7.2: Host = uri-host [ ":" port ] (RFC 3986 §3.2.2, §3.2.3), or empty. No userinfo. */
bool chars_is_host(const char *text, size_t length);

/* RFC 9110 §5.6.1: whether the comma-separated list `text` has the member `lower` (any case). */
bool chars_list_has(const char *text, size_t length, const char *lower);

/* RFC 3986 §2.1: decodes %XX. `to` has room for `length` bytes. Returns the bytes written. A % that
 * two hex digits do not follow stays as it is. */
size_t chars_percent_decode(char *to, const char *from, size_t length);

/* Writes `number` in decimal (or lower-case hex) at `to`, which has room for 20 bytes. Returns the end. */
char *chars_put_decimal(char *to, uint64_t number);
char *chars_put_hex(char *to, uint64_t number);

#endif
