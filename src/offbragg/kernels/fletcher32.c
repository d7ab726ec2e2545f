/* Fletcher's checksum of 16-bit words, as HDF5's filter 3 has it.
 *
 * The words are big-endian, and an odd last byte is the upper one of a word. HDF5 adds carries
 * back in, so a sum that is a multiple of 65535 is 65535, and 0 only where every byte is 0.
 */
#include "kernels.h"

#define PIECE 360 /* the most words for which the weighted sum of a piece fits in 32 bits */
#define MODULUS 65535u

uint32_t ob_fletcher32(const uint8_t *data, size_t size)
{
    uint64_t sum = 0, sums = 0;
    uint32_t any = 0;
    size_t words = size / 2;

    while (words) {
        const uint32_t n = words < PIECE ? (uint32_t)words : PIECE;
        uint32_t here = 0, weighted = 0;
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t word = (uint32_t)data[2 * i] << 8 | data[2 * i + 1];
            here += word;
            weighted += word * (n - i);
        }
        sums = (sums + n * sum + weighted) % MODULUS;
        sum = (sum + here) % MODULUS;
        any |= here;
        data += 2 * (size_t)n;
        words -= n;
    }
    if (size % 2) {
        const uint32_t word = (uint32_t)data[0] << 8;
        sum = (sum + word) % MODULUS;
        sums = (sums + sum) % MODULUS;
        any |= word;
    }
    if (any) {
        sum = sum ? sum : MODULUS;
        sums = sums ? sums : MODULUS;
    }
    return (uint32_t)sums << 16 | (uint32_t)sum;
}
