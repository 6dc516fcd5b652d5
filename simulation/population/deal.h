#ifndef WEFT_SIMULATION_POPULATION_DEAL_H_
#define WEFT_SIMULATION_POPULATION_DEAL_H_

// Which rows of a split go to which client. Everything follows from seed, client and row.

#include <cstdint>
#include <span>
#include <vector>

#include "common/random.h"

namespace weft::simulation {

// Gamma(shape, 1), shape > 0, by Marsaglia and Tsang, "A simple method for generating gamma variables" (2000).
double DrawGamma(double shape, Philox& random);
// From the symmetric Dirichlet(alpha, ..., alpha): `size` shares that sum to 1. Of a tiny alpha one share may be all.
std::vector<double> DrawDirichlet(double alpha, int64_t size, Philox& random);

// Rows by client, each row at one client or none.
class Deal {
 public:
  Deal() = default;
  // owner[row]: its client, or -1. A client's rows are in order.
  Deal(std::span<const int32_t> owner, int64_t clients);

  // Keeps the clients with at least min_rows; of more than max_rows (0: no bound) the first. Returns who was kept.
  std::vector<int32_t> Keep(int64_t min_rows, int64_t max_rows);
  // Leaves the rows of these clients, in this order.
  void Take(std::span<const int32_t> clients);

  int64_t clients() const { return static_cast<int64_t>(offsets_.size()) - 1; }
  std::span<const uint32_t> rows(int64_t client) const {
    return std::span(rows_).subspan(offsets_[client], offsets_[client + 1] - offsets_[client]);
  }
  int64_t bytes() const;

 private:
  std::vector<int64_t> offsets_ = {0};
  std::vector<uint32_t> rows_;
};

// How many of `rows` each client gets, 1 at least, their sum `rows`: alike, or proportional to exp(sigma z_i).
std::vector<int64_t> DrawSizes(int64_t rows, int64_t clients, double sigma, uint64_t seed);

// All rows dealt at random: owner[row].
std::vector<int32_t> DealAlike(int64_t rows, std::span<const int64_t> sizes, uint64_t seed);

// All rows dealt by mixes of labels, each client's from Dirichlet(alpha): clients take a row each in turn, of a label
// drawn from their mix among the labels that are left, until all have their size (Hsu et al., arXiv 1909.06335, section
// 3, who deal one client after the other, so that the last get what is left).
std::vector<int32_t> DealByLabels(std::span<const int32_t> labels, int64_t num_labels, std::span<const int64_t> sizes,
                                  double alpha, uint64_t seed);

// Draws the rows of one client at a time, with reuse. Immutable and thread-safe.
class RowDrawer {
 public:
  struct Options {
    // By label, for a mix from Dirichlet(alpha); empty: all rows are as likely.
    std::span<const int32_t> labels = {};
    int64_t num_labels = 0;
    double alpha = 1;
    int64_t rows = 0;  // of the split
    uint64_t seed = 0;
    uint64_t stream = 0;  // another for each split: a client has the same mix in all
  };
  explicit RowDrawer(const Options& options);

  std::vector<uint32_t> Draw(int64_t client, int64_t count) const;
  int64_t bytes() const { return static_cast<int64_t>(by_label_.capacity() * 4 + first_.capacity() * 8); }

 private:
  Options options_;
  std::vector<uint32_t> by_label_;  // rows, those of a label together
  std::vector<int64_t> first_;      // of each label in by_label_
};

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_POPULATION_DEAL_H_
