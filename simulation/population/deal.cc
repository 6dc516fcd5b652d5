#include "simulation/population/deal.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace weft::simulation {
namespace {

// The mix of labels of a client, alike wherever it is asked for.
std::vector<double> MixOf(int64_t client, double alpha, int64_t num_labels, uint64_t seed) {
  Philox random(MixSeed(seed, static_cast<uint64_t>(client)), StreamId("population.mix"));
  return DrawDirichlet(alpha, num_labels, random);
}

// An index drawn with these weights, at least one of which is positive; weights of nothing are never drawn.
size_t DrawIndex(std::span<const double> weights, Philox& random) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  double left = random.NextDouble() * sum;
  size_t last = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] <= 0) continue;
    last = i;
    left -= weights[i];
    if (left < 0) return i;
  }
  return last;  // rounding
}

std::vector<uint32_t> Shuffled(int64_t rows, uint64_t seed) {
  std::vector<uint32_t> order(static_cast<size_t>(rows));
  std::iota(order.begin(), order.end(), 0U);
  Philox random(seed, StreamId("population.shuffle"));
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.NextBelow(i)]);
  return order;
}

}  // namespace

double DrawGamma(double shape, Philox& random) {
  if (shape < 1) {
    // G(a) = G(a + 1) U^(1/a); 1 - U is never 0.
    const double more = DrawGamma(shape + 1, random);
    return more * std::pow(1 - random.NextDouble(), 1 / shape);
  }
  const double d = shape - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = random.NextNormal(), t = 1 + c * x;
    if (t <= 0) continue;
    const double v = t * t * t, u = 1 - random.NextDouble();
    if (std::log(u) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
  }
}

std::vector<double> DrawDirichlet(double alpha, int64_t size, Philox& random) {
  std::vector<double> shares;
  for (int64_t i = 0; i < size; ++i) shares.push_back(DrawGamma(alpha, random));
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  if (sum > 0) {
    for (double& share : shares) share /= sum;
  } else {  // all have come to nothing: what the limit of alpha gives
    shares[random.NextBelow(static_cast<uint64_t>(size))] = 1;
  }
  return shares;
}

Deal::Deal(std::span<const int32_t> owner, int64_t clients) : offsets_(static_cast<size_t>(clients) + 1, 0) {
  for (const int32_t client : owner) {
    if (client >= 0) ++offsets_[client + 1];
  }
  std::partial_sum(offsets_.begin(), offsets_.end(), offsets_.begin());
  rows_.resize(static_cast<size_t>(offsets_.back()));
  std::vector<int64_t> next(offsets_.begin(), offsets_.end() - 1);
  for (size_t row = 0; row < owner.size(); ++row) {
    if (owner[row] >= 0) rows_[next[owner[row]]++] = static_cast<uint32_t>(row);
  }
}

std::vector<int32_t> Deal::Keep(int64_t min_rows, int64_t max_rows) {
  std::vector<int32_t> kept;
  for (int64_t client = 0; client < clients(); ++client) {
    if (static_cast<int64_t>(rows(client).size()) >= min_rows) kept.push_back(static_cast<int32_t>(client));
  }
  Deal cut;
  for (const int32_t client : kept) {
    std::span<const uint32_t> own = rows(client);
    if (max_rows > 0) own = own.first(std::min(own.size(), static_cast<size_t>(max_rows)));
    cut.rows_.insert(cut.rows_.end(), own.begin(), own.end());
    cut.offsets_.push_back(static_cast<int64_t>(cut.rows_.size()));
  }
  cut.rows_.shrink_to_fit();
  cut.offsets_.shrink_to_fit();
  *this = std::move(cut);
  return kept;
}

void Deal::Take(std::span<const int32_t> clients) {
  Deal taken;
  for (const int32_t client : clients) {
    const std::span<const uint32_t> own = rows(client);
    taken.rows_.insert(taken.rows_.end(), own.begin(), own.end());
    taken.offsets_.push_back(static_cast<int64_t>(taken.rows_.size()));
  }
  taken.rows_.shrink_to_fit();
  taken.offsets_.shrink_to_fit();
  *this = std::move(taken);
}

int64_t Deal::bytes() const {
  return static_cast<int64_t>(offsets_.capacity() * sizeof(int64_t) + rows_.capacity() * sizeof(uint32_t));
}

std::vector<int64_t> DrawSizes(int64_t rows, int64_t clients, double sigma, uint64_t seed) {
  std::vector<double> weights(static_cast<size_t>(clients), 1);
  Philox random(seed, StreamId("population.sizes"));
  if (sigma > 0) {
    for (double& weight : weights) weight = std::exp(sigma * random.NextNormal());
  }
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  // One row each; the rest by the borders of the sums of weights, so that no row is lost to rounding.
  const double rest = static_cast<double>(rows - clients);
  std::vector<int64_t> sizes;
  double until = 0;
  int64_t given = 0;
  for (int64_t i = 0; i < clients; ++i) {
    until += weights[i];
    const int64_t border = i + 1 == clients ? rows - clients : std::llround(rest * (until / sum));
    sizes.push_back(1 + border - given);
    given = border;
  }
  return sizes;
}

std::vector<int32_t> DealAlike(int64_t rows, std::span<const int64_t> sizes, uint64_t seed) {
  std::vector<int32_t> owner(static_cast<size_t>(rows), -1);
  const std::vector<uint32_t> order = Shuffled(rows, seed);
  size_t next = 0;
  for (size_t client = 0; client < sizes.size(); ++client) {
    for (int64_t i = 0; i < sizes[client]; ++i) owner[order[next++]] = static_cast<int32_t>(client);
  }
  return owner;
}

std::vector<int32_t> DealByLabels(std::span<const int32_t> labels, int64_t num_labels, std::span<const int64_t> sizes,
                                  double alpha, uint64_t seed) {
  std::vector<std::vector<uint32_t>> left(static_cast<size_t>(num_labels));  // rows of each label, shuffled
  for (const uint32_t row : Shuffled(static_cast<int64_t>(labels.size()), seed)) left[labels[row]].push_back(row);
  const auto clients = static_cast<int64_t>(sizes.size());
  std::vector<std::vector<double>> mixes;
  for (int64_t client = 0; client < clients; ++client) mixes.push_back(MixOf(client, alpha, num_labels, seed));
  std::vector<int32_t> owner(labels.size(), -1);
  Philox random(seed, StreamId("population.deal"));
  std::vector<double> weights(static_cast<size_t>(num_labels));
  const int64_t most = *std::max_element(sizes.begin(), sizes.end());
  for (int64_t turn = 0; turn < most; ++turn) {
    for (int64_t client = 0; client < clients; ++client) {
      if (turn >= sizes[client]) continue;
      double sum = 0;
      for (size_t label = 0; label < weights.size(); ++label) {
        sum += weights[label] = left[label].empty() ? 0 : mixes[client][label];
      }
      // None of its labels is left: any that is.
      if (sum <= 0) {
        for (size_t label = 0; label < weights.size(); ++label)
          weights[label] = static_cast<double>(left[label].size());
      }
      std::vector<uint32_t>& rows = left[DrawIndex(weights, random)];
      owner[rows.back()] = static_cast<int32_t>(client);
      rows.pop_back();
    }
  }
  return owner;
}

RowDrawer::RowDrawer(const Options& options) : options_(options) {
  if (options_.labels.empty()) return;
  first_.assign(static_cast<size_t>(options_.num_labels) + 1, 0);
  for (const int32_t label : options_.labels) ++first_[label + 1];
  std::partial_sum(first_.begin(), first_.end(), first_.begin());
  by_label_.resize(options_.labels.size());
  std::vector<int64_t> next(first_.begin(), first_.end() - 1);
  for (size_t row = 0; row < options_.labels.size(); ++row) {
    by_label_[next[options_.labels[row]]++] = static_cast<uint32_t>(row);
  }
  options_.labels = {};
}

std::vector<uint32_t> RowDrawer::Draw(int64_t client, int64_t count) const {
  Philox random(MixSeed(options_.seed, static_cast<uint64_t>(client)), options_.stream);
  std::vector<uint32_t> rows;
  rows.reserve(static_cast<size_t>(count));
  std::vector<double> mix;
  if (!first_.empty()) {
    mix = MixOf(client, options_.alpha, options_.num_labels, options_.seed);
    double sum = 0;
    for (size_t label = 0; label < mix.size(); ++label) {
      if (first_[label] == first_[label + 1]) mix[label] = 0;  // no such row in this split
      sum += mix[label];
    }
    if (sum <= 0) mix.clear();
  }
  for (int64_t i = 0; i < count; ++i) {
    if (mix.empty()) {
      rows.push_back(static_cast<uint32_t>(random.NextBelow(static_cast<uint64_t>(options_.rows))));
      continue;
    }
    const size_t label = DrawIndex(mix, random);
    const auto size = static_cast<uint64_t>(first_[label + 1] - first_[label]);
    rows.push_back(by_label_[first_[label] + static_cast<int64_t>(random.NextBelow(size))]);
  }
  return rows;
}

}  // namespace weft::simulation
