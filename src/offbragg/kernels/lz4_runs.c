/* A compressor that makes LZ4 blocks of the bit planes of a volume's cells.
 *
 * Cells that were measured are noise in most of their planes, and those that were not lie together
 * and are the same in all of them. So only four things are looked for: bytes that equal those one,
 * two or three planes back (exponents alternate), and those four bytes before (a row of a brick, and
 * whatever stays the same), at least six in a row. They are found 64 at a time, as bits: in a third
 * of the time of lz4_block.c, for 3 % more bytes.
 *
 * reference.py does the same, step for step, and every level gives the same bytes.
 */
#include "lz4_format.h"

#define ALWAYS static inline __attribute__((always_inline))

enum { MOST = 8192 / 64 + 2, WAYS = 4, ROW = 4 }; /* words of bits, and two that are 0 */

/* bit i: p[i] equals q[i], of 64 bytes */
ALWAYS uint64_t equal_portable(const uint8_t *p, const uint8_t *q)
{
    uint64_t bits = 0;
#if defined(__SSE2__)
    for (int i = 0; i < 64; i += 16) {
        __m128i a = _mm_loadu_si128((const __m128i *)(p + i));
        __m128i b = _mm_loadu_si128((const __m128i *)(q + i));
        bits |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(a, b)) << i;
    }
#else
    for (int i = 0; i < 64; i++)
        bits |= (uint64_t)(p[i] == q[i]) << i;
#endif
    return bits;
}

/* Where a run of six begins: bits of a word, and of the next one. */
ALWAYS uint64_t begins(uint64_t low, uint64_t high)
{
    const uint64_t two = low & (low >> 1 | high << 63), more = high & high >> 1;
    const uint64_t four = two & (two >> 2 | more << 62);
    return four & (two >> 4 | more << 60);
}

/* How many bits are 1 from a place on; the words end with a 0. */
ALWAYS size_t length_of(const uint64_t *bits, size_t place)
{
    size_t word = place / 64, length = 64 - place % 64;
    const uint64_t first = ~bits[word] >> (place % 64);
    if (first)
        return (size_t)__builtin_ctzll(first);
    while (~bits[++word] == 0)
        length += 64;
    return length + (size_t)__builtin_ctzll(~bits[word]);
}

ALWAYS void forget_from(uint64_t *bits, size_t place)
{
    bits[place / 64] &= ((uint64_t)1 << (place % 64)) - 1;
    bits[place / 64 + 1] = 0; /* 64 bytes at most were compared beyond it */
}

ALWAYS size_t runs(uint8_t *planes, size_t plane, int count, int written, uint8_t *out,
                   uint64_t (*equal)(const uint8_t *, const uint8_t *))
{
    const size_t size = (size_t)count * plane;
    uint8_t *const begin = out;
    const size_t distance[WAYS] = {plane, 2 * plane, 3 * plane, ROW};
    uint64_t same[WAYS][MOST], starts[MOST];

    if (plane < 16)
        for (; written < count; written++)
            memcpy(planes + (size_t)written * plane, planes + (size_t)(written - 1) * plane, plane);
    /* where matches may begin and end: as they like, if what is not written comes behind them */
    const size_t there = (size_t)written * plane, words = (there + 63) / 64;
    const size_t end = written < count ? there : size - LAST;
    const size_t last = written < count ? there : size - MARGIN;

    for (int way = 0; way < WAYS; way++) {
        uint64_t *bits = same[way];
        /* a word from which on everything has something so far before it */
        const size_t from = (distance[way] + 63) / 64 * 64;
        for (size_t i = 0; i < words && i < from / 64; i++)
            bits[i] = 0;
        bits[words] = bits[words + 1] = 0;
        for (size_t i = distance[way]; i < from && i < there; i++)
            bits[i / 64] |= (uint64_t)(planes[i] == planes[i - distance[way]]) << i % 64;
        for (size_t i = from; i < there; i += 64)
            bits[i / 64] = equal(planes + i, planes + i - distance[way]);
        forget_from(bits, end);
    }
    for (size_t i = 0; i < words; i++) {
        starts[i] = 0;
        for (int way = 0; way < WAYS; way++)
            starts[i] |= begins(same[way][i], same[way][i + 1]);
    }

    size_t anchor = 0;
    for (size_t word = 0; word < words;) {
        uint64_t left = starts[word];
        if (anchor > 64 * word)
            left &= ~(uint64_t)0 << (anchor - 64 * word);
        if (left == 0) {
            word++;
            continue;
        }
        const size_t at = 64 * word + (size_t)__builtin_ctzll(left);
        if (at >= last)
            break;
        size_t length = length_of(same[0], at), chosen = plane;
        if (written < count && at + length == there) {
            /* it goes on into the planes that are not written */
            out = put_sequence(out, planes + anchor, at - anchor, plane, size - LAST - at);
            return (size_t)(put_literals(out, planes + there - LAST, LAST, 0) - begin);
        }
        for (int way = 1; way < WAYS; way++) {
            const size_t other = length_of(same[way], at);
            if (other > length) {
                length = other;
                chosen = distance[way];
            }
        }
        out = put_sequence(out, planes + anchor, at - anchor, chosen, length);
        anchor = at + length;
        word = anchor / 64;
    }
    if (written == count)
        return (size_t)(put_literals(out, planes + anchor, size - anchor, 0) - begin);
    out = put_sequence(out, planes + anchor, there - anchor, plane, size - LAST - there);
    return (size_t)(put_literals(out, planes + there - LAST, LAST, 0) - begin);
}

static size_t runs_portable(uint8_t *planes, size_t plane, int count, int written, uint8_t *out)
{
    return runs(planes, plane, count, written, out, equal_portable);
}

#if OB_X86

OB_AVX2 static inline uint64_t equal_avx2(const uint8_t *p, const uint8_t *q)
{
    uint64_t bits = 0;
    for (int i = 0; i < 64; i += 32) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(p + i));
        __m256i b = _mm256_loadu_si256((const __m256i *)(q + i));
        bits |= (uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(a, b)) << i;
    }
    return bits;
}

OB_AVX2 static size_t runs_avx2(uint8_t *planes, size_t plane, int count, int written, uint8_t *out)
{
    return runs(planes, plane, count, written, out, equal_avx2);
}

#endif

ob_runs_fn ob_lz4_runs(int level)
{
#if OB_X86
    if (level >= OB_LEVEL_AVX2)
        return runs_avx2;
#endif
    (void)level;
    return runs_portable;
}
