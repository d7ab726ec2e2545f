/* Chunks as HDF5's bitshuffle filter (32008, with LZ4) reads them.
 *
 * Eight bytes with the size of the pixels and four with that of a block, big-endian; then each
 * block, four bytes with its compressed size in front. Blocks have 2048 pixels. What is left is
 * one shorter block of a multiple of 8 pixels, and then up to 7 pixels as they are. Of values of
 * 8 bytes a block has 1024, and twice as many planes of half the size.
 */
#include "kernels.h"

static inline uint8_t *put32(uint8_t *out, uint32_t v)
{
    out[0] = (uint8_t)(v >> 24);
    out[1] = (uint8_t)(v >> 16);
    out[2] = (uint8_t)(v >> 8);
    out[3] = (uint8_t)v;
    return out + 4;
}

typedef struct {
    ob_shuffle_fn shuffle;
    ob_lz4_fn compress;
    ob_lz4_memory memory;
    uint8_t planes[8192 + OB_SLACK];
} workspace;

static void begin(workspace *w, int level)
{
    w->shuffle = ob_shuffler(level);
    w->compress = ob_lz4(level);
    w->memory.base = 0;
    memset(w->memory.at, 0, sizeof w->memory.at);
    memset(w->planes + 8192, 0, OB_SLACK);
}

static uint8_t *put_head(uint8_t *out, uint64_t size)
{
    out = put32(out, (uint32_t)(size >> 32));
    out = put32(out, (uint32_t)size);
    return put32(out, 4 * OB_BLOCK);
}

static uint8_t *put_block(workspace *w, const int32_t *pixels, size_t n, uint8_t *out)
{
    int written = w->shuffle(pixels, n, w->planes);
    size_t length = w->compress(w->planes, n / 8, 32, written, out + 4, &w->memory);
    put32(out, (uint32_t)length);
    return out + 4 + length;
}

/* what is left, fewer than OB_BLOCK pixels */
static uint8_t *put_rest(workspace *w, const int32_t *pixels, size_t n, uint8_t *out)
{
    size_t whole = n & ~(size_t)7;
    if (whole)
        out = put_block(w, pixels, whole, out);
    memcpy(out, pixels + whole, 4 * (n - whole));
    return out + 4 * (n - whole);
}

size_t ob_chunk_bound(size_t n)
{
    return 12 + (n / OB_BLOCK + 1) * (4 + OB_LZ4_BOUND) + 32 + OB_SLACK;
}

size_t ob_encode(int level, const int32_t *pixels, size_t n, uint8_t *out)
{
    workspace w;
    uint8_t *o = put_head(out, 4 * (uint64_t)n);

    begin(&w, level);
    for (; n >= OB_BLOCK; n -= OB_BLOCK, pixels += OB_BLOCK)
        o = put_block(&w, pixels, OB_BLOCK, o);
    o = put_rest(&w, pixels, n, o);
    return (size_t)(o - out);
}

static inline void halve(const uint8_t *values, size_t n, int32_t *low, int32_t *high)
{
    for (size_t i = 0; i < n; i++) {
        const uint64_t v = ob_read64(values + 8 * i);
        low[i] = (int32_t)(uint32_t)v;
        high[i] = (int32_t)(uint32_t)(v >> 32);
    }
}

#if OB_X86
OB_AVX2 static void halve_avx2(const uint8_t *values, size_t n, int32_t *low, int32_t *high)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 a = _mm256_loadu_ps((const float *)(values + 8 * i));
        const __m256 b = _mm256_loadu_ps((const float *)(values + 8 * i + 32));
        const __m256i even = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));
        const __m256i odd = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd));
        _mm256_storeu_si256((__m256i *)(low + i), _mm256_permute4x64_epi64(even, 0xd8));
        _mm256_storeu_si256((__m256i *)(high + i), _mm256_permute4x64_epi64(odd, 0xd8));
    }
    halve(values + 8 * i, n - i, low + i, high + i);
}
#endif

static inline void part(const uint8_t *both, int made, size_t plane, uint8_t *planes)
{
    for (int bit = 0; bit < 32; bit++) {
        const uint8_t *from = both + 2 * plane * (size_t)(bit < made ? bit : made - 1);
        memcpy(planes + plane * (size_t)bit, from, plane);
        memcpy(planes + plane * (size_t)(32 + bit), from + plane, plane);
    }
}

/* The lower and the upper halves of the values are transposed as pixels that follow each other, so
 * each plane holds a plane of the values' lower bits, and then one of their upper bits. */
static int shuffle_wide(int level, const uint8_t *values, size_t n, uint8_t *planes)
{
    int32_t halves[OB_BLOCK];
    uint8_t both[8192 + OB_SLACK];
    const size_t plane = n / 8;
    int written = 64;

#if OB_X86
    if (level >= OB_LEVEL_AVX2)
        halve_avx2(values, n, halves, halves + n);
    else
#endif
        halve(values, n, halves, halves + n);
    int made = ob_shuffler(level)(halves, 2 * n, both);
    if (plane == OB_PLANE / 2) /* a size that is known makes it four times as fast */
        part(both, made, OB_PLANE / 2, planes);
    else
        part(both, made, plane, planes);
    while (written > 1 && memcmp(planes + plane * (size_t)(written - 1),
                                 planes + plane * (size_t)(written - 2), plane) == 0)
        written--;
    return written;
}

size_t ob_encode_cells(int level, const void *values, size_t width, size_t n, uint8_t *out)
{
    const ob_shuffle_fn shuffle = ob_shuffler(level);
    const ob_runs_fn compress = ob_lz4_runs(level);
    const size_t whole = n & ~(size_t)7, most = 4 * OB_BLOCK / width;
    const uint8_t *from = values;
    uint8_t planes[8192 + OB_SLACK], *o = put_head(out, width * (uint64_t)n);

    memset(planes, 0, sizeof planes);
    for (size_t at = 0, here; at < whole; at += here, from += width * here) {
        here = whole - at < most ? whole - at : most;
        const int written = width == 8 ? shuffle_wide(level, from, here, planes)
                                       : shuffle((const int32_t *)from, here, planes);
        const size_t length = compress(planes, here / 8, (int)(8 * width), written, o + 4);
        put32(o, (uint32_t)length);
        o += 4 + length;
    }
    memcpy(o, from, width * (n - whole));
    return (size_t)(o + width * (n - whole) - out);
}

int ob_decode_encode(int level, const uint8_t *in, size_t size, int32_t *image, size_t n,
                     uint8_t *out, size_t *done, size_t *length)
{
    enum { ROOM = OB_BLOCK + 64 };
    workspace w;
    int32_t scratch[ROOM];
    ob_decode_fn decode = ob_decoder(level);
    ob_steps steps = {in, in + size, 0};
    uint8_t *o = put_head(out, 4 * (uint64_t)n);
    size_t ahead = 0; /* decoded, but not yet compressed */
    int status = OB_OK;

    begin(&w, level);
    *done = *length = 0;
    while (*done < n) {
        size_t left = n - *done; /* not yet compressed */
        size_t block = left < OB_BLOCK ? left : OB_BLOCK;
        int32_t *pixels = image ? image + *done : scratch;
        size_t room = image || left < ROOM ? left : ROOM;
        if (room > ROOM)
            room = ROOM;
        if (ahead < block)
            ahead += decode(&steps, pixels + ahead, block - ahead, room - ahead, &status);
        if (status != OB_OK) {
            *done += ahead;
            return status;
        }
        o = block == OB_BLOCK ? put_block(&w, pixels, block, o) : put_rest(&w, pixels, block, o);
        ahead -= block;
        *done += block;
        if (!image && ahead)
            memmove(scratch, scratch + block, 4 * ahead);
    }
    if (n % OB_BLOCK == 0)
        o = put_rest(&w, scratch, 0, o);
    if (steps.in != steps.end)
        return OB_SURPLUS;
    *length = (size_t)(o - out);
    return OB_OK;
}
