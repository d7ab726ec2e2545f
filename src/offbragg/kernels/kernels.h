/* What the kernels share. Nothing here knows Python; module.c is the only file that does.
 *
 * Every function is bounded by the sizes that it is given, whatever the bytes say. The variants
 * of a function for other instruction sets give the same bytes; which of them a processor can
 * run is asked once, in dispatch.c.
 */
#ifndef OFFBRAGG_KERNELS_H
#define OFFBRAGG_KERNELS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define OB_X86 1
#include <immintrin.h>
#define OB_AVX2 __attribute__((target("avx2,bmi,bmi2,lzcnt")))
/* Ice Lake and Zen 4 onwards: one level, no half ones */
#define OB_AVX512                                                                                 \
    __attribute__((target("avx2,bmi,bmi2,lzcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,"    \
                          "avx512vnni")))
#else
#define OB_X86 0
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the kernels are for little-endian processors; the NumPy reference is for all"
#endif

enum ob_level { OB_PORTABLE = 0, OB_LEVEL_AVX2 = 1, OB_LEVEL_AVX512 = 2 };

/* the highest level that this processor runs */
int ob_best_level(void);

/* ---- byte-offset coding (byte_offset.c) ------------------------------------------------- */

enum ob_status {
    OB_OK = 0,
    OB_TRUNCATED = 1, /* the stream ends before the last pixel */
    OB_SURPLUS = 2,   /* bytes are left behind the last pixel */
    OB_OVERFLOW = 3   /* a pixel does not fit in 32 bits */
};

typedef struct {
    const uint8_t *in, *end; /* what is left of the stream */
    int32_t last;            /* the pixel before the next one */
} ob_steps;

/* Decode at least `want` pixels, at most `room` of them (want <= room), and say how many.
 * Fewer than `want` only if *status says why. All of out[0:room] may be written to. */
typedef size_t (*ob_decode_fn)(ob_steps *, int32_t *out, size_t want, size_t room, int *status);
ob_decode_fn ob_decoder(int level);

/* Decode exactly `n` pixels that take the whole stream. */
int ob_decode(int level, const uint8_t *in, size_t size, int32_t *out, size_t n, size_t *done);

/* ---- bitshuffle-LZ4 chunks (chunk.c, bitshuffle.c, lz4_block.c) -------------------------- */

#define OB_BLOCK 2048                  /* pixels of a block: 8 KiB, as bitshuffle has it */
#define OB_PLANE (OB_BLOCK / 8)        /* bytes of a bit plane of a whole block */
#define OB_LZ4_BOUND (8192 + 33 + 16)  /* worst case of a block */
#define OB_SLACK 64                    /* bytes behind a buffer that copying in strides may touch */
#define OB_HASH_BITS 11
#define OB_MOST ((size_t)1 << 28) /* pixels of a chunk: HDF5's end at 4 GiB, places in 32 bits */

/* Bytes that a chunk of n pixels may take, the slack for copying included. */
size_t ob_chunk_bound(size_t n);

/* Bit-transpose n pixels (n a multiple of 8, at most OB_BLOCK) into planes of n / 8 bytes, lowest
 * bit first, and say how many planes differ in what they must hold: the planes from that one on
 * repeat the sign, and are not written. */
typedef int (*ob_shuffle_fn)(const int32_t *pixels, size_t n, uint8_t *planes);
ob_shuffle_fn ob_shuffler(int level);
int ob_shuffle_portable(const int32_t *pixels, size_t n, uint8_t *planes);

typedef struct {
    uint32_t at[1 << OB_HASH_BITS]; /* where such six bytes were seen last, as base + 1 + place */
    uint32_t base;                  /* bytes compressed so far: starts at 0, all else too */
} ob_lz4_memory;

/* Compress `count` planes of `plane` bytes (8 KiB at most), of which the first `written` are there
 * and the others repeat the last of them, to one LZ4 block; says how many bytes it has. `planes`
 * has count * plane bytes, `out` OB_LZ4_BOUND, and both OB_SLACK more. */
typedef size_t (*ob_lz4_fn)(uint8_t *planes, size_t plane, int count, int written, uint8_t *out,
                            ob_lz4_memory *memory);
ob_lz4_fn ob_lz4(int level);

/* The same for cells (lz4_runs.c), which looks for runs alone. */
typedef size_t (*ob_runs_fn)(uint8_t *planes, size_t plane, int count, int written, uint8_t *out);
ob_runs_fn ob_lz4_runs(int level);

/* Compress n pixels (at most OB_MOST) to a chunk; out has ob_chunk_bound(n) bytes. */
size_t ob_encode(int level, const int32_t *pixels, size_t n, uint8_t *out);

/* The same for cells of a volume: n values (at most OB_MOST / 2) of `width` bytes, 4 (aligned) or
 * 8 (at any address); out has ob_chunk_bound(n * width / 4) bytes. */
size_t ob_encode_cells(int level, const void *values, size_t width, size_t n, uint8_t *out);

/* Fletcher's checksum as HDF5 appends it to a chunk (fletcher32.c). */
uint32_t ob_fletcher32(const uint8_t *data, size_t size);

/* Decode and compress in one go, block by block. `image` has n pixels, or is NULL. */
int ob_decode_encode(int level, const uint8_t *in, size_t size, int32_t *image, size_t n,
                     uint8_t *out, size_t *done, size_t *length);

/* ---- chunks back into pixels (decode_chunk.c) --------------------------------------------- */

#define OB_MOST_BLOCK 16384 /* pixels of a block that is read, whoever wrote it */

enum ob_chunk_status { /* beside OB_OK, OB_TRUNCATED and OB_SURPLUS */
    OB_BAD_SIZE = 4,   /* the chunk says that it has another number of pixels */
    OB_BAD_BLOCK = 5,  /* blocks of a size that cannot be, or is not read here */
    OB_BAD_LZ4 = 6,    /* a block is not LZ4, or does not make what a block has */
    OB_BAD_SUM = 7     /* Fletcher's checksum is another */
};

/* Decode `count` pixels from `first` on out of a chunk of n pixels (first + count <= n), and say
 * how many are right. Only blocks that hold some of them are decoded. */
int ob_decode_chunk(int level, const uint8_t *in, size_t size, size_t n, size_t first, size_t count,
                    int32_t *out, size_t *done);

/* The same of n values of `width` bytes, 4 or 8, with Fletcher's checksum behind them; `out` at an
 * address for words of 4 bytes. */
int ob_decode_cells(int level, const uint8_t *in, size_t size, size_t width, size_t n, size_t first,
                    size_t count, void *out, size_t *done);

/* ---- MD5 (md5.c) ------------------------------------------------------------------------- */

/* MD5 of `count` buffers, in lanes; digests has 16 * count bytes. */
void ob_md5(int level, const uint8_t *const *data, const size_t *sizes, size_t count,
            uint8_t *digests);

/* ---- CRC-64/XZ (crc64.c) ----------------------------------------------------------------- */

/* Make the tables; once, before anything else of it is called. */
void ob_crc64_init(void);

/* CRC of what has the CRC `before` and then `data`; `before` is 0 where nothing is before. */
uint64_t ob_crc64(int level, uint64_t before, const uint8_t *data, size_t size);

/* CRC of two parts, one behind the other; the second has `length` bytes. */
uint64_t ob_crc64_combine(uint64_t first, uint64_t second, uint64_t length);

/* ---- pixels as they are (strips.c) ------------------------------------------------------- */

/* Put strips of a file one behind the other, bytes of each 32-bit word swapped if asked.
 * Nonzero if a strip is not within the file, or the strips do not fill n words exactly. */
int ob_strips(const uint8_t *data, size_t size, const uint64_t *offsets, const uint64_t *lengths,
              size_t count, int swap, int32_t *out, size_t n);

/* ---- sums over equivalents (symmetry.c) -------------------------------------------------- */

/* Write to each cell of a box the sum over the cells equivalent to it, in the order of `steps`,
 * each as often as it differs; `array` (NULL: ones) and `share` (NULL: none; a factor of each
 * cell) have as many cells as `out`, which may be `array`. Does the orbits of part `part` of
 * `parts`; no two parts write to or read from the same cell. `operations`: count matrices of 9, a
 * group, identity first. `steps`: `length` numbers of operations, 255 behind each step and once
 * more at the end. A leading step of one operation must double the group that was done.
 * Nonzero, and nothing written, if these are not that; -1 without memory. */
int ob_symmetrise(const double *array, const double *share, double *out, const int64_t *first,
                  const int64_t *shape, const int8_t *operations, size_t count,
                  const uint8_t *steps, size_t length, size_t part, size_t parts);
/* ---- frames from afar (tiles.c) ---------------------------------------------------------- */

#define OB_TILE 16         /* pixels along a tile */
#define OB_MEDIAN_OF_20 9  /* twentieths: the median is taken a little below the middle */

/* Of every tile: how many of each second pixel of each second row have a count (from 0 on and not
 * the highest there is), and their median; 0 if none has. Of every column of a row of tiles: the
 * highest count, at least -1. The last tiles may be cut. */
void ob_tiles(int level, const int32_t *counts, size_t rows, size_t columns, int32_t *number,
              int32_t *middle, int32_t *highest);

static inline uint32_t ob_read32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static inline uint64_t ob_read64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

#endif
