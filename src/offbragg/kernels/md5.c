/* MD5 (RFC 1321) of many buffers at once: one of them per lane of a vector.
 *
 * The steps of MD5 wait for each other, so one buffer keeps a processor half idle. Lanes take
 * buffers from a queue; a lane whose buffer ends does the padding from a small buffer of its own
 * and goes on with the next.
 */
#include "kernels.h"

/* clang-format off */
static const uint32_t SINES[64] = {
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
    0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
    0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
    0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
    0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
    0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
    0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
    0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
};
static const uint32_t START[4] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};

/* 16 rounds of four steps: ROUND(function, first step, words of the block, rotations) */
#define ROUND(F, i, k0, k1, k2, k3, r0, r1, r2, r3)                                               \
    STEP(F, a, b, c, d, k0, i, r0) STEP(F, d, a, b, c, k1, i + 1, r1)                             \
    STEP(F, c, d, a, b, k2, i + 2, r2) STEP(F, b, c, d, a, k3, i + 3, r3)
#define ALL_STEPS                                                                                 \
    ROUND(FF, 0, 0, 1, 2, 3, 7, 12, 17, 22)      ROUND(FF, 4, 4, 5, 6, 7, 7, 12, 17, 22)          \
    ROUND(FF, 8, 8, 9, 10, 11, 7, 12, 17, 22)    ROUND(FF, 12, 12, 13, 14, 15, 7, 12, 17, 22)     \
    ROUND(FG, 16, 1, 6, 11, 0, 5, 9, 14, 20)     ROUND(FG, 20, 5, 10, 15, 4, 5, 9, 14, 20)        \
    ROUND(FG, 24, 9, 14, 3, 8, 5, 9, 14, 20)     ROUND(FG, 28, 13, 2, 7, 12, 5, 9, 14, 20)        \
    ROUND(FH, 32, 5, 8, 11, 14, 4, 11, 16, 23)   ROUND(FH, 36, 1, 4, 7, 10, 4, 11, 16, 23)        \
    ROUND(FH, 40, 13, 0, 3, 6, 4, 11, 16, 23)    ROUND(FH, 44, 9, 12, 15, 2, 4, 11, 16, 23)       \
    ROUND(FI, 48, 0, 7, 14, 5, 6, 10, 15, 21)    ROUND(FI, 52, 12, 3, 10, 1, 6, 10, 15, 21)       \
    ROUND(FI, 56, 8, 15, 6, 13, 6, 10, 15, 21)   ROUND(FI, 60, 4, 11, 2, 9, 6, 10, 15, 21)
/* clang-format on */

#define MOST 16 /* lanes */

/* states[word][lane]; `blocks` blocks of 64 bytes from each pointer */
typedef void (*blocks_fn)(uint32_t states[4][MOST], const uint8_t *const *data, size_t blocks);

/* ---- one lane ---- */

static inline uint32_t rotate(uint32_t x, int r)
{
    return x << r | x >> (32 - r);
}

#define FF(b, c, d) ((d) ^ ((b) & ((c) ^ (d))))
#define FG(b, c, d) ((c) ^ ((d) & ((b) ^ (c))))
#define FH(b, c, d) ((b) ^ (c) ^ (d))
#define FI(b, c, d) ((c) ^ ((b) | ~(d)))
#define STEP(F, a, b, c, d, k, i, r)                                                              \
    a = rotate(a + F(b, c, d) + ob_read32(p + 4 * (k)) + SINES[i], r) + b;

static void blocks_1(uint32_t states[4][MOST], const uint8_t *const *data, size_t blocks)
{
    uint32_t a = states[0][0], b = states[1][0], c = states[2][0], d = states[3][0];
    const uint8_t *p = data[0];

    for (; blocks > 0; blocks--, p += 64) {
        uint32_t a0 = a, b0 = b, c0 = c, d0 = d;
        ALL_STEPS
        a += a0;
        b += b0;
        c += c0;
        d += d0;
    }
    states[0][0] = a;
    states[1][0] = b;
    states[2][0] = c;
    states[3][0] = d;
}
#undef STEP

/* ---- lanes in pairs of vectors: two chains of steps hide each other's waiting ---- */

#if defined(__GNUC__) || defined(__clang__)
#define VECTORS 1
#else
#define VECTORS 0
#endif

#if VECTORS
typedef uint32_t v4 __attribute__((vector_size(16)));

#define STEP(F, a, b, c, d, k, i, r)                                                              \
    a##0 += F(b##0, c##0, d##0) + (words[k][0] + SINES[i]);                                       \
    a##1 += F(b##1, c##1, d##1) + (words[k][1] + SINES[i]);                                       \
    a##0 = (a##0 << (r) | a##0 >> (32 - (r))) + b##0;                                             \
    a##1 = (a##1 << (r) | a##1 >> (32 - (r))) + b##1;

/* lanes first, first + 1, .. of the states are those of the pair */
#define PAIR(V, width)                                                                            \
    V a0, b0, c0, d0, a1, b1, c1, d1, words[16][2];                                               \
    memcpy(&a0, states[0], sizeof a0);                                                            \
    memcpy(&b0, states[1], sizeof a0);                                                            \
    memcpy(&c0, states[2], sizeof a0);                                                            \
    memcpy(&d0, states[3], sizeof a0);                                                            \
    memcpy(&a1, states[0] + (width), sizeof a0);                                                  \
    memcpy(&b1, states[1] + (width), sizeof a0);                                                  \
    memcpy(&c1, states[2] + (width), sizeof a0);                                                  \
    memcpy(&d1, states[3] + (width), sizeof a0);                                                  \
    for (size_t at = 0; at < 64 * blocks; at += 64) {                                             \
        V olda0 = a0, oldb0 = b0, oldc0 = c0, oldd0 = d0;                                         \
        V olda1 = a1, oldb1 = b1, oldc1 = c1, oldd1 = d1;                                         \
        GATHER(words, data, at)                                                                   \
        ALL_STEPS                                                                                 \
        a0 += olda0;                                                                              \
        b0 += oldb0;                                                                              \
        c0 += oldc0;                                                                              \
        d0 += oldd0;                                                                              \
        a1 += olda1;                                                                              \
        b1 += oldb1;                                                                              \
        c1 += oldc1;                                                                              \
        d1 += oldd1;                                                                              \
    }                                                                                             \
    memcpy(states[0], &a0, sizeof a0);                                                            \
    memcpy(states[1], &b0, sizeof a0);                                                            \
    memcpy(states[2], &c0, sizeof a0);                                                            \
    memcpy(states[3], &d0, sizeof a0);                                                            \
    memcpy(states[0] + (width), &a1, sizeof a0);                                                  \
    memcpy(states[1] + (width), &b1, sizeof a0);                                                  \
    memcpy(states[2] + (width), &c1, sizeof a0);                                                  \
    memcpy(states[3] + (width), &d1, sizeof a0);

static inline void gather_4(v4 words[16][2], const uint8_t *const *data, size_t at)
{
    for (int half = 0; half < 2; half++)
        for (int k = 0; k < 16; k++)
            for (int lane = 0; lane < 4; lane++)
                words[k][half][lane] = ob_read32(data[4 * half + lane] + at + 4 * (size_t)k);
}

#define GATHER(words, data, at) gather_4(words, data, at);
static void blocks_8(uint32_t states[4][MOST], const uint8_t *const *data, size_t blocks)
{
    PAIR(v4, 4)
}
#undef GATHER
#endif /* VECTORS */

#if OB_X86
typedef uint32_t v8 __attribute__((vector_size(32)));

OB_AVX2 static inline void gather_8(v8 words[16][2], const uint8_t *const *data, size_t at)
{
    for (int half = 0; half < 2; half++)
        for (int k = 0; k < 16; k += 8) {
            const uint8_t *const *from = data + 8 * half;
            __m256i r[8], t[8];
            for (int i = 0; i < 8; i++)
                r[i] = _mm256_loadu_si256((const __m256i *)(from[i] + at + 4 * k));
            for (int i = 0; i < 8; i += 2) {
                t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
                t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
            }
            for (int i = 0; i < 8; i += 4) {
                r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
                r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
                r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
                r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
            }
            for (int i = 0; i < 4; i++) {
                words[k + i][half] = (v8)_mm256_permute2x128_si256(r[i], r[i + 4], 0x20);
                words[k + i + 4][half] = (v8)_mm256_permute2x128_si256(r[i], r[i + 4], 0x31);
            }
        }
}

#define GATHER(words, data, at) gather_8(words, data, at);
OB_AVX2 static void blocks_16_avx2(uint32_t states[4][MOST], const uint8_t *const *data,
                                   size_t blocks)
{
    PAIR(v8, 8)
}
#undef GATHER
#undef STEP

#define STEP(F, a, b, c, d, k, i, r)                                                              \
    a = _mm512_add_epi32(a, _mm512_add_epi32(words[k], _mm512_set1_epi32((int)SINES[i])));        \
    a = _mm512_add_epi32(a, _mm512_ternarylogic_epi32(b, c, d, T##F));                            \
    a = _mm512_add_epi32(_mm512_rol_epi32(a, r), b);
#define TFF 0xCA
#define TFG 0xE4
#define TFH 0x96
#define TFI 0x39

OB_AVX512 static inline __m512i four_rows(const uint8_t *const *data, size_t at)
{
    /* 16 bytes of lanes 0, 4, 8 and 12 from there on */
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(data[0] + at)));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(data[4] + at)), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(data[8] + at)), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(data[12] + at)), 3);
}

OB_AVX512 static void blocks_16_avx512(uint32_t states[4][MOST], const uint8_t *const *data,
                                       size_t blocks)
{
    __m512i a = _mm512_loadu_si512(states[0]), b = _mm512_loadu_si512(states[1]);
    __m512i c = _mm512_loadu_si512(states[2]), d = _mm512_loadu_si512(states[3]);

    for (size_t at = 0; at < 64 * blocks; at += 64) {
        __m512i words[16], olda = a, oldb = b, oldc = c, oldd = d;
        for (int k = 0; k < 16; k += 4) {
            __m512i r0 = four_rows(data, at + 4 * (size_t)k);
            __m512i r1 = four_rows(data + 1, at + 4 * (size_t)k);
            __m512i r2 = four_rows(data + 2, at + 4 * (size_t)k);
            __m512i r3 = four_rows(data + 3, at + 4 * (size_t)k);
            __m512i t0 = _mm512_unpacklo_epi32(r0, r1), t1 = _mm512_unpackhi_epi32(r0, r1);
            __m512i t2 = _mm512_unpacklo_epi32(r2, r3), t3 = _mm512_unpackhi_epi32(r2, r3);
            words[k] = _mm512_unpacklo_epi64(t0, t2);
            words[k + 1] = _mm512_unpackhi_epi64(t0, t2);
            words[k + 2] = _mm512_unpacklo_epi64(t1, t3);
            words[k + 3] = _mm512_unpackhi_epi64(t1, t3);
        }
        ALL_STEPS
        a = _mm512_add_epi32(a, olda);
        b = _mm512_add_epi32(b, oldb);
        c = _mm512_add_epi32(c, oldc);
        d = _mm512_add_epi32(d, oldd);
    }
    _mm512_storeu_si512(states[0], a);
    _mm512_storeu_si512(states[1], b);
    _mm512_storeu_si512(states[2], c);
    _mm512_storeu_si512(states[3], d);
}
#undef STEP
#endif /* OB_X86 */

/* The widest that pays for this number of buffers, and its lanes. */
static blocks_fn blocks_for(int level, size_t busy, int *lanes)
{
#if OB_X86
    if (level >= OB_LEVEL_AVX512 && busy > 2) {
        *lanes = 16;
        return blocks_16_avx512;
    }
    if (level >= OB_LEVEL_AVX2 && busy > 4) {
        *lanes = 16;
        return blocks_16_avx2;
    }
#endif
#if VECTORS
    if (busy > 2) {
        *lanes = 8;
        return blocks_8;
    }
#endif
    (void)level;
    (void)busy;
    *lanes = 1;
    return blocks_1;
}

typedef struct {
    const uint8_t *data; /* whole blocks from here on */
    size_t blocks;
    size_t padding;     /* blocks of the tail that come then; 0: they are being done */
    uint8_t tail[128];  /* the rest of the buffer, 0x80, zeros, its length in bits */
    uint8_t *digest;    /* NULL: the lane has nothing to do */
} lane;

static void take(lane *l, const uint8_t *data, size_t size, uint8_t *digest)
{
    size_t rest = size % 64;
    uint64_t bits = (uint64_t)size * 8;

    l->data = data;
    l->blocks = size / 64;
    l->padding = rest < 56 ? 1 : 2;
    l->digest = digest;
    memset(l->tail, 0, sizeof l->tail);
    if (rest)
        memcpy(l->tail, data + (size - rest), rest);
    l->tail[rest] = 0x80;
    memcpy(l->tail + 64 * l->padding - 8, &bits, 8);
}

void ob_md5(int level, const uint8_t *const *data, const size_t *sizes, size_t count,
            uint8_t *digests)
{
    lane lanes[MOST];
    uint32_t states[4][MOST];
    size_t next = 0, busy = 0;
    int width;
    blocks_fn blocks = blocks_for(level, count, &width);

    memset(states, 0, sizeof states);
    for (int i = 0; i < MOST; i++)
        lanes[i].digest = NULL;
    for (;;) {
        const uint8_t *from[MOST];
        size_t n = SIZE_MAX;
        int any = -1;

        for (int i = 0; i < width; i++) {
            lane *l = &lanes[i];
            for (;;) {
                if (l->digest == NULL) {
                    if (next == count)
                        break;
                    take(l, data[next], sizes[next], digests + 16 * next);
                    for (int word = 0; word < 4; word++)
                        states[word][i] = START[word];
                    next++;
                    busy++;
                }
                if (l->blocks == 0 && l->padding) {
                    l->data = l->tail;
                    l->blocks = l->padding;
                    l->padding = 0;
                }
                if (l->blocks)
                    break;
                for (int word = 0; word < 4; word++)
                    memcpy(l->digest + 4 * word, &states[word][i], 4);
                l->digest = NULL;
                busy--;
            }
            if (l->digest != NULL) {
                any = i;
                n = l->blocks < n ? l->blocks : n;
            }
        }
        if (any < 0)
            return;
        if (next == count && width > 1) {
            /* few are left: fewer lanes may be quicker; the busy ones move to the front */
            int fewer;
            blocks_fn narrow = blocks_for(level, busy, &fewer);
            if (narrow != blocks && busy <= (size_t)fewer) {
                for (int i = 0, j = 0; i < width; i++)
                    if (lanes[i].digest != NULL) {
                        if (i != j) {
                            /* a tail that is being done moves with its lane */
                            lanes[j] = lanes[i];
                            if (lanes[i].padding == 0)
                                lanes[j].data = lanes[j].tail + (lanes[i].data - lanes[i].tail);
                            for (int word = 0; word < 4; word++)
                                states[word][j] = states[word][i];
                            lanes[i].digest = NULL;
                        }
                        j++;
                    }
                blocks = narrow;
                width = fewer;
                continue;
            }
        }
        for (int i = 0; i < width; i++)
            from[i] = lanes[lanes[i].digest ? i : any].data;
        blocks(states, from, n);
        for (int i = 0; i < width; i++)
            if (lanes[i].digest != NULL) {
                lanes[i].data += 64 * n;
                lanes[i].blocks -= n;
            }
    }
}
