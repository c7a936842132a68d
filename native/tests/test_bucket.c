/* bucket.h beside a bucket that leaks millisecond by millisecond. */
#include "../bucket.h"
#include "leaves.h"

#include <stdio.h>

typedef struct {
    int64_t level; /* thousandths of a drop */
    int64_t at_ms;
} Model;

static void
model_wait(Model *model, int64_t now_ms, int64_t leak)
{
    for (; model->at_ms < now_ms; model->at_ms++)
        model->level = model->level > leak ? model->level - leak : 0;
}

/* The same numbers each time. */
static uint32_t
dice(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Drops with pauses of every kind, until the bucket is over, again and again. */
static void
check_beside_model(int64_t capacity, int64_t leak, uint32_t seed)
{
    static const int64_t PAUSES_MS[] = {0, 0, 0, 0, 1, 7, 49, 50, 51, 1000, 20000};
    Bucket bucket = {.at_ms = 1000000};
    Model model = {.at_ms = 1000000};
    int64_t now_ms = 1000000;
    int overs = 0;
    for (int i = 0; i < 20000; i++) {
        now_ms += PAUSES_MS[dice(&seed) % (i % 4096 < 2048 ? 4 : sizeof(PAUSES_MS) / sizeof(PAUSES_MS[0]))];
        model_wait(&model, now_ms, leak);
        if (dice(&seed) % 16 == 0) {
            int64_t drops = dice(&seed) % 3;
            bucket_drain(&bucket, drops);
            model.level = model.level > drops * 1000 ? model.level - drops * 1000 : 0;
        }
        bool over = bucket_fill(&bucket, now_ms, capacity, leak);
        model.level += 1000;
        MUST(bucket.level == model.level && bucket.at_ms == model.at_ms);
        MUST(over == (model.level > capacity * 1000));
        overs += over;
        if (over) {
            bucket = (Bucket){.at_ms = now_ms};
            model = (Model){.at_ms = now_ms};
        }
    }
    MUST(overs > 0);
}

/* So many at once, and not one more; what has leaked may come again; a clock that goes back changes nothing. */
static void
check_edges(void)
{
    Bucket bucket = {0};
    for (int i = 0; i < 200; i++)
        MUST(!bucket_fill(&bucket, 0, 200, 20));
    MUST(bucket_fill(&bucket, 0, 200, 20));
    bucket_drain(&bucket, 1);
    MUST(!bucket_fill(&bucket, 50, 200, 20) && bucket_fill(&bucket, 50, 200, 20));
    MUST(bucket.at_ms == 50 && bucket_fill(&bucket, 49, 200, 20) && bucket.at_ms == 50);
    bucket_drain(&bucket, INT64_MAX / 1000);
    MUST(bucket.level == 0);
    MUST(!bucket_fill(&bucket, INT64_MAX, 200, 20) && bucket.level == 1000);
}

int
main(void)
{
    check_edges();
    for (uint32_t seed = 1; seed <= 8; seed++) {
        check_beside_model(1, 1, seed);
        check_beside_model(5, 20, seed);
        check_beside_model(200, 20, seed);
        check_beside_model(1000, 100, seed);
    }
    puts("bucket: ok");
    return 0;
}
