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

/* The lower and the upper halves of the values are transposed as pixels that follow each other, so
 * each plane holds a plane of the values' lower bits, and then one of their upper bits. */
static uint8_t *put_wide_block(workspace *w, const uint8_t *values, size_t n, uint8_t *out)
{
    int32_t halves[OB_BLOCK];
    uint8_t both[8192 + OB_SLACK];
    const size_t plane = n / 8;
    int written = 64;

    for (size_t i = 0; i < n; i++) {
        uint64_t v = ob_read64(values + 8 * i);
        halves[i] = (int32_t)(uint32_t)v;
        halves[n + i] = (int32_t)(uint32_t)(v >> 32);
    }
    int made = w->shuffle(halves, 2 * n, both);
    for (int bit = 0; bit < 32; bit++) {
        const uint8_t *from = both + 2 * plane * (size_t)(bit < made ? bit : made - 1);
        memcpy(w->planes + plane * (size_t)bit, from, plane);
        memcpy(w->planes + plane * (size_t)(32 + bit), from + plane, plane);
    }
    while (written > 1 && memcmp(w->planes + plane * (size_t)(written - 1),
                                 w->planes + plane * (size_t)(written - 2), plane) == 0)
        written--;
    size_t length = w->compress(w->planes, plane, 64, written, out + 4, &w->memory);
    put32(out, (uint32_t)length);
    return out + 4 + length;
}

size_t ob_encode_wide(int level, const uint8_t *values, size_t n, uint8_t *out)
{
    enum { BLOCK = OB_BLOCK / 2 };
    workspace w;
    uint8_t *o = put_head(out, 8 * (uint64_t)n);

    begin(&w, level);
    for (; n >= BLOCK; n -= BLOCK, values += 8 * BLOCK)
        o = put_wide_block(&w, values, BLOCK, o);
    size_t whole = n & ~(size_t)7;
    if (whole)
        o = put_wide_block(&w, values, whole, o);
    memcpy(o, values + 8 * whole, 8 * (n - whole));
    return (size_t)(o + 8 * (n - whole) - out);
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
