/* How the C load generators count latencies: one static histogram for each program, exact to 1.6 %.
 *
 * Rules of this file: included once by each program; nothing here allocates, and recording is a shift and an
 * increment, so that counting costs the load nothing. A value is counted in nanoseconds; a percentile is the
 * lower edge of its bucket, so it never exceeds the greatest value.
 */
#ifndef PERF_HISTOGRAM_H
#define PERF_HISTOGRAM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum {
    OCTAVE_BITS = 6, /* 64 buckets an octave */
    BUCKETS = 64 << OCTAVE_BITS,
};

struct histogram {
    uint64_t buckets[BUCKETS];
    uint64_t count;
    int64_t max_ns;
};

static inline void histogram_clear(struct histogram *h)
{
    memset(h, 0, sizeof *h);
}

static inline void histogram_record(struct histogram *h, int64_t ns)
{
    uint64_t value = ns > 0 ? (uint64_t)ns : 1;
    int top = 63 - __builtin_clzll(value);
    size_t bucket = top < OCTAVE_BITS ? (size_t)value
                                      : ((size_t)(top - OCTAVE_BITS + 1) << OCTAVE_BITS)
                                            + ((value >> (top - OCTAVE_BITS)) & ((1U << OCTAVE_BITS) - 1));
    h->buckets[bucket]++;
    h->count++;
    if (ns > h->max_ns)
        h->max_ns = ns;
}

/* Returns the latency, in microseconds, that the share of the values stays within; 0 if there are none. */
static inline double histogram_us(const struct histogram *h, double share)
{
    uint64_t seen = 0, wanted = (uint64_t)(share * (double)h->count);
    for (size_t bucket = 0; bucket < BUCKETS; bucket++) {
        seen += h->buckets[bucket];
        if (seen > wanted || (seen == h->count && seen > 0)) {
            size_t octave = bucket >> OCTAVE_BITS, rest = bucket & ((1U << OCTAVE_BITS) - 1);
            if (octave == 0)
                return (double)rest / 1000;
            return (double)(((uint64_t)rest | 1U << OCTAVE_BITS) << (octave - 1)) / 1000;
        }
    }
    return 0;
}

/* Prints the members of a JSON object, without braces: what perf/load.py reads as a Latency. */
static inline void histogram_print(const struct histogram *h)
{
    printf("\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,\"max_us\":%.1f",
           histogram_us(h, 0.50), histogram_us(h, 0.90), histogram_us(h, 0.99), histogram_us(h, 0.999),
           (double)h->max_ns / 1000);
}

#endif
