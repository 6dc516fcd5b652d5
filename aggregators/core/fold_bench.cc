// How fast updates are folded, beside the copy bandwidth of the machine in the same run. Prints name=value lines.
//
//   fold_bench                 every encoding, many small updates, and receipt with all checks
//   fold_bench considered      what else could have held the sum, and groups of other sizes
//   fold_bench total           one line: an fp32 fold from nothing to the mean, in GB/s, for tests/bench/fold.py
//   fold_bench peak CLIENTS    folds a cohort as it arrives; its peak memory
//
// GB/s are of the bytes that travel: 20 distinct updates of 10 million values. Each mean is compared, element by
// element, with one computed in long double from the decoded updates.

#include <sys/resource.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "adapters/encoding.h"
#include "aggregators/core/exact_sum.h"
#include "common/hash.h"
#include "common/parallel.h"

namespace weft::aggregators {
namespace {

constexpr int64_t kElements = 10'000'000;
constexpr int kClients = 20;
constexpr int64_t kSmallElements = 250'000;
constexpr int kSmallClients = 1000;
constexpr size_t kGroup = 20;
constexpr size_t kCopyBytes = size_t{256} << 20;
constexpr size_t kChunkBytes = size_t{1} << 20;
constexpr int kRepeats = 15;

const int kThreads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Fail(const std::string& what) {
  std::fprintf(stderr, "fold_bench: %s\n", what.c_str());
  std::exit(1);
}

// Several tensors, as an adapter has them.
std::shared_ptr<const Layout> LayoutOf(int64_t elements) {
  std::vector<TensorSpec> tensors;
  for (int i = 0; i < 10; ++i) {
    tensors.push_back({.name = "tensor" + std::to_string(i), .role = "head", .shape = {elements / 10}});
  }
  return *Layout::Create(std::move(tensors));
}

struct Cohort {
  std::vector<EncodedUpdate> updates;
  std::vector<const EncodedUpdate*> pointers;
  std::vector<uint64_t> weights;
  double bytes = 0;
};

// Values between -1 and 1, another sequence for each client. A multiplicative generator: quick, and plenty for timing.
void Randomise(std::span<float> values, uint64_t client) {
  uint64_t state = client * 0x9e3779b97f4a7c15 + 1;
  for (float& value : values) {
    state = state * 6364136223846793005 + 1442695040888963407;
    value = static_cast<float>(static_cast<int32_t>(state >> 32)) * 0x1p-31f;
  }
}

Cohort MakeCohort(int64_t elements, int clients, const char* encoding) {
  const auto layout = LayoutOf(elements);
  proto::EncodingConfig config;
  config.set_values(encoding);
  Cohort cohort;
  Adapter delta(layout);
  for (int k = 0; k < clients; ++k) {
    Randomise(delta.values(), static_cast<uint64_t>(k));
    auto update = EncodedUpdate::Encode(delta, config);
    if (!update.ok()) Fail(update.status().ToString());
    cohort.bytes += static_cast<double>(update->bytes().size());
    cohort.updates.push_back(*std::move(update));
    cohort.weights.push_back(static_cast<uint64_t>(100 + 37 * k));
  }
  for (const EncodedUpdate& update : cohort.updates) cohort.pointers.push_back(&update);
  return cohort;
}

void Fold(const Cohort& cohort, size_t group, int threads, ExactSum* sum) {
  const std::span<const EncodedUpdate* const> updates = cohort.pointers;
  const std::span<const uint64_t> weights = cohort.weights;
  for (size_t begin = 0; begin < updates.size(); begin += group) {
    const size_t size = std::min(group, updates.size() - begin);
    sum->AddChecked(updates.subspan(begin, size), weights.subspan(begin, size), threads);
  }
}

// 80 bits hold a sum of 20 or 1,000 products far more exactly than fp32 can tell apart.
void CheckMean(const Cohort& cohort, const Adapter& mean) {
  std::vector<long double> sums(mean.values().size());
  long double total = 0;
  for (size_t k = 0; k < cohort.updates.size(); ++k) {
    const Adapter decoded = cohort.updates[k].Decode();
    const auto weight = static_cast<long double>(cohort.weights[k]);
    total += weight;
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += static_cast<long double>(decoded.values()[i]) * weight;
  }
  for (size_t i = 0; i < sums.size(); ++i) {
    if (mean.values()[i] != static_cast<float>(sums[i] / total)) Fail("wrong mean at element " + std::to_string(i));
  }
}

void CheckFold(const Cohort& cohort) {
  ExactSum sum(cohort.updates[0].layout_ptr());
  Fold(cohort, kGroup, kThreads, &sum);
  CheckMean(cohort, *sum.Mean(kThreads));
}

class Copy {
 public:
  Copy() : from_(kCopyBytes, 'x'), to_(kCopyBytes, 'y') {}
  // Bytes read and written.
  void Run(int threads) {
    const size_t part = kCopyBytes / 64;
    ParallelFor(threads, 64, [&](int64_t begin, int64_t end) {
      const auto offset = static_cast<size_t>(begin) * part;
      std::memcpy(to_.data() + offset, from_.data() + offset, static_cast<size_t>(end - begin) * part);
    });
  }

 private:
  std::vector<char> from_;
  std::vector<char> to_;
};

// The works of a table in turn, `kRepeats` times, so that what else the machine does falls on all alike. The best of
// each.
class Table {
 public:
  void Add(const std::string& name, double bytes, std::function<void()> work) {
    rows_.push_back({name, bytes, std::move(work)});
  }
  void Run() {
    Copy copy;
    for (const int threads : {1, 2}) {
      Add("copy_" + std::to_string(threads), 2.0 * kCopyBytes, [&copy, threads] { copy.Run(threads); });
    }
    for (int repeat = 0; repeat < kRepeats; ++repeat) {
      for (Row& row : rows_) {
        row.best = std::max(row.best, row.bytes / Seconds(row.work) / 1e9);
      }
    }
    const double best_copy = std::max(rows_[rows_.size() - 2].best, rows_.back().best);
    rows_.resize(rows_.size() - 2);
    std::printf("copy_GBps=%.2f\n", best_copy);
    for (const Row& row : rows_) {
      std::printf("%s_GBps=%.2f\n%s_over_copy=%.3f\n", row.name.c_str(), row.best, row.name.c_str(),
                  row.best / best_copy);
    }
  }

 private:
  struct Row {
    std::string name;
    double bytes;
    std::function<void()> work;
    double best = 0;  // GB/s
  };
  std::vector<Row> rows_;
};

// All that happens to an update's bytes between the wire and the sum: hash, values and norm by chunks, then the fold.
void ReceiveAndFold(const Cohort& cohort, ExactSum* sum) {
  ParallelFor(kThreads, static_cast<int64_t>(cohort.updates.size()), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const EncodedUpdate& update = cohort.updates[static_cast<size_t>(k)];
      Sha256 sha;
      UpdateChecker checker(update.layout_ptr(), update.encoding());
      for (auto rest = update.bytes(); !rest.empty(); rest = rest.subspan(std::min(kChunkBytes, rest.size()))) {
        const auto chunk = rest.first(std::min(kChunkBytes, rest.size()));
        sha.Update(chunk.data(), chunk.size());
        if (!checker.Add(chunk).ok()) Fail("a valid update was refused");
      }
      if (!checker.Finish().ok() || checker.norm() != update.norm() || sha.Finish().size() != 32) Fail("wrong norm");
    }
  });
  Fold(cohort, kGroup, kThreads, sum);
}

// The sum lives on between the repeats, as it does between the groups of a round: 20 weights of at most 803 in each.
void RunAll() {
  std::map<std::string, Cohort> cohorts;
  std::map<std::string, std::unique_ptr<ExactSum>> sums;
  Table table;
  const auto add = [&](const std::string& name, const std::string& encoding, int64_t elements, int clients) {
    cohorts.emplace(name, MakeCohort(elements, clients, encoding.c_str()));
    const Cohort& cohort = cohorts.at(name);
    CheckFold(cohort);
    ExactSum* const sum = (sums[name] = std::make_unique<ExactSum>(cohort.updates[0].layout_ptr())).get();
    table.Add("fold_" + name, cohort.bytes, [&cohort, sum] { Fold(cohort, kGroup, kThreads, sum); });
  };
  add("fp32", "f32", kElements, kClients);
  add("bf16", "bf16", kElements, kClients);
  add("f16", "f16", kElements, kClients);
  add("int8", "int8", kElements, kClients);
  add("int4", "int4", kElements, kClients);
  add("small", "f32", kSmallElements, kSmallClients);
  const Cohort& fp32 = cohorts.at("fp32");
  ExactSum* const checked = (sums["checked"] = std::make_unique<ExactSum>(fp32.updates[0].layout_ptr())).get();
  table.Add("fold_with_checks", fp32.bytes, [&] { ReceiveAndFold(fp32, checked); });
  table.Run();
}

// One limb of int64: a unit of 2^-20 for sums up to 2^43, so only a part of the range and resolution of two.
__attribute__((target_clones("default", "avx2", "avx512f"), optimize("O3"))) void FoldOneLimb(const float* values,
                                                                                              double weight, size_t n,
                                                                                              int64_t* sums) {
  constexpr double kMagic = 0x1.8p32;  // 1.5 * 2^52 units
  const auto magic_bits = std::bit_cast<int64_t>(kMagic);
  for (size_t i = 0; i < n; ++i) {
    sums[i] += std::bit_cast<int64_t>(static_cast<double>(values[i]) * weight + kMagic) - magic_bits;
  }
}

// One integer of 128 bits, without SIMD.
void FoldWide(const float* values, uint64_t weight, size_t n, __int128* sums) {
  for (size_t i = 0; i < n; ++i) {
    const auto bits = std::bit_cast<uint32_t>(values[i]);
    const int exponent = std::max(static_cast<int>(bits >> 23 & 0xff), 1);
    const uint64_t product = ((bits & 0x7fffff) | (bits >> 23 & 0xff ? 0x800000 : 0)) * weight;
    const int shift = exponent - 150 + 64;
    const __int128 units = shift >= 0 ? static_cast<__int128>(product) << shift : product >> std::min(-shift, 63);
    sums[i] += values[i] < 0 ? -units : units;
  }
}

void RunConsidered() {
  const Cohort cohort = MakeCohort(kElements, kClients, "f32");
  const auto layout = cohort.updates[0].layout_ptr();
  ExactSum sum(layout);
  std::vector<int64_t> one_limb(kElements);
  std::vector<__int128> wide(kElements);
  // Tiles of the sum that stay in the first cache, each update over them in turn.
  constexpr int64_t kTile = 2048;
  const auto tiled = [&](auto fold, auto* sums) {
    ParallelFor(kThreads, (kElements + kTile - 1) / kTile, [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; ++tile) {
        const int64_t first = tile * kTile;
        const auto n = static_cast<size_t>(std::min(kTile, kElements - first));
        for (size_t k = 0; k < cohort.updates.size(); ++k) {
          const auto* const values = reinterpret_cast<const float*>(cohort.updates[k].bytes().data());
          fold(values + first, cohort.weights[k], n, sums + first);
        }
      }
    });
  };
  Table table;
  table.Add("one_limb", cohort.bytes, [&] { tiled(FoldOneLimb, one_limb.data()); });
  table.Add("wide_integer", cohort.bytes, [&] { tiled(FoldWide, wide.data()); });
  for (const size_t group : {1, 2, 4, 8, 20}) {
    table.Add("groups_of_" + std::to_string(group), cohort.bytes, [&, group] { Fold(cohort, group, kThreads, &sum); });
  }
  table.Add("groups_of_20_on_one_thread", cohort.bytes, [&] { Fold(cohort, 20, 1, &sum); });
  table.Run();
}

void RunTotal() {
  const Cohort cohort = MakeCohort(kElements, kClients, "f32");
  CheckFold(cohort);
  std::vector<double> rates;
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::unique_ptr<Adapter> mean;
    const double seconds = Seconds([&] {
      ExactSum sum(cohort.updates[0].layout_ptr());
      Fold(cohort, kGroup, kThreads, &sum);
      mean = std::make_unique<Adapter>(*sum.Mean(kThreads));
    });
    rates.push_back(cohort.bytes / seconds / 1e9);
  }
  std::printf("fold_total_GBps=%.2f\n", *std::max_element(rates.begin(), rates.end()));
}

// Updates of 10 MB arrive one after the other and are folded in groups of 4.
void RunPeak(int clients) {
  constexpr int64_t kPeakElements = 2'500'000;
  constexpr size_t kPeakGroup = 4;
  const auto layout = LayoutOf(kPeakElements);
  ExactSum sum(layout);
  std::vector<EncodedUpdate> waiting;
  for (int k = 0; k < clients; ++k) {
    Adapter delta(layout);
    Randomise(delta.values(), static_cast<uint64_t>(k));
    waiting.push_back(*EncodedUpdate::Encode(delta, {}));
    if (waiting.size() < kPeakGroup && k + 1 < clients) continue;
    std::vector<const EncodedUpdate*> pointers;
    for (const EncodedUpdate& update : waiting) pointers.push_back(&update);
    sum.AddChecked(pointers, std::vector<uint64_t>(waiting.size(), 1), kThreads);
    waiting.clear();
  }
  if (!sum.Mean(kThreads).ok() || sum.updates() != clients) Fail("some clients are missing");
  struct rusage usage {};
  getrusage(RUSAGE_SELF, &usage);
  std::printf("fold_peak_MB_%d_clients=%.0f\n", clients, static_cast<double>(usage.ru_maxrss) / 1024);
}

int Main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode.empty()) {
    RunAll();
  } else if (mode == "considered") {
    RunConsidered();
  } else if (mode == "total") {
    RunTotal();
  } else if (mode == "peak" && argc == 3) {
    RunPeak(std::atoi(argv[2]));
  } else {
    Fail("found \"" + mode + "\", expected nothing, considered, total or peak CLIENTS");
  }
  return 0;
}

}  // namespace
}  // namespace weft::aggregators

int main(int argc, char** argv) { return weft::aggregators::Main(argc, argv); }
