/* CRC-64/XZ: the polynomial of ECMA-182, reflected, all ones at the start and at the end.
 *
 * The vector variants fold (Gopal et al., "Fast CRC computation for generic polynomials using
 * PCLMULQDQ", Intel 2009): what stands in a register is moved D bits on by two carry-less
 * products with x^(D+63) and x^(D-1) modulo P. Bits are reflected, so a product of two 64-bit
 * words comes out multiplied by x once, which the exponents take back. The last 16 bytes are
 * left to the tables, which is a division by P.
 */
#include "kernels.h"

#define POLY 0xc96c5795d7870f42u /* bit 63 is x^0 */
#define ONE ((uint64_t)1 << 63)

static uint64_t tables[8][256];
static uint64_t squares[67]; /* x^(2^i) mod P */
static uint64_t fold_16_bytes[2], fold_64_bytes[2], fold_128_bytes[2], fold_256_bytes[2]; /* folds by that number of bytes */

static uint64_t multiply(uint64_t a, uint64_t b)
{
    uint64_t product = 0;
    for (; a != 0; a <<= 1) {
        if (a & ONE)
            product ^= b;
        b = (b >> 1) ^ (POLY & (0 - (b & 1)));
    }
    return product;
}

/* x^(n 2^k) mod P */
static uint64_t power(uint64_t n, unsigned k)
{
    uint64_t product = ONE;
    for (; n != 0; n >>= 1, k++)
        if (n & 1)
            product = multiply(squares[k], product);
    return product;
}

static void fold_by(uint64_t bits, uint64_t keys[2])
{
    keys[0] = power(bits + 63, 0);
    keys[1] = power(bits - 1, 0);
}

void ob_crc64_init(void)
{
    for (unsigned i = 0; i < 256; i++) {
        uint64_t c = i;
        for (int bit = 0; bit < 8; bit++)
            c = (c >> 1) ^ (POLY & (0 - (c & 1)));
        tables[0][i] = c;
    }
    for (unsigned t = 1; t < 8; t++)
        for (unsigned i = 0; i < 256; i++)
            tables[t][i] = (tables[t - 1][i] >> 8) ^ tables[0][tables[t - 1][i] & 0xff];
    squares[0] = ONE >> 1;
    for (unsigned i = 1; i < sizeof squares / sizeof *squares; i++)
        squares[i] = multiply(squares[i - 1], squares[i - 1]);
    fold_by(128, fold_16_bytes);
    fold_by(512, fold_64_bytes);
    fold_by(1024, fold_128_bytes);
    fold_by(2048, fold_256_bytes);
}

static uint64_t by_tables(uint64_t c, const uint8_t *p, size_t n)
{
    for (; n >= 8; n -= 8, p += 8) {
        c ^= ob_read64(p);
        c = tables[7][c & 0xff] ^ tables[6][c >> 8 & 0xff] ^ tables[5][c >> 16 & 0xff] ^
            tables[4][c >> 24 & 0xff] ^ tables[3][c >> 32 & 0xff] ^ tables[2][c >> 40 & 0xff] ^
            tables[1][c >> 48 & 0xff] ^ tables[0][c >> 56];
    }
    for (; n != 0; n--)
        c = (c >> 8) ^ tables[0][(c ^ *p++) & 0xff];
    return c;
}

#if OB_X86

#define OB_CLMUL __attribute__((target("sse4.1,pclmul")))
#define OB_VCLMUL __attribute__((target("sse4.1,pclmul,avx2,avx512f,avx512bw,avx512vl,vpclmulqdq")))

OB_CLMUL static inline __m128i fold_128(__m128i v, __m128i keys, __m128i next)
{
    __m128i lo = _mm_clmulepi64_si128(v, keys, 0x00), hi = _mm_clmulepi64_si128(v, keys, 0x11);
    return _mm_xor_si128(_mm_xor_si128(lo, hi), next);
}

/* what `count` registers, one behind the other, leave when they are divided by P */
OB_CLMUL static uint64_t reduce(const uint8_t *registers, int count)
{
    __m128i keys = _mm_loadu_si128((const __m128i *)fold_16_bytes);
    __m128i v = _mm_loadu_si128((const __m128i *)registers);
    uint8_t last[16];
    for (int i = 1; i < count; i++)
        v = fold_128(v, keys, _mm_loadu_si128((const __m128i *)(registers + 16 * i)));
    _mm_storeu_si128((__m128i *)last, v);
    return by_tables(0, last, 16);
}

OB_CLMUL static uint64_t by_128(uint64_t c, const uint8_t *p, size_t n)
{
    uint8_t registers[128];
    __m128i keys = _mm_loadu_si128((const __m128i *)fold_128_bytes), v[8];
    if (n < 256)
        return by_tables(c, p, n);
    for (int i = 0; i < 8; i++)
        v[i] = _mm_loadu_si128((const __m128i *)(p + 16 * i));
    v[0] = _mm_xor_si128(v[0], _mm_cvtsi64_si128((int64_t)c));
    for (p += 128, n -= 128; n >= 128; p += 128, n -= 128)
        for (int i = 0; i < 8; i++)
            v[i] = fold_128(v[i], keys, _mm_loadu_si128((const __m128i *)(p + 16 * i)));
    for (int i = 0; i < 8; i++)
        _mm_storeu_si128((__m128i *)(registers + 16 * i), v[i]);
    return by_tables(reduce(registers, 8), p, n);
}

OB_VCLMUL static inline __m512i fold_512(__m512i v, __m512i keys, __m512i next)
{
    __m512i lo = _mm512_clmulepi64_epi128(v, keys, 0x00);
    __m512i hi = _mm512_clmulepi64_epi128(v, keys, 0x11);
    return _mm512_ternarylogic_epi64(lo, hi, next, 0x96);
}

OB_VCLMUL static uint64_t by_512(uint64_t c, const uint8_t *p, size_t n)
{
    uint8_t registers[64];
    __m512i keys = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)fold_256_bytes)), v[4];
    if (n < 512)
        return by_128(c, p, n);
    for (int i = 0; i < 4; i++)
        v[i] = _mm512_loadu_si512(p + 64 * i);
    v[0] = _mm512_xor_si512(v[0], _mm512_zextsi128_si512(_mm_cvtsi64_si128((int64_t)c)));
    for (p += 256, n -= 256; n >= 256; p += 256, n -= 256)
        for (int i = 0; i < 4; i++)
            v[i] = fold_512(v[i], keys, _mm512_loadu_si512(p + 64 * i));
    keys = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)fold_64_bytes));
    for (int i = 1; i < 4; i++)
        v[i] = fold_512(v[i - 1], keys, v[i]);
    _mm512_storeu_si512(registers, v[3]);
    return by_tables(reduce(registers, 4), p, n);
}

#endif

uint64_t ob_crc64(int level, uint64_t before, const uint8_t *data, size_t size)
{
#if OB_X86
    if (level == OB_LEVEL_AVX512)
        return ~by_512(~before, data, size);
    if (level == OB_LEVEL_AVX2)
        return ~by_128(~before, data, size);
#endif
    (void)level;
    return ~by_tables(~before, data, size);
}

uint64_t ob_crc64_combine(uint64_t first, uint64_t second, uint64_t length)
{
    return multiply(power(length, 3), first) ^ second;
}
