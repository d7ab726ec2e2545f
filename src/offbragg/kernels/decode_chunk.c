/* Chunks of HDF5's bitshuffle filter (32008, with LZ4) back into counts; chunk.c says how they
 * are laid out.
 *
 * A block is decoded in three steps that stay in the L1 cache: LZ4 into bit planes, planes into
 * bytes, bytes into pixels. Counts are small: planes that only repeat the sign are recognised,
 * and mostly one byte of each pixel is made of planes instead of four. Values of 8 bytes come in
 * the same way, and all bytes of them are made.
 */
#include "kernels.h"

enum { STRIDE = 16 }; /* bytes that are copied at a time, up to as many too far */

typedef struct {
    uint8_t planes[4 * OB_MOST_BLOCK + OB_SLACK];
    uint8_t bytes[4 * OB_MOST_BLOCK]; /* one behind the other: lowest bytes of all pixels, next … */
    int32_t part[OB_MOST_BLOCK];      /* a block of which only a part is wanted */
} workspace;

/* ---- LZ4 --------------------------------------------------------------------------------- */

/* Repeat the `distance` bytes before `out` until `stop`, and up to STRIDE bytes further. */
static inline void repeat(uint8_t *out, const uint8_t *stop, size_t distance)
{
    if (distance == 1) {
        memset(out, out[-1], (size_t)(stop - out));
        return;
    }
    if (distance < STRIDE) {
        /* one by one, until whole strides may be copied from a multiple of the distance */
        for (int i = 0; i < STRIDE; i++)
            out[i] = *(out + i - distance);
        out += STRIDE;
        distance *= STRIDE / distance; /* of what stands behind `out` now, at most STRIDE */
        for (; out < stop; out += distance) {
            uint8_t held[STRIDE]; /* they overlap */
            memcpy(held, out - distance, STRIDE);
            memcpy(out, held, STRIDE);
        }
        return;
    }
    for (; out < stop; out += STRIDE)
        memcpy(out, out - distance, STRIDE);
}

/* A length that goes on in further bytes; 0 if it does not end, or is beyond `most`. */
static inline size_t more(const uint8_t **in, const uint8_t *end, size_t length, size_t most)
{
    const uint8_t *p = *in;
    uint8_t next;
    do {
        if (p == end || length > most)
            return 0;
        next = *p++;
        length += next;
    } while (next == 255);
    *in = p;
    return length;
}

/* Decode an LZ4 block that makes exactly `room` bytes. `readable` is the end of what may be read,
 * behind the block; `start` has OB_SLACK bytes more than `room`. */
static int read_lz4(const uint8_t *in, const uint8_t *end, const uint8_t *readable, uint8_t *start,
                    size_t room)
{
    uint8_t *out = start, *const stop = start + room;

    while (in < end) {
        const unsigned token = *in++;
        size_t n = token >> 4;
        if (n == 15 && (n = more(&in, end, n, room)) == 0)
            return OB_BAD_LZ4;
        if (n > (size_t)(end - in) || n > (size_t)(stop - out))
            return OB_BAD_LZ4;
        if ((size_t)(readable - in) >= n + STRIDE) {
            const uint8_t *from = in;
            uint8_t *to = out, *const there = out + n;
            do {
                memcpy(to, from, STRIDE);
                to += STRIDE;
                from += STRIDE;
            } while (to < there);
        } else {
            memcpy(out, in, n);
        }
        in += n;
        out += n;
        if (in == end)
            return out == stop ? OB_OK : OB_BAD_LZ4;
        if (end - in < 2)
            return OB_BAD_LZ4;
        const size_t distance = in[0] | (size_t)in[1] << 8;
        in += 2;
        n = token & 15;
        if (n == 15 && (n = more(&in, end, n, room)) == 0)
            return OB_BAD_LZ4;
        n += 4;
        if (distance == 0 || distance > (size_t)(out - start) || n > (size_t)(stop - out))
            return OB_BAD_LZ4;
        repeat(out, out + n, distance);
        out += n;
    }
    return OB_BAD_LZ4; /* it ends with a match, or has no bytes */
}

/* ---- bit planes into bytes ---------------------------------------------------------------- */

/* swap the bits of `a` above those of the mask with the bits of `b` within it */
#define SWAP(a, b, by, mask)                                                                      \
    do {                                                                                          \
        const uint64_t differ = ((a) >> (by) ^ (b)) & (mask);                                     \
        (b) ^= differ;                                                                            \
        (a) ^= differ << (by);                                                                    \
    } while (0)

/* Make one byte of each pixel of eight planes, from place `i` of each plane on. */
static void bytes_portable(const uint8_t *planes, size_t plane, size_t i, uint8_t *bytes)
{
    for (; i + 8 <= plane; i += 8) {
        uint64_t v[8];
        for (int k = 0; k < 8; k++)
            v[k] = ob_read64(planes + (size_t)k * plane + i);
        /* bits within bytes, and then bytes: 8 x 8 of each */
        for (int k = 0; k < 8; k += 2)
            SWAP(v[k], v[k + 1], 1, 0x5555555555555555u);
        for (int k = 0; k < 8; k += k & 1 ? 3 : 1)
            SWAP(v[k], v[k + 2], 2, 0x3333333333333333u);
        for (int k = 0; k < 4; k++)
            SWAP(v[k], v[k + 4], 4, 0x0F0F0F0F0F0F0F0Fu);
        for (int k = 0; k < 8; k += 2)
            SWAP(v[k], v[k + 1], 8, 0x00FF00FF00FF00FFu);
        for (int k = 0; k < 8; k += k & 1 ? 3 : 1)
            SWAP(v[k], v[k + 2], 16, 0x0000FFFF0000FFFFu);
        for (int k = 0; k < 4; k++)
            SWAP(v[k], v[k + 4], 32, 0x00000000FFFFFFFFu);
        memcpy(bytes + 8 * i, v, sizeof v);
    }
    for (; i < plane; i++)
        for (int pixel = 0; pixel < 8; pixel++) {
            unsigned byte = 0;
            for (int k = 0; k < 8; k++)
                byte |= (planes[(size_t)k * plane + i] >> pixel & 1u) << k;
            bytes[8 * i + (size_t)pixel] = (uint8_t)byte;
        }
}

/* ---- bytes into pixels -------------------------------------------------------------------- */

/* Make pixels of their lowest bytes, which stand n behind each other. */
static inline void widen(const uint8_t *bytes, size_t n, int count, int32_t *out)
{
    if (count == 1)
        for (size_t i = 0; i < n; i++)
            out[i] = (int8_t)bytes[i];
    else if (count == 2)
        for (size_t i = 0; i < n; i++)
            out[i] = (int16_t)(bytes[i] | bytes[n + i] << 8);
    else if (count == 3)
        for (size_t i = 0; i < n; i++)
            out[i] = bytes[i] | bytes[n + i] << 8 | (int8_t)bytes[2 * n + i] * 65536;
    else
        for (size_t i = 0; i < n; i++)
            out[i] = (int32_t)((uint32_t)bytes[i] | (uint32_t)bytes[n + i] << 8 |
                               (uint32_t)bytes[2 * n + i] << 16 |
                               (uint32_t)bytes[3 * n + i] << 24);
}

/* Make values of 8 bytes of their bytes, which stand n behind each other. */
static inline void widen_eight(const uint8_t *bytes, size_t n, uint8_t *out)
{
    size_t i = 0;
#if defined(__SSE2__)
    for (; i + 16 <= n; i += 16, out += 128) {
        __m128i v[8], u[8];
        for (int k = 0; k < 8; k++)
            v[k] = _mm_loadu_si128((const __m128i *)(bytes + (size_t)k * n + i));
        /* pairs of bytes, then fours, then all eight of a value */
        for (int k = 0; k < 4; k++) {
            u[k] = _mm_unpacklo_epi8(v[2 * k], v[2 * k + 1]);
            u[4 + k] = _mm_unpackhi_epi8(v[2 * k], v[2 * k + 1]);
        }
        for (int half = 0; half < 8; half += 4)
            for (int k = 0; k < 2; k++) {
                v[half + k] = _mm_unpacklo_epi16(u[half + 2 * k], u[half + 2 * k + 1]);
                v[half + 2 + k] = _mm_unpackhi_epi16(u[half + 2 * k], u[half + 2 * k + 1]);
            }
        for (int four = 0; four < 4; four++) {
            __m128i *to = (__m128i *)(out + 32 * four);
            _mm_storeu_si128(to, _mm_unpacklo_epi32(v[2 * four], v[2 * four + 1]));
            _mm_storeu_si128(to + 1, _mm_unpackhi_epi32(v[2 * four], v[2 * four + 1]));
        }
    }
#endif
    for (; i < n; i++, out += 8)
        for (int k = 0; k < 8; k++)
            out[k] = bytes[(size_t)k * n + i];
}

/* How many bytes of each pixel do more than repeat its sign. */
static int bytes_needed(const uint8_t *planes, size_t plane)
{
    int count = 4;
    for (; count > 1; count--) {
        const uint8_t *sign = planes + (8 * (size_t)count - 9) * plane;
        if (memcmp(sign, sign + plane, 8 * plane) != 0)
            break;
    }
    return count;
}

/* Make n values of their planes; `out` has room for them, at an address for words of 4 bytes. */
typedef void (*unshuffle_fn)(const uint8_t *planes, size_t n, uint8_t *bytes, int32_t *out);

static void unshuffle_portable(const uint8_t *planes, size_t n, uint8_t *bytes, int32_t *out)
{
    const int count = bytes_needed(planes, n / 8);
    for (int k = 0; k < count; k++)
        bytes_portable(planes + (size_t)k * n, n / 8, 0, bytes + (size_t)k * n);
    widen(bytes, n, count, out);
}

static void unshuffle_eight_portable(const uint8_t *planes, size_t n, uint8_t *bytes,
                                    int32_t *out)
{
    for (int k = 0; k < 8; k++)
        bytes_portable(planes + (size_t)k * n, n / 8, 0, bytes + (size_t)k * n);
    widen_eight(bytes, n, (uint8_t *)out);
}

#if OB_X86

#define SWAP256(a, b, by, mask)                                                                   \
    do {                                                                                          \
        const __m256i differ = _mm256_and_si256(                                                  \
            _mm256_xor_si256(_mm256_srli_epi64(a, by), b), _mm256_set1_epi8(mask));               \
        b = _mm256_xor_si256(b, differ);                                                          \
        a = _mm256_xor_si256(a, _mm256_slli_epi64(differ, by));                                   \
    } while (0)

OB_AVX2 static void bytes_avx2(const uint8_t *planes, size_t plane, uint8_t *bytes)
{
    size_t i = 0;
    for (; i + 32 <= plane; i += 32) {
        __m256i v[8], u[8];
        for (int k = 0; k < 8; k++)
            v[k] = _mm256_loadu_si256((const __m256i *)(planes + (size_t)k * plane + i));
        for (int k = 0; k < 8; k += 2)
            SWAP256(v[k], v[k + 1], 1, 0x55);
        for (int k = 0; k < 8; k += k & 1 ? 3 : 1)
            SWAP256(v[k], v[k + 2], 2, 0x33);
        for (int k = 0; k < 4; k++)
            SWAP256(v[k], v[k + 4], 4, 0x0F);
        /* now byte i of v[k] is pixel 8 i + k */
        for (int k = 0; k < 4; k++) {
            u[2 * k] = _mm256_unpacklo_epi8(v[2 * k], v[2 * k + 1]);
            u[2 * k + 1] = _mm256_unpackhi_epi8(v[2 * k], v[2 * k + 1]);
        }
        for (int k = 0; k < 2; k++)
            for (int half = 0; half < 2; half++) {
                v[4 * k + 2 * half] = _mm256_unpacklo_epi16(u[4 * k + half], u[4 * k + 2 + half]);
                v[4 * k + 2 * half + 1] =
                    _mm256_unpackhi_epi16(u[4 * k + half], u[4 * k + 2 + half]);
            }
        for (int k = 0; k < 4; k++) {
            u[2 * k] = _mm256_unpacklo_epi32(v[k], v[k + 4]);
            u[2 * k + 1] = _mm256_unpackhi_epi32(v[k], v[k + 4]);
        }
        for (int k = 0; k < 8; k++) {
            uint8_t *to = bytes + 8 * i + 16 * k;
            _mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(u[k]));
            _mm_storeu_si128((__m128i *)(to + 128), _mm256_extracti128_si256(u[k], 1));
        }
    }
    bytes_portable(planes, plane, i, bytes);
}

OB_AVX2 static void unshuffle_avx2(const uint8_t *planes, size_t n, uint8_t *bytes, int32_t *out)
{
    const int count = bytes_needed(planes, n / 8);
    for (int k = 0; k < count; k++)
        bytes_avx2(planes + (size_t)k * n, n / 8, bytes + (size_t)k * n);
    widen(bytes, n, count, out);
}

OB_AVX2 static void unshuffle_eight_avx2(const uint8_t *planes, size_t n, uint8_t *bytes,
                                    int32_t *out)
{
    for (int k = 0; k < 8; k++)
        bytes_avx2(planes + (size_t)k * n, n / 8, bytes + (size_t)k * n);
    widen_eight(bytes, n, (uint8_t *)out);
}

OB_AVX512 static void bytes_avx512(const uint8_t *planes, size_t plane, uint8_t *bytes)
{
    size_t i = 0;
    for (; i + 8 <= plane; i += 8) {
        __m512i v = _mm512_setzero_si512();
        for (int k = 0; k < 8; k++) {
            const __mmask64 bits = ob_read64(planes + (size_t)k * plane + i);
            v = _mm512_mask_add_epi8(v, bits, v, _mm512_set1_epi8((char)(1 << k)));
        }
        _mm512_storeu_si512(bytes + 8 * i, v);
    }
    bytes_portable(planes, plane, i, bytes);
}

OB_AVX512 static void unshuffle_avx512(const uint8_t *planes, size_t n, uint8_t *bytes,
                                       int32_t *out)
{
    const int count = bytes_needed(planes, n / 8);
    for (int k = 0; k < count; k++)
        bytes_avx512(planes + (size_t)k * n, n / 8, bytes + (size_t)k * n);
    widen(bytes, n, count, out);
}

OB_AVX512 static void unshuffle_eight_avx512(const uint8_t *planes, size_t n, uint8_t *bytes,
                                    int32_t *out)
{
    for (int k = 0; k < 8; k++)
        bytes_avx512(planes + (size_t)k * n, n / 8, bytes + (size_t)k * n);
    widen_eight(bytes, n, (uint8_t *)out);
}

#endif

static unshuffle_fn unshuffler(int level, size_t width)
{
#if OB_X86
    if (level >= OB_LEVEL_AVX512)
        return width == 8 ? unshuffle_eight_avx512 : unshuffle_avx512;
    if (level >= OB_LEVEL_AVX2)
        return width == 8 ? unshuffle_eight_avx2 : unshuffle_avx2;
#endif
    (void)level;
    return width == 8 ? unshuffle_eight_portable : unshuffle_portable;
}

/* ---- chunks ------------------------------------------------------------------------------- */

static inline uint32_t get32(const uint8_t *p)
{
    return __builtin_bswap32(ob_read32(p));
}

static int decode_values(int level, const uint8_t *in, size_t size, size_t width, size_t n,
                         size_t first, size_t count, uint8_t *out, size_t *done)
{
    const uint8_t *const end = in + size;
    const unshuffle_fn unshuffle = unshuffler(level, width);
    const size_t whole = n & ~(size_t)7, last = first + count;
    workspace w;

    *done = 0;
    if (size < 12)
        return OB_TRUNCATED;
    const uint64_t claimed = (uint64_t)get32(in) << 32 | get32(in + 4);
    if (claimed != width * (uint64_t)n)
        return OB_BAD_SIZE;
    const size_t block = get32(in + 8) / width;
    if (block == 0 || block % 8 || block > 4 * OB_MOST_BLOCK / width || get32(in + 8) % width)
        return OB_BAD_BLOCK;
    in += 12;
    for (size_t at = 0; at < whole;) {
        const size_t here = whole - at < block ? whole - at : block;
        if (end - in < 4)
            return OB_TRUNCATED;
        const size_t length = get32(in);
        in += 4;
        if (length > (size_t)(end - in))
            return OB_TRUNCATED;
        if (at < last && at + here > first) {
            const size_t from = at < first ? first - at : 0;
            const size_t to = at + here > last ? last - at : here;
            const int entire = from == 0 && to == here;
            const int status = read_lz4(in, in + length, end, w.planes, width * here);
            if (status != OB_OK)
                return status;
            int32_t *to_words = (int32_t *)(void *)(out + width * *done);
            unshuffle(w.planes, here, w.bytes, entire ? to_words : w.part);
            if (!entire)
                memcpy(out + width * *done, (uint8_t *)w.part + width * from, width * (to - from));
            *done += to - from;
        }
        in += length;
        at += here;
    }
    if ((size_t)(end - in) < width * (n - whole))
        return OB_TRUNCATED;
    if (last > whole) {
        const size_t from = first > whole ? first - whole : 0;
        memcpy(out + width * *done, in + width * from, width * (count - *done));
        *done = count;
    }
    return (size_t)(end - in) == width * (n - whole) ? OB_OK : OB_SURPLUS;
}

int ob_decode_chunk(int level, const uint8_t *in, size_t size, size_t n, size_t first, size_t count,
                    int32_t *out, size_t *done)
{
    return decode_values(level, in, size, 4, n, first, count, (uint8_t *)out, done);
}

int ob_decode_cells(int level, const uint8_t *in, size_t size, size_t width, size_t n, size_t first,
                    size_t count, void *out, size_t *done)
{
    *done = 0;
    if (size < 4)
        return OB_TRUNCATED;
    if (ob_fletcher32(in, size - 4) != ob_read32(in + size - 4))
        return OB_BAD_SUM;
    return decode_values(level, in, size - 4, width, n, first, count, out, done);
}
