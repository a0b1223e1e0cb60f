// Forward: as `forward_planes` in ../forward.rs.

extern "C" __global__ void __launch_bounds__(THREADS, 1) avion_layer_norm_forward(
    const u16* __restrict__ x, const float* __restrict__ gain, const float* __restrict__ bias, u16* __restrict__ y,
    float* __restrict__ stats, const __grid_constant__ Shape shape) {
    extern __shared__ unsigned char dynamic_shared_mem[];
    const Memory shared(dynamic_shared_mem, gain, bias);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (warp == WARPS) {
        if (lane == 0) shared.copy_lots({x}, shape);
        return;
    }
    Place place;
    FOR_LOTS(shape) {
        const u32 row = lot * ROWS + warp, from = shared.lot(place.stage, 0) + warp * ROW_BYTES + lane * (LANE * 2);
        float values[OWN], sum = 0.0f, squares = 0.0f;
        barrier_wait(shared.full(place.stage), place.parity);
        // A row past the end is what lay there: nothing is made of it.
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            const Vec xs = load(from + v * 64 * LANE);
#pragma unroll
            for (int j = 0; j < LANE / 2; j++) {
                const float2 pair = unpack(xs.words[j]);
                values[v * LANE + 2 * j] = pair.x, values[v * LANE + 2 * j + 1] = pair.y;
                sum += pair.x + pair.y;
            }
        }
        __syncwarp();
        if (lane == 0) barrier_arrive(shared.empty(place.stage));
        place.advance();
        const float mean = warp_sum(sum) * (1.0f / WIDTH);
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            values[i] -= mean;
            squares = fmaf(values[i], values[i], squares);
        }
        const float rstd = rsqrtf(warp_sum(squares) * (1.0f / WIDTH) + __uint_as_float(shape.eps));
        if (row >= shape.rows) continue;
        u16* to = y + (size_t)row * WIDTH + lane * LANE;
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            float scale[LANE], shift[LANE];
            load_parameters(scale, shared.gains(), v, lane);
            load_parameters(shift, shared.biases(), v, lane);
            Vec out;
#pragma unroll
            for (int j = 0; j < LANE / 2; j++) {
                const float low = values[v * LANE + 2 * j] * rstd, high = values[v * LANE + 2 * j + 1] * rstd;
                out.words[j] = pack(fmaf(low, scale[2 * j], shift[2 * j]), fmaf(high, scale[2 * j + 1], shift[2 * j + 1]));
            }
            store(to + v * 32 * LANE, out);
        }
        if (lane == 0) *(float2*)(stats + 2 * (size_t)row) = make_float2(mean, rstd);
    }
}
