/* The pure leaves on chosen inputs, each cut at every length and ending at a guard page. */
#include "../date.h"
#include "../chars.h"
#include "../line.h"
#include "guard.h"
#include "leaves.h"

#include <stdio.h>
#include <string.h>

static const char *const TEXTS[] = {
    "", "x", "close", "Close, keep-alive", " ,,\tCLOSE\t, x", "keep-alive , Upgrade", "closed", "clos", ",", ", ,",
    "0", "00", "007", "4611686018427387904", "4611686018427387905", "9223372036854775807", "9223372036854775808",
    "18446744073709551616", "99999999999999999999", "+1", "-1", " 1", "1 ", "1,1", "0x10",
    "%", "%4", "%41", "%zz", "%4g%", "a%2Fb%2f%", "%%41", "%E2%82%AC", "%00",
    "GET / HTTP/1.1", "GET  / HTTP/1.1", " GET / HTTP/1.1", "GET HTTP/1.1", " HTTP/1.1", "GET /  HTTP/1.1",
    "GET / HTTP/1.1 ", "GET / HTTP/1.0", "GET / HTTP/2.0", "GET / HTTP/0.9", "GET / HTTP/1.2", "GET / HTTP/1.10",
    "GET / http/1.1", "GET / ICE/1.0", "GET /\tHTTP/1.1", "GET\t/ HTTP/1.1", "GET /a b HTTP/1.1", "GET /#a HTTP/1.1",
    "get / HTTP/1.1", "FOO / HTTP/1.1", "M-SEARCH * HTTP/1.1", "OPTIONS * HTTP/1.1", "OPTIONS ** HTTP/1.1",
    "OPTIONSX * HTTP/1.1", "PATCH a HTTP/1.1", "CONNECT a:1 HTTP/1.1", "CONNECT / HTTP/1.1", "CONNECTED / HTTP/1.1",
    "GET http://a HTTP/1.1", "GET HTTPS://a/ HTTP/1.1", "GET http:// HTTP/1.1", "GET https:/a HTTP/1.1",
    "GET ftp://a HTTP/1.1", "G@T / HTTP/1.1", "G\rT / HTTP/1.1",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF / HTTP/1.1", "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGH", "G / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "\r\n\r\n", "\r\n\r", "a\r\n\r\n\r\n", "\r\r\n\r\r\n\r\n", "\r\n\n\r\n\r\n", "X\nGET / HTTP/1.1\r\n",
    "a", "a.b-c", "a:80", "a:", ":80", "a:80:80", "a:x", "a b", "a/b", "a@b", "a%2f", "a%2", "a%zz", "a_b~", "127.0.0.1:1",
    "[::1]", "[::1]:80", "[::1]:", "[::1]x", "[::1", "::1", "[]", "[1:2:3:4:5:6:7:8]", "[1:2:3:4:5:6:7:8:9]", "[1::2::3]",
    "[::1.2.3.4]", "[::1.2.3]", "[12345::]", "[:]", "[:::]", "[v1.a:b]", "[V1F.~]", "[v.a]", "[v1.]", "[v1a]", "[vg.a]",
};

static void
check(const char *text, size_t length)
{
    Guarded guarded = guard_copy(text, length);
    leaves_check_chars(guarded.text, length);
    leaves_check_line(guarded.text, length);
    guard_free(&guarded);
}

static void
check_texts(void)
{
    for (size_t i = 0; i < sizeof(TEXTS) / sizeof(TEXTS[0]); i++)
        for (size_t length = 0; length <= strlen(TEXTS[i]); length++)
            check(TEXTS[i], length);
}

/* Every byte alone, in front of and behind a letter. */
static void
check_bytes(void)
{
    for (int c = 0; c < 256; c++) {
        char text[3] = {'a', (char)c, 'a'};
        check(text, 2);
        check(text, 3);
        check(text + 1, 1);
        check(text + 1, 2);
        MUST(chars_is_token(text + 1, 1) == chars_is_token(text, 3));
    }
}

/* A small generator of our own: the same inputs everywhere. */
static unsigned
next_random(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static void
check_random(void)
{
    static const char ALPHABET[] = "aZ09 %,\t\r\n/:-.[]#*\0\x7f\x80\xff";
    unsigned seed = 20261123;
    for (int round = 0; round < 4000; round++) {
        char text[80];
        size_t length = next_random(&seed) % sizeof(text);
        for (size_t i = 0; i < length; i++)
            text[i] = ALPHABET[next_random(&seed) % (sizeof(ALPHABET) - 1)];
        check(text, length);
    }
}

static void
check_line_numbers(void)
{
    RequestLine line;
    const char *text = "OPTIONS * HTTP/1.0";
    MUST(line_check(text, strlen(text), &line) == 0);
    MUST(line.method == LINE_OPTIONS && line.method_length == 7 && line.target_length == 1 && line.version_10);
    text = "PROPFIND http://a/ HTTP/1.1";
    MUST(line_check(text, strlen(text), &line) == 0);
    MUST(line.method == LINE_OTHER && line.method_length == 8 && line.target_length == 9 && !line.version_10);
    MUST(line_check("GET / HTTP/2.0", 14, &line) == 505);
    MUST(line_check("CONNECT a:1 HTTP/1.1", 20, &line) == 501);
    MUST(line_check("GET HTTP/1.1", 12, &line) == 400);
}

static void
check_date(void)
{
    static const struct {
        time_t second;
        const char *line;
    } DATES[] = {
        {784111777, "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"},
        {0, "date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"},
        {951782400, "date: Tue, 29 Feb 2000 00:00:00 GMT\r\n"},
        {4102444799, "date: Thu, 31 Dec 2099 23:59:59 GMT\r\n"},
        {253402300799, "date: Fri, 31 Dec 9999 23:59:59 GMT\r\n"},
        {0, "date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"},
    };
    DateCache cache = {0};
    for (size_t i = 0; i < sizeof(DATES) / sizeof(DATES[0]); i++) {
        const char *line = date_line(&cache, DATES[i].second);
        MUST(strlen(line) == DATE_LINE_LENGTH);
        MUST(strcmp(line, DATES[i].line) == 0);
        MUST(date_line(&cache, DATES[i].second) == line);
    }
}

int
main(void)
{
    check_texts();
    check_bytes();
    check_random();
    check_line_numbers();
    check_date();
    puts("leaves: ok");
    return 0;
}
