/* The WebSocket leaves on chosen inputs: every length, alignment, header and cut, ending at a guard page. */
#include "../ws_frame.h"
#include "../ws_mask.h"
#include "guard.h"
#include "leaves.h"

#include <stdio.h>
#include <string.h>

/* Payloads: beyond several vectors and every tail. */
#define LONGEST 300
#define ALIGNMENTS 16

static const unsigned char KEYS[][4] = {
    {0, 0, 0, 0}, {0x37, 0xfa, 0x21, 0x3d}, {0xff, 0xff, 0xff, 0xff}, {0x80, 0, 0, 0}, {0, 0, 0, 0x80}, {1, 2, 3, 4},
};
#define KEY_COUNT (sizeof(KEYS) / sizeof(KEYS[0]))

static void
put_payload(char *masked, const char *plain, size_t length, const unsigned char key[4])
{
    for (size_t i = 0; i < length; i++)
        masked[i] = (char)((unsigned char)plain[i] ^ key[i % 4]);
}

/* Every length with every key, each ending at a guard page: any alignment of its beginning. */
static void
check_lengths(void)
{
    char plain[LONGEST], masked[LONGEST];
    for (size_t i = 0; i < LONGEST; i++)
        plain[i] = (char)(i * 37 & 0x7f);
    for (size_t length = 0; length <= LONGEST; length++)
        for (size_t k = 0; k < KEY_COUNT; k++) {
            put_payload(masked, plain, length, KEYS[k]);
            Guarded guarded = guard_copy(masked, length);
            leaves_check_ws_mask(guarded.text, length, KEYS[k]);
            guard_free(&guarded);
        }
}

/* Every length at every alignment of both sides; nothing beside it is written, and nothing of it is left out. */
static void
check_alignments(void)
{
    static const unsigned char KEY[4] = {0x11, 0xa2, 0x33, 0xc4};
    _Alignas(16) char from[ALIGNMENTS + LONGEST];
    _Alignas(16) char to[ALIGNMENTS + LONGEST + ALIGNMENTS];
    for (size_t i = 0; i < sizeof(from); i++)
        from[i] = (char)(i * 151);
    for (size_t length = 0; length <= LONGEST; length++)
        for (size_t at = 0; at < (size_t)ALIGNMENTS * ALIGNMENTS; at++) {
            size_t in = at / ALIGNMENTS, out = at % ALIGNMENTS;
            bool ascii = true;
            memset(to, 0x5a, sizeof(to));
            bool told = ws_unmask(to + out, from + in, length, KEY);
            for (size_t i = 0; i < sizeof(to); i++) {
                bool inside = i >= out && i < out + length;
                unsigned char wanted = inside ? (unsigned char)from[in + i - out] ^ KEY[(i - out) % 4] : 0x5a;
                ascii = ascii && wanted < 128;
                MUST((unsigned char)to[i] == wanted);
            }
            MUST(told == ascii);
        }
}

/* One byte that is not ASCII, at each place of each length. */
static void
check_every_place(void)
{
    char plain[LONGEST], masked[LONGEST], out[LONGEST];
    memset(plain, 'a', sizeof(plain));
    for (size_t k = 0; k < KEY_COUNT; k++)
        for (size_t length = 0; length <= LONGEST; length++) {
            put_payload(masked, plain, length, KEYS[k]);
            MUST(ws_unmask(out, masked, length, KEYS[k]));
            for (size_t at = 0; at < length; at++) {
                masked[at] = (char)((unsigned char)masked[at] ^ 0x80);
                MUST(!ws_unmask(out, masked, length, KEYS[k]));
                MUST((unsigned char)out[at] == ('a' | 0x80) && (at == 0 || out[at - 1] == 'a'));
                masked[at] = (char)((unsigned char)masked[at] ^ 0x80);
            }
        }
}

/* Every byte at each place of a length that has vectors and every tail (32 + 8 + 4 + 3). */
static void
check_every_byte(void)
{
    char plain[47], masked[47], out[47];
    for (size_t at = 0; at < sizeof(plain); at++)
        for (int c = 0; c < 256; c++) {
            memset(plain, 0x7f, sizeof(plain));
            plain[at] = (char)c;
            put_payload(masked, plain, sizeof(plain), KEYS[1]);
            MUST(ws_unmask(out, masked, sizeof(plain), KEYS[1]) == (c < 128));
            MUST(memcmp(out, plain, sizeof(plain)) == 0);
        }
}

/* Every first and every second byte, with different numbers behind them. */
static void
check_headers(void)
{
    static const char *const BEHIND[] = {
        "\0\0\0\0\0\0\0\0\0\0\0\0", "\0\x7d....abcdef", "\0\x7e....abcdef", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        "\0\0\0\0\0\0\xff\xff\1\2\3\4", "\0\0\0\0\0\1\0\0\1\2\3\4", "\x7f\xff\xff\xff\xff\xff\xff\xff\1\2\3\4",
        "\x80\0\0\0\0\0\0\0\1\2\3\4",
    };
    char text[2 + 12];
    for (size_t b = 0; b < sizeof(BEHIND) / sizeof(BEHIND[0]); b++)
        for (int first = 0; first < 256; first++)
            for (int second = 0; second < 256; second++) {
                bool edge = (second & 0x7f) < 2 || (second & 0x7f) > 124;
                if (first != 0x81 && !(edge && (b == 0 || first % 17 == 1)))
                    continue; /* like its neighbours */
                text[0] = (char)first;
                text[1] = (char)second;
                memcpy(text + 2, BEHIND[b], 12);
                leaves_check_ws_frame(text, sizeof(text));
            }
}

/* A length with a header of ours, at each edge of its three forms. */
static void
check_put(void)
{
    static const struct {
        uint64_t length;
        size_t header_bytes;
        const char *header;
    } HEADERS[] = {
        {0, 2, "\x81\0"}, {1, 2, "\x81\1"}, {125, 2, "\x81\x7d"},
        {126, 4, "\x81\x7e\0\x7e"}, {127, 4, "\x81\x7e\0\x7f"}, {256, 4, "\x81\x7e\1\0"}, {65535, 4, "\x81\x7e\xff\xff"},
        {65536, 10, "\x81\x7f\0\0\0\0\0\1\0\0"}, {UINT64_C(0x123456789abc), 10, "\x81\x7f\0\0\x12\x34\x56\x78\x9a\xbc"},
        {INT64_MAX, 10, "\x81\x7f\x7f\xff\xff\xff\xff\xff\xff\xff"},
    };
    for (size_t i = 0; i < sizeof(HEADERS) / sizeof(HEADERS[0]); i++) {
        Guarded room = guard_room(HEADERS[i].header_bytes);
        char *end = ws_put_header(room.text, WS_TEXT, HEADERS[i].length);
        MUST(end == room.text + HEADERS[i].header_bytes);
        MUST(memcmp(room.text, HEADERS[i].header, HEADERS[i].header_bytes) == 0);
        leaves_check_ws_frame(room.text, HEADERS[i].header_bytes);
        end = ws_put_header(room.text, WS_PONG, HEADERS[i].length);
        MUST((unsigned char)room.text[0] == 0x8a && end == room.text + HEADERS[i].header_bytes);
        guard_free(&room);
    }
}

/* The examples of RFC 6455 §5.7. */
static void
check_examples(void)
{
    static const char MASKED[] = "\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    char plain[5];
    WsFrame frame;
    MUST(ws_read_header(MASKED, 11, &frame) == 6 && frame.fin && frame.masked && frame.minimal && frame.rsv == 0);
    MUST(frame.opcode == WS_TEXT && frame.length == 5 && memcmp(frame.key, MASKED + 2, 4) == 0);
    MUST(ws_unmask(plain, MASKED + 6, 5, frame.key) && memcmp(plain, "Hello", 5) == 0);
    MUST(ws_read_header("\x81\x05Hello", 7, &frame) == 2 && !frame.masked && frame.length == 5);
    MUST(ws_read_header("\x01\x03Hel", 5, &frame) == 2 && !frame.fin && frame.opcode == WS_TEXT);
    MUST(ws_read_header("\x80\x02lo", 4, &frame) == 2 && frame.fin && frame.opcode == WS_CONTINUATION);
    MUST(ws_read_header("\x82\x7e\x01\x00", 4, &frame) == 4 && frame.opcode == WS_BINARY && frame.length == 256);
    MUST(ws_read_header("\x82\x7f\0\0\0\0\0\1\0\0", 10, &frame) == 10 && frame.length == 65536);
    MUST(!ws_is_control(WS_CONTINUATION) && !ws_is_control(WS_TEXT) && !ws_is_control(WS_BINARY));
    MUST(ws_is_control(WS_CLOSE) && ws_is_control(WS_PING) && ws_is_control(WS_PONG));
}

int
main(void)
{
    check_examples();
    check_put();
    check_headers();
    check_lengths();
    check_alignments();
    check_every_place();
    check_every_byte();
    puts("ws leaves: ok");
    return 0;
}
