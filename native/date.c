/* The Date field, rendered once a second. Locale-free: strftime's names follow the process. */
#define _GNU_SOURCE /* gmtime_r */
#include "date.h"

#include <string.h>

static const char DAYS[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
static const char MONTHS[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                   "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};

static void
put_two(char *to, int number)
{
    to[0] = (char)('0' + number / 10 % 10);
    to[1] = (char)('0' + number % 10);
}

const char *
date_line(DateCache *cache, time_t now)
{
    if (cache->second == now && cache->line[0] != '\0')
        return cache->line;
    struct tm utc;
    gmtime_r(&now, &utc);
    /* RFC 9110 §5.6.7: IMF-fixdate */
    memcpy(cache->line, "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", DATE_LINE_LENGTH + 1);
    memcpy(cache->line + 6, DAYS[utc.tm_wday], 3);
    put_two(cache->line + 11, utc.tm_mday);
    memcpy(cache->line + 14, MONTHS[utc.tm_mon], 3);
    put_two(cache->line + 18, (utc.tm_year + 1900) / 100);
    put_two(cache->line + 20, (utc.tm_year + 1900) % 100);
    put_two(cache->line + 23, utc.tm_hour);
    put_two(cache->line + 26, utc.tm_min);
    put_two(cache->line + 29, utc.tm_sec);
    cache->second = now;
    return cache->line;
}
