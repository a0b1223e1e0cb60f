// The kernel: copies and products. The workers' part is `finish`.

__device__ __forceinline__ void copy(const Work& work, const TensorMap& a, const TensorMap& b) {
    u32 stage = 0, parity = 1;
    FOR_TILES(work) {
        for (u32 block = 0; block < work.blocks; block++) {
            barrier_wait(EMPTY(stage), parity);
            u32 to = work.base + stage * STAGE_BYTES;
            barrier_arrive_expecting(FULL(stage), STAGE_BYTES);
            copy_box_in(to, a, block, work.row(tile), 0, FULL(stage));
#if K_FIRST
            for (int i = 0; i < ACROSS; i++)
                copy_box_in(to + A_BYTES + i * PART_BYTES, b, work.column(tile) + i, block * TILE_K, 0, FULL(stage));
#else
            copy_box_in(to + A_BYTES, b, block, work.column(tile) * 64, 0, FULL(stage));
#endif
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
    }
}

__device__ __forceinline__ void multiply(const Work& work, u32 group, int warp, int lane, const float* biases) {
    u32 stage = 0, parity = 0, taken = EPILOGUE == RESIDUAL ? 0 : 1;
    FOR_TILES(work) {
        float d[TILE_N / 2];
        u32 last = 0;
        for (u32 block = 0; block < work.blocks; block++) {
            barrier_wait(FULL(stage), parity);
            u32 left = descriptor(work.base + stage * STAGE_BYTES + group * 64 * 128, false);
            u32 right = descriptor(work.base + stage * STAGE_BYTES + A_BYTES, K_FIRST);
            pin(d);
            wgmma_fence();
            multiply_shared<K_FIRST>(d, left, right, block > 0);
            wgmma_commit();
            // Where this one starts, those before have ended: their stage goes back three products sooner.
            if (block > 0) {
                wgmma_wait<1>();
                if (lane == 0) barrier_arrive(EMPTY(last));
            }
            wgmma_fence();
#pragma unroll
            for (int k = 1; k < TILE_K / 16; k++)
                multiply_shared<K_FIRST>(d, left + 2 * k, right + (K_FIRST ? 128 : 2) * k, 1);
            wgmma_commit();
            last = stage;
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
        wgmma_wait<0>();
        pin(d);
        if (lane == 0) barrier_arrive(EMPTY(last));
        barrier_wait(TAKEN(group), taken);
        const int place = lane & 15;
        const u32 to = work.base + STAGED + group * ACROSS * PART_BYTES + (warp % 4 * 16 + place) * 128;
        const float* add = biases + work.column(tile) * 64 + (lane & 3) * 2;
#pragma unroll
        for (int i = 0; i < TILE_N / 16; i++) {
            const u32 at = to + i / 4 * PART_BYTES + (((2 * (i & 3) + (lane >> 4)) ^ (place & 7)) << 4);
            u32 words[4];
#if EPILOGUE == RESIDUAL
            load_matrices(words, at);
#endif
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float x = d[8 * i + 2 * j], y = d[8 * i + 2 * j + 1];
#if BIAS
                float2 bias = *(const float2*)(add + 16 * i + (j >> 1) * 8);
                x += bias.x, y += bias.y;
#endif
#if EPILOGUE == RESIDUAL
                float2 residual = unpack(words[j]);
                x += residual.x, y += residual.y;
#endif
                words[j] = pack(x, y);
            }
            store_matrices(at, words);
        }
        fence_async();
        __syncwarp();
        if (lane == 0) barrier_arrive(READY(group));
        taken ^= 1;
    }
}

// `beside`: the residual, or hidden. What the copy engine does not reach: the bias, hidden again, and sums of columns.
extern "C" __global__ void __launch_bounds__(THREADS, 1) avion_gemm(
    const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const __grid_constant__ TensorMap beside_map,
    const __grid_constant__ TensorMap out_map, const void*, const void*, u16* __restrict__ beside, const void*,
    const u16* __restrict__ bias, float* __restrict__ partials, const __grid_constant__ Shape shape) {
    extern __shared__ unsigned char dynamic_shared_mem[];
    const Work work((shared_address(dynamic_shared_mem) + 1023) & ~1023u, shape);
    float* biases = (float*)(dynamic_shared_mem + (work.base - shared_address(dynamic_shared_mem)) + BIASES);
    const int role = (int)__shfl_sync(~0u, threadIdx.x / 128, 0), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
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
#if BIAS
    for (u32 i = threadIdx.x; i < work.across * TILE_N; i += THREADS) biases[i] = i < shape.n ? unpack(bias[i]).x : 0.0f;
#endif
    __syncthreads();
    if (role < HELPERS) {
#if EPILOGUE == DERIVATIVE
        BECOME_PRODUCER();
#endif
        const int worker = warp - (4 * HELPERS - WORKERS);
        if (worker >= 0) {
#if EPILOGUE == DERIVATIVE
            finish(work, worker, lane, out_map, beside, partials);
#else
            finish(work, worker, lane, out_map, beside_map);
#endif
        } else if (threadIdx.x == 0) {
            copy(work, a, b);
        }
    } else {
#if EPILOGUE == DERIVATIVE
        BECOME_CONSUMER();
#endif
        multiply(work, role - HELPERS, warp, lane, biases);
    }
}
