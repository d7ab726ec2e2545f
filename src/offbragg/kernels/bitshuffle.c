/* The bit transposition of bitshuffle, of as many bits as the pixels have.
 *
 * Counts are small. All bits above the highest one that any pixel of a block needs repeat its
 * sign, so only the planes up to the first of those are made.
 */
#include "kernels.h"

/* planes that are worth writing, from the bits in which some pixel differs from its sign */
static inline int planes_of(uint32_t used)
{
    return used ? 33 - __builtin_clz(used) : 1;
}

int ob_shuffle_portable(const int32_t *pixels, size_t n, uint8_t *planes)
{
    size_t plane = n / 8;
    uint8_t bytes[OB_BLOCK];
    uint32_t used = 0;

    for (size_t i = 0; i < n; i++)
        used |= (uint32_t)(pixels[i] ^ (pixels[i] >> 31));
    int count = planes_of(used);
    for (int low = 0; low < count; low += 8) {
        int here = count - low < 8 ? count - low : 8;
        for (size_t i = 0; i < n; i++)
            bytes[i] = (uint8_t)((uint32_t)pixels[i] >> low);
        uint8_t *out = planes + (size_t)low * plane;
        size_t i = 0;
#if defined(__SSE2__)
        for (; i + 16 <= n; i += 16) {
            __m128i v = _mm_loadu_si128((const __m128i *)(bytes + i));
            v = _mm_slli_epi64(v, 8 - here);
            for (int bit = here - 1; bit >= 0; bit--) {
                uint16_t word = (uint16_t)_mm_movemask_epi8(v);
                memcpy(out + (size_t)bit * plane + i / 8, &word, 2);
                v = _mm_add_epi8(v, v);
            }
        }
#endif
        for (; i < n; i += 8) {
            /* transpose 8 x 8 bits: swap blocks of 1, 2 and 4 */
            uint64_t x = ob_read64(bytes + i), t;
            t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAu;
            x = x ^ t ^ (t << 7);
            t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCu;
            x = x ^ t ^ (t << 14);
            t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0u;
            x = x ^ t ^ (t << 28);
            for (int bit = 0; bit < here; bit++)
                out[(size_t)bit * plane + i / 8] = (uint8_t)(x >> (8 * bit));
        }
    }
    return count;
}

#if OB_X86

OB_AVX2 static int shuffle_avx2(const int32_t *pixels, size_t n, uint8_t *planes)
{
    if (n != OB_BLOCK)
        return ob_shuffle_portable(pixels, n, planes);
    __m256i seen[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (size_t i = 0; i < OB_BLOCK; i += 16)
        for (int j = 0; j < 2; j++) {
            __m256i v = _mm256_loadu_si256((const __m256i *)(pixels + i + 8 * j));
            seen[j] = _mm256_or_si256(seen[j], _mm256_xor_si256(v, _mm256_srai_epi32(v, 31)));
        }
    uint32_t words[8], used = 0;
    _mm256_storeu_si256((__m256i *)words, _mm256_or_si256(seen[0], seen[1]));
    for (int i = 0; i < 8; i++)
        used |= words[i];
    int count = planes_of(used);
    const __m256i byte = _mm256_set1_epi32(0xff);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int low = 0; low < count; low += 8) {
        int here = count - low < 8 ? count - low : 8;
        __m128i down = _mm_cvtsi32_si128(low), up = _mm_cvtsi32_si128(8 - here);
        uint8_t *out = planes + low * OB_PLANE;
        for (size_t i = 0; i < OB_BLOCK; i += 32) {
            __m256i v[4];
            for (int j = 0; j < 4; j++) {
                v[j] = _mm256_loadu_si256((const __m256i *)(pixels + i + 8 * j));
                v[j] = _mm256_and_si256(_mm256_srl_epi32(v[j], down), byte);
            }
            __m256i x = _mm256_packus_epi16(_mm256_packus_epi32(v[0], v[1]),
                                            _mm256_packus_epi32(v[2], v[3]));
            x = _mm256_sll_epi64(_mm256_permutevar8x32_epi32(x, order), up);
            for (int bit = here - 1; bit >= 0; bit--) {
                uint32_t word = (uint32_t)_mm256_movemask_epi8(x);
                memcpy(out + bit * OB_PLANE + i / 8, &word, 4);
                x = _mm256_add_epi8(x, x);
            }
        }
    }
    return count;
}

OB_AVX512 static int shuffle_avx512(const int32_t *pixels, size_t n, uint8_t *planes)
{
    if (n != OB_BLOCK)
        return ob_shuffle_portable(pixels, n, planes);
    __m512i seen[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    for (size_t i = 0; i < OB_BLOCK; i += 32)
        for (int j = 0; j < 2; j++) {
            __m512i v = _mm512_loadu_si512(pixels + i + 16 * j);
            /* seen | (v ^ sign) */
            seen[j] = _mm512_ternarylogic_epi32(seen[j], v, _mm512_srai_epi32(v, 31), 0xF6);
        }
    int count = planes_of((uint32_t)_mm512_reduce_or_epi32(_mm512_or_si512(seen[0], seen[1])));
    for (int low = 0; low < count; low += 8) {
        int here = count - low < 8 ? count - low : 8;
        uint8_t *out = planes + low * OB_PLANE;
        /* byte 4 i + low / 8 of two vectors behind each other, in each half */
        const __m512i step = _mm512_set_epi8(
            124, 120, 116, 112, 108, 104, 100, 96, 92, 88, 84, 80, 76, 72, 68, 64, 60, 56, 52, 48,
            44, 40, 36, 32, 28, 24, 20, 16, 12, 8, 4, 0, 124, 120, 116, 112, 108, 104, 100, 96, 92,
            88, 84, 80, 76, 72, 68, 64, 60, 56, 52, 48, 44, 40, 36, 32, 28, 24, 20, 16, 12, 8, 4,
            0);
        const __m512i pick = _mm512_add_epi8(step, _mm512_set1_epi8((char)(low / 8)));
        for (size_t i = 0; i < OB_BLOCK; i += 64) {
            __m512i a = _mm512_loadu_si512(pixels + i), b = _mm512_loadu_si512(pixels + i + 16);
            __m512i c = _mm512_loadu_si512(pixels + i + 32), d = _mm512_loadu_si512(pixels + i + 48);
            a = _mm512_permutex2var_epi8(a, pick, b);
            c = _mm512_permutex2var_epi8(c, pick, d);
            __m512i x = _mm512_mask_blend_epi64(0xF0, a, c);
#define PLANE(bit)                                                                                \
    do {                                                                                          \
        uint64_t word = _mm512_test_epi8_mask(x, _mm512_set1_epi8((char)(1 << (bit))));           \
        memcpy(out + (bit) * OB_PLANE + i / 8, &word, 8);                                         \
    } while (0)
            switch (here) {
            case 8:
                PLANE(7); /* fall through */
            case 7:
                PLANE(6); /* fall through */
            case 6:
                PLANE(5); /* fall through */
            case 5:
                PLANE(4); /* fall through */
            case 4:
                PLANE(3); /* fall through */
            case 3:
                PLANE(2); /* fall through */
            case 2:
                PLANE(1); /* fall through */
            default:
                PLANE(0);
            }
#undef PLANE
        }
    }
    return count;
}

#endif

ob_shuffle_fn ob_shuffler(int level)
{
#if OB_X86
    if (level >= OB_LEVEL_AVX512)
        return shuffle_avx512;
    if (level >= OB_LEVEL_AVX2)
        return shuffle_avx2;
#endif
    (void)level;
    return ob_shuffle_portable;
}
