// out = epilogue(a b), row-major: a [m, k]; b [n, k], as PyTorch's Linear has its weights, or, with K_FIRST, [k, n].
//
// A block multiplies tiles of 128 x TILE_N: two warpgroups with accumulators of 64 rows each, operands from shared memory in STAGES
// stages of 64 columns, copied by one warp. Other warps, the workers, take a finished tile, rounded, from shared memory and send
// it out while the products of the next tile go on; on the way they apply an activation, or its derivative. The derivative
// takes three times the instructions of the function: six workers instead of three.
//
// Reading operands takes two thirds of shared memory's bandwidth, the copies most of the rest. Blocks in pairs that fetch half of b
// for each other took as long and as much energy (benches/NOTES.md).
//
// Defined before this text: TILE_N (192 or 256), STAGES, K_FIRST, BIAS (1: a bias is added), EPILOGUE, KEEP (ACTIVATED: what f was
// applied to is written), WRITE (DERIVATIVE: `hidden` becomes what it was activated to), HALF (1 for f16, 0 for bf16), GELU,
// CONSUMER_REGISTERS, PRODUCER_REGISTERS.

#define PLAIN 0
#define RESIDUAL 1
#define ACTIVATED 2
#define DERIVATIVE 3

constexpr int TILE_M = 128, TILE_K = 64;
constexpr int A_BYTES = TILE_M * TILE_K * 2, STAGE_BYTES = A_BYTES + TILE_N * TILE_K * 2;
constexpr int PART_BYTES = 64 * 128;                        // what a worker takes: 64 rows of 64 columns
constexpr int ACROSS = TILE_N / 64, PARTS = 2 * ACROSS;     // such parts of a tile
constexpr int HELPERS = EPILOGUE == DERIVATIVE ? 2 : 1;     // warpgroups that do not multiply
constexpr int WORKERS = 3 * HELPERS, THREADS = 128 * (HELPERS + 2);

struct Shape {
    u32 m, n, k, unused;
};

// A block's share: every so many-th tile, columns first. Where nothing is applied the last rows come first: what was written last,
// by a kernel that went the other way, is still in the cache.
struct Work {
    u32 base;            // of shared memory, aligned to 1,024
    const Shape& shape;  // where the kernel's parameters are, which takes no registers
    u32 across, tiles, blocks;
    __device__ __forceinline__ Work(u32 base, const Shape& shape) : base(base), shape(shape) {
        across = (shape.n + TILE_N - 1) / TILE_N;
        tiles = (shape.m + TILE_M - 1) / TILE_M * across;
        blocks = shape.k / TILE_K;
    }
    __device__ __forceinline__ int row(u32 tile) const {
        u32 down = tile / across;
        if (EPILOGUE == PLAIN || EPILOGUE == RESIDUAL) down = tiles / across - 1 - down;
        return down * TILE_M;
    }
    __device__ __forceinline__ int column(u32 tile) const { return tile % across * ACROSS; }  // in columns of 64
};
#define FOR_TILES(work) for (u32 tile = blockIdx.x; tile < (work).tiles; tile += gridDim.x)

// Shared memory: stages, finished tiles in parts, barriers, the bias.
constexpr int STAGED = STAGES * STAGE_BYTES, BARRIERS = STAGED + PARTS * PART_BYTES, BIASES = BARRIERS + 128;
#define FULL(stage) (work.base + BARRIERS + (stage) * 8)
#define EMPTY(stage) FULL(STAGES + (stage))
#define READY(group) FULL(2 * STAGES + (group))      // 64 rows of the finished tile are in shared memory
#define TAKEN(group) FULL(2 * STAGES + 2 + (group))  // and no longer needed there; RESIDUAL: what they are added to is there

// The low half of a descriptor: rows of 128 bytes, or blocks of 64 columns, [64 rows, 128 bytes] each, one after another.
__device__ __forceinline__ u32 descriptor(u32 address, bool transposed) {
    return (transposed ? PART_BYTES / 16 : 1) << 16 | (address >> 4 & 0x3fff);
}
