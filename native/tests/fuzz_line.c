/* libFuzzer: line.h on anything. See leaves.h for the properties. */
#include "guard.h"
#include "leaves.h"

#include <stdint.h>

/* libFuzzer's entry point: 0 always; a broken property aborts. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Guarded guarded = guard_copy(data, size);
    leaves_check_line(guarded.text, size);
    guard_free(&guarded);
    return 0;
}
