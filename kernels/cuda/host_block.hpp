// The Block that a plain C++ compiler instantiates kernels' phases with: one std::thread for each CUDA thread.
//
// The block's barrier is a std::barrier, a matrix instruction exchanges its operands among the 32 threads of a warp, and
// words that blocks exchange are relaxed atomics: what is a race on the GPU is one for ThreadSanitizer. Grids must be
// small. A test that races are noticed takes the block's barriers away: `has_barriers`.
#pragma once

#include <barrier>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "words.cuh"

namespace lpgpu {

// What the 32 threads of a warp share: the operands of a matrix instruction, in two places that take turns.
struct HostWarp {
    std::barrier<> barrier{32};
    uint32_t a[2][32][4], b[2][32][2];
};

struct HostTeam {  // what the threads of a block share
    std::barrier<> barrier;
    std::vector<std::unique_ptr<HostWarp>> warps;
    std::vector<Pair> shared;  // aligned for pairs

    HostTeam(int threads, int shared_bytes) : barrier(threads), shared(shared_bytes / sizeof(Pair) + 1)
    {
        for (int i = 0; i < threads / 32; i++) warps.push_back(std::make_unique<HostWarp>());
        for (Pair& pair : shared) pair.x = pair.y = float_of(0x7fc00000u);  // whoever reads before writing gets NaN
    }
};

class HostBlock {
public:
    HostBlock(HostTeam& team, int thread, int rank, int group, int groups)
        : team(team), thread_(thread), rank_(rank), group_(group), groups_(groups)
    {
    }

    int thread() const { return thread_; }
    int warp() const { return thread_ / 32; }
    int lane() const { return thread_ % 32; }
    int rank() const { return rank_; }
    int group() const { return group_; }
    int groups() const { return groups_; }
    float* shared() { return &team.shared[0].x; }

    inline static bool has_barriers = true;

    void sync()
    {
        if (has_barriers) team.barrier.arrive_and_wait();
    }
    void sync_warp() {}  // every matrix instruction is one

    void pause(int looks)
    {
        if (looks > 1 << 24) {
            std::fprintf(stderr, "a word that never came\n");
            std::abort();
        }
        std::this_thread::yield();
    }

    template <class Unit>
    void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
    {
        constexpr int HALF = Unit::CHUNK / 2, PER = Unit::PER_REGISTER;
        HostWarp& shared = *team.warps[warp()];
        auto& all_a = shared.a[place];
        auto& all_b = shared.b[place];
        std::copy(a, a + 4, all_a[lane()]);
        std::copy(b, b + 2, all_b[lane()]);
        shared.barrier.arrive_and_wait();
        place ^= 1;
        for (int i = 0; i < 4; i++) {
            const int row = lane() / 4 + 8 * (i / 2), column = lane() % 4 * 2 + i % 2;
            for (int k = 0; k < Unit::CHUNK; k++) {
                const int half = k / HALF, t = k % HALF / PER;
                const uint32_t of_a = all_a[row % 8 * 4 + t][row / 8 + 2 * half], of_b = all_b[column * 4 + t][half];
                d[i] += Unit::value(of_a, k % PER) * Unit::value(of_b, k % PER);
            }
        }
    }

    template <int DATA>
    void publish(Word<DATA>* address, const Word<DATA>& word)
    {
        Whole<DATA> whole;
        std::memcpy(&whole, &word, sizeof whole);
        __atomic_store_n(reinterpret_cast<Whole<DATA>*>(address), whole, __ATOMIC_RELAXED);
    }

    template <int DATA>
    void observe(Word<DATA> (&words)[4], const Word<DATA>* address)
    {
        for (int i = 0; i < 4; i++) {
            const auto whole = __atomic_load_n(reinterpret_cast<const Whole<DATA>*>(address + i), __ATOMIC_RELAXED);
            std::memcpy(&words[i], &whole, sizeof whole);
        }
    }

private:
    template <int DATA>
    using Whole = std::conditional_t<DATA == 1, uint64_t, unsigned __int128>;

    HostTeam& team;
    const int thread_, rank_, group_, groups_;
    int place = 0;
};

// Run `kernel(block)` on every thread of a grid of ranks × groups blocks, all at once.
template <class Kernel>
void launch(int ranks, int groups, int threads, int shared_bytes, Kernel kernel)
{
    std::vector<std::unique_ptr<HostTeam>> teams;
    std::vector<std::thread> running;
    for (int i = 0; i < ranks * groups; i++) teams.push_back(std::make_unique<HostTeam>(threads, shared_bytes));
    for (int i = 0; i < ranks * groups; i++) {
        for (int thread = 0; thread < threads; thread++) {
            running.emplace_back([&, i, thread] {
                HostBlock block(*teams[i], thread, i % ranks, i / ranks, groups);
                kernel(block);
            });
        }
    }
    for (std::thread& each : running) each.join();
}

}  // namespace lpgpu
