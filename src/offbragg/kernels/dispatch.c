/* Which level this processor, and its operating system, can run. */
#include "kernels.h"

int ob_best_level(void)
{
#if OB_X86
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
               __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("pclmul");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni") &&
        __builtin_cpu_supports("vpclmulqdq"))
        return OB_LEVEL_AVX512;
    if (avx2)
        return OB_LEVEL_AVX2;
#endif
    return OB_PORTABLE;
}
