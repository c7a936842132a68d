/* libFuzzer: ws_frame.h and ws_mask.h on anything. See leaves.h for the properties. */
#include "guard.h"
#include "leaves.h"

#include <stdint.h>

/* libFuzzer's entry point: 0 always; a broken property aborts. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Guarded guarded = guard_copy(data, size);
    leaves_check_ws_frame(guarded.text, size);
    if (size >= 4)
        leaves_check_ws_mask(guarded.text + 4, size - 4, data);
    guard_free(&guarded);
    return 0;
}
