/* A compressor that makes LZ4 blocks of bit planes.
 *
 * Written from the description of the block format: a sequence is a token, literals, a distance
 * of two bytes and a length; the last five bytes are literals, and no match begins in the last
 * twelve. Everything else is ours, and made for bit planes of counts:
 *
 * - planes that repeat the one before (the sign, above all) are one match at a plane's distance;
 * - planes in which few bytes equal their neighbour or the byte one plane back are noise: they
 *   become literals, and are not looked at;
 * - in the others, six equal bytes are looked for where they were seen last, and then one plane
 *   back, where a single bright pixel leaves the pattern of gaps and edges.
 *
 * reference.py does the same, step for step, and every level gives the same bytes: lz4_planes.h
 * has the steps, and is compiled once for each level with that level's way to compare.
 */
#include "lz4_format.h"

#define SIX 6     /* the shortest that is looked for: 4 and 5 cost time and save nothing */
#define NOISE 3   /* fewer than 1/3 of equal bytes: too little to find for the time it takes */

enum kind { SEARCH, REPEAT, NOISY };

/* six bytes, and two that are 0 */
static inline uint64_t read_six(const uint8_t *p)
{
    return ob_read64(p) << 16;
}

static inline size_t hash(uint64_t six)
{
    return (size_t)((six * 0x9E3779B185EBCA87u) >> (64 - OB_HASH_BITS));
}

static inline enum kind kind_of(size_t near, size_t above, size_t n)
{
    if (above == n)
        return REPEAT;
    return near * NOISE < n && above * NOISE < n ? NOISY : SEARCH;
}

static enum kind look_portable(const uint8_t *p, size_t n, int first)
{
    uint8_t near = 0, above = 0; /* n is at most 256, and 256 of `above` is kept apart */
    for (size_t i = 1; i < n; i++)
        near = (uint8_t)(near + (p[i] == p[i - 1]));
    if (first)
        return kind_of(near, 0, n);
    const uint8_t *back = p - n;
    if (memcmp(p, back, n) == 0)
        return REPEAT;
    for (size_t i = 0; i < n; i++)
        above = (uint8_t)(above + (p[i] == back[i]));
    return kind_of(near, above, n);
}

/* How many bytes are equal, m being before p, up to the end. What is compared may be up to
 * OB_SLACK bytes behind the end. */
static inline size_t same_portable(const uint8_t *p, const uint8_t *m, const uint8_t *end)
{
    const uint8_t *start = p;
    for (; p < end; p += 8, m += 8) {
        uint64_t x = ob_read64(p) ^ ob_read64(m);
        if (x) {
            p += __builtin_ctzll(x) >> 3;
            break;
        }
    }
    return (size_t)((p < end ? p : end) - start);
}

#define NAME(f) f##_portable
#define TARGET
#include "lz4_planes.h"
#undef NAME
#undef TARGET

#if OB_X86

OB_AVX2 static enum kind look_avx2(const uint8_t *p, size_t n, int first)
{
    size_t near = 0, above = 0;
    if (n % 64)
        return look_portable(p, n, first);
    for (size_t i = 0; i < n; i += 32) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(p + i));
        __m256i next = _mm256_loadu_si256((const __m256i *)(p + i + 1));
        uint32_t equal = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, next));
        /* the last byte has its neighbour in the next plane */
        near += (size_t)__builtin_popcount(i + 32 < n ? equal : equal & 0x7fffffff);
        if (!first) {
            __m256i back = _mm256_loadu_si256((const __m256i *)(p + i - n));
            equal = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, back));
            above += (size_t)__builtin_popcount(equal);
        }
    }
    return kind_of(near, above, n);
}

OB_AVX2 static inline size_t same_avx2(const uint8_t *p, const uint8_t *m, const uint8_t *end)
{
    const uint8_t *start = p;
    for (; p < end; p += 32, m += 32) {
        __m256i equal = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)p),
                                          _mm256_loadu_si256((const __m256i *)m));
        uint32_t differ = ~(uint32_t)_mm256_movemask_epi8(equal);
        if (differ) {
            p += __builtin_ctz(differ);
            break;
        }
    }
    return (size_t)((p < end ? p : end) - start);
}

#define NAME(f) f##_avx2
#define TARGET OB_AVX2
#include "lz4_planes.h"
#undef NAME
#undef TARGET

OB_AVX512 static enum kind look_avx512(const uint8_t *p, size_t n, int first)
{
    size_t near = 0, above = 0;
    if (n % 64)
        return look_portable(p, n, first);
    for (size_t i = 0; i < n; i += 64) {
        __m512i v = _mm512_loadu_si512(p + i);
        uint64_t equal = _mm512_cmpeq_epi8_mask(v, _mm512_loadu_si512(p + i + 1));
        /* the last byte has its neighbour in the next plane */
        near += (size_t)__builtin_popcountll(i + 64 < n ? equal : equal & INT64_MAX);
        if (!first) {
            equal = _mm512_cmpeq_epi8_mask(v, _mm512_loadu_si512(p + i - n));
            above += (size_t)__builtin_popcountll(equal);
        }
    }
    return kind_of(near, above, n);
}

OB_AVX512 static inline size_t same_avx512(const uint8_t *p, const uint8_t *m, const uint8_t *end)
{
    const uint8_t *start = p;
    for (; p < end; p += 64, m += 64) {
        uint64_t differ = _mm512_cmpneq_epi8_mask(_mm512_loadu_si512(p), _mm512_loadu_si512(m));
        if (differ) {
            p += __builtin_ctzll(differ);
            break;
        }
    }
    return (size_t)((p < end ? p : end) - start);
}

#define NAME(f) f##_avx512
#define TARGET OB_AVX512
#include "lz4_planes.h"
#undef NAME
#undef TARGET

#endif

ob_lz4_fn ob_lz4(int level)
{
#if OB_X86
    if (level >= OB_LEVEL_AVX512)
        return planes_avx512;
    if (level >= OB_LEVEL_AVX2)
        return planes_avx2;
#endif
    (void)level;
    return planes_portable;
}
