/* How LZ4's block format is written, for lz4_block.c and lz4_runs.c. */
#ifndef OFFBRAGG_LZ4_FORMAT_H
#define OFFBRAGG_LZ4_FORMAT_H

#include "kernels.h"

#define MATCH 4   /* the shortest that the format has */
#define LAST 5    /* literals at the end of a block */
#define MARGIN 12 /* no match begins this close to the end */

static inline uint8_t *put_length(uint8_t *out, size_t more)
{
    for (; more >= 255; more -= 255)
        *out++ = 255;
    *out++ = (uint8_t)more;
    return out;
}

/* Literals from..from + n, in strides: both sides have OB_SLACK bytes more. */
static inline uint8_t *put_literals(uint8_t *out, const uint8_t *from, size_t n, uint8_t low)
{
    uint8_t *token = out++;
    if (n < 15) {
        *token = (uint8_t)((n << 4) | low);
        memcpy(out, from, 16);
        return out + n;
    }
    *token = (uint8_t)(0xf0 | low);
    out = put_length(out, n - 15);
    for (size_t i = 0; i < n; i += 32)
        memcpy(out + i, from + i, 32);
    return out + n;
}

static inline uint8_t *put_sequence(uint8_t *out, const uint8_t *from, size_t n, size_t distance,
                                    size_t length)
{
    size_t more = length - MATCH;
    uint16_t place = (uint16_t)distance;
    out = put_literals(out, from, n, (uint8_t)(more < 15 ? more : 15));
    memcpy(out, &place, 2);
    return more < 15 ? out + 2 : put_length(out + 2, more - 15);
}

#endif
