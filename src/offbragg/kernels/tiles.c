/* What a frame looks like from afar: medians of its tiles, and the highest count of each column
 * of a band of tiles.
 *
 * A median is found by halving the range of values: how many of 64 values are at most some value
 * is counted with a few vectors, and counts are small, so that the range is halved a few times.
 */
#include "kernels.h"

enum { TILE = OB_TILE, SAMPLES = TILE / 2 * (TILE / 2), NONE = INT32_MAX };

#define ALWAYS static inline __attribute__((always_inline))

/* the value of rank `k` from below, of which there are more than k that are not NONE */
ALWAYS int32_t ranked(const int32_t *values, int32_t low, int32_t high, int k)
{
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        int below = 0;
        for (int i = 0; i < SAMPLES; i++)
            below += values[i] <= middle;
        if (below > k)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

ALWAYS void median(const int32_t *values, int32_t *number, int32_t *middle)
{
    int n = 0;
    int32_t low = NONE, high = 0;
    for (int i = 0; i < SAMPLES; i++) {
        const int32_t v = values[i], counted = v == NONE ? 0 : v;
        n += v != NONE;
        low = v < low ? v : low;
        high = counted > high ? counted : high;
    }
    *number = n;
    *middle = n ? ranked(values, low, high, n * OB_MEDIAN_OF_20 / 20) : 0;
}

ALWAYS void look(const int32_t *counts, size_t rows, size_t columns, int32_t *number,
                 int32_t *middle, int32_t *highest)
{
    for (size_t top = 0; top < rows; top += TILE, highest += columns) {
        const size_t high = rows - top < TILE ? rows - top : TILE;
        const int32_t *band = counts + top * columns;
        for (size_t c = 0; c < columns; c++)
            highest[c] = -1;
        for (size_t r = 0; r < high; r++)
            for (size_t c = 0; c < columns; c++)
                highest[c] = band[r * columns + c] > highest[c] ? band[r * columns + c] : highest[c];
        for (size_t left = 0; left < columns; left += TILE, number++, middle++) {
            int32_t values[SAMPLES];
            if (high == TILE && columns - left >= TILE) {
                for (size_t i = 0; i < SAMPLES; i++) {
                    const int32_t v = band[i / 8 * 2 * columns + left + i % 8 * 2];
                    values[i] = v < 0 ? NONE : v;
                }
            } else {
                for (size_t i = 0; i < SAMPLES; i++) {
                    const size_t r = i / 8 * 2, c = left + i % 8 * 2;
                    const int32_t v = r < high && c < columns ? band[r * columns + c] : -1;
                    values[i] = v < 0 ? NONE : v;
                }
            }
            median(values, number, middle);
        }
    }
}

#if OB_X86
OB_AVX2 static void look_avx2(const int32_t *counts, size_t rows, size_t columns, int32_t *number,
                              int32_t *middle, int32_t *highest)
{
    look(counts, rows, columns, number, middle, highest);
}
#endif

void ob_tiles(int level, const int32_t *counts, size_t rows, size_t columns, int32_t *number,
              int32_t *middle, int32_t *highest)
{
#if OB_X86
    if (level >= OB_LEVEL_AVX2) {
        look_avx2(counts, rows, columns, number, middle, highest);
        return;
    }
#endif
    (void)level;
    look(counts, rows, columns, number, middle, highest);
}
