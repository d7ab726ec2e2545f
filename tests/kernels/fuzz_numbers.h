/* Numbers out of an input's bytes, for the programs that add, divide and count. */
#include "fuzz.h"

#include <math.h>

typedef struct {
    const uint8_t *at, *end;
} source;

static uint8_t byte(source *s)
{
    return s->at < s->end ? *s->at++ : 0;
}

static size_t below(source *s, size_t n)
{
    size_t v = byte(s);
    return (v << 8 | byte(s)) % n;
}

static double part(source *s)
{
    return ((double)below(s, 65536) + 0.5) / 65536;
}

static void raw(source *s, void *out, size_t size)
{
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)out)[i] = byte(s);
}

/* mostly within -size to size; else any bits, infinities and NaN among them */
static double number(source *s, double size)
{
    static const double odd[] = {INFINITY, -INFINITY, 2147483648.0, 4294967296.0, 1e300, -0.0};
    double v;
    unsigned kind = byte(s) & 31;
    if (kind == 0) {
        raw(s, &v, sizeof v);
        return v;
    }
    return kind == 1 ? odd[below(s, 6)] : size * (2 * part(s) - 1);
}
