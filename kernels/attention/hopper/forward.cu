// Forward: output and the log of each row's softmax sum.

extern "C" __global__ void __launch_bounds__(GROUPS * 128 + PRODUCERS, 1) avion_attention_forward(
    const __grid_constant__ TensorMap qkv, const __grid_constant__ TensorMap output, const void*, const void*,
    float* __restrict__ lse, const __grid_constant__ Shape shape) {
    extern __shared__ unsigned char dynamic_shared_mem[];
    Layout<1, 0, 0, 1, 0> shared;
    shared.init(dynamic_shared_mem);
    int group = (int)__shfl_sync(~0u, threadIdx.x / 128, 0) - 1, thread = threadIdx.x % 128;
    int warp = thread / 32, lane = thread % 32;
    int tokens = shape.tokens;
    u32 items = item_count(shape);
    Place place;
    u32 round = 0;

    if (group < 0) {
        BECOME_PRODUCER();
        if (warp > 0) return;
        for (u32 index = blockIdx.x; index < items; index += gridDim.x, round ^= 1) {
            Item item(index, shape, true);
            barrier_wait(shared.stationary_empty(), round ^ 1);
            copy_tile<BLOCK_ROWS>(shared.stationary(0), qkv, item.head, item.row, item.batch, shared.stationary_full(), lane);
            int column = shape.heads + item.head;
            for (int tile = item.begin; tile < item.end; tile++, place.advance()) {
                barrier_wait(shared.empty(place.stage), place.parity ^ 1);
                u32 stage = place.stage;
                int first = tile * STREAMED;
                copy_tile<STREAMED>(shared.first(stage), qkv, column, first, item.batch, shared.first_full(stage), lane);
                copy_tile<STREAMED>(shared.second(stage), qkv, column + shape.heads, first, item.batch, shared.second_full(stage), lane);
            }
        }
    } else {
        BECOME_CONSUMER();
        if (group == GROUPS - 1) pass_turn(group);
        for (u32 index = blockIdx.x; index < items; index += gridDim.x, round ^= 1) {
            Item item(index, shape, true);
            u32 q[16];
            barrier_wait(shared.stationary_full(), round);
            load_fragments(q, shared.stationary(0) + group * GROUP_ROWS * ROW_BYTES, warp, lane);
            __syncwarp();
            if (lane == 0) barrier_arrive(shared.stationary_empty());

            int row = item.row + group * GROUP_ROWS;  // of the warpgroup
            int own = row + warp * 16 + (lane >> 2);  // of the thread, and the one eight further down
            int end = item.end, tile = 0;
            if (CAUSAL) end = min(end, (row + GROUP_ROWS - 1) / STREAMED + 1);
            if (row < tokens) {
                float o[32], s[STREAMED / 2];
                u32 p[STREAMED / 4];
                float max_low = -INFINITY, max_high = -INFINITY, sum_low = 0.0f, sum_high = 0.0f;
                float keep_low, keep_high;
                bool rescale;  // of the warp
#pragma unroll
                for (int i = 0; i < 32; i++) o[i] = 0.0f;

                // Scores of a tile to exp2(score - max). What was summed before has to shrink by `keep`, but only where a row's
                // maximum grew by more than a factor of 2^8: f32 sums lose nothing by a maximum that is a little small
                // (FlashAttention-4's idea).
                auto softmax = [&](int tile) {
                    int first = tile * STREAMED;
                    if (first + STREAMED > tokens || (CAUSAL && first + STREAMED > row + 1)) {
                        int seen_low = CAUSAL ? min(tokens, own + 1) : tokens;
                        int seen_high = CAUSAL ? min(tokens, own + 9) : tokens;
                        int column = first + (lane & 3) * 2;
#pragma unroll
                        for (int i = 0; i < STREAMED / 8; i++) {
#pragma unroll
                            for (int j = 0; j < 2; j++) {
                                if (column + 8 * i + j >= seen_low) s[4 * i + j] = -INFINITY;
                                if (column + 8 * i + j >= seen_high) s[4 * i + 2 + j] = -INFINITY;
                            }
                        }
                    }
                    float low[2] = {s[0], s[1]}, high[2] = {s[2], s[3]};
#pragma unroll
                    for (int i = 1; i < STREAMED / 8; i++) {
#pragma unroll
                        for (int j = 0; j < 2; j++) {
                            low[j] = fmaxf(low[j], s[4 * i + j]);
                            high[j] = fmaxf(high[j], s[4 * i + 2 + j]);
                        }
                    }
                    float new_low = fmaxf(max_low, quad_max(fmaxf(low[0], low[1])));
                    float new_high = fmaxf(max_high, quad_max(fmaxf(high[0], high[1])));
                    rescale = __any_sync(~0u, fmaxf(new_low - max_low, new_high - max_high) * SCALE_LOG2 > 8.0f);
                    if (rescale) {
                        keep_low = exp2_approx((max_low - new_low) * SCALE_LOG2);
                        keep_high = exp2_approx((max_high - new_high) * SCALE_LOG2);
                        max_low = new_low, max_high = new_high;
                        sum_low *= keep_low, sum_high *= keep_high;
                    }
                    float shift_low = -max_low * SCALE_LOG2, shift_high = -max_high * SCALE_LOG2;
                    low[0] = low[1] = high[0] = high[1] = 0.0f;
#pragma unroll
                    for (int i = 0; i < STREAMED / 8; i++) {
#pragma unroll
                        for (int j = 0; j < 2; j++) {
                            s[4 * i + j] = exp2_approx(fmaf(s[4 * i + j], SCALE_LOG2, shift_low));
                            s[4 * i + 2 + j] = exp2_approx(fmaf(s[4 * i + 2 + j], SCALE_LOG2, shift_high));
                            low[j] += s[4 * i + j];
                            high[j] += s[4 * i + 2 + j];
                        }
                    }
                    sum_low += low[0] + low[1];
                    sum_high += high[0] + high[1];
                };

                barrier_wait(shared.first_full(place.stage), place.parity);
                take_turn(group);
                wgmma_fence();
                times_transposed(s, q, shared.first(place.stage));
                wgmma_commit();
                pass_turn(group);
                wgmma_wait<0>();
                pin(s);
                softmax(0);
                to_fragments(p, s);
                for (tile = 1; tile < end; tile++) {
                    // The scores of this tile, then the last tile's share of the output, which runs under the softmax.
                    Place last = place;
                    place.advance();
                    barrier_wait(shared.first_full(place.stage), place.parity);
                    take_turn(group);
                    pin(s);
                    wgmma_fence();
                    times_transposed(s, q, shared.first(place.stage));
                    wgmma_commit();
                    barrier_wait(shared.second_full(last.stage), last.parity);
                    pin(o);
                    wgmma_fence();
                    add_times(o, p, shared.second(last.stage));
                    wgmma_commit();
                    pass_turn(group);
                    wgmma_wait<1>();
                    pin(s);
                    softmax(tile);
                    wgmma_wait<0>();
                    pin(o);
                    if (lane == 0) barrier_arrive(shared.empty(last.stage));
                    if (rescale) {
#pragma unroll
                        for (int i = 0; i < 32; i++) o[i] *= i & 2 ? keep_high : keep_low;
                    }
                    to_fragments(p, s);
                }
                barrier_wait(shared.second_full(place.stage), place.parity);
                pin(o);
                wgmma_fence();
                add_times(o, p, shared.second(place.stage));
                wgmma_commit();
                sum_low = quad_sum(sum_low), sum_high = quad_sum(sum_high);
                wgmma_wait<0>();
                pin(o);
                if (lane == 0) barrier_arrive(shared.empty(place.stage));
                place.advance();

                store_rows(output, item.head, row, item.batch, o, reciprocal(sum_low), reciprocal(sum_high), shared.output(0, group, warp), warp, lane);
                float* out_lse = lse + value_offset(shape, item);
                if ((lane & 3) == 0 && own < tokens) out_lse[own] = fmaf(max_low, SCALE, LN2 * log2_approx(sum_low));
                if ((lane & 3) == 0 && own + 8 < tokens) out_lse[own + 8] = fmaf(max_high, SCALE, LN2 * log2_approx(sum_high));
            }
            // Tiles only the other warpgroups needed.
            for (; tile < item.end; tile++, place.advance()) skip_tile(shared, place, group, lane);
        }
        if (lane == 0) finish_stores();
    }
}
