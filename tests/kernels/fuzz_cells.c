/* Hostile numbers for what adds to cells: transform.c and symmetry.c; see fuzz.c.
 *
 * All levels must make the sums of a plain loop over the pixels, whatever the frames, the
 * geometry and the grid are; subtracting must leave nothing. Sums over a group must be those of a
 * plain loop over its operations, and hostile groups and steps be refused or do no harm.
 */
#include "fuzz_numbers.h"

#include "transform.h"

/* ---- pixels into cells ---- */

static uint64_t value(const ob_sums *sums, size_t word)
{
    return (uint64_t)sums->high[word] << 32 | sums->low[word];
}

static ob_sums empty_sums(const ob_grid *grid)
{
    size_t bricks = (size_t)grid->bricks[0] * grid->bricks[1] * grid->bricks[2];
    ob_sums sums = {.grid = *grid};
    sums.low = calloc(bricks * OB_BRICK, 8); /* untouched pages are not there */
    sums.high = calloc(bricks * OB_BRICK, 8);
    sums.changed = calloc(bricks, 1);
    CHECK(sums.low && sums.high && sums.changed);
    return sums;
}

static void forget(ob_sums *sums)
{
    free(sums->low);
    free(sums->high);
    free(sums->changed);
}

/* what the sums must be, by a loop over the pixels: pairs of words and their place, one a pixel */
typedef struct {
    uint32_t place;
    uint64_t first, second;
} contribution;

static uint64_t cut(float weight)
{
    weight = weight < 268435440.0f ? weight : 268435440.0f;
    return weight > 0.0f ? (uint64_t)rintf(weight) : 0;
}

static size_t list(const ob_exposures *what, const ob_band *band, const ob_grid *grid,
                   contribution *out)
{
    size_t n = 0, wide = band->column[1] - band->column[0];
    size_t size = (band->row[1] - band->row[0]) * wide;
    uint32_t *places = exactly(4 * size, 0);
    for (size_t frame = 0; frame < what->frames; frame++) {
        ob_exposures one = *what;
        one.turns += frame;
        ob_places(&one, band, grid, places);
        for (size_t i = 0; i < size; i++) {
            size_t pixel = (band->row[0] + i / wide) * what->columns + band->column[0] + i % wide;
            int32_t count = what->counts[frame * what->rows * what->columns + pixel];
            if (places[i] == OB_NOWHERE || count < 0 || count > what->most ||
                !(what->factor[pixel] > 0.0f))
                continue;
            uint64_t first = (uint64_t)count;
            if (what->rate)
                first = cut(what->rate[pixel] * what->rate_flux[frame]);
            out[n++] = (contribution){places[i], first,
                                      cut(what->factor[pixel] * what->flux[frame])};
        }
    }
    free(places);
    return n;
}

static void compare(const ob_sums *sums, const contribution *all, size_t n, uint64_t times)
{
    ob_sums expected = empty_sums(&sums->grid);
    for (size_t i = 0; i < n; i++)
        ob_add(&expected, all[i].place, times * all[i].first, times * all[i].second);
    for (size_t i = 0; i < n; i++) {
        size_t word = 2 * (size_t)all[i].place;
        CHECK(value(sums, word) == value(&expected, word));
        CHECK(value(sums, word + 1) == value(&expected, word + 1));
        CHECK(sums->changed[all[i].place >> 15]);
    }
    forget(&expected);
}

/* the image of a cell, by all candidates; 0 if it is not in the part */
static int by_hand(const ob_fold *fold, uint32_t place, uint32_t *out)
{
    const uint32_t *bricks = fold->grid.bricks, brick = place >> 15;
    int64_t x[3], y[3], best[3] = {0, 0, 0};
    int found = 0;
    for (int i = 0; i < 3; i++) {
        uint32_t at = i == 0 ? brick % bricks[0]
                    : i == 1 ? brick / bricks[0] % bricks[1] : brick / bricks[0] / bricks[1];
        x[i] = fold->first[i] + (int64_t)at * 32;
        for (int bit = 0; bit < 5; bit++)
            x[i] += (int64_t)(place >> (3 * bit + i) & 1) << bit;
    }
    for (size_t a = 0; a < fold->count; a++) {
        const int8_t *W = fold->operations + 9 * a;
        if (!(fold->candidates[brick] >> a & 1))
            continue;
        for (int i = 0; i < 3; i++)
            y[i] = W[3 * i] * x[0] + W[3 * i + 1] * x[1] + W[3 * i + 2] * x[2];
        if (!found || y[0] > best[0] || (y[0] == best[0] && y[1] > best[1]) ||
            (y[0] == best[0] && y[1] == best[1] && y[2] > best[2]))
            memcpy(best, y, sizeof y);
        found = 1;
    }
    uint64_t to = 0, stride = OB_BRICK;
    for (int i = 0; i < 3; i++) {
        int64_t cell = best[i] - fold->to_first[i];
        if (!found || cell < 0 || cell >= fold->part.shape[i])
            return 0;
        to += (uint64_t)(cell / 32) * stride;
        for (int bit = 0; bit < 5; bit++)
            to += (uint64_t)(cell >> bit & 1) << (3 * bit + i);
        stride *= fold->part.bricks[i];
    }
    *out = (uint32_t)to;
    return 1;
}

static void try_fold(source *s, const ob_exposures *what, const ob_band *band, const ob_grid *grid,
                     const contribution *all, size_t n)
{
    static const int32_t far = OB_MOST_LABEL;
    size_t bricks = (size_t)grid->bricks[0] * grid->bricks[1] * grid->bricks[2];
    ob_fold fold = {.grid = *grid, .count = 1 + below(s, 48)};
    int8_t *operations = exactly(9 * fold.count, 0);
    uint64_t *candidates = exactly(8 * bricks, 0);
    contribution *folded = exactly(n * sizeof *folded, 0);
    int32_t shape[3];
    size_t kept = 0;

    for (size_t i = 0; i < 9 * fold.count; i++)
        operations[i] = (int8_t)((int)below(s, 3) - 1);
    for (size_t i = 0; i < bricks; i++) /* bits of operations that are not there, too */
        raw(s, candidates + i, 8);
    for (int i = 0; i < 3; i++) {
        int kind = byte(s) & 7;
        shape[i] = 1 + (int32_t)below(s, 70);
        fold.first[i] = kind == 0 ? far - grid->shape[i] : kind == 1 ? -far
                                                                     : (int32_t)below(s, 90) - 70;
        fold.to_first[i] = (int32_t)below(s, 90) - 70 + (kind < 2 ? fold.first[i] : 0);
    }
    CHECK(ob_make_grid(shape, &fold.part) == 0);
    fold.operations = operations;
    fold.candidates = candidates;
    for (size_t i = 0; i < n; i++) {
        uint32_t place = all[i].place;
        folded[kept] = all[i];
        ob_fold_places(OB_PORTABLE, &fold, &place, 1);
        CHECK(by_hand(&fold, all[i].place, &folded[kept].place) == (place != OB_NOWHERE));
        CHECK(place == OB_NOWHERE || place == folded[kept].place);
        kept += place != OB_NOWHERE;
    }
    uint32_t hostile[4] = {OB_NOWHERE, (uint32_t)bricks << 15, 0x80000000u, 0};
    raw(s, hostile + 3, 4);
    ob_fold_places(ob_best_level(), &fold, hostile, 4);
    for (int level = 0; level <= ob_best_level(); level++) {
        ob_sums sums = empty_sums(&fold.part);
        ob_transform(level, what, band, &fold, &sums, 0);
        compare(&sums, folded, kept, 1);
        ob_transform(level, what, band, &fold, &sums, 1);
        compare(&sums, folded, kept, 0);
        CHECK(ob_variance(level, what, band, 1, 1, &fold, &sums, level & 1) == 0);
        forget(&sums);
    }
    free(operations);
    free(candidates);
    free(folded);
}

static void try_transform(source *s)
{
    /* a piece of a row is 2048 pixels, a step 8 or 16: some of each size around them */
    size_t wide = byte(s), rows = 1 + below(s, 5), frames = 1 + below(s, 3);
    size_t columns = wide < 8 ? 2040 + below(s, 80) : 1 + below(s, 70), pixels = rows * columns;
    int32_t shape[3];
    ob_grid grid;
    for (int i = 0; i < 3; i++)
        shape[i] = (int32_t)(byte(s) < 8 ? 1 : 1 + below(s, 70));
    CHECK(ob_make_grid(shape, &grid) == 0);

    ob_turn *turns = exactly(frames * sizeof *turns, 0);
    int32_t *counts = exactly(4 * frames * pixels, 0);
    float *flux = exactly(4 * frames, 0), *factor = exactly(4 * pixels, 0);
    float *rate_flux = exactly(4 * frames, 0), *rate = exactly(4 * pixels, 0);
    double *inverse = exactly(8 * pixels, 0);
    unsigned hostile = byte(s), down = byte(s) & 31;
    float bright = (float)ldexp(1.0, byte(s) & 31);
    for (size_t f = 0; f < frames; f++)
        for (int i = 0; i < 3; i++) {
            turns[f].base[i] = number(s, shape[i]);
            turns[f].down[i] = number(s, 3.0);
            turns[f].across[i] = number(s, hostile & 1 ? 0.1 : 3.0);
            turns[f].shift[i] = number(s, shape[i]);
        }
    for (size_t f = 0; f < frames; f++)
        flux[f] = rate_flux[f] = bright * (float)part(s);
    for (size_t i = 0; i < pixels; i++) {
        inverse[i] = hostile & 2 ? number(s, 1.0) : 1.0;
        factor[i] = hostile & 4 ? (float)number(s, 1.0) : (float)part(s);
        rate[i] = hostile & 4 ? (float)number(s, 1.0) : (float)part(s);
    }
    for (size_t i = 0; i < frames * pixels; i++) {
        raw(s, counts + i, 4);
        counts[i] >>= hostile & 8 ? down : 28;
    }
    ob_exposures what = {
        .counts = counts, .turns = turns, .flux = flux, .inverse = inverse, .factor = factor,
        .frames = frames, .rows = rows, .columns = columns, .x = part(s), .y = part(s),
        .most = hostile & 16 ? INT32_MAX : (int32_t)below(s, 65536),
    };
    if (hostile & 64) {
        what.rate = rate;
        what.rate_flux = rate_flux;
    }
    ob_band band;
    band.row[0] = below(s, rows + 1);
    band.row[1] = band.row[0] + below(s, rows + 1 - band.row[0]);
    band.column[0] = hostile & 32 ? 0 : below(s, columns + 1);
    band.column[1] = hostile & 32 ? columns
                                  : band.column[0] + below(s, columns + 1 - band.column[0]);
    contribution *all = exactly(frames * pixels * sizeof *all, 0);
    size_t n = list(&what, &band, &grid, all), times = 1 + below(s, 3);

    for (int level = 0; level <= ob_best_level(); level++) {
        ob_sums sums = empty_sums(&grid);
        for (size_t i = 0; i < times; i++)
            ob_transform(level, &what, &band, NULL, &sums, 0);
        compare(&sums, all, n, times);
        for (size_t i = 0; i < times; i++)
            ob_transform(level, &what, &band, NULL, &sums, 1);
        compare(&sums, all, n, 0);
        forget(&sums);
    }
    try_fold(s, &what, &band, &grid, all, n);
    free(all);

    /* parts of pixels: what is added goes away again, and no cell has more than all parts give */
    size_t sides = 1 + below(s, 3), parts = 1 + below(s, 3);
    double *inverses = exactly(8 * pixels * sides * sides, 0);
    ob_turn *many = exactly(frames * parts * sizeof *many, 0);
    for (size_t i = 0; i < pixels * sides * sides; i++)
        inverses[i] = inverse[i % pixels];
    for (size_t i = 0; i < frames * parts; i++)
        many[i] = turns[i / parts];
    what.inverse = inverses;
    what.turns = many;
    ob_sums sums = empty_sums(&grid);
    for (int subtract = 0; subtract < 2; subtract++)
        CHECK(ob_variance(subtract ? OB_PORTABLE : ob_best_level(), &what, &band, sides, parts, NULL,
                          &sums, subtract) == 0);
    compare(&sums, NULL, 0, 0);
    size_t words = (size_t)grid.bricks[0] * grid.bricks[1] * grid.bricks[2];
    for (size_t i = 0; i < words; i++) /* only bricks that were touched: reading makes pages */
        for (size_t j = 0; sums.changed[i] && j < 2 * OB_BRICK; j++)
            CHECK(value(&sums, i * 2 * OB_BRICK + j) == 0);
    forget(&sums);
    free(inverses);
    free(many);
    free(turns);
    free(counts);
    free(flux);
    free(factor);
    free(rate);
    free(rate_flux);
    free(inverse);
}

/* ---- sums over equivalents ---- */

static void multiply(const int8_t *a, const int8_t *b, int8_t *out)
{
    for (int i = 0; i < 9; i++)
        out[i] = (int8_t)(a[i / 3 * 3] * b[i % 3] + a[i / 3 * 3 + 1] * b[i % 3 + 3] +
                          a[i / 3 * 3 + 2] * b[i % 3 + 6]);
}

/* a group made by some of the operations that Laue classes are made by; 0: too many for one */
static size_t make_group(source *s, int8_t W[49][9])
{
    static const int8_t generators[9][9] = {
        {-1, 0, 0, 0, -1, 0, 0, 0, -1}, {1, 0, 0, 0, -1, 0, 0, 0, -1},
        {-1, 0, 0, 0, 1, 0, 0, 0, -1},  {0, -1, 0, 1, 0, 0, 0, 0, 1},
        {0, 1, 0, 0, 0, 1, 1, 0, 0},    {0, 1, 0, 1, 0, 0, 0, 0, 1},
        {0, 1, 0, -1, -1, 0, 0, 0, 1},  {1, 1, 0, -1, 0, 0, 0, 0, 1},
        {0, 1, 0, 1, 0, 0, 0, 0, -1},
    };
    const int8_t *chosen[3];
    size_t n = 1, number_of = 1 + below(s, 3);
    memset(W[0], 0, 9);
    W[0][0] = W[0][4] = W[0][8] = 1;
    for (size_t i = 0; i < number_of; i++)
        chosen[i] = generators[below(s, 9)];
    for (size_t i = 0; i < n; i++)
        for (size_t g = 0; g < number_of; g++) {
            size_t k = 0;
            multiply(W[i], chosen[g], W[n]);
            while (memcmp(W[k], W[n], 9))
                k++;
            if (k == n && ++n > 48)
                return 0;
        }
    return n;
}

static void check_sums(const double *in, const double *out, const int64_t *first,
                       const int64_t *shape, int8_t W[49][9], size_t count)
{
    for (int64_t h = 0; h < shape[0]; h++)
        for (int64_t k = 0; k < shape[1]; k++)
            for (int64_t l = 0; l < shape[2]; l++) {
                int64_t x[3] = {first[0] + h, first[1] + k, first[2] + l};
                double sum = 0, fixed = 0;
                for (size_t a = 0; a < count; a++) {
                    int64_t y[3];
                    int inside = 1;
                    for (int i = 0; i < 3; i++) {
                        y[i] = W[a][3 * i] * x[0] + W[a][3 * i + 1] * x[1] + W[a][3 * i + 2] * x[2];
                        inside &= y[i] >= first[i] && y[i] < first[i] + shape[i];
                    }
                    fixed += !memcmp(x, y, sizeof x);
                    if (inside)
                        sum += in[((y[0] - first[0]) * shape[1] + y[1] - first[1]) * shape[2] +
                                  y[2] - first[2]];
                }
                CHECK(out[(h * shape[1] + k) * shape[2] + l] == sum / fixed);
            }
}

static void try_symmetry(source *s)
{
    int8_t W[49][9];
    uint8_t steps[100] = {255};
    size_t count = make_group(s, W), length = 1, hostile = byte(s);
    int64_t first[3], shape[3], cells = 1;
    if (count == 0)
        return;
    for (int i = 0; i < 3; i++) {
        shape[i] = (int64_t)(1 + below(s, i == 2 && hostile & 1 ? 200 : 24));
        first[i] = (int64_t)below(s, 60) - 40;
        if ((hostile & 6) == 6)
            first[i] *= (int64_t)1 << (byte(s) & 31);
        cells *= shape[i];
    }
    int8_t *operations = exactly(9 * count, 0);
    memcpy(operations, W, 9 * count);
    if ((hostile & 24) == 24)
        for (size_t i = byte(s) & 3; i > 0; i--)
            operations[below(s, 9 * count)] = (int8_t)byte(s);
    if ((hostile & 96) == 96) {
        length = 1 + below(s, sizeof steps - 1);
        for (size_t i = 0; i < length; i++)
            steps[i] = below(s, 4) ? (uint8_t)below(s, count + 1) : 255;
    } else if (count > 1) { /* all in one step */
        for (size_t i = 1; i < count; i++)
            steps[i - 1] = (uint8_t)i;
        steps[count - 1] = steps[count] = 255;
        length = count + 1;
    }
    uint8_t *own = exactly(length, 0);
    memcpy(own, steps, length);
    double *in = exactly(8 * (size_t)cells, 0), *out = exactly(8 * (size_t)cells, 0);
    double *share = exactly(8 * (size_t)cells, 0);
    for (int64_t i = 0; i < cells; i++) {
        in[i] = (double)below(s, 65536);
        share[i] = (double)below(s, 5);
    }
    int with = byte(s) & 1;
    size_t parts = 1 + below(s, 5), part_of = hostile & 128 ? below(s, 7) : 0;
    int wrong = 0;
    for (size_t i = 0; !wrong && i < parts; i++)
        wrong = ob_symmetrise(in, with ? share : NULL, out, first, shape, operations, count, own,
                              length, i + part_of, parts);
    CHECK(wrong >= 0);
    int plain = (hostile & 24) != 24 && (hostile & 96) != 96 && !part_of;
    for (int i = 0; i < 3; i++)
        plain &= first[i] <= (int64_t)1 << 30 && first[i] >= -((int64_t)1 << 30);
    CHECK(!plain || !wrong);
    if (plain) {
        for (int64_t i = 0; with && i < cells; i++)
            in[i] *= share[i];
        check_sums(in, out, first, shape, W, count);
    }
    free(operations);
    free(own);
    free(in);
    free(out);
    free(share);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int made = 0;
    if (!made) {
        ob_transform_init();
        made = 1;
    }
    source s = {data, data + size};
    if (byte(&s) & 1)
        try_transform(&s);
    else
        try_symmetry(&s);
    return 0;
}
