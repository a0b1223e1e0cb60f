// What happens to a finished tile: parts of 64 x 64, each one worker's, so that workers never meet. A worker is a warp. A part lies
// in shared memory as `copy_box_out` takes it; the copy is waited for before the next tile's part may come.

// Of eight rows a lane has 16 bytes of two: those from `first`, at `even`, and four further, at `odd`.
struct Lanes {
    int chunk, first;
    u32 even, odd;
    __device__ __forceinline__ Lanes(int lane) : chunk(lane & 7), first(lane >> 3) {
        even = first * 128 + ((chunk ^ first) << 4);
        odd = (first + 4) * 128 + ((chunk ^ (first + 4)) << 4);
    }
    // Row first + 4 j of a part.
    __device__ __forceinline__ u32 at(u32 part, int j) const { return part + (j & 1 ? odd : even) + j / 2 * 1024; }
    // Rows first + 4 (start + ..) of a part.
    template <int N>
    __device__ __forceinline__ void load(uint4 (&values)[N], u32 part, int start) const {
#pragma unroll
        for (int j = 0; j < N; j++) values[j] = load_shared_16(at(part, start + j));
    }
    template <int N>
    __device__ __forceinline__ void store(u32 part, int start, const uint4 (&values)[N]) const {
#pragma unroll
        for (int j = 0; j < N; j++) store_shared_16(at(part, start + j), values[j]);
    }
};

// A worker's way through its parts of its block's tiles.
struct Part {
    const Work& work;
    u32 tile, parity;
    int worker, part;
    __device__ __forceinline__ Part(const Work& work, int worker) : work(work), tile(blockIdx.x), parity(0), worker(worker), part(worker) {}
    __device__ __forceinline__ bool any() const { return tile < work.tiles; }
    __device__ __forceinline__ u32 group() const { return part / ACROSS; }
    __device__ __forceinline__ u32 place() const { return work.base + STAGED + part * PART_BYTES; }
    __device__ __forceinline__ int row() const { return work.row(tile) + group() * 64; }
    __device__ __forceinline__ int column() const { return work.column(tile) + part % ACROSS; }  // of 64
    __device__ __forceinline__ bool within() const { return column() * 64 < (int)work.shape.n; }
    __device__ __forceinline__ void next() {
        part += WORKERS;
        if (part >= PARTS) part = worker, tile += gridDim.x, parity ^= 1;
    }
};

#if EPILOGUE == PLAIN || EPILOGUE == RESIDUAL
// out = the tile. With RESIDUAL, that of the next tile is copied to where the product will be added to it.
__device__ __forceinline__ void finish(const Work& work, int worker, int lane, const TensorMap& out_map, const TensorMap& residual_map) {
    if (lane != 0) return;
#if EPILOGUE == RESIDUAL
    auto load = [&](const Part& part) {
        barrier_arrive_expecting(TAKEN(part.group()), PART_BYTES);
        copy_box_in(part.place(), residual_map, part.column(), part.row(), 0, TAKEN(part.group()));
    };
    for (Part first(work, worker); first.any() && first.tile == blockIdx.x; first.next()) load(first);
#endif
    for (Part part(work, worker); part.any(); part.next()) {
        barrier_wait(READY(part.group()), part.parity);
        copy_box_out(out_map, part.column(), part.row(), 0, part.place());
        stores_have_read();
#if EPILOGUE == RESIDUAL
        Part after = part;
        after.tile += gridDim.x;
        if (after.any()) load(after);
#else
        barrier_arrive(TAKEN(part.group()));
#endif
    }
    finish_stores();
}

#elif EPILOGUE == ACTIVATED
// out = f(the tile); with KEEP, hidden = the tile.
__device__ __forceinline__ void finish(const Work& work, int worker, int lane, const TensorMap& out_map, const TensorMap& hidden_map) {
    constexpr int AT_ONCE = 8;
    const Lanes lanes(lane);
    for (Part part(work, worker); part.any(); part.next()) {
        const u32 place = part.place();
        barrier_wait(READY(part.group()), part.parity);
#if KEEP
        if (lane == 0) copy_box_out(hidden_map, part.column(), part.row(), 0, place);
#endif
#pragma unroll
        for (int start = 0; start < 16; start += AT_ONCE) {
            uint4 values[AT_ONCE];
            lanes.load(values, place, start);
#pragma unroll
            for (int j = 0; j < AT_ONCE; j++) {
                u32* words = (u32*)&values[j];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float2 v = unpack(words[i]);
                    words[i] = pack(activated(v.x), activated(v.y));
                }
            }
#if KEEP
            if (start == 0) {
                if (lane == 0) stores_have_read();
                __syncwarp();
            }
#endif
            lanes.store(place, start, values);
        }
        fence_async();
        __syncwarp();
        if (lane == 0) {
            copy_box_out(out_map, part.column(), part.row(), 0, place);
            stores_have_read();
            barrier_arrive(TAKEN(part.group()));
        }
    }
    if (lane == 0) finish_stores();
}

#else
// out = the tile times f'(hidden), and partials, [rows / 64, n], the sums of each part's columns; with WRITE, hidden becomes
// f(hidden). Of `hidden` the next part is in registers: behind the tiles' copies a load takes thousands of cycles, and so would a
// register that is spilled.
__device__ __forceinline__ void finish(const Work& work, int worker, int lane, const TensorMap& out_map, u16* __restrict__ hidden, float* __restrict__ partials) {
    constexpr int AT_ONCE = WRITE ? 1 : 2;
    const Lanes lanes(lane);
    const Shape& shape = work.shape;
    uint4 coming[16];
    auto fetch = [&](const Part& part) {
        const int row = part.row() + lanes.first;
        const u16* from = hidden + (size_t)row * shape.n + part.column() * 64 + lanes.chunk * 8;
        const bool within = part.any() && part.within();
#pragma unroll
        for (int j = 0; j < 16; j++) {
            coming[j] = make_uint4(0, 0, 0, 0);
            if (within && row + 4 * j < (int)shape.m) coming[j] = *(const uint4*)(from + (size_t)4 * j * shape.n);
        }
    };
    Part part(work, worker);
    fetch(part);
    while (part.any()) {
        const u32 place = part.place(), group = part.group();
        const int row = part.row(), column = part.column();
        const bool within = part.within();
#if WRITE
        u16* here = hidden + (size_t)(row + lanes.first) * shape.n + column * 64 + lanes.chunk * 8;
        const int rows = within ? (int)shape.m - row - lanes.first : 0;
#endif
        float sums[8] = {};
        barrier_wait(READY(group), part.parity);
#pragma unroll
        for (int start = 0; start < 16; start += AT_ONCE) {
            uint4 values[AT_ONCE];
            lanes.load(values, place, start);
#pragma unroll
            for (int j = 0; j < AT_ONCE; j++) {
                u32* words = (u32*)&values[j];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    u32& now = ((u32*)&coming[start + j])[i];
                    float2 v = unpack(words[i]), h = unpack(now);
                    v.x *= derivative(h.x);
                    v.y *= derivative(h.y);
#if WRITE
                    now = pack(h.x, h.y);
#endif
                    sums[2 * i] += v.x;
                    sums[2 * i + 1] += v.y;
                    words[i] = pack(v.x, v.y);
                }
#if WRITE
                if (4 * (start + j) < rows) *(uint4*)(here + (size_t)(4 * (start + j)) * shape.n) = coming[start + j];
#endif
            }
            lanes.store(place, start, values);
        }
        part.next();
        fetch(part);
        fence_async();
        __syncwarp();
        if (lane == 0) copy_box_out(out_map, column, row, 0, place);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            sums[i] += __shfl_xor_sync(~0u, sums[i], 8);
            sums[i] += __shfl_xor_sync(~0u, sums[i], 16);
        }
        if (lane < 8 && within && row < (int)shape.m) {
            float4* to = (float4*)(partials + (size_t)(row / 64) * shape.n + column * 64 + lanes.chunk * 8);
            to[0] = make_float4(sums[0], sums[1], sums[2], sums[3]);
            to[1] = make_float4(sums[4], sums[5], sums[6], sums[7]);
        }
        if (lane == 0) {
            stores_have_read();
            barrier_arrive(TAKEN(group));
        }
    }
    if (lane == 0) finish_stores();
}
#endif
