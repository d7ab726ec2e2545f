/* Sums over the equivalents of each cell of a volume, and of a whole orbit at once.
 *
 * The box is cut into tiles that the operations take to tiles: along an axis, {0}, [1, n], [n+1,
 * 2n] ... and the negatives of these. A tile and its images (an orbit, at most 48 tiles) are
 * read, summed and written while they are in the cache, so each cell of the volume passes
 * through memory once in each direction, whatever the number of operations. Where l keeps to
 * itself a tile is a row along l, and hexagonal axes, which mix h and k, are no special case.
 *
 * The order of the sums is that of reference_symmetry.py. What is outside the box is -0.0, which
 * added to any number leaves all bits of it as they are.
 */
#include "kernels.h"

#include <stdlib.h>

enum { MOST = 48, CUBE = 16, CELLS = CUBE * CUBE * CUBE, NONE = 255 };

typedef struct {
    int64_t first[3], end[3]; /* labels of the box */
    int64_t low[3], high[3];  /* its tiles, the last one included */
    int side[3];              /* cells of a tile along each axis */
    size_t stride[3];         /* of a tile's cells, in the tile */
    size_t cells;             /* of a tile */
    size_t row[2];            /* cells from h to h + 1 and from k to k + 1, in the volume */
    int count;                /* operations */
    int8_t W[MOST][9];
    uint8_t times[MOST][MOST], inverse[MOST];
    /* what an operation does within a tile: x of the image, along axis i, is sign x[from] */
    uint8_t from[MOST][3];
    int8_t sign[MOST][3];
    /* operations under which the result is the same to the last bit */
    uint8_t keep[MOST];
    int kept;
} box;

typedef struct {
    int64_t at[3]; /* the tile */
    int size[3];   /* cells along each axis */
    int by;        /* the operation that leads here from the first tile of the orbit */
    int slot, via; /* the tile's sums are those of the buffer `slot`, seen through `via` */
} member;

/* ---- the group --------------------------------------------------------------------------- */

static int find(const box *b, const int *W)
{
    for (int i = 0; i < b->count; i++) {
        int same = 1;
        for (int j = 0; j < 9; j++)
            same &= b->W[i][j] == W[j];
        if (same)
            return i;
    }
    return -1;
}

/* Read the operations; nonzero if they are not a group, identity first, that a tile can follow. */
static int read_group(box *b, const int8_t *operations, size_t count)
{
    int mixed = 0; /* l changes places */
    if (count < 1 || count > MOST)
        return 1;
    b->count = (int)count;
    memcpy(b->W, operations, 9 * count);
    for (int a = 0; a < b->count; a++) {
        const int8_t *W = b->W[a];
        for (int i = 0; i < 9; i++)
            if (W[i] < -1 || W[i] > 1 || (a == 0 && W[i] != (i % 4 == 0)))
                return 1;
        mixed |= W[2] || W[5] || W[6] || W[7];
    }
    for (int a = 0; a < b->count; a++) {
        int inverse = -1;
        for (int c = 0; c < b->count; c++) {
            int product[9];
            for (int i = 0; i < 9; i++)
                product[i] = b->W[a][i / 3 * 3] * b->W[c][i % 3] +
                             b->W[a][i / 3 * 3 + 1] * b->W[c][i % 3 + 3] +
                             b->W[a][i / 3 * 3 + 2] * b->W[c][i % 3 + 6];
            int found = find(b, product);
            if (found < 0)
                return 1;
            b->times[a][c] = (uint8_t)found;
            if (found == 0)
                inverse = c;
        }
        if (inverse < 0)
            return 1;
        b->inverse[a] = (uint8_t)inverse;
    }
    /* as few tiles as there can be on each side of 0, all as long */
    int64_t most = mixed ? CUBE : CELLS, reach = 1, tiles;
    for (int i = mixed ? 0 : 2; i < 3; i++) {
        reach = -b->first[i] > reach ? -b->first[i] : reach;
        reach = b->end[i] - 1 > reach ? b->end[i] - 1 : reach;
    }
    tiles = (reach + most - 1) / most;
    b->side[2] = (int)((reach + tiles - 1) / tiles);
    b->side[0] = b->side[1] = mixed ? b->side[2] : 1;
    b->cells = (size_t)b->side[0] * (size_t)b->side[1] * (size_t)b->side[2];
    b->stride[2] = 1;
    b->stride[1] = (size_t)b->side[2];
    b->stride[0] = (size_t)b->side[2] * (size_t)b->side[1];
    for (int a = 0; a < b->count; a++)
        for (int i = 0; i < 3; i++) {
            b->from[a][i] = (uint8_t)i;
            b->sign[a][i] = 1; /* one cell along h and k has no direction */
            int found = 0;
            for (int j = 0; j < 3; j++)
                if (b->W[a][3 * i + j] && (mixed || i == 2)) {
                    b->from[a][i] = (uint8_t)j;
                    b->sign[a][i] = b->W[a][3 * i + j];
                    found++;
                }
            if (found > 1 || (found == 0 && (mixed || i == 2)))
                return 1;
        }
    return 0;
}

/* Find the operations that change neither a sum nor the order in which it is made: those of the
 * doubling steps, but of one more step Σ S[r x] only those h with r h = h' r for each r, h' being
 * one of the doubling steps, too: S[r h x] is S[r x]. */
static void find_keep(box *b, const uint8_t *steps)
{
    uint8_t done[MOST] = {1}, group[MOST] = {0};
    int n = 1;
    for (; steps[0] != NONE && steps[1] == NONE; steps += 2)
        for (int i = 0, before = n; i < before; i++) {
            int a = b->times[group[i]][steps[0]];
            if (!done[a]) {
                done[a] = 1;
                group[n++] = (uint8_t)a;
            }
        }
    const uint8_t *after = steps;
    while (*after != NONE)
        after++;
    int last = *steps == NONE || after[1] == NONE;
    b->kept = 0;
    for (int i = 0; i < n; i++) {
        int keep = last || i == 0;
        for (const uint8_t *r = steps; *r != NONE; r++)
            keep &= done[b->times[b->times[*r][group[i]]][b->inverse[*r]]];
        if (keep)
            b->keep[b->kept++] = group[i];
    }
}

/* ---- tiles ------------------------------------------------------------------------------- */

static int64_t tile_of(int64_t label, int64_t side)
{
    if (label == 0)
        return 0;
    return label > 0 ? 1 + (label - 1) / side : -1 - (-label - 1) / side;
}

static int64_t begin_of(int64_t tile, int64_t side)
{
    return tile > 0 ? (tile - 1) * side + 1 : tile * side;
}

static void image(const int8_t *W, const int64_t *x, int64_t *out)
{
    for (int i = 0; i < 3; i++)
        out[i] = W[3 * i] * x[0] + W[3 * i + 1] * x[1] + W[3 * i + 2] * x[2];
}

static int compare(const int64_t *a, const int64_t *b)
{
    for (int i = 0; i < 3; i++)
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    return 0;
}

/* List the tiles of an orbit that have cells in the box, and which of them each operation leads to
 * (or NONE); 0 if one of them is before `tile`, so that each orbit is found once. */
static int list_orbit(const box *b, const int64_t *tile, member *members, uint8_t *reached)
{
    int n = 0;
    for (int a = 0; a < b->count; a++) {
        int64_t at[3];
        int inside = 1, k = 0;
        image(b->W[a], tile, at);
        for (int i = 0; i < 3; i++)
            inside &= at[i] >= b->low[i] && at[i] <= b->high[i];
        reached[a] = NONE;
        if (!inside)
            continue;
        if (compare(at, tile) > 0)
            return 0;
        while (k < n && compare(at, members[k].at))
            k++;
        if (k == n) {
            member *m = &members[n++];
            memcpy(m->at, at, sizeof at);
            for (int i = 0; i < 3; i++)
                m->size[i] = at[i] ? b->side[i] : 1;
            m->by = a;
            m->slot = k;
            m->via = 0;
        }
        reached[a] = (uint8_t)k;
    }
    return n;
}

/* The part of a tile that is in the box: where it begins and ends in the tile, and in the volume. */
static size_t clip(const box *b, const member *m, int *begin, int *end)
{
    size_t at[3];
    for (int i = 0; i < 3; i++) {
        int64_t low = begin_of(m->at[i], b->side[i]);
        int64_t from = low > b->first[i] ? low : b->first[i];
        int64_t to = low + m->size[i] < b->end[i] ? low + m->size[i] : b->end[i];
        begin[i] = (int)(from - low);
        end[i] = (int)(to - low); /* of a tile of the box, to > from */
        at[i] = (size_t)(from - b->first[i]);
    }
    return at[0] * b->row[0] + at[1] * b->row[1] + at[2];
}

static int is_whole(const member *m, const int *begin, const int *end)
{
    int whole = 1;
    for (int i = 0; i < 3; i++)
        whole &= end[i] - begin[i] == m->size[i];
    return whole;
}

static void load(const box *b, const member *m, const double *array, const double *share,
                 double *tile)
{
    int begin[3], end[3];
    size_t at = clip(b, m, begin, end);
    if (!is_whole(m, begin, end))
        for (size_t i = 0; i < b->cells; i++)
            tile[i] = -0.0;
    size_t n = (size_t)(end[2] - begin[2]);
    for (int h = begin[0]; h < end[0]; h++)
        for (int k = begin[1]; k < end[1]; k++) {
            size_t row = at + (size_t)(h - begin[0]) * b->row[0] +
                         (size_t)(k - begin[1]) * b->row[1];
            double *to = tile + (size_t)h * b->stride[0] + (size_t)k * b->stride[1] + begin[2];
            if (array == NULL)
                for (size_t l = 0; l < n; l++)
                    to[l] = 1.0;
            else if (share == NULL)
                memcpy(to, array + row, n * sizeof *to);
            else
                for (size_t l = 0; l < n; l++)
                    to[l] = array[row + l] * share[row + l];
        }
}

static void store(const box *b, const member *m, const double *tile, double *out)
{
    int begin[3], end[3];
    size_t at = clip(b, m, begin, end);
    for (int h = begin[0]; h < end[0]; h++)
        for (int k = begin[1]; k < end[1]; k++)
            memcpy(out + at + (size_t)(h - begin[0]) * b->row[0] +
                       (size_t)(k - begin[1]) * b->row[1],
                   tile + (size_t)h * b->stride[0] + (size_t)k * b->stride[1] + begin[2],
                   (size_t)(end[2] - begin[2]) * sizeof *tile);
}

/* to[x] (+)= from[W x], for all cells x of a tile; it is never the same buffer. `row`: cells of
 * `to` from h to h + 1 and from k to k + 1. */
static inline void see(const box *b, const member *m, int operation, const double *restrict from,
                       double *restrict to, const size_t *row, int add)
{
    const double *at = from;
    ptrdiff_t step[3] = {0, 0, 0};
    for (int i = 0; i < 3; i++) {
        int j = b->from[operation][i];
        ptrdiff_t stride = (ptrdiff_t)b->stride[i];
        step[j] = b->sign[operation][i] < 0 ? -stride : stride;
        if (b->sign[operation][i] < 0)
            at += stride * (m->size[j] - 1);
    }
    int n = m->size[2];
#define ROWS(value)                                                                               \
    for (int h = 0; h < m->size[0]; h++)                                                          \
        for (int k = 0; k < m->size[1]; k++) {                                                    \
            const double *x = at + h * step[0] + k * step[1];                                     \
            double *y = to + (size_t)h * row[0] + (size_t)k * row[1];                             \
            for (int l = 0; l < n; l++)                                                           \
                y[l] = value;                                                                     \
        }
#define EITHER(there)                                                                             \
    if (add)                                                                                      \
        ROWS(y[l] + there)                                                                        \
    else                                                                                          \
        ROWS(there)
    if (step[2] == 1) {
        EITHER(x[l])
    } else if (step[2] == -1) {
        EITHER(x[-l])
    } else {
        EITHER(x[l * step[2]])
    }
#undef EITHER
#undef ROWS
}

/* out[x] = from[W x], for all cells x of a tile that are in the box. */
static void put(const box *b, const member *m, int operation, const double *from, double *spare,
                double *out)
{
    int begin[3], end[3];
    size_t at = clip(b, m, begin, end);
    if (is_whole(m, begin, end)) {
        see(b, m, operation, from, out + at, b->row, 0);
    } else {
        see(b, m, operation, from, spare, b->stride, 0);
        store(b, m, spare, out);
    }
}

/* Divide each cell of a tile by the number of operations that leave it where it is. */
static void divide(const box *b, const member *m, double *tile)
{
    uint8_t fixed[CELLS];
    int any = 0;
    int64_t low[3];
    for (int i = 0; i < 3; i++)
        low[i] = begin_of(m->at[i], b->side[i]);
    for (int a = 1; a < b->count; a++) {
        int64_t at[3];
        image(b->W[a], m->at, at);
        if (compare(at, m->at))
            continue; /* none of its cells stays */
        if (!any++)
            memset(fixed, 1, b->cells);
        for (int h = 0; h < m->size[0]; h++)
            for (int k = 0; k < m->size[1]; k++)
                for (int l = 0; l < m->size[2]; l++) {
                    int64_t x[3] = {low[0] + h, low[1] + k, low[2] + l};
                    image(b->W[a], x, at);
                    fixed[(size_t)h * b->stride[0] + (size_t)k * b->stride[1] + (size_t)l] +=
                        !compare(at, x);
                }
    }
    if (!any)
        return;
    for (int h = 0; h < m->size[0]; h++)
        for (int k = 0; k < m->size[1]; k++)
            for (int l = 0; l < m->size[2]; l++) {
                size_t at = (size_t)h * b->stride[0] + (size_t)k * b->stride[1] + (size_t)l;
                tile[at] /= (double)fixed[at];
            }
}

/* ---- an orbit ---------------------------------------------------------------------------- */

typedef struct {
    double *sums[MOST], *next[MOST], *spare; /* tiles */
} buffers;

/* A step that doubles the group: r and what was done. All tiles of the doubled group's orbit have
 * the same sums but for the places, and a + b is b + a, so one of them is enough. */
static void double_step(const box *b, member *m, int n, const uint8_t *reached, int r, buffers *u)
{
    for (int j = 0; j < n; j++) {
        if (m[j].slot != j)
            continue;
        int k = reached[b->times[r][m[j].by]];
        if (k == NONE)
            continue;
        int slot = m[k].slot, via = b->times[m[k].via][r], back = b->inverse[via];
        if (slot != j) {
            see(b, &m[j], via, u->sums[slot], u->sums[j], b->stride, 1);
            for (int i = 0; i < n; i++)
                if (m[i].slot == slot) {
                    m[i].slot = j;
                    m[i].via = b->times[back][m[i].via];
                }
        } else {
            double *old = u->sums[j];
            memcpy(u->spare, old, b->cells * sizeof *old);
            see(b, &m[j], via, old, u->spare, b->stride, 1);
            u->sums[j] = u->spare;
            u->spare = old;
        }
    }
}

/* The sums of one tile after a step of any number of operations. */
static void any_step(const box *b, const member *m, int j, const uint8_t *reached,
                     const uint8_t *step, buffers *u, double *to)
{
    see(b, &m[j], m[j].via, u->sums[m[j].slot], to, b->stride, 0);
    for (; step != NULL && *step != NONE; step++) {
        int k = reached[b->times[*step][m[j].by]];
        if (k != NONE)
            see(b, &m[j], b->times[m[k].via][*step], u->sums[m[k].slot], to, b->stride, 1);
    }
}

static void sum_orbit(const box *b, member *m, int n, const uint8_t *reached,
                      const uint8_t *steps, const double *array, const double *share, double *out,
                      buffers *u)
{
    for (int j = 0; j < n; j++)
        load(b, &m[j], array, share, u->sums[j]);
    for (; steps[0] != NONE && steps[1] == NONE; steps += 2)
        double_step(b, m, n, reached, steps[0], u);
    while (steps[0] != NONE) {
        const uint8_t *after = steps;
        while (*after++ != NONE)
            ;
        if (*after == NONE)
            break;
        for (int j = 0; j < n; j++)
            any_step(b, m, j, reached, steps, u, u->next[j]);
        for (int j = 0; j < n; j++) {
            double *old = u->sums[j];
            u->sums[j] = u->next[j];
            u->next[j] = old;
            m[j].slot = j;
            m[j].via = 0;
        }
        steps = after;
    }
    /* the last step, if there is one, on the way out */
    int made[MOST];
    for (int j = 0; j < n; j++) {
        int k = j, by = 0;
        for (int i = 1; i < b->kept && k == j; i++) {
            by = b->keep[i];
            k = reached[b->times[by][m[j].by]];
            if (k >= j || !made[k])
                k = j;
        }
        made[j] = k == j;
        if (made[j]) {
            any_step(b, m, j, reached, steps, u, u->next[j]);
            divide(b, &m[j], u->next[j]);
            store(b, &m[j], u->next[j], out);
        } else {
            put(b, &m[j], by, u->next[k], u->spare, out);
        }
    }
}

int ob_symmetrise(const double *array, const double *share, double *out, const int64_t *first,
                  const int64_t *shape, const int8_t *operations, size_t count,
                  const uint8_t *steps, size_t length, size_t part, size_t parts)
{
    const int64_t far = (int64_t)1 << 30;
    box *b = malloc(sizeof *b);
    double *memory = NULL;
    int wrong = b == NULL ? -1 : 0;

    if (!wrong)
        wrong = parts == 0 || part >= parts;
    for (int i = 0; !wrong && i < 3; i++) {
        wrong = shape[i] < 1 || shape[i] > far || first[i] < -far || first[i] > far;
        if (!wrong) {
            b->first[i] = first[i];
            b->end[i] = first[i] + shape[i];
        }
    }
    if (!wrong)
        wrong = read_group(b, operations, count);
    for (int i = 0; !wrong && i < 3; i++) {
        b->low[i] = tile_of(b->first[i], b->side[i]);
        b->high[i] = tile_of(b->end[i] - 1, b->side[i]);
    }
    /* steps: operations, NONE behind each step and once more at the end */
    if (!wrong)
        wrong = length < 1 || steps[length - 1] != NONE || (length > 1 && steps[length - 2] != NONE);
    for (size_t i = 0; !wrong && i + 1 < length; i++)
        wrong = steps[i] == NONE ? i == 0 || steps[i - 1] == NONE : steps[i] >= count;
    if (!wrong) { /* no more than it takes: what is fresh from the system costs more than the sums */
        memory = malloc((2 * count + 1) * b->cells * sizeof *memory);
        wrong = memory == NULL ? -1 : 0;
    }
    if (!wrong) {
        buffers u;
        find_keep(b, steps);
        for (size_t i = 0; i < count; i++) {
            u.sums[i] = memory + i * b->cells;
            u.next[i] = memory + (count + i) * b->cells;
        }
        u.spare = memory + 2 * count * b->cells;
        b->row[1] = (size_t)shape[2];
        b->row[0] = (size_t)shape[2] * (size_t)shape[1];
        member members[MOST];
        uint8_t reached[MOST];
        int64_t tile[3];
        for (int64_t h = (int64_t)part; h <= b->high[0] - b->low[0]; h += (int64_t)parts)
            for (tile[1] = b->high[1]; tile[1] >= b->low[1]; tile[1]--)
                for (tile[2] = b->high[2]; tile[2] >= b->low[2]; tile[2]--) {
                    tile[0] = b->high[0] - h;
                    int n = list_orbit(b, tile, members, reached);
                    if (n)
                        sum_orbit(b, members, n, reached, steps, array, share, out, &u);
                }
    }
    free(b);
    free(memory);
    return wrong;
}
