// FlashAttention for Hopper (sm_90a), head dimension 64: what the three kernels share.
//
// A block owns GROUPS warpgroups of 64 "stationary" rows each, held in registers as the A operand of every product, and
// streams tiles of STREAMED rows of two other matrices through shared memory. A warp of one more warpgroup only copies
// (tensor memory accelerator, completing on mbarriers), so copies run ahead of the products by up to STAGES tiles; results
// leave by the same engine, through shared memory of their own. Blocks are persistent: each takes every gridDim.x-th item,
// and the copies of an item overlap the products of the one before.
//
//   kernel     stationary   streamed   products per tile
//   forward    Q            K, V       S = Q K^T;   O += P V
//   query      Q, dO        K, V       S, dP = dO V^T;   dQ += dS K
//   key_value  K, V         Q, dO      S^T = K Q^T, dP^T = V dO^T;   dV += P^T dO, dK += dS^T Q
//
// Accumulators of the first products are exactly the A fragments of the second ones, so P and dS never leave registers.
// Tiles are rows of 128 bytes, with 16-byte chunk c of row r at place c ^ (r % 8): the 128-byte swizzle of wgmma's
// shared-memory descriptors, which then read a tile as it is or transposed.
//
// Defined before this text: GROUPS, STREAMED, STAGES, CAUSAL, HALF (1 for f16, 0 for bf16), BOX_ROWS, SHARED_BYTES,
// CONSUMER_REGISTERS, PRODUCER_REGISTERS (a multiple of 8 each; all warps' together are what the launch was given).

constexpr int HEAD_DIM = 64;
constexpr int ROW_BYTES = HEAD_DIM * 2;
constexpr int GROUP_ROWS = 64;  // rows of one warpgroup's products
constexpr int BLOCK_ROWS = GROUPS * GROUP_ROWS;
constexpr int TILE_BYTES = STREAMED * ROW_BYTES;
constexpr float SCALE = 0.125f;  // 1 / sqrt(HEAD_DIM)
constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;
constexpr float SCALE_LOG2 = SCALE * LOG2E;
constexpr int PRODUCERS = 128;  // of which one warp copies
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif

static_assert(STREAMED % 16 == 0 && STREAMED <= 256, "rows of a streamed tile");

struct Shape {
    // `together`: see Item.
    u32 batch, tokens, heads, together;
};

// Rows first.. of a column into a tile, a box a lane; arrives at `barrier`, with what has been copied, once.
template <int ROWS>
__device__ __forceinline__ void copy_tile(u32 to, const TensorMap& from, int column, int first, int batch, u32 barrier, int lane) {
    static_assert(ROWS % BOX_ROWS == 0 && ROWS / BOX_ROWS <= 32, "boxes of a tile");
    if (lane == 0) barrier_arrive_expecting(barrier, ROWS * ROW_BYTES);
    __syncwarp();
    if (lane < ROWS / BOX_ROWS) {
        copy_box_in(to + lane * BOX_ROWS * ROW_BYTES, from, column, first + lane * BOX_ROWS, batch, barrier);
    }
}

// Values first.. of a head's [tokens] of f32.
template <int ROWS>
__device__ __forceinline__ void copy_values(u32 to, const float* from, int first, int tokens, int lane) {
#pragma unroll
    for (int i = 0; i < (ROWS + 31) / 32; i++) {
        int row = lane + i * 32;
        if (ROWS % 32 == 0 || row < ROWS) {
            bool present = first + row < tokens;
            copy_4(to + row * 4, present ? from + first + row : from, present);
        }
    }
}

// Low half of the descriptor of a swizzled tile; the high half, 0x40000040, says: 128-byte swizzle, groups of eight
// rows 1,024 bytes apart.
__device__ __forceinline__ u32 descriptor(u32 address) { return 0x10000 | address >> 4; }

// d[64, STREAMED] = a[64, 64] tile[STREAMED, 64]^T
__device__ __forceinline__ void times_transposed(float (&d)[STREAMED / 2], const u32 (&a)[16], u32 tile) {
    u32 b = descriptor(tile);
#pragma unroll
    for (int k = 0; k < 4; k++) Multiply<STREAMED, 0>::run(d, a + 4 * k, b + k * 2, k > 0);
}

// d[64, 64] += a[64, STREAMED] tile[STREAMED, 64]
__device__ __forceinline__ void add_times(float (&d)[32], const u32 (&a)[STREAMED / 4], u32 tile) {
    u32 b = descriptor(tile);
#pragma unroll
    for (int k = 0; k < STREAMED / 16; k++) Multiply<64, 1>::run(d, a + 4 * k, b + k * (16 * ROW_BYTES / 16), 1);
}

// A fragments of this warp's 16 rows of a swizzled [64, 64] tile.
__device__ __forceinline__ void load_fragments(u32 (&a)[16], u32 tile, int warp, int lane) {
    int row = warp * 16 + (lane & 15);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        u32 from = tile + row * ROW_BYTES + (((k * 2 + (lane >> 4)) ^ (row & 7)) << 4);
        load_matrices(a + 4 * k, from);
    }
}

// Accumulators, as they lie, are the A operand of the next product.
__device__ __forceinline__ void to_fragments(u32 (&a)[STREAMED / 4], const float (&d)[STREAMED / 2]) {
#pragma unroll
    for (int i = 0; i < STREAMED / 4; i++) a[i] = pack(d[2 * i], d[2 * i + 1]);
}

__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

// Rows row.. of accumulators [64, 64], times `low` (rows 0-7 of each warp's 16) and `high`, to a column of a tensor, by way
// of the warp's own 16 rows of shared memory at `by`. Returns before they are written.
__device__ __forceinline__ void store_rows(
    const TensorMap& to, int column, int row, int batch, const float (&d)[32], float low, float high, u32 by, int warp, int lane) {
    // What lay there has been read.
    if (lane == 0) stores_have_read();
    __syncwarp();
    int place = lane & 15;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u32 words[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float factor = j & 1 ? high : low;
            words[j] = pack(d[8 * i + 2 * j] * factor, d[8 * i + 2 * j + 1] * factor);
        }
        u32 at = by + place * ROW_BYTES + (((2 * i + (lane >> 4)) ^ (place & 7)) << 4);
        store_matrices(at, words);
    }
    fence_async();
    __syncwarp();
    if (lane == 0) copy_box_out(to, column, row + warp * BOX_ROWS, batch, by);
}

// Adds pairs of lanes that are 2 KEEP apart: each keeps KEEP sums of the 2 KEEP it has. Not a loop over KEEP: that would not
// be unrolled, and `sums` would lie in memory.
template <int KEEP>
__device__ __forceinline__ void fold(float (&sums)[16], int lane) {
    bool upper = lane & (2 * KEEP);
#pragma unroll
    for (int i = 0; i < KEEP; i++) {
        float given = __shfl_xor_sync(~0u, upper ? sums[i] : sums[KEEP + i], 2 * KEEP);
        sums[i] = (upper ? sums[KEEP + i] : sums[i]) + given;
    }
}

// Sums over a warpgroup's 64 rows of accumulators [64, 64], times `factor`, to 64 floats, by way of shared memory at `by`; rows from
// `tokens` on do not count. `own` is the thread's first row. What a warp has added up lies in its lanes, two neighbouring columns each.
__device__ __forceinline__ void store_column_sums(
    float* to, const float (&d)[32], float factor, int own, int tokens, u32 by, int group, int warp, int lane) {
    float sums[16];
#pragma unroll
    for (int i = 0; i < 16; i++) {
        float low = d[i / 2 * 4 + (i & 1)], high = d[i / 2 * 4 + 2 + (i & 1)];
        sums[i] = ((own < tokens ? low : 0.0f) + (own + 8 < tokens ? high : 0.0f)) * factor;
    }
    fold<8>(sums, lane);
    fold<4>(sums, lane);
    fold<2>(sums, lane);
    store_shared_pair(by + (warp * 64 + (lane >> 2) * 8 + (lane & 3) * 2) * 4, make_float2(sums[0], sums[1]));
    // Of this warpgroup; barriers from 1 on are for turns. Before it comes here again it takes one, with its other warps, so nothing
    // is overwritten that is still to be read.
    static_assert(GROUPS > 1, "else there are no turns");
    bar_sync(8 + group, 128);
    if (warp == 0) {
        float2 all = make_float2(0.0f, 0.0f);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 part = load_shared_pair(by + (i * 64 + lane * 2) * 4);
            all.x += part.x, all.y += part.y;
        }
        *(float2*)(to + lane * 2) = all;
    }
}

// ---------------------------------------------------------------------------------------------- the pipeline

// Warpgroups take turns in issuing products, so that those of one run under the arithmetic of another: without, they fall
// into step, and all wait for products, then all compute. Each takes as many turns as the others.
__device__ __forceinline__ void take_turn(int group) {
    if (GROUPS > 1) bar_sync(group + 1, 256);
}

__device__ __forceinline__ void pass_turn(int group) {
    if (GROUPS > 1) bar_arrive(group + 1 == GROUPS ? 1 : group + 2, 256);
}

// Takes a turn in which nothing is issued.
__device__ __forceinline__ void skip_turn(int group) {
    take_turn(group);
    pass_turn(group);
}

// Place in the ring of stages, and how often it has gone round.
struct Place {
    u32 stage = 0, parity = 0;
    __device__ __forceinline__ void advance() {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// Shared memory: STATIONARY tiles of BLOCK_ROWS rows, STAGES pairs of streamed tiles, OUT tiles on their way out, column sums of
// SUMS of them, values of rows, barriers.
template <int STATIONARY, int VALUES, int STAGE_VALUES, int OUT, int SUMS>
struct Layout {
    static constexpr int STATIONARY_BYTES = BLOCK_ROWS * ROW_BYTES;
    static constexpr int STREAM = STATIONARY * STATIONARY_BYTES;
    static constexpr int OUTPUT = STREAM + STAGES * 2 * TILE_BYTES;
    static constexpr int COLUMN_SUMS = OUTPUT + OUT * STATIONARY_BYTES;
    static constexpr int SUMS_BYTES = 4 * HEAD_DIM * 4;  // of a warpgroup's four warps
    static constexpr int ROW_VALUES = COLUMN_SUMS + SUMS * GROUPS * SUMS_BYTES;
    static constexpr int STREAM_VALUES = ROW_VALUES + VALUES * BLOCK_ROWS * 4;
    static constexpr int BARRIERS = STREAM_VALUES + STAGES * STAGE_VALUES * STREAMED * 4;
    static constexpr int BYTES = BARRIERS + (3 * STAGES + 2) * 8;
    static_assert(BYTES + 1024 <= SHARED_BYTES, "the launcher's sum is wrong");
    // Arrivals at a barrier: of a tile, with the bytes it expects, one; of values, one a lane.
    static constexpr int FULL = 1 + (STAGE_VALUES ? 32 : 0);
    u32 base;

    __device__ __forceinline__ u32 stationary(int i) const { return base + i * STATIONARY_BYTES; }
    __device__ __forceinline__ u32 first(u32 stage) const { return base + STREAM + stage * 2 * TILE_BYTES; }
    __device__ __forceinline__ u32 second(u32 stage) const { return first(stage) + TILE_BYTES; }
    // A warp's 16 rows of the i-th matrix on its way out.
    __device__ __forceinline__ u32 output(int i, int group, int warp) const {
        return base + OUTPUT + i * STATIONARY_BYTES + (group * 4 + warp) * BOX_ROWS * ROW_BYTES;
    }
    __device__ __forceinline__ u32 column_sums(int i, int group) const { return base + COLUMN_SUMS + (i * GROUPS + group) * SUMS_BYTES; }
    __device__ __forceinline__ u32 row_values() const { return base + ROW_VALUES; }
    __device__ __forceinline__ u32 stream_values(u32 stage, int i) const {
        return base + STREAM_VALUES + (stage * STAGE_VALUES + i) * STREAMED * 4;
    }
    // The first, or the second, tile of a stage has landed.
    __device__ __forceinline__ u32 first_full(u32 stage) const { return base + BARRIERS + stage * 8; }
    __device__ __forceinline__ u32 second_full(u32 stage) const { return base + BARRIERS + (STAGES + stage) * 8; }
    // All warps are done with a stage.
    __device__ __forceinline__ u32 empty(u32 stage) const { return base + BARRIERS + (2 * STAGES + stage) * 8; }
    __device__ __forceinline__ u32 stationary_full() const { return base + BARRIERS + 3 * STAGES * 8; }
    __device__ __forceinline__ u32 stationary_empty() const { return stationary_full() + 8; }

    __device__ __forceinline__ void init(void* memory) {
        base = (shared_address(memory) + 1023) & ~1023u;
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES; i++) {
                barrier_init(first_full(i), FULL);
                barrier_init(second_full(i), FULL);
                barrier_init(empty(i), GROUPS * 4);
            }
            barrier_init(stationary_full(), STATIONARY + (VALUES ? 32 : 0));
            barrier_init(stationary_empty(), GROUPS * 4);
            fence_barrier_init();
        }
        __syncthreads();
    }
};

// Lets a tile pass that only the other warpgroups need.
template <typename Shared>
__device__ __forceinline__ void skip_tile(const Shared& shared, const Place& place, int group, int lane) {
    skip_turn(group);
    barrier_wait(shared.first_full(place.stage), place.parity);
    barrier_wait(shared.second_full(place.stage), place.parity);
    if (lane == 0) barrier_arrive(shared.empty(place.stage));
}

// The stationary rows a block works on, and the tiles it streams past them.
struct Item {
    u32 batch, head;
    int row;           // first stationary row
    int begin, end;    // streamed tiles

    // `queries_stationary`: a causal block sees the keys up to its last row, else the queries from its first row on.
    __device__ __forceinline__ Item(u32 index, const Shape& shape, bool queries_stationary) {
        u32 blocks = (shape.tokens + BLOCK_ROWS - 1) / BLOCK_ROWS;
        u32 block = index % blocks, sequence = index / blocks;
        // Long items first.
        if (CAUSAL && queries_stationary) block = blocks - 1 - block;
        // The last rows of a head are fewer. Those of `together` heads follow all the heads' other rows.
        if (shape.together > 0) {
            u32 first = index / (shape.together * blocks) * shape.together, place = index - first * blocks;
            u32 full = min(shape.together, shape.batch * shape.heads - first) * (blocks - 1);
            block = place < full ? place % (blocks - 1) : blocks - 1;
            sequence = first + (place < full ? place / (blocks - 1) : place - full);
        }
        batch = sequence / shape.heads;
        head = sequence % shape.heads;
        row = block * BLOCK_ROWS;
        begin = 0;
        end = (shape.tokens + STREAMED - 1) / STREAMED;
        if (CAUSAL) {
            if (queries_stationary) end = min(end, (row + BLOCK_ROWS - 1) / STREAMED + 1);
            else begin = row / STREAMED;
        }
    }
};

__device__ __forceinline__ u32 item_count(const Shape& shape) {
    return (shape.tokens + BLOCK_ROWS - 1) / BLOCK_ROWS * shape.batch * shape.heads;
}

// First value of a head in `[batch, heads, tokens]`.
__device__ __forceinline__ size_t value_offset(const Shape& shape, const Item& item) {
    return ((size_t)item.batch * shape.heads + item.head) * shape.tokens;
}

// Place of a warpgroup's column sums in `[batch, 64-row units, 3, heads, 64]`.
__device__ __forceinline__ size_t sums_offset(const Shape& shape, const Item& item, int row, int which) {
    u32 units = (shape.tokens + GROUP_ROWS - 1) / GROUP_ROWS;
    size_t unit = (size_t)item.batch * units + row / GROUP_ROWS;
    return ((unit * 3 + which) * shape.heads + item.head) * HEAD_DIM;
}
