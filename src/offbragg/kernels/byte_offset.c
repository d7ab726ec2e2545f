/* CBF's byte-offset coding: each pixel is a step from the one before.
 *
 * A byte other than 0x80 is the step. 0x80 says that it does not fit: two bytes follow; -2^15 in
 * those says the same of four, and -2^31 in those of eight (all little-endian).
 *
 * Steps in bytes are added up many at a time. They cannot leave 32 bits before 2^17 blocks have
 * been seen if the pixel in front was within +-2^30, so that is looked at only now and then; all
 * other steps go one by one, in 64 bits.
 */
#include "kernels.h"

#define FAR (1 << 30)
#define RUN ((size_t)1 << 17) /* blocks of at most 64 steps of at most 127: less than 2^30 */

/* One pixel, whatever is in front: nonzero says why there is none. */
static inline int one_pixel(ob_steps *s, int32_t *out)
{
    const uint8_t *in = s->in;
    size_t left = (size_t)(s->end - in);
    int64_t step;

    if (left < 1)
        return OB_TRUNCATED;
    step = (int8_t)in[0];
    left -= 1;
    in += 1;
    if (step == INT8_MIN) {
        int16_t two;
        if (left < 2)
            return OB_TRUNCATED;
        memcpy(&two, in, 2);
        step = two;
        left -= 2;
        in += 2;
        if (two == INT16_MIN) {
            int32_t four;
            if (left < 4)
                return OB_TRUNCATED;
            memcpy(&four, in, 4);
            step = four;
            left -= 4;
            in += 4;
            if (four == INT32_MIN) {
                if (left < 8)
                    return OB_TRUNCATED;
                memcpy(&step, in, 8);
                in += 8;
            }
        }
    }
    if (step > (int64_t)INT32_MAX - s->last || step < (int64_t)INT32_MIN - s->last)
        return OB_OVERFLOW;
    s->last = (int32_t)(s->last + step);
    s->in = in;
    *out = s->last;
    return OB_OK;
}

static inline int is_far(int32_t value)
{
    return value >= FAR || value <= -FAR;
}

static size_t blocks_of(const ob_steps *s, size_t block, size_t room)
{
    size_t n = (size_t)(s->end - s->in) / block, m = room / block;
    n = n < m ? n : m;
    return n < RUN ? n : RUN;
}

/* up to the escape and through it: what is next is again a block, if it can be */
static inline int past_escape(ob_steps *s, int32_t *out, size_t *done, size_t want, int most)
{
    for (int i = 0; i < most && *done < want; i++) {
        int escape = s->in < s->end && *s->in == 0x80;
        int status = one_pixel(s, out + *done);
        if (status != OB_OK)
            return status;
        (*done)++;
        if (escape && !(s->in < s->end && *s->in == 0x80))
            break;
    }
    return OB_OK;
}

static size_t decode_portable(ob_steps *s, int32_t *out, size_t want, size_t room, int *status)
{
    size_t done = 0;

    *status = OB_OK;
    while (done < want) {
        if (!is_far(s->last)) {
            size_t n = blocks_of(s, 8, room - done);
            const uint8_t *in = s->in;
            int32_t *o = out + done;
            int32_t v = s->last;
            for (; n > 0; n--, in += 8, o += 8) {
                uint64_t x = ob_read64(in) ^ 0x8080808080808080u;
                if ((x - 0x0101010101010101u) & ~x & 0x8080808080808080u)
                    break;
                o[0] = v += (int8_t)in[0];
                o[1] = v += (int8_t)in[1];
                o[2] = v += (int8_t)in[2];
                o[3] = v += (int8_t)in[3];
                o[4] = v += (int8_t)in[4];
                o[5] = v += (int8_t)in[5];
                o[6] = v += (int8_t)in[6];
                o[7] = v += (int8_t)in[7];
            }
            done += (size_t)(o - (out + done));
            s->in = in;
            s->last = v;
        }
        if ((*status = past_escape(s, out, &done, want, 8)) != OB_OK)
            break;
    }
    return done;
}

#if OB_X86

OB_AVX2 static inline __m256i sums_avx2(__m256i steps)
{
    /* 16 steps of 16 bits: running sums within each half */
    steps = _mm256_add_epi16(steps, _mm256_slli_si256(steps, 2));
    steps = _mm256_add_epi16(steps, _mm256_slli_si256(steps, 4));
    return _mm256_add_epi16(steps, _mm256_slli_si256(steps, 8));
}

OB_AVX2 static inline __m256i sixteen_avx2(__m128i bytes, int32_t *o, __m256i carry)
{
    const __m256i top = _mm256_set1_epi32(7);
    __m256i sums = sums_avx2(_mm256_cvtepi8_epi16(bytes));
    __m256i a = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(sums));
    __m256i b = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(sums, 1));
    __m256i middle = _mm256_add_epi32(carry, _mm256_permutevar8x32_epi32(a, top));
    _mm256_storeu_si256((__m256i *)o, _mm256_add_epi32(a, carry));
    _mm256_storeu_si256((__m256i *)(o + 8), _mm256_add_epi32(b, middle));
    return _mm256_add_epi32(middle, _mm256_permutevar8x32_epi32(b, top));
}

OB_AVX2 static size_t decode_avx2(ob_steps *s, int32_t *out, size_t want, size_t room,
                                  int *status)
{
    const __m256i escape = _mm256_set1_epi8(INT8_MIN);
    size_t done = 0;

    *status = OB_OK;
    while (done < want) {
        if (!is_far(s->last)) {
            size_t n = blocks_of(s, 32, room - done);
            const uint8_t *in = s->in;
            int32_t *o = out + done;
            __m256i carry = _mm256_set1_epi32(s->last);
            uint32_t found = 0;
            for (; n > 0; n--, in += 32, o += 32) {
                __m256i v = _mm256_loadu_si256((const __m256i *)in);
                found = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, escape));
                if (found)
                    break;
                carry = sixteen_avx2(_mm256_castsi256_si128(v), o, carry);
                carry = sixteen_avx2(_mm256_extracti128_si256(v, 1), o + 16, carry);
            }
            s->last = _mm256_cvtsi256_si32(carry);
            done += (size_t)(o - (out + done));
            if (found) {
                /* the room is there; what is behind the escape is written over later */
                size_t k = (size_t)__builtin_ctz(found);
                if (k) {
                    __m256i v = _mm256_loadu_si256((const __m256i *)in);
                    carry = sixteen_avx2(_mm256_castsi256_si128(v), o, carry);
                    if (k > 16)
                        sixteen_avx2(_mm256_extracti128_si256(v, 1), o + 16, carry);
                    s->last = o[k - 1];
                }
                in += k;
                done += k;
            }
            s->in = in;
        }
        if ((*status = past_escape(s, out, &done, want, 32)) != OB_OK)
            break;
    }
    return done;
}

/* from 12 - 4 w on: which bytes of word w each lane takes */
static const uint32_t ONES[28] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0x00000001, 0x00000101, 0x00010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101,
    0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101,
};

OB_AVX512 static inline __m512i sums_avx512(const uint8_t *in, const __m512i *ones)
{
    /* 16 steps: lane j takes the bytes 0 to j of the four words, each a product with 0 or 1 */
    int32_t w[4];
    memcpy(w, in, 16);
    __m512i a = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones[0], _mm512_set1_epi32(w[0]));
    __m512i b = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones[1], _mm512_set1_epi32(w[1]));
    a = _mm512_dpbusd_epi32(a, ones[2], _mm512_set1_epi32(w[2]));
    b = _mm512_dpbusd_epi32(b, ones[3], _mm512_set1_epi32(w[3]));
    return _mm512_add_epi32(a, b);
}

OB_AVX512 static size_t decode_avx512(ob_steps *s, int32_t *out, size_t want, size_t room,
                                      int *status)
{
    const __m512i escape = _mm512_set1_epi8(INT8_MIN), top = _mm512_set1_epi32(15);
    __m512i ones[4];
    size_t done = 0;

    for (int word = 0; word < 4; word++)
        ones[word] = _mm512_loadu_si512(ONES + 12 - 4 * word);
    *status = OB_OK;
    while (done < want) {
        if (!is_far(s->last)) {
            size_t n = blocks_of(s, 64, room - done);
            const uint8_t *in = s->in;
            int32_t *o = out + done;
            __m512i carry = _mm512_set1_epi32(s->last);
            uint64_t found = 0;
            for (; n > 0; n--, in += 64, o += 64) {
                found = _mm512_cmpeq_epi8_mask(_mm512_loadu_si512(in), escape);
                if (found)
                    break;
                __m512i a = sums_avx512(in, ones), b = sums_avx512(in + 16, ones);
                __m512i c = sums_avx512(in + 32, ones), d = sums_avx512(in + 48, ones);
                __m512i ta = _mm512_permutexvar_epi32(top, a);
                __m512i tb = _mm512_permutexvar_epi32(top, b);
                __m512i tc = _mm512_permutexvar_epi32(top, c);
                __m512i td = _mm512_permutexvar_epi32(top, d);
                _mm512_storeu_si512(o, _mm512_add_epi32(a, carry));
                carry = _mm512_add_epi32(carry, ta);
                _mm512_storeu_si512(o + 16, _mm512_add_epi32(b, carry));
                carry = _mm512_add_epi32(carry, tb);
                _mm512_storeu_si512(o + 32, _mm512_add_epi32(c, carry));
                carry = _mm512_add_epi32(carry, tc);
                _mm512_storeu_si512(o + 48, _mm512_add_epi32(d, carry));
                carry = _mm512_add_epi32(carry, td);
            }
            s->last = _mm_cvtsi128_si32(_mm512_castsi512_si128(carry));
            done += (size_t)(o - (out + done));
            if (found) {
                /* the room is there; what is behind the escape is written over later */
                size_t k = (size_t)__builtin_ctzll(found);
                for (size_t i = 0; i < k; i += 16) {
                    __m512i sums = sums_avx512(in + i, ones);
                    _mm512_storeu_si512(o + i, _mm512_add_epi32(sums, carry));
                    carry = _mm512_add_epi32(carry, _mm512_permutexvar_epi32(top, sums));
                }
                if (k)
                    s->last = o[k - 1];
                in += k;
                done += k;
            }
            s->in = in;
        }
        if ((*status = past_escape(s, out, &done, want, 64)) != OB_OK)
            break;
    }
    return done;
}

#endif

ob_decode_fn ob_decoder(int level)
{
#if OB_X86
    if (level >= OB_LEVEL_AVX512)
        return decode_avx512;
    if (level >= OB_LEVEL_AVX2)
        return decode_avx2;
#endif
    (void)level;
    return decode_portable;
}

int ob_decode(int level, const uint8_t *in, size_t size, int32_t *out, size_t n, size_t *done)
{
    ob_steps steps = {in, in + size, 0};
    int status;

    *done = ob_decoder(level)(&steps, out, n, n, &status);
    if (status == OB_OK && steps.in != steps.end)
        status = OB_SURPLUS;
    return status;
}
