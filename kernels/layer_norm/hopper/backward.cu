// Backward: as `backward_planes` in ../backward.rs. A lane keeps the sums of its columns in registers; in the end a block's warps add up
// theirs.
//
// Defined before this text, beside what common.cu names: FRESH, WRITE_NORMED, SUMS (2 or 3), RESIDUE. What is read: x, dy, and, unless
// FRESH, the stream's gradient and its residue.

// `partials`: [blocks, SUMS, WIDTH], the column sums of dy n, dy and the final gradient.
extern "C" __global__ void __launch_bounds__(THREADS, 1) avion_layer_norm_backward(
    const u16* __restrict__ x, const float* __restrict__ stats, const float* __restrict__ gain, const float* __restrict__ bias,
    u16* dy, u16* gradient, u16* residue, float* __restrict__ partials, const __grid_constant__ Shape shape) {
    extern __shared__ unsigned char dynamic_shared_mem[];
    const Memory shared(dynamic_shared_mem, gain, bias);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float d_gain[OWN], d_bias[OWN], d_sum[OWN];
#pragma unroll
    for (int i = 0; i < OWN; i++) d_gain[i] = d_bias[i] = d_sum[i] = 0.0f;
    if (warp == WARPS) {
#if FRESH
        if (lane == 0) shared.copy_lots({x, dy}, shape);
#elif RESIDUE
        if (lane == 0) shared.copy_lots({x, dy, gradient, residue}, shape);
#else
        if (lane == 0) shared.copy_lots({x, dy, gradient}, shape);
#endif
    } else {
        Place place;
        FOR_LOTS(shape) {
            const u32 row = lot * ROWS + warp, part = warp * ROW_BYTES + lane * (LANE * 2);
            const bool within = row < shape.rows;
            float2 own = make_float2(0.0f, 0.0f);  // mean, reciprocal standard deviation
            if (within) own = *(const float2*)(stats + 2 * (size_t)row);
            barrier_wait(shared.full(place.stage), place.parity);
            if (within) {
                float n[OWN], d[OWN], sum_g = 0.0f, sum_gn = 0.0f;
#pragma unroll
                for (int v = 0; v < VECTORS; v++) {
                    const Vec xs = load(shared.lot(place.stage, 0) + part + v * 64 * LANE);
                    const Vec ds = load(shared.lot(place.stage, 1) + part + v * 64 * LANE);
                    float scale[LANE];
                    load_parameters(scale, shared.gains(), v, lane);
#pragma unroll
                    for (int j = 0; j < LANE; j++) {
                        const int i = v * LANE + j;
                        const float2 a = unpack(xs.words[j / 2]), b = unpack(ds.words[j / 2]);
                        n[i] = ((j & 1 ? a.y : a.x) - own.x) * own.y;
                        d[i] = j & 1 ? b.y : b.x;
                        const float g = d[i] * scale[j];
                        sum_g += g;
                        sum_gn = fmaf(g, n[i], sum_gn);
                        d_gain[i] = fmaf(d[i], n[i], d_gain[i]);
                        d_bias[i] += d[i];
                    }
                }
                const float mean_g = warp_sum(sum_g) * (1.0f / WIDTH), mean_gn = warp_sum(sum_gn) * (1.0f / WIDTH);
#pragma unroll
                for (int v = 0; v < VECTORS; v++) {
                    float scale[LANE], shift[LANE], total[LANE];
                    load_parameters(scale, shared.gains(), v, lane);
#pragma unroll
                    for (int j = 0; j < LANE; j++) {
                        const int i = v * LANE + j;
                        total[j] = (d[i] * scale[j] - mean_g - n[i] * mean_gn) * own.y;
                    }
#pragma unroll
                    for (int k = 2; k < LOTS; k++) {
                        const Vec before = load(shared.lot(place.stage, k) + part + v * 64 * LANE);
#pragma unroll
                        for (int j = 0; j < LANE / 2; j++) {
                            const float2 pair = unpack(before.words[j]);
                            total[2 * j] += pair.x, total[2 * j + 1] += pair.y;
                        }
                    }
                    Vec out, left, normed;
#if WRITE_NORMED
                    load_parameters(shift, shared.biases(), v, lane);
#endif
#pragma unroll
                    for (int j = 0; j < LANE / 2; j++) {
                        const int i = v * LANE + 2 * j;
#if SUMS > 2
                        d_sum[i] += total[2 * j], d_sum[i + 1] += total[2 * j + 1];
#endif
                        out.words[j] = pack(total[2 * j], total[2 * j + 1]);
#if RESIDUE
                        const float2 rounded = unpack(out.words[j]);
                        left.words[j] = pack(total[2 * j] - rounded.x, total[2 * j + 1] - rounded.y);
#endif
#if WRITE_NORMED
                        normed.words[j] = pack(fmaf(n[i], scale[2 * j], shift[2 * j]), fmaf(n[i + 1], scale[2 * j + 1], shift[2 * j + 1]));
#endif
                    }
                    const size_t to = (size_t)row * WIDTH + lane * LANE + v * 32 * LANE;
                    store(gradient + to, out);
#if RESIDUE
                    store(residue + to, left);
#endif
#if WRITE_NORMED
                    store(dy + to, normed);
#endif
                }
            }
            __syncwarp();
            if (lane == 0) barrier_arrive(shared.empty(place.stage));
            place.advance();
        }
    }
    __syncwarp();  // the copying warp's lanes, one of which has come a long way
    // All lots have been used: the warps' sums take their place.
    static_assert(STAGES * STAGE_BYTES >= WARPS * SUMS * WIDTH * 4, "room for the sums");
    __syncthreads();
    if (warp < WARPS) {
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            float* to = shared.start + warp * SUMS * WIDTH + i / LANE * 32 * LANE + lane * LANE + i % LANE;
            to[0] = d_gain[i];
            to[WIDTH] = d_bias[i];
#if SUMS > 2
            to[2 * WIDTH] = d_sum[i];
#endif
        }
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < SUMS * WIDTH; i += THREADS) {
        float sum = 0.0f;
        for (int w = 0; w < WARPS; w++) sum += shared.start[w * SUMS * WIDTH + i];
        partials[(size_t)blockIdx.x * SUMS * WIDTH + i] = sum;
    }
}
