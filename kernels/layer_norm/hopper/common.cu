// LayerNorm on Hopper: what the two kernels share.
//
// A block takes ROWS rows at a time, a lot, which lie together in memory: one warp has the copy engine fetch them, STAGES lots ahead, so
// that nobody waits for memory. Each of the other warps takes a row of a lot: a lane has VECTORS vectors of LANE elements.
//
// Defined before this text: WIDTH (384 to 1,024, a multiple of 128), WARPS (those that compute), LOTS (matrices that are read), STAGES, HALF.

constexpr int LANE = WIDTH % 256 == 0 ? 8 : 4, VECTORS = WIDTH / (32 * LANE), OWN = VECTORS * LANE;
constexpr int ROWS = WARPS, THREADS = WARPS * 32 + 32;
constexpr int ROW_BYTES = WIDTH * 2, LOT_BYTES = ROWS * ROW_BYTES, STAGE_BYTES = LOTS * LOT_BYTES;
static_assert(WIDTH % (32 * LANE) == 0, "whole vectors a lane");

struct Shape {
    u32 rows, eps;  // eps: the bits of an f32
    __device__ __forceinline__ u32 lots() const { return (rows + ROWS - 1) / ROWS; }
};
#define FOR_LOTS(shape) for (u32 lot = blockIdx.x; lot < (shape).lots(); lot += gridDim.x)

// Place in the ring of stages, and how often it has gone round.
struct Place {
    u32 stage = 0, parity = 0;
    __device__ __forceinline__ void advance() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

// Place of a column's gain or bias in shared memory: in the order that lanes read them in, four at a time.
__device__ __forceinline__ int place_of(int column) {
    const int v = column / (32 * LANE), lane = column / LANE % 32, i = column % LANE;
    return ((v * (LANE / 4) + i / 4) * 32 + lane) * 4 + i % 4;
}

// Stages, gains, biases, barriers.
struct Memory {
    u32 base;
    float* start;
    __device__ __forceinline__ u32 lot(u32 stage, int i) const { return base + stage * STAGE_BYTES + i * LOT_BYTES; }
    __device__ __forceinline__ u32 gains() const { return base + STAGES * STAGE_BYTES; }
    __device__ __forceinline__ u32 biases() const { return gains() + WIDTH * 4; }
    __device__ __forceinline__ u32 full(u32 stage) const { return biases() + WIDTH * 4 + stage * 8; }
    __device__ __forceinline__ u32 empty(u32 stage) const { return full(STAGES + stage); }

    __device__ __forceinline__ Memory(unsigned char* memory, const float* gain, const float* bias) {
        base = (shared_address(memory) + 127) & ~127u;
        start = (float*)(memory + (base - shared_address(memory)));
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES; i++) {
                barrier_init(full(i), 1);
                barrier_init(empty(i), WARPS);
            }
            fence_barrier_init();
        }
        float* parameters = start + STAGES * STAGE_BYTES / 4;
        for (u32 i = threadIdx.x; i < WIDTH; i += THREADS) {
            parameters[place_of(i)] = gain[i];
            parameters[WIDTH + place_of(i)] = bias[i];
        }
        __syncthreads();
    }

    // By one thread: all lots of this block, of each matrix.
    __device__ __forceinline__ void copy_lots(const u16* const (&from)[LOTS], const Shape& shape) const {
        Place place;
        FOR_LOTS(shape) {
            const u32 bytes = min((u32)ROWS, shape.rows - lot * ROWS) * ROW_BYTES;
            barrier_wait(empty(place.stage), place.parity ^ 1);
            barrier_arrive_expecting(full(place.stage), LOTS * bytes);
#pragma unroll
            for (int i = 0; i < LOTS; i++)
                copy_bytes_in(this->lot(place.stage, i), from[i] + (size_t)lot * ROWS * WIDTH, bytes, full(place.stage));
            place.advance();
        }
    }
};

struct Vec {
    u32 words[LANE / 2];
};

__device__ __forceinline__ Vec load(u32 from) {
    Vec v;
    if constexpr (LANE == 8) {
        const uint4 w = load_shared_16(from);
        v.words[0] = w.x, v.words[1] = w.y, v.words[2] = w.z, v.words[3] = w.w;
    } else {
        const uint2 w = load_shared_8(from);
        v.words[0] = w.x, v.words[1] = w.y;
    }
    return v;
}

__device__ __forceinline__ void store(u16* to, const Vec& v) {
    if constexpr (LANE == 8) *(uint4*)to = make_uint4(v.words[0], v.words[1], v.words[2], v.words[3]);
    else *(uint2*)to = make_uint2(v.words[0], v.words[1]);
}

// Gains, or biases, of a lane's v-th vector.
__device__ __forceinline__ void load_parameters(float (&to)[LANE], u32 from, int v, int lane) {
#pragma unroll
    for (int i = 0; i < LANE / 4; i++) {
        const uint4 four = load_shared_16(from + ((v * (LANE / 4) + i) * 32 + lane) * 16);
        to[4 * i] = __uint_as_float(four.x), to[4 * i + 1] = __uint_as_float(four.y);
        to[4 * i + 2] = __uint_as_float(four.z), to[4 * i + 3] = __uint_as_float(four.w);
    }
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(~0u, x, i);
    return x;
}
