// out = f(a b^T + bias), keeping what f was applied to; or out = (a b) f'(hidden) with the sums of its columns.
//
// A block multiplies tiles of 128 x 192, two warpgroups with accumulators of 64 x 192 each, operands from shared memory in STAGES
// stages of 64 columns, copied by one warp. Other warps, the workers, take a finished tile, rounded, from shared memory and
// apply the activation while the products of the next tile go on; each has 64 x 64 of it to itself, so they never meet.
//
// The derivative takes three times the instructions of the function, and reads `hidden`. So the backward pass has six workers and
// not three, whose registers hold the part of `hidden` that comes next: behind the tiles' copies a load takes thousands of
// cycles (so would a register that is spilled).
//
// Defined before this text: BACKWARD (0: b is [n, k]; 1: b is [k, n]), GELU (1; 0: QuickGELU), KEEP (forward: `hidden` is written),
// WRITE (backward: `hidden` becomes what it was activated to), HALF (1 for f16, 0 for bf16), STAGES, WORKERS,
// CONSUMER_REGISTERS, PRODUCER_REGISTERS.

constexpr int TILE_M = 128, TILE_N = 192, TILE_K = 64;
constexpr int A_BYTES = TILE_M * TILE_K * 2, STAGE_BYTES = A_BYTES + TILE_N * TILE_K * 2;
constexpr int PART_BYTES = 64 * 128;                            // what a worker takes: 64 rows of 64 columns
constexpr int ACROSS = TILE_N / 64, PARTS = 2 * ACROSS;         // such parts of a tile
constexpr int HELPERS = BACKWARD ? 2 : 1;                       // warpgroups that do not multiply
constexpr int THREADS = 128 * (HELPERS + 2);
constexpr int AT_ONCE = BACKWARD ? (WRITE ? 1 : 2) : 8;         // sixteenths of a part that a worker has in registers
constexpr float LOG2E = 1.4426950408889634f;

// Row-major, in elements: a [m, k], out [m, n].
struct Shape {
    u32 m, n, k, unused;
};

// log2 P(X <= -z) of a standard normal X, z >= 0: a polynomial fitted over 0 to 5.5 (benches/gemm/log2_tail.py). What follows for
// GELU and its derivative is off by 1.2e-5 and 5e-5 at the most, where bf16 rounds 1 by 2e-3 and f16 by 2.4e-4.
__device__ __forceinline__ float log2_tail(float z) {
    float p = fmaf(z, -0.00030872753f, 0.0057538245f);
    p = fmaf(z, p, -0.048095334f);
    p = fmaf(z, p, -0.464233f);
    p = fmaf(z, p, -1.1491078f);
    return fmaf(z, p, -1.000147f);
}

__device__ __forceinline__ float activated(float x) {
#if GELU
    return fmaf(-fabsf(x), exp2_approx(log2_tail(fabsf(x))), fmaxf(x, 0.0f));
#else
    return x * reciprocal(exp2_approx(x * (-1.702f * LOG2E)) + 1.0f);
#endif
}

// The derivative at x, which becomes what it is activated to.
__device__ __forceinline__ float derivative(float& x) {
#if GELU
    float z = fabsf(x), tail = exp2_approx(log2_tail(z)), bell = exp2_approx(x * (x * (-0.5f * LOG2E)));
    float below = fmaf(z * -0.3989423f, bell, tail);  // the derivative at -z
    float slope = x >= 0.0f ? 1.0f - below : below;
    x = fmaf(-z, tail, fmaxf(x, 0.0f));
    return slope;
#else
    float s = reciprocal(exp2_approx(x * (-1.702f * LOG2E)) + 1.0f);
    float slope = fmaf(x * 1.702f, s * (1.0f - s), s);
    x *= s;
    return slope;
#endif
}

// The low half of a descriptor: rows of 128 bytes, or blocks of 64 columns, [64 rows, 128 bytes] each, one after another.
__device__ __forceinline__ u32 descriptor(u32 address, bool transposed) {
    return (transposed ? PART_BYTES / 16 : 1) << 16 | (address >> 4 & 0x3fff);
}

// Shared memory: stages, finished tiles in parts, barriers, the bias.
constexpr int STAGED = STAGES * STAGE_BYTES, BARRIERS = STAGED + PARTS * PART_BYTES, BIAS = BARRIERS + 128;
#define FULL(stage) (base + BARRIERS + (stage) * 8)
#define EMPTY(stage) FULL(STAGES + (stage))
#define READY(group) FULL(2 * STAGES + (group))     // rows 64 group.. of the finished tile are in shared memory
#define TAKEN(group) FULL(2 * STAGES + 2 + (group)) // and no longer needed there

extern "C" __global__ void __launch_bounds__(THREADS, 1) avion_gemm_activated(
    const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const __grid_constant__ TensorMap hidden_map,
    const __grid_constant__ TensorMap out_map, const void*, const void*, u16* __restrict__ hidden, const void*,
    const u16* __restrict__ bias, float* __restrict__ partials, const __grid_constant__ Shape shape) {
    extern __shared__ unsigned char dynamic_shared_mem[];
    u32 base = (shared_address(dynamic_shared_mem) + 1023) & ~1023u;
    float* biases = (float*)(dynamic_shared_mem + (base - shared_address(dynamic_shared_mem)) + BIAS);
    int role = (int)__shfl_sync(~0u, threadIdx.x / 128, 0), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(FULL(i), 1);
            barrier_init(EMPTY(i), 8);
        }
        for (int i = 0; i < 2; i++) {
            barrier_init(READY(i), 4);
            barrier_init(TAKEN(i), ACROSS);
        }
        fence_barrier_init();
    }
    const u32 across = (shape.n + TILE_N - 1) / TILE_N, blocks = shape.k / TILE_K;
    const u32 tiles = (shape.m + TILE_M - 1) / TILE_M * across;
#if !BACKWARD
    for (u32 i = threadIdx.x; i < across * TILE_N; i += THREADS) biases[i] = i < shape.n ? unpack(bias[i]).x : 0.0f;
#endif
    __syncthreads();
#define FOR_TILES for (u32 tile = blockIdx.x; tile < tiles; tile += gridDim.x)
#define ROW(tile) ((int)((tile) / across * TILE_M))
#define COLUMN(tile) ((int)((tile) % across * ACROSS))  // in columns of 64

    if (role < HELPERS) {
#if BACKWARD
        BECOME_PRODUCER();
#endif
        const int worker = warp - (4 * HELPERS - WORKERS);
        if (worker >= 0) {
            // Of eight rows a lane has 16 bytes of two: rows first + 4 j, j even and odd.
            const int chunk = lane & 7, first = lane >> 3;
            const u32 even = first * 128 + ((chunk ^ first) << 4), odd = (first + 4) * 128 + ((chunk ^ (first + 4)) << 4);
#define AT(j) (staged + ((j) & 1 ? odd : even) + (j) / 2 * 1024)
            u32 tile = blockIdx.x, round = 0;
            int part = worker;
#if BACKWARD
            uint4 next[16];
            auto fetch = [&](u32 tile, int part) {
                int row = ROW(tile) + part / ACROSS * 64 + first, column = COLUMN(tile) + part % ACROSS;
                const u16* from = hidden + (size_t)row * shape.n + column * 64 + chunk * 8;
                bool within = tile < tiles && column * 64 < (int)shape.n;
#pragma unroll
                for (int j = 0; j < 16; j++) {
                    next[j] = make_uint4(0, 0, 0, 0);
                    if (within && row + 4 * j < (int)shape.m) next[j] = *(const uint4*)(from + (size_t)4 * j * shape.n);
                }
            };
            fetch(tile, part);
#endif
            while (tile < tiles) {
                const u32 group = part / ACROSS, staged = base + STAGED + part * PART_BYTES;
                const int row = ROW(tile) + group * 64, column = COLUMN(tile) + part % ACROSS;
                const bool within = column * 64 < (int)shape.n;
                barrier_wait(READY(group), round);
#if BACKWARD
                float sums[8] = {};
#elif KEEP
                if (lane == 0) copy_box_out(hidden_map, column, row, 0, staged);
#endif
#pragma unroll
                for (int start = 0; start < 16; start += AT_ONCE) {
                    uint4 values[AT_ONCE];
#pragma unroll
                    for (int j = 0; j < AT_ONCE; j++) values[j] = load_shared_16(AT(start + j));
#pragma unroll
                    for (int j = 0; j < AT_ONCE; j++) {
                        u32* words = (u32*)&values[j];
#pragma unroll
                        for (int i = 0; i < 4; i++) {
                            float2 v = unpack(words[i]);
#if BACKWARD
                            u32& now = ((u32*)&next[start + j])[i];
                            float2 h = unpack(now);
                            v.x *= derivative(h.x);
                            v.y *= derivative(h.y);
#if WRITE
                            now = pack(h.x, h.y);
#endif
                            sums[2 * i] += v.x;
                            sums[2 * i + 1] += v.y;
#else
                            v.x = activated(v.x);
                            v.y = activated(v.y);
#endif
                            words[i] = pack(v.x, v.y);
                        }
#if BACKWARD && WRITE
                        int at = row + first + 4 * (start + j);
                        if (within && at < (int)shape.m)
                            *(uint4*)(hidden + (size_t)at * shape.n + column * 64 + chunk * 8) = next[start + j];
#endif
                    }
#if !BACKWARD && KEEP
                    if (start == 0) {
                        if (lane == 0) stores_have_read();
                        __syncwarp();
                    }
#endif
#pragma unroll
                    for (int j = 0; j < AT_ONCE; j++) store_shared_16(AT(start + j), values[j]);
                }
                u32 next_tile = tile;
                int next_part = part + WORKERS;
                if (next_part >= PARTS) next_part = worker, next_tile += gridDim.x;
#if BACKWARD
                fetch(next_tile, next_part);
#endif
                fence_async();
                __syncwarp();
                if (lane == 0) copy_box_out(out_map, column, row, 0, staged);
#if BACKWARD
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    sums[i] += __shfl_xor_sync(~0u, sums[i], 8);
                    sums[i] += __shfl_xor_sync(~0u, sums[i], 16);
                }
                if (lane < 8 && within && row < (int)shape.m) {
                    float4* to = (float4*)(partials + (size_t)(row / 64) * shape.n + column * 64 + chunk * 8);
                    to[0] = make_float4(sums[0], sums[1], sums[2], sums[3]);
                    to[1] = make_float4(sums[4], sums[5], sums[6], sums[7]);
                }
#endif
                if (lane == 0) {
                    stores_have_read();
                    barrier_arrive(TAKEN(group));
                }
                if (next_tile != tile) round ^= 1;
                tile = next_tile, part = next_part;
            }
            if (lane == 0) finish_stores();
        } else if (threadIdx.x == 0) {
            u32 stage = 0, parity = 1;
            FOR_TILES {
                for (u32 block = 0; block < blocks; block++) {
                    barrier_wait(EMPTY(stage), parity);
                    u32 to = base + stage * STAGE_BYTES;
                    barrier_arrive_expecting(FULL(stage), STAGE_BYTES);
                    copy_box_in(to, a, block, ROW(tile), 0, FULL(stage));
#if BACKWARD
                    for (int i = 0; i < ACROSS; i++)
                        copy_box_in(to + A_BYTES + i * PART_BYTES, b, COLUMN(tile) + i, block * TILE_K, 0, FULL(stage));
#else
                    copy_box_in(to + A_BYTES, b, block, COLUMN(tile) * 64, 0, FULL(stage));
#endif
                    if (++stage == STAGES) stage = 0, parity ^= 1;
                }
            }
        }
    } else {
#if BACKWARD
        BECOME_CONSUMER();
#endif
        const u32 group = role - HELPERS;
        u32 stage = 0, parity = 0, round = 1;
        FOR_TILES {
            float d[TILE_N / 2];
            u32 last = 0;
            for (u32 block = 0; block < blocks; block++) {
                barrier_wait(FULL(stage), parity);
                u32 left = descriptor(base + stage * STAGE_BYTES + group * 64 * 128, false);
                u32 right = descriptor(base + stage * STAGE_BYTES + A_BYTES, BACKWARD);
                pin(d);
                wgmma_fence();
                multiply_shared<BACKWARD>(d, left, right, block > 0);
                wgmma_commit();
                // Where these start, those before have ended: the stage goes back three products sooner.
                if (block > 0) {
                    wgmma_wait<1>();
                    if (lane == 0) barrier_arrive(EMPTY(last));
                }
                wgmma_fence();
#pragma unroll
                for (int k = 1; k < TILE_K / 16; k++)
                    multiply_shared<BACKWARD>(d, left + 2 * k, right + (BACKWARD ? 128 : 2) * k, 1);
                wgmma_commit();
                last = stage;
                if (++stage == STAGES) stage = 0, parity ^= 1;
            }
            wgmma_wait<0>();
            pin(d);
            if (lane == 0) barrier_arrive(EMPTY(last));
            barrier_wait(TAKEN(group), round);
            const int place = lane & 15;
            const u32 to = base + STAGED + group * ACROSS * PART_BYTES + (warp % 4 * 16 + place) * 128;
            const float* add = biases + COLUMN(tile) * 64 + (lane & 3) * 2;
#pragma unroll
            for (int i = 0; i < TILE_N / 16; i++) {
                u32 words[4];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    float x = d[8 * i + 2 * j], y = d[8 * i + 2 * j + 1];
#if !BACKWARD
                    float2 bias = *(const float2*)(add + 16 * i + (j >> 1) * 8);
                    x += bias.x, y += bias.y;
#endif
                    words[j] = pack(x, y);
                }
                store_matrices(to + i / 4 * PART_BYTES + (((2 * (i & 3) + (lane >> 4)) ^ (place & 7)) << 4), words);
            }
            fence_async();
            __syncwarp();
            if (lane == 0) barrier_arrive(READY(group));
            round ^= 1;
        }
    }
}
