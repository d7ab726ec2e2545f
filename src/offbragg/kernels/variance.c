/* Variance of what the parts of divided pixels count; see transform.h. */
#include "transform.h"

#include <stdlib.h>

int ob_variance(const ob_exposures *what, const ob_band *band, size_t sides, size_t turns,
                const ob_fold *fold, ob_sums *sums, int subtract)
{
    /* Where the parts of a pixel are, and how many are there together: a table of twice as many
     * entries, so that the next free one is near. */
    size_t parts = sides * sides * turns, size = 4, used;
    size_t pixels = what->rows * what->columns;
    ob_row r;

    while (size < 2 * parts)
        size *= 2;
    uint32_t *place = malloc(size * sizeof *place), *times = malloc(size * sizeof *times);
    uint32_t *order = malloc(parts * sizeof *order);
    if (place == NULL || times == NULL || order == NULL) {
        free(place);
        free(times);
        free(order);
        return 1;
    }
    memset(times, 0, size * sizeof *times);
    for (size_t row = band->row[0]; row < band->row[1]; row++)
        for (size_t frame = 0; frame < what->frames; frame++)
            for (size_t j = band->column[0]; j < band->column[1]; j++) {
                size_t pixel = row * what->columns + j;
                int32_t count = what->counts[frame * pixels + pixel];
                if (count <= 0 || count > what->most || !(what->factor[pixel] > 0.0f))
                    continue;
                used = 0;
                for (size_t turn = 0; turn < turns; turn++)
                    for (size_t part = 0; part < sides * sides; part++) {
                        ob_exposures at = *what;
                        at.y = ((double)(part / sides) + 0.5) / (double)sides;
                        at.x = ((double)(part % sides) + 0.5) / (double)sides;
                        ob_begin_row(&r, &at, what->turns + frame * turns + turn, row,
                                  fold ? &fold->grid : &sums->grid);
                        uint32_t here = ob_place_of(&r, j, what->inverse[part * pixels + pixel]);
                        if (here == OB_NOWHERE)
                            continue;
                        size_t slot = here * 2654435761u & (size - 1);
                        while (times[slot] && place[slot] != here)
                            slot = (slot + 1) & (size - 1);
                        if (!times[slot]) {
                            place[slot] = here;
                            order[used++] = (uint32_t)slot;
                        }
                        times[slot]++;
                    }
                for (size_t i = 0; i < used; i++) {
                    uint64_t n = times[order[i]], sum = (uint64_t)count * n * n;
                    times[order[i]] = 0;
                    uint32_t to = place[order[i]];
                    if (fold)
                        ob_fold_places(OB_PORTABLE, fold, &to, 1);
                    if (to != OB_NOWHERE)
                        ob_add(sums, to, subtract ? 0 - sum : sum, 0);
                }
            }
    free(place);
    free(times);
    free(order);
    return 0;
}
