// Backward, second half: the gradients of the keys and the values.

extern "C" __global__ void __launch_bounds__(GROUPS * 128 + PRODUCERS, 1) avion_attention_key_value(
    const __grid_constant__ TensorMap qkv, const __grid_constant__ TensorMap d_output, const __grid_constant__ TensorMap d_qkv,
    const void*, const void*, const void*, const float* __restrict__ lse, const float* __restrict__ delta,
    float* __restrict__ sums, const __grid_constant__ Shape shape) {
    extern __shared__ unsigned char dynamic_shared_mem[];
    Layout<2, 0, 2, 2, 2> shared;
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
            Item item(index, shape, false);
            barrier_wait(shared.stationary_empty(), round ^ 1);
            for (int i = 0; i < 2; i++) {
                int column = (1 + i) * shape.heads + item.head;
                copy_tile<BLOCK_ROWS>(shared.stationary(i), qkv, column, item.row, item.batch, shared.stationary_full(), lane);
            }
            const float* item_lse = lse + value_offset(shape, item);
            const float* item_delta = delta + value_offset(shape, item);
            for (int tile = item.begin; tile < item.end; tile++, place.advance()) {
                u32 stage = place.stage;
                int first = tile * STREAMED;
                barrier_wait(shared.empty(stage), place.parity ^ 1);
                copy_tile<STREAMED>(shared.first(stage), qkv, item.head, first, item.batch, shared.first_full(stage), lane);
                copy_values<STREAMED>(shared.stream_values(stage, 0), item_lse, first, tokens, lane);
                barrier_arrive_after_copies(shared.first_full(stage));
                copy_tile<STREAMED>(shared.second(stage), d_output, item.head, first, item.batch, shared.second_full(stage), lane);
                copy_values<STREAMED>(shared.stream_values(stage, 1), item_delta, first, tokens, lane);
                barrier_arrive_after_copies(shared.second_full(stage));
            }
        }
    } else {
        BECOME_CONSUMER();
        if (group == GROUPS - 1) pass_turn(group);
        for (u32 index = blockIdx.x; index < items; index += gridDim.x, round ^= 1) {
            Item item(index, shape, false);
            int row = item.row + group * GROUP_ROWS;  // of the warpgroup
            int own = row + warp * 16 + (lane >> 2);  // of the thread, and the one eight further down
            barrier_wait(shared.stationary_full(), round);
            u32 part = group * GROUP_ROWS * ROW_BYTES;
            u32 k[16], v[16];
            load_fragments(k, shared.stationary(0) + part, warp, lane);
            load_fragments(v, shared.stationary(1) + part, warp, lane);
            __syncwarp();
            if (lane == 0) barrier_arrive(shared.stationary_empty());

            // Tiles only the warpgroups before this one need, or all of them when it has no rows.
            int tile = item.begin, begin = item.end;
            if (row < tokens) begin = CAUSAL ? row / STREAMED : 0;
            for (; tile < begin; tile++, place.advance()) skip_tile(shared, place, group, lane);
            if (row >= tokens) {
                skip_turn(group);
            } else {
                // Queries past the end are zero, and so are their lse, delta and gradients: they add nothing.
                float dk[32], dv[32], s[STREAMED / 2], dp[STREAMED / 2];
                u32 p[STREAMED / 4], ds[STREAMED / 4];
#pragma unroll
                for (int i = 0; i < 32; i++) dk[i] = dv[i] = 0.0f;
                pin(dk);
                pin(dv);
                auto begin_tile = [&]() {
                    barrier_wait(shared.first_full(place.stage), place.parity);
                    pin(s);
                    pin(dp);
                    wgmma_fence();
                    times_transposed(s, k, shared.first(place.stage));
                    wgmma_commit();
                    barrier_wait(shared.second_full(place.stage), place.parity);
                    wgmma_fence();
                    times_transposed(dp, v, shared.second(place.stage));
                    wgmma_commit();
                };
                take_turn(group);
                begin_tile();
                pass_turn(group);
                u32 last = 0;
                for (;;) {
                    u32 stage = place.stage;
                    float2 shifts[STREAMED / 8], deltas[STREAMED / 8];
                    u32 values = (lane & 3) * 8;
#pragma unroll
                    for (int i = 0; i < STREAMED / 8; i++) {
                        shifts[i] = load_shared_pair(shared.stream_values(stage, 0) + values + i * 32);
                    }
                    wgmma_wait<1>();  // the scores, and dK of the tile before; dV is done
                    pin(s);
                    pin(dv);
                    pin(dk);
                    if (tile > begin && lane == 0) barrier_arrive(shared.empty(last));
#pragma unroll
                    for (int i = 0; i < STREAMED / 8; i++) {
                        float even = -LOG2E * shifts[i].x, odd = -LOG2E * shifts[i].y;
                        s[4 * i] = exp2_approx(fmaf(s[4 * i], SCALE_LOG2, even));
                        s[4 * i + 1] = exp2_approx(fmaf(s[4 * i + 1], SCALE_LOG2, odd));
                        s[4 * i + 2] = exp2_approx(fmaf(s[4 * i + 2], SCALE_LOG2, even));
                        s[4 * i + 3] = exp2_approx(fmaf(s[4 * i + 3], SCALE_LOG2, odd));
                    }
                    if (CAUSAL && tile * STREAMED < row + GROUP_ROWS - 1) {
                        int query = tile * STREAMED + (lane & 3) * 2;
#pragma unroll
                        for (int i = 0; i < STREAMED / 2; i++) {
                            if (query + i / 4 * 8 + (i & 1) < own + (i & 2 ? 8 : 0)) s[i] = 0.0f;
                        }
                    }
                    to_fragments(p, s);
#pragma unroll
                    for (int i = 0; i < STREAMED / 8; i++) {
                        deltas[i] = load_shared_pair(shared.stream_values(stage, 1) + values + i * 32);
                    }
                    wgmma_fence();
                    add_times(dv, p, shared.second(stage));
                    wgmma_commit();
                    wgmma_wait<1>();  // dP
                    pin(dp);
#pragma unroll
                    for (int i = 0; i < STREAMED / 8; i++) {
                        s[4 * i] *= dp[4 * i] - deltas[i].x;
                        s[4 * i + 1] *= dp[4 * i + 1] - deltas[i].y;
                        s[4 * i + 2] *= dp[4 * i + 2] - deltas[i].x;
                        s[4 * i + 3] *= dp[4 * i + 3] - deltas[i].y;
                    }
                    to_fragments(ds, s);
                    wgmma_wait<0>();  // dV: its operand's registers are needed by the next tile
                    pin(p);
                    take_turn(group);
                    wgmma_fence();
                    add_times(dk, ds, shared.first(stage));
                    wgmma_commit();
                    last = stage;
                    place.advance();
                    if (++tile == item.end) break;
                    begin_tile();
                    pass_turn(group);
                }
                pass_turn(group);
                wgmma_wait<0>();
                pin(dv);
                pin(dk);
                if (lane == 0) barrier_arrive(shared.empty(last));
                int column = shape.heads + item.head;
                store_rows(d_qkv, column, row, item.batch, dk, SCALE, SCALE, shared.output(0, group, warp), warp, lane);
                store_rows(d_qkv, column + shape.heads, row, item.batch, dv, 1.0f, 1.0f, shared.output(1, group, warp), warp, lane);
                float* to = sums + sums_offset(shape, item, row, 1);
                store_column_sums(to, dk, SCALE, own, tokens, shared.column_sums(0, group), group, warp, lane);
                to = sums + sums_offset(shape, item, row, 2);
                store_column_sums(to, dv, 1.0f, own, tokens, shared.column_sums(1, group), group, warp, lane);
            }
        }
        if (lane == 0) finish_stores();
    }
}
