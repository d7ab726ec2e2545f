/* Uncompressed pixels: the strips of a TIFF file into an image. */
#include "kernels.h"

int ob_strips(const uint8_t *data, size_t size, const uint64_t *offsets, const uint64_t *lengths,
              size_t count, int swap, int32_t *out, size_t n)
{
    uint8_t *o = (uint8_t *)out;
    size_t room = 4 * n;

    for (size_t i = 0; i < count; i++) {
        if (offsets[i] > size || lengths[i] > size - offsets[i] || lengths[i] > room)
            return 1;
        memcpy(o, data + offsets[i], (size_t)lengths[i]);
        o += lengths[i];
        room -= (size_t)lengths[i];
    }
    if (room)
        return 1;
    if (swap)
        for (size_t i = 0; i < n; i++)
            out[i] = (int32_t)__builtin_bswap32((uint32_t)out[i]);
    return 0;
}
