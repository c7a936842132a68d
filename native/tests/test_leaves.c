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
    "GET / HTTP/1.1\r\n", "GET  / HTTP/1.1\r\n", " GET / HTTP/1.1\r\n", "GET HTTP/1.1\r\n", " HTTP/1.1\r\n",
    "GET / HTTP/1.0\r\n", "GET / HTTP/1.1\n", "G / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "\r\n\r\n", "\r\n\r", "a\r\n\r\n\r\n", "X\nGET / HTTP/1.1\r\n",
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
    static const char ALPHABET[] = "aZ09 %,\t\r\n/:-.\0\x7f\x80\xff";
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
    const char *text = "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n";
    MUST(line_peek(text, strlen(text), &line));
    MUST(line.method_length == 7 && line.line_length == 20);
    MUST(line_head_length(text, strlen(text)) == strlen(text));
    MUST(!line_peek("GET HTTP/1.1\r\n", 14, &line) || line.method_length == 3);
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
