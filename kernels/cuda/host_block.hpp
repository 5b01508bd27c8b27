// The Block that a plain C++ compiler instantiates kernels' phases with: one std::thread for each CUDA thread.
//
// The block's barrier is a std::barrier, a matrix instruction exchanges its operands among the 32 threads of a warp, and
// words that blocks exchange are relaxed atomics: what is a race on the GPU is one for ThreadSanitizer. Grids must be
// small. A test that races are noticed takes the block's barriers away: `has_barriers`.
#pragma once

#include <algorithm>
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
    std::barrier<>* cluster = nullptr;  // of all the threads of a group
    std::vector<HostTeam*> group;       // the teams of a group, by rank
    std::vector<std::unique_ptr<HostWarp>> warps;
    struct alignas(16) Line {
        float values[4];
    };
    std::vector<Line> shared;

    HostTeam(int threads, int shared_bytes) : barrier(threads), shared(shared_bytes / sizeof(Line) + 1)
    {
        for (int i = 0; i < threads / 32; i++) warps.push_back(std::make_unique<HostWarp>());
        for (Line& line : shared) std::fill(line.values, line.values + 4, NAN);  // for who reads before writing
    }
};

inline bool has_barriers = true;

// With WITH_CLUSTERS the blocks of a group are a cluster: words are in the shared memory of each.
template <bool WITH_CLUSTERS>
class HostBlock {
public:
    static constexpr bool IN_CLUSTERS = WITH_CLUSTERS;

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
    float* shared() { return team.shared[0].values; }

    void sync()
    {
        if (has_barriers) team.barrier.arrive_and_wait();
    }
    void sync_cluster()
    {
        if (IN_CLUSTERS) team.cluster->arrive_and_wait();
    }
    void sync_warp() {}  // every matrix instruction is one

    void pause(int looks)
    {
        if (looks > 1 << 20) {
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
    void publish(Word<DATA>* to, const Word<DATA>& word)
    {
        if (!IN_CLUSTERS) return store(to, word);
        const auto offset = reinterpret_cast<char*>(to) - reinterpret_cast<char*>(team.shared.data());
        for (HostTeam* other : team.group)
            store(reinterpret_cast<Word<DATA>*>(reinterpret_cast<char*>(other->shared.data()) + offset), word);
    }

    template <int DATA>
    void observe(Word<DATA> (&words)[4], const Word<DATA>* from)
    {
        for (int i = 0; i < 4; i++) {
            const auto whole = __atomic_load_n(reinterpret_cast<const Whole<DATA>*>(from + 32 * i), __ATOMIC_RELAXED);
            std::memcpy(&words[i], &whole, sizeof whole);
        }
    }

private:
    template <int DATA>
    using Whole = std::conditional_t<DATA == 1, uint64_t, unsigned __int128>;

    template <int DATA>
    static void store(Word<DATA>* to, const Word<DATA>& word)
    {
        Whole<DATA> whole;
        std::memcpy(&whole, &word, sizeof whole);
        __atomic_store_n(reinterpret_cast<Whole<DATA>*>(to), whole, __ATOMIC_RELAXED);
    }

    HostTeam& team;
    const int thread_, rank_, group_, groups_;
    int place = 0;
};

// Run `kernel(block)` on every thread of a grid of ranks × groups blocks, all at once.
template <bool WITH_CLUSTERS, class Kernel>
void launch(int ranks, int groups, int threads, int shared_bytes, Kernel kernel)
{
    std::vector<std::unique_ptr<HostTeam>> teams;
    std::vector<std::unique_ptr<std::barrier<>>> clusters;
    std::vector<std::thread> running;
    for (int i = 0; i < groups; i++) clusters.push_back(std::make_unique<std::barrier<>>(ranks * threads));
    for (int i = 0; i < ranks * groups; i++) teams.push_back(std::make_unique<HostTeam>(threads, shared_bytes));
    for (int i = 0; i < ranks * groups; i++) {
        teams[i]->cluster = clusters[i / ranks].get();
        for (int rank = 0; rank < ranks; rank++) teams[i]->group.push_back(teams[i / ranks * ranks + rank].get());
    }
    for (int i = 0; i < ranks * groups; i++) {
        for (int thread = 0; thread < threads; thread++) {
            running.emplace_back([&, i, thread] {
                HostBlock<WITH_CLUSTERS> block(*teams[i], thread, i % ranks, i / ranks, groups);
                kernel(block);
            });
        }
    }
    for (std::thread& each : running) each.join();
}

}  // namespace lpgpu
