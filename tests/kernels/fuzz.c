/* Hostile bytes for the kernels: built with sanitizers by test_fuzz.py.
 *
 * Every buffer is of exactly the size that is given, so that one byte too far is seen. All levels
 * must agree, and a chunk must come back through a reader that shares nothing with the writer.
 * With libFuzzer the inputs are found by coverage; with -DOWN_MAIN they are mutated at random.
 */
#include "fuzz.h"

/* ---- a reader of chunks, bit by bit ---- */

static size_t read_lz4(const uint8_t *in, size_t size, uint8_t *out, size_t room)
{
    size_t i = 0, o = 0;
    for (;;) {
        CHECK(i < size);
        uint8_t token = in[i++];
        size_t n = token >> 4;
        if (n == 15)
            do {
                CHECK(i < size);
                n += in[i];
            } while (in[i++] == 255);
        CHECK(n <= size - i && n <= room - o);
        memcpy(out + o, in + i, n);
        i += n;
        o += n;
        if (i == size) {
            CHECK(n >= 5 || o == n); /* the last five bytes are literals */
            return o;
        }
        CHECK(size - i >= 2);
        size_t distance = in[i] | (size_t)in[i + 1] << 8;
        i += 2;
        n = (token & 15) + 4;
        if (n == 19)
            do {
                CHECK(i < size);
                n += in[i];
            } while (in[i++] == 255);
        CHECK(distance > 0 && distance <= o && n <= room - o);
        CHECK(o + 12 <= room && o + n + 5 <= room); /* where a match may begin and end */
        for (; n > 0; n--, o++)
            out[o] = out[o - distance];
    }
}

static uint64_t big(const uint8_t *p, int n)
{
    uint64_t v = 0;
    while (n-- > 0)
        v = v << 8 | *p++;
    return v;
}

/* values of `width` bytes */
static void read_cells(const uint8_t *in, size_t size, const uint8_t *values, size_t n, size_t width)
{
    CHECK(size >= 12 && big(in, 8) == width * n && big(in + 8, 4) == 8192);
    size_t i = 12, done = 0, whole = n & ~(size_t)7, most = 8192 / width;
    while (done < whole) {
        size_t block = whole - done < most ? whole - done : most;
        uint8_t planes[8192];
        CHECK(size - i >= 4);
        size_t length = big(in + i, 4);
        i += 4;
        CHECK(length <= size - i);
        CHECK(read_lz4(in + i, length, planes, width * block) == width * block);
        i += length;
        for (size_t k = 0; k < block; k++) {
            uint64_t v = 0, expected = 0;
            for (size_t bit = 0; bit < 8 * width; bit++)
                v |= (uint64_t)(planes[bit * (block / 8) + k / 8] >> (k % 8) & 1) << bit;
            memcpy(&expected, values + width * (done + k), width);
            CHECK(v == expected);
        }
        done += block;
    }
    CHECK(size - i == width * (n - whole));
    CHECK(memcmp(in + i, values + width * whole, size - i) == 0);
}

static void read_chunk(const uint8_t *in, size_t size, const int32_t *pixels, size_t n)
{
    read_cells(in, size, (const uint8_t *)pixels, n, 4);
}

/* ---- what is tried ---- */

static void try_stream(const uint8_t *data, size_t size, size_t n)
{
    int32_t *first = exactly(4 * n, 1);
    size_t first_done, length0 = 0;
    int first_status = ob_decode(OB_PORTABLE, data, size, first, n, &first_done);
    uint8_t *chunk0 = exactly(ob_chunk_bound(n), 2);

    CHECK(first_done <= n);
    if (first_status == OB_OK) {
        length0 = ob_encode(OB_PORTABLE, first, n, chunk0);
        read_chunk(chunk0, length0, first, n);
    }
    for (int level = 0; level <= ob_best_level(); level++) {
        size_t done, length;
        int32_t *out = exactly(4 * n, 3);
        uint8_t *chunk = exactly(ob_chunk_bound(n), 4);
        CHECK(ob_decode(level, data, size, out, n, &done) == first_status);
        CHECK(done == first_done && memcmp(out, first, 4 * done) == 0);
        for (int keep = 0; keep < 2; keep++) {
            memset(out, 5, 4 * n);
            CHECK(ob_decode_encode(level, data, size, keep ? out : NULL, n, chunk, &done,
                                   &length) == first_status);
            CHECK(done == first_done && (!keep || memcmp(out, first, 4 * done) == 0));
            CHECK(length == length0 && memcmp(chunk, chunk0, length) == 0);
        }
        free(out);
        free(chunk);
    }
    free(first);
    free(chunk0);
}

/* a chunk with its checksum comes back, whole and in part; changed, all levels say the same of it */
static void try_cells(const uint8_t *chunk, size_t length, const uint8_t *noise, size_t size,
                      const int32_t *values, size_t n)
{
    uint8_t *own = exactly(length + 4, 0);
    const size_t from = n ? noise[0] % n : 0, count = n - from;
    uint8_t *out = exactly(8 * count, 1), *other = exactly(8 * count, 1);
    size_t done, other_done;

    for (int changed = 0; changed < 2; changed++) {
        memcpy(own, chunk, length);
        for (size_t i = 0; changed && i < 3; i++)
            own[(noise[(5 * i + 1) % size] * (size_t)257 + noise[(5 * i + 2) % size]) % length] ^=
                noise[(5 * i + 3) % size];
        uint32_t sum = ob_fletcher32(own, length);
        memcpy(own + length, &sum, 4);
        int status = ob_decode_cells(OB_PORTABLE, own, length + 4, 8, n, from, count, out, &done);
        CHECK(done <= count && (status != OB_OK || done == count));
        CHECK(changed || status == OB_OK);
        CHECK(changed || memcmp(out, (const uint8_t *)values + 8 * from, 8 * count) == 0);
        for (int level = 1; level <= ob_best_level(); level++) {
            CHECK(ob_decode_cells(level, own, length + 4, 8, n, from, count, other, &other_done) ==
                  status);
            CHECK(other_done == done && memcmp(out, other, 8 * done) == 0);
        }
    }
    own[length] ^= 1;
    CHECK(ob_decode_cells(OB_PORTABLE, own, length + 4, 8, n, 0, 0, out, &done) == OB_BAD_SUM);
    free(own);
    free(out);
    free(other);
}

static void try_counts(const uint8_t *data, size_t size, int down, size_t times)
{
    size_t n = size / 4 * times;
    int32_t *pixels = exactly(4 * n, 0);
    uint8_t *first = exactly(ob_chunk_bound(n), 1), *chunk = exactly(ob_chunk_bound(n), 2);

    for (size_t i = 0; i < n; i++) {
        int32_t v = (int32_t)ob_read32(data + i % (size / 4) * 4);
        pixels[i] = v >> down;
    }
    size_t length = ob_encode(OB_PORTABLE, pixels, n, first);
    read_chunk(first, length, pixels, n);
    for (int level = 1; level <= ob_best_level(); level++) {
        CHECK(ob_encode(level, pixels, n, chunk) == length);
        CHECK(memcmp(chunk, first, length) == 0);
    }
    for (size_t width = 8; width >= 4; width -= 4) {
        length = ob_encode_cells(OB_PORTABLE, pixels, width, 4 * n / width, first);
        read_cells(first, length, (const uint8_t *)pixels, 4 * n / width, width);
        for (int level = 1; level <= ob_best_level(); level++) {
            CHECK(ob_encode_cells(level, pixels, width, 4 * n / width, chunk) == length);
            CHECK(memcmp(chunk, first, length) == 0);
        }
        if (width == 8)
            try_cells(first, length, data, size, pixels, n / 2);
    }
    free(pixels);
    free(first);
    free(chunk);
}

/* decode a chunk at every level, and a part of it, from buffers of exactly its size */
static int decode_alike(const uint8_t *chunk, size_t size, size_t n, size_t first, size_t count,
                        int32_t *out)
{
    uint8_t *own = exactly(size, 0);
    int32_t *other = exactly(4 * count, 7);
    size_t done, other_done;

    memcpy(own, chunk, size);
    int status = ob_decode_chunk(OB_PORTABLE, own, size, n, first, count, out, &done);
    CHECK(done <= count && (status != OB_OK || done == count));
    for (int level = 1; level <= ob_best_level(); level++) {
        CHECK(ob_decode_chunk(level, own, size, n, first, count, other, &other_done) == status);
        CHECK(other_done == done && memcmp(out, other, 4 * done) == 0);
    }
    free(own);
    free(other);
    return status;
}

/* a chunk comes back, in blocks of the writer's size; with bytes changed it is read or refused */
static void try_chunk(const uint8_t *data, size_t size, int down, size_t times)
{
    size_t n = size / 4 * times + size % 4;
    int32_t *pixels = exactly(4 * n, 0), *out = exactly(4 * n, 1);
    uint8_t *chunk = exactly(ob_chunk_bound(n), 2);

    for (size_t i = 0; i < n; i++)
        pixels[i] = (int32_t)ob_read32(data + i % (size / 4) * 4) >> down;
    size_t length = ob_encode(OB_PORTABLE, pixels, n, chunk);
    size_t first = data[0] * (size_t)97 % (n + 1), count = data[1] * (size_t)31 % (n - first + 1);
    CHECK(decode_alike(chunk, length, n, 0, n, out) == OB_OK);
    CHECK(memcmp(out, pixels, 4 * n) == 0);
    CHECK(decode_alike(chunk, length, n, first, count, out) == OB_OK);
    CHECK(memcmp(out, pixels + first, 4 * count) == 0);
    for (size_t i = 0; i + 4 <= size && i < 64; i += 4) {
        chunk[(data[i] | (size_t)data[i + 1] << 8) % length] = data[i + 2];
        decode_alike(chunk, length, n, 0, n, out);
        decode_alike(chunk, length - data[i + 3] % length, n, first, count, out);
    }
    free(pixels);
    free(out);
    free(chunk);
}

/* any bytes as the blocks of a chunk */
static void try_blocks(const uint8_t *data, size_t size, size_t n, size_t block)
{
    int32_t *out = exactly(4 * n, 1);
    uint8_t *chunk = exactly(size + 16, 0);

    for (int i = 0; i < 4; i++) {
        chunk[4 + i] = (uint8_t)(4 * n >> (24 - 8 * i));
        chunk[8 + i] = (uint8_t)(4 * block >> (24 - 8 * i));
        chunk[12 + i] = (uint8_t)(size >> (24 - 8 * i));
    }
    memcpy(chunk + 16, data, size);
    decode_alike(chunk, size + 16, n, 0, n, out);
    decode_alike(data, size, n, 0, n, out);
    free(out);
    free(chunk);
}

static void try_md5(const uint8_t *data, size_t size, size_t count)
{
    const uint8_t *parts[64];
    size_t sizes[64], at = 0;
    uint8_t one[64 * 16], many[64 * 16];

    for (size_t i = 0; i < count; i++) {
        size_t n = size ? (data[i % size] * (size_t)3) % (size + 1) : 0;
        at = size ? (at + 7 * n + i) % (size + 1) : 0;
        parts[i] = data + at;
        sizes[i] = n < size - at ? n : size - at;
        ob_md5(OB_PORTABLE, &parts[i], &sizes[i], 1, one + 16 * i);
    }
    for (int level = 0; level <= ob_best_level(); level++) {
        memset(many, 0, sizeof many);
        ob_md5(level, parts, sizes, count, many);
        CHECK(memcmp(one, many, 16 * count) == 0);
    }
}

static void try_crc64(const uint8_t *data, size_t size, size_t cut)
{
    cut %= size + 1;
    uint64_t whole = ob_crc64(OB_PORTABLE, 0, data, size);
    for (int level = 0; level <= ob_best_level(); level++) {
        uint64_t first = ob_crc64(level, 0, data, cut);
        CHECK(ob_crc64(level, first, data + cut, size - cut) == whole);
        uint64_t second = ob_crc64(level, 0, data + cut, size - cut);
        CHECK(ob_crc64_combine(first, second, size - cut) == whole);
    }
}

static void try_strips(const uint8_t *data, size_t size, size_t n)
{
    size_t count = size / 16 < 8 ? size / 16 : 8;
    uint64_t places[16];
    int32_t *out = exactly(4 * n, 1);

    memcpy(places, data, 16 * count);
    for (size_t i = 0; i < 2 * count; i++)
        if (places[i] >> 60)
            places[i] %= size + 2; /* most of them near what is right */
    ob_strips(data, size, places, places + count, count, data[0] & 1, out, n);
    free(out);
}

static void try_tiles(const uint8_t *data, size_t size, size_t columns, int down)
{
    size_t rows = size / 4 / columns, n = rows * columns;
    size_t bands = (rows + OB_TILE - 1) / OB_TILE;
    size_t tiles = bands * ((columns + OB_TILE - 1) / OB_TILE);
    int32_t *counts = exactly(4 * n, 0), *first[3], *other[3];
    size_t sizes[3] = {4 * tiles, 4 * tiles, 4 * bands * columns};

    for (size_t i = 0; i < n; i++)
        counts[i] = (int32_t)ob_read32(data + 4 * i) >> down;
    for (int k = 0; k < 3; k++) {
        first[k] = exactly(sizes[k], 1);
        other[k] = exactly(sizes[k], 2);
    }
    ob_tiles(OB_PORTABLE, counts, rows, columns, first[0], first[1], first[2]);
    for (int level = 1; level <= ob_best_level(); level++) {
        ob_tiles(level, counts, rows, columns, other[0], other[1], other[2]);
        for (int k = 0; k < 3; k++)
            CHECK(memcmp(first[k], other[k], sizes[k]) == 0);
    }
    for (int k = 0; k < 3; k++) {
        free(first[k]);
        free(other[k]);
    }
    free(counts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int made = 0;
    if (!made) {
        ob_crc64_init();
        made = 1;
    }
    if (size < 4)
        return 0;
    uint8_t head[4];
    memcpy(head, data, 4);
    /* a copy of its own, so that reading behind it is seen */
    size -= 4;
    uint8_t *own = exactly(size, 0);
    memcpy(own, data + 4, size);
    size_t n = head[1] | (size_t)(head[2] & 31) << 8;
    switch (head[0] % 7) {
    case 0:
        /* about as many pixels as bytes, or any number */
        try_stream(own, size, head[3] & 1 ? n : size - (n < 64 ? n : 0) % (size + 1));
        break;
    case 1:
        if (size >= 4)
            try_counts(own, size, head[3] & 31, 1 + head[1] % (1 + 12000 / size));
        break;
    case 2:
        try_md5(own, size, head[1] % 64);
        try_crc64(own, size, n);
        break;
    case 3:
        if (size >= 4)
            try_chunk(own, size, head[3] & 31, 1 + head[1] % (1 + 12000 / size));
        break;
    case 4:
        try_blocks(own, size, n, 8 * (size_t)(head[3] & 15 ? head[3] : head[3] * 16));
        break;
    case 5:
        try_tiles(own, size, 1 + n % 200, head[3] & 31);
        break;
    default:
        if (size >= 16)
            try_strips(own, size, head[3] & 1 ? n : size / 4);
    }
    free(own);
    return 0;
}
