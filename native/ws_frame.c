/* WebSocket frame headers. See ws_frame.h. */
#include "ws_frame.h"

#include <string.h>

/* The low seven bits of the second byte are the length, or say that so many bytes of it follow. */
#define LENGTH_16 126
#define LENGTH_64 127

/* `count` bytes, the highest first. */
static uint64_t
read_number(const unsigned char *at, size_t count)
{
    uint64_t number = 0;
    for (size_t i = 0; i < count; i++)
        number = number << 8 | at[i];
    return number;
}

size_t
ws_read_header(const char *text, size_t available, WsFrame *frame)
{
    const unsigned char *at = (const unsigned char *)text;
    if (available < 2)
        return 0;
    uint8_t length = at[1] & 0x7f;
    size_t extended = length == LENGTH_64 ? 8 : length == LENGTH_16 ? 2 : 0;
    frame->fin = (at[0] & 0x80) != 0;
    frame->rsv = (at[0] >> 4) & 7;
    frame->opcode = at[0] & 0x0f;
    frame->masked = (at[1] & 0x80) != 0;
    size_t header_bytes = 2 + extended + (frame->masked ? 4 : 0);
    if (available < header_bytes)
        return 0;
    frame->length = extended == 0 ? length : read_number(at + 2, extended);
    frame->minimal = extended == 0 || (extended == 2 ? frame->length >= LENGTH_16
                                                     : frame->length > UINT16_MAX && frame->length <= INT64_MAX);
    frame->header_bytes = (uint8_t)header_bytes;
    if (frame->masked)
        memcpy(frame->key, at + 2 + extended, 4);
    else
        memset(frame->key, 0, 4);
    return header_bytes;
}

static char *
put_number(char *to, uint64_t number, int count)
{
    for (int shift = 8 * (count - 1); shift >= 0; shift -= 8)
        *to++ = (char)(number >> shift & 0xff);
    return to;
}

char *
ws_put_header(char *to, WsOpcode opcode, uint64_t length)
{
    *to++ = (char)(0x80 | opcode);
    if (length < LENGTH_16) {
        *to++ = (char)length;
        return to;
    }
    if (length <= UINT16_MAX) {
        *to++ = LENGTH_16;
        return put_number(to, length, 2);
    }
    *to++ = LENGTH_64;
    return put_number(to, length, 8);
}
