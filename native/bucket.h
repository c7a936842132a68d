/* A leaky bucket: how often a peer may do what costs it less than it costs us. Pure; no Python.h. */
#ifndef SHARDSERVE_BUCKET_H
#define SHARDSERVE_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    int64_t level; /* thousandths of a drop */
    int64_t at_ms; /* when it was that */
} Bucket;

/* One drop more. Whether it is over `capacity` now, `leak` drops a second having left meanwhile. */
static inline bool
bucket_fill(Bucket *bucket, int64_t now_ms, int64_t capacity, int64_t leak)
{
    if (now_ms > bucket->at_ms) {
        /* So long empties any bucket; the product below cannot overflow then. */
        int64_t passed_ms = now_ms - bucket->at_ms;
        int64_t left = passed_ms > capacity * 1000 ? 0 : bucket->level - passed_ms * leak;
        bucket->level = left > 0 ? left : 0;
        bucket->at_ms = now_ms;
    }
    bucket->level += 1000;
    return bucket->level > capacity * 1000;
}

/* So many drops less. */
static inline void
bucket_drain(Bucket *bucket, int64_t drops)
{
    bucket->level = bucket->level > drops * 1000 ? bucket->level - drops * 1000 : 0;
}

#endif
