/* How a connection of HTTP/2 ends: drained, over. See http2.h.
 *
 * A drain loses no request (RFC 9113 §6.8): a GOAWAY that still allows every stream, and a PING. When that comes back, the
 * peer has seen both, so every stream that it began before is here: the second GOAWAY says which was the last. But some
 * clients (httpx) give up every stream that is open at a GOAWAY which allows it. So where streams are open the GOAWAY is
 * owed: until the last of them is answered, in the same write, and then there is only the second. So it is where none is open:
 * what crosses it is beyond the last stream, and its client begins it anew.
 */
#include "http2_stream.h"

#ifdef SHARDSERVE_NGHTTP2

#include "output.h"

/* So long after its last stream a client may not have read all of it. */
#define UNREAD_MS 1000

static const uint8_t DRAIN_PING[8] = {'d', 'r', 'a', 'i', 'n', 'i', 'n', 'g'};

/* ---- drained ---- */

bool
http2_is_drain_ping(const uint8_t *opaque)
{
    return memcmp(opaque, DRAIN_PING, sizeof(DRAIN_PING)) == 0;
}

static void
first_goaway(Connection *connection)
{
    Http2 *http2 = connection->http2;
    http2->goaway = GOAWAY_NOTICE;
    http2->owed_ms = factory_now_ms();
    (void)nghttp2_submit_shutdown_notice(http2->session);
}

void
http2_ask_behind_goaway(Connection *connection)
{
    Http2 *http2 = connection->http2;
    if (http2->goaway == GOAWAY_NOTICE)
        (void)nghttp2_submit_ping(http2->session, NGHTTP2_FLAG_NONE, DRAIN_PING);
}

void
http2_last_goaway(Connection *connection)
{
    Http2 *http2 = connection->http2;
    if (http2->goaway == GOAWAY_FINAL || http2->session == NULL)
        return;
    http2->goaway = GOAWAY_FINAL;
    http2->last_id = nghttp2_session_get_last_proc_stream_id(http2->session);
    (void)nghttp2_submit_goaway(http2->session, NGHTTP2_FLAG_NONE, http2->last_id, NGHTTP2_NO_ERROR, NULL, 0);
}

void
http2_next_goaway(Connection *connection)
{
    if (connection->http2->open_count > 0 && connection->http2->goaway < GOAWAY_NOTICE)
        first_goaway(connection);
    else
        http2_last_goaway(connection);
}

void
http2_drain(Connection *connection)
{
    Http2 *http2 = connection->http2;
    if (http2->goaway != GOAWAY_NONE || http2->session == NULL || http2->ended)
        return;
    http2->goaway = GOAWAY_OWED;
    http2->owed_ms = factory_now_ms();
    if (http2->open_count > 0 || !http2->greeted || connection_has_unread(connection))
        return; /* http2_fill(), or http2_look() */
    http2_last_goaway(connection);
    wire2_flush(connection);
}

void
http2_finish(Connection *connection)
{
    if (connection->http2->ended || connection->http2->session == NULL)
        return;
    http2_next_goaway(connection);
    wire2_flush(connection);
}

/* ---- over ---- */

void
http2_close_if_over(Connection *connection)
{
    Http2 *http2 = connection->http2;
    if (http2->session == NULL || connection->closing || connection->lingering || connection->close_after ||
        connection->feeding)
        return;
    bool drained = http2->goaway == GOAWAY_FINAL;
    bool finished = drained && http2->stream_count == 0 && !nghttp2_session_want_write(http2->session);
    bool broken = (http2->ended || !nghttp2_session_want_read(http2->session)) && !nghttp2_session_want_write(http2->session);
    if (!finished && !broken)
        return;
    /* What it still sends, a WINDOW_UPDATE perhaps, must not destroy what it has not read. */
    connection->discarding = factory_now_ms() - http2->busy_ms < UNREAD_MS || http2->stream_count > 0 || broken;
    connection->close_after = true;
    wire2_flush(connection);
}

#endif
