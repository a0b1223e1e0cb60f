// Backward, first half: the gradient of the queries, and delta = sum over d of output * d_output for the second half.

extern "C" __global__ void __launch_bounds__(GROUPS * 128 + PRODUCERS, 1) avion_attention_query(
    const __grid_constant__ TensorMap qkv, const __grid_constant__ TensorMap output, const __grid_constant__ TensorMap d_output,
    const __grid_constant__ TensorMap d_qkv, const void*, const void*, const void*, const void*,
    const float* __restrict__ lse, float* __restrict__ delta, float* __restrict__ sums, const __grid_constant__ Shape shape) {
    extern __shared__ unsigned char dynamic_shared_mem[];
    Layout<3, 1, 0, 1, 1> shared;
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
            u32 full = shared.stationary_full();
            copy_tile<BLOCK_ROWS>(shared.stationary(0), qkv, item.head, item.row, item.batch, full, lane);
            copy_tile<BLOCK_ROWS>(shared.stationary(1), d_output, item.head, item.row, item.batch, full, lane);
            copy_tile<BLOCK_ROWS>(shared.stationary(2), output, item.head, item.row, item.batch, full, lane);
            copy_values<BLOCK_ROWS>(shared.row_values(), lse + value_offset(shape, item), item.row, tokens, lane);
            barrier_arrive_after_copies(full);
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
            int row = item.row + group * GROUP_ROWS;  // of the warpgroup
            int place_in_group = warp * 16 + (lane >> 2);
            int own = row + place_in_group;  // of the thread, and the one eight further down
            u32 part = group * GROUP_ROWS * ROW_BYTES;
            float delta_low = 0.0f, delta_high = 0.0f;
            barrier_wait(shared.stationary_full(), round);
            u32 q[16], g[16];
            load_fragments(q, shared.stationary(0) + part, warp, lane);
            load_fragments(g, shared.stationary(1) + part, warp, lane);
            {
                u32 o[16], g[16];
                load_fragments(g, shared.stationary(1) + part, warp, lane);
                load_fragments(o, shared.stationary(2) + part, warp, lane);
#pragma unroll
                for (int i = 0; i < 16; i++) {
                    float2 a = unpack(o[i]), b = unpack(g[i]);
                    float sum = fmaf(a.x, b.x, a.y * b.y);
                    if (i & 1) delta_high += sum;
                    else delta_low += sum;
                }
            }
            u32 lse_at = shared.row_values() + (group * GROUP_ROWS + place_in_group) * 4;
            float shift_low = -LOG2E * load_shared(lse_at), shift_high = -LOG2E * load_shared(lse_at + 32);
            __syncwarp();
            if (lane == 0) barrier_arrive(shared.stationary_empty());
            delta_low = quad_sum(delta_low), delta_high = quad_sum(delta_high);

            int end = item.end, tile = 0;
            if (CAUSAL) end = min(end, (row + GROUP_ROWS - 1) / STREAMED + 1);
            if (row >= tokens) {
                skip_turn(group);
            } else {
                float* out_delta = delta + value_offset(shape, item);
                if ((lane & 3) == 0 && own < tokens) out_delta[own] = delta_low;
                if ((lane & 3) == 0 && own + 8 < tokens) out_delta[own + 8] = delta_high;

                float dq[32], s[STREAMED / 2], dp[STREAMED / 2];
                u32 ds[STREAMED / 4];
#pragma unroll
                for (int i = 0; i < 32; i++) dq[i] = 0.0f;
                pin(dq);
                auto begin_tile = [&]() {
                    barrier_wait(shared.first_full(place.stage), place.parity);
                    pin(s);
                    pin(dp);
                    wgmma_fence();
                    times_transposed(s, q, shared.first(place.stage));
                    wgmma_commit();
                    barrier_wait(shared.second_full(place.stage), place.parity);
                    wgmma_fence();
                    times_transposed(dp, g, shared.second(place.stage));
                    wgmma_commit();
                };
                take_turn(group);
                begin_tile();
                pass_turn(group);
                u32 last = 0;
                for (;;) {
                    wgmma_wait<1>();  // the scores, and dQ of the tile before
                    pin(s);
                    pin(dq);
                    if (tile > 0 && lane == 0) barrier_arrive(shared.empty(last));
#pragma unroll
                    for (int i = 0; i < STREAMED / 2; i++) {
                        s[i] = exp2_approx(fmaf(s[i], SCALE_LOG2, i & 2 ? shift_high : shift_low));
                    }
                    int first = tile * STREAMED;
                    if (first + STREAMED > tokens || (CAUSAL && first + STREAMED > row + 1)) {
                        int seen_low = CAUSAL ? min(tokens, own + 1) : tokens;
                        int seen_high = CAUSAL ? min(tokens, own + 9) : tokens;
                        int column = first + (lane & 3) * 2;
#pragma unroll
                        for (int i = 0; i < STREAMED / 2; i++) {
                            if (column + i / 4 * 8 + (i & 1) >= (i & 2 ? seen_high : seen_low)) s[i] = 0.0f;
                        }
                    }
                    wgmma_wait<0>();
                    pin(dp);
#pragma unroll
                    for (int i = 0; i < STREAMED / 2; i++) s[i] *= dp[i] - (i & 2 ? delta_high : delta_low);
                    to_fragments(ds, s);
                    pin(dq);
                    take_turn(group);
                    wgmma_fence();
                    add_times(dq, ds, shared.first(place.stage));
                    wgmma_commit();
                    last = place.stage;
                    place.advance();
                    if (++tile == end) break;
                    begin_tile();
                    pass_turn(group);
                }
                pass_turn(group);
                wgmma_wait<0>();
                pin(dq);
                if (lane == 0) barrier_arrive(shared.empty(last));
                store_rows(d_qkv, item.head, row, item.batch, dq, SCALE, SCALE, shared.output(0, group, warp), warp, lane);
                float* to = sums + sums_offset(shape, item, row, 0);
                store_column_sums(to, dq, SCALE, own, tokens, shared.column_sums(0, group), group, warp, lane);
            }
            // Tiles only the other warpgroups needed.
            for (; tile < item.end; tile++, place.advance()) skip_tile(shared, place, group, lane);
        }
        if (lane == 0) finish_stores();
    }
}
