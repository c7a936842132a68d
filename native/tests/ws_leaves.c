/* The WebSocket leaves: see leaves.h. The models read bit by bit and byte by byte. */
#include "leaves.h"

#include "../ws_frame.h"
#include "../ws_mask.h"
#include "guard.h"

#include <string.h>

/* Before what is written: must stay as it is. */
#define MARGIN 32
#define MARK 0x5a

/* ---- ws_frame.h ---- */

/* The next `count` bits of a header, the highest first. False: the text is over. */
static bool
model_bits(const char *text, size_t available, size_t *bit, int count, uint64_t *number)
{
    *number = 0;
    for (int i = 0; i < count; i++, ++*bit) {
        if (*bit / 8 >= available)
            return false;
        *number = *number * 2 + ((unsigned char)text[*bit / 8] >> (7 - *bit % 8) & 1u);
    }
    return true;
}

/* RFC 6455 §5.2, from the first bit to the last. The header's length, or 0: more must come. */
static size_t
model_header(const char *text, size_t available, WsFrame *frame)
{
    uint64_t fin, rsv, opcode, masked, length, byte;
    size_t bit = 0;
    if (!model_bits(text, available, &bit, 1, &fin) || !model_bits(text, available, &bit, 3, &rsv) ||
        !model_bits(text, available, &bit, 4, &opcode) || !model_bits(text, available, &bit, 1, &masked) ||
        !model_bits(text, available, &bit, 7, &length))
        return 0;
    bool minimal = true;
    if (length == 126) {
        if (!model_bits(text, available, &bit, 16, &length))
            return 0;
        minimal = length > 125;
    }
    else if (length == 127) {
        if (!model_bits(text, available, &bit, 64, &length))
            return 0;
        minimal = length > 65535 && length >> 63 == 0;
    }
    *frame = (WsFrame){.fin = fin == 1, .rsv = (uint8_t)rsv, .opcode = (uint8_t)opcode, .masked = masked == 1};
    frame->length = length;
    frame->minimal = minimal;
    for (int i = 0; frame->masked && i < 4; i++) {
        if (!model_bits(text, available, &bit, 8, &byte))
            return 0;
        frame->key[i] = (uint8_t)byte;
    }
    frame->header_bytes = (uint8_t)(bit / 8);
    return bit / 8;
}

static void
check_same(const WsFrame *frame, const WsFrame *wanted)
{
    MUST(frame->length == wanted->length && frame->header_bytes == wanted->header_bytes);
    MUST(memcmp(frame->key, wanted->key, sizeof(frame->key)) == 0);
    MUST(frame->opcode == wanted->opcode && frame->rsv == wanted->rsv);
    MUST(frame->fin == wanted->fin && frame->masked == wanted->masked && frame->minimal == wanted->minimal);
    MUST(ws_is_control(frame->opcode) == (frame->opcode >= 8));
}

/* Written by us, then masked here, it is what the client's header was; or that had another form. */
static void
check_written(const char *text, const WsFrame *frame)
{
    size_t wanted = 2 + (frame->length > 65535 ? 8u : frame->length > 125 ? 2u : 0u);
    Guarded room = guard_room(wanted);
    char *end = ws_put_header(room.text, (WsOpcode)frame->opcode, frame->length);
    MUST(end == room.text + wanted && wanted <= WS_SERVER_HEADER_BYTES);
    WsFrame again, model;
    MUST(ws_read_header(room.text, wanted, &again) == wanted && model_header(room.text, wanted, &model) == wanted);
    check_same(&again, &model);
    MUST(again.fin && again.rsv == 0 && !again.masked && again.opcode == frame->opcode && again.length == frame->length);
    MUST(again.minimal == (frame->length >> 63 == 0));
    Guarded client = guard_room(wanted + 4);
    memcpy(client.text, room.text, wanted);
    client.text[1] = (char)((unsigned char)client.text[1] | 0x80);
    memcpy(client.text + wanted, frame->key, 4);
    MUST(ws_read_header(client.text, wanted + 4, &again) == wanted + 4 && again.masked);
    MUST(memcmp(again.key, frame->key, 4) == 0 && again.length == frame->length);
    bool ours = frame->fin && frame->rsv == 0 && frame->masked && (frame->minimal || frame->length >> 63 == 1);
    bool same = frame->header_bytes == wanted + 4 && memcmp(client.text, text, wanted + 4) == 0;
    MUST(ours == same);
    guard_free(&client);
    guard_free(&room);
}

void
leaves_check_ws_frame(const char *text, size_t length)
{
    WsFrame wanted, frame;
    size_t header_bytes = model_header(text, length, &wanted);
    MUST(header_bytes <= WS_CLIENT_HEADER_BYTES);
    size_t longest = length < WS_CLIENT_HEADER_BYTES + 2 ? length : WS_CLIENT_HEADER_BYTES + 2;
    Guarded room = guard_room(longest);
    for (size_t cut = 0; cut <= longest; cut++) {
        char *part = room.text + longest - cut;
        memcpy(part, text, cut);
        size_t found = ws_read_header(part, cut, &frame);
        MUST(found == (header_bytes > 0 && cut >= header_bytes ? header_bytes : 0));
        if (found > 0)
            check_same(&frame, &wanted);
    }
    guard_free(&room);
    if (header_bytes == 0)
        return;
    check_written(text, &wanted);
    size_t there = length - header_bytes;
    if (there > wanted.length)
        there = (size_t)wanted.length;
    leaves_check_ws_mask(text + header_bytes, there, wanted.key);
}

/* ---- ws_mask.h ---- */

static bool
model_unmask(char *to, const char *from, size_t length, const unsigned char key[4])
{
    bool ascii = true;
    for (size_t i = 0; i < length; i++) {
        unsigned char plain = (unsigned char)from[i] ^ key[i % 4];
        to[i] = (char)plain;
        if (plain > 127)
            ascii = false;
    }
    return ascii;
}

/* The bytes in front of it are untouched. */
static void
check_margin(const Guarded *room)
{
    for (size_t i = 0; i < MARGIN; i++)
        MUST(room->text[i] == MARK);
}

void
leaves_check_ws_mask(const char *masked, size_t length, const unsigned char key[4])
{
    Guarded wanted = guard_room(length), room = guard_room(MARGIN + length);
    char *plain = room.text + MARGIN;
    bool ascii = model_unmask(wanted.text, masked, length, key);
    /* from here to there */
    memset(room.text, MARK, MARGIN + length);
    MUST(ws_unmask(plain, masked, length, key) == ascii);
    MUST(length == 0 || memcmp(plain, wanted.text, length) == 0);
    check_margin(&room);
    /* in place, there and back */
    bool masked_ascii = true;
    for (size_t i = 0; i < length; i++)
        masked_ascii = masked_ascii && (unsigned char)masked[i] < 128;
    MUST(ws_unmask(plain, plain, length, key) == masked_ascii);
    MUST(length == 0 || memcmp(plain, masked, length) == 0);
    MUST(ws_unmask(plain, plain, length, key) == ascii);
    MUST(length == 0 || memcmp(plain, wanted.text, length) == 0);
    check_margin(&room);
    guard_free(&wanted);
    guard_free(&room);
}
