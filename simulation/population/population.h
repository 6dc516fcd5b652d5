#ifndef WEFT_SIMULATION_POPULATION_POPULATION_H_
#define WEFT_SIMULATION_POPULATION_POPULATION_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/scenario.pb.h"
#include "simulation/population/deal.h"
#include "training/data/shard.h"

namespace weft::simulation {

// The virtual clients of a run, each with rows of prepared data that stay where they are mapped. Clients are numbers
// from 0 on; names ascend with them. Costs a client 12 bytes and 4 for each of its rows, and nothing at all where rows
// are drawn (rows_per_client). Immutable and thread-safe.
class Population {
 public:
  struct Options {
    proto::PopulationConfig config;  // with defaults
    uint64_t seed = 0;               // of the job; config.seed goes before
    // The opened data: of partition folders each by the name of its client, else one.
    std::map<std::string, DataFolder> data;
    std::string evaluation_split = "test";
  };
  // INVALID_ARGUMENT: no column of that name (says which there are), clients missing or more than rows, no client left
  // with min_rows, labels asked of a task without, shifts of rows that are no images, folders that differ in task,
  // labels or kind of rows; NOT_FOUND: no split "train".
  static absl::StatusOr<std::unique_ptr<Population>> Create(Options options);

  int64_t size() const { return size_; }
  std::string Name(int64_t client) const;
  // NOT_FOUND: no such client.
  absl::StatusOr<int64_t> Find(const std::string& name) const;

  int64_t TrainRows(int64_t client) const;
  // 0: none of its own.
  int64_t TestRows(int64_t client) const;
  // The client's rows as it sees them: its shift applied, with `flip_labels` label n-1-y in place of y. Errors: flipped
  // labels where there are none.
  absl::StatusOr<std::unique_ptr<DataShard>> Train(int64_t client, bool flip_labels) const;
  // Rows of the evaluation split that are like its training rows: those of its value of the column or of its folder;
  // under iid and dirichlet as many as its part of the training rows, 1 at least and 256 at most, drawn by its mix of
  // labels. INVALID_ARGUMENT: it has none.
  absl::StatusOr<std::unique_ptr<DataShard>> Test(int64_t client) const;
  // nullptr: it sees rows as they are.
  const proto::ShiftConfig* ShiftOf(int64_t client) const;

  // The whole evaluation split: one shard, or one of each folder.
  std::vector<const DataShard*> central() const;
  // Names of all splits.
  std::vector<std::string> splits() const;
  // Mean tokens of a row of training data; 1 where rows are no texts.
  double tokens_per_row() const;
  const std::string& task() const { return options_.data.begin()->second.task(); }
  const std::vector<std::string>& labels() const { return options_.data.begin()->second.labels(); }
  // Bytes held, mapped data aside.
  int64_t EstimateBytes() const;

 private:
  explicit Population(Options options) : options_(std::move(options)) {}
  absl::Status Check() const;
  absl::Status DealColumn();
  absl::Status DealByRule();
  absl::Status TakeFolders();
  absl::StatusOr<std::unique_ptr<DataShard>> See(int64_t client, const DataShard& shard,
                                                 std::vector<uint32_t> rows) const;
  const DataShard* shard(const std::string& split) const { return options_.data.begin()->second.split(split); }
  uint64_t seed() const { return options_.config.has_seed() ? options_.config.seed() : options_.seed; }

  const Options options_;
  int64_t size_ = 0;
  // Under column and folders; empty: names are computed.
  std::vector<std::string> names_;
  Deal train_, test_;                        // rows dealt, by client; under column and without rows_per_client
  std::vector<int32_t> dealt_;               // by client: who it was when rows were dealt; empty: the same
  std::unique_ptr<RowDrawer> train_drawer_;  // rows drawn, under iid and dirichlet
  std::unique_ptr<RowDrawer> test_drawer_;
  std::vector<const DataFolder*> folders_;  // under folders, by client
};

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_POPULATION_POPULATION_H_
