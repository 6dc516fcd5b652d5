#include "simulation/population/population.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "simulation/shift/shift.h"

namespace weft::simulation {
namespace {

constexpr int64_t kMostDrawnTestRows = 256;
constexpr char kPrefix[] = "client-";

bool HasLabels(const DataShard& shard) { return shard.kind() != RowKind::kPairs && shard.kind() != RowKind::kLearn; }

std::vector<int32_t> LabelsOf(const DataShard& shard) {
  std::vector<int32_t> labels;
  for (int64_t i = 0; i < shard.rows(); ++i) labels.push_back(shard.label(i));
  return labels;
}

// Digits of the largest number, so that names ascend as numbers do.
int64_t Digits(int64_t clients) { return static_cast<int64_t>(absl::StrCat(clients - 1).size()); }

absl::Status Refuse(const std::string& what) { return absl::InvalidArgumentError(absl::StrCat("population", what)); }

}  // namespace

absl::StatusOr<std::unique_ptr<Population>> Population::Create(Options options) {
  std::unique_ptr<Population> population(new Population(std::move(options)));
  WEFT_RETURN_IF_ERROR(population->Check());
  const std::string& partition = population->options_.config.partition();
  if (partition == "folders") {
    WEFT_RETURN_IF_ERROR(population->TakeFolders());
  } else if (partition == "column") {
    WEFT_RETURN_IF_ERROR(population->DealColumn());
  } else {
    WEFT_RETURN_IF_ERROR(population->DealByRule());
  }
  return population;
}

absl::Status Population::Check() const {
  if (options_.data.empty()) return Refuse(".data: holds no data folder; make one with `weft prepare`");
  const auto& [first_name, first] = *options_.data.begin();
  for (const auto& [name, folder] : options_.data) {
    const DataShard* train = folder.split("train");
    if (train == nullptr) {
      return absl::NotFoundError(
          absl::StrCat("population.data: ", name, " has no split \"train\"; prepare it with one"));
    }
    if (folder.task() != first.task() || folder.labels() != first.labels() ||
        train->Describe() != first.split("train")->Describe()) {
      return Refuse(absl::StrCat(".data: folders ", first_name, " and ", name,
                                 " differ in task, labels or kind of rows; prepare them alike"));
    }
    if (!options_.config.shifts().empty() && train->kind() != RowKind::kImages) {
      return Refuse(absl::StrCat(".shifts: the data are ", train->Describe(), ", expected images; leave shifts out"));
    }
  }
  return absl::OkStatus();
}

absl::Status Population::TakeFolders() {
  for (const auto& [name, folder] : options_.data) {
    if (folder.rows("train") < options_.config.min_rows()) continue;
    names_.push_back(name);
    folders_.push_back(&folder);
  }
  size_ = static_cast<int64_t>(names_.size());
  if (size_ > 0) return absl::OkStatus();
  return Refuse(absl::StrCat(".min_rows: no folder has ", options_.config.min_rows(), " rows or more; lower it"));
}

absl::Status Population::DealColumn() {
  const std::string& column = options_.config.column();
  const DataFolder& data = options_.data.begin()->second;
  const auto names = data.groups().find(column);
  if (names == data.groups().end()) {
    std::vector<std::string> known;
    for (const auto& [name, values] : data.groups()) known.push_back(name);
    return Refuse(
        absl::StrCat(".column: found \"", column, "\", the data have ",
                     known.empty() ? "no group columns" : absl::StrCat("the columns ", absl::StrJoin(known, ", ")),
                     "; prepare them with `weft prepare --group COLUMN`"));
  }
  const auto groups = static_cast<int64_t>(names->second.size());
  train_ = Deal(shard("train")->group(column), groups);
  int64_t most = 0;
  for (int64_t i = 0; i < groups; ++i) most = std::max(most, static_cast<int64_t>(train_.rows(i).size()));
  std::vector<int32_t> kept = train_.Keep(options_.config.min_rows(), options_.config.max_rows());
  if (kept.empty()) {
    return Refuse(absl::StrCat(".min_rows: no client has ", options_.config.min_rows(),
                               " rows or more, the largest has ", most, "; lower it"));
  }
  // In order of names, whatever the order of the manifest.
  std::vector<int32_t> order(kept.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  const auto name_of = [&](int32_t i) -> const std::string& { return names->second[kept[i]]; };
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return name_of(a) < name_of(b); });
  if (!std::is_sorted(kept.begin(), kept.end(),
                      [&](int32_t a, int32_t b) { return names->second[a] < names->second[b]; })) {
    train_.Take(order);
  }
  std::vector<int32_t> sorted;
  for (const int32_t i : order) {
    sorted.push_back(kept[i]);
    if (!names_.empty() && names_.back() == name_of(i)) {
      return Refuse(absl::StrCat(".column: two groups of column \"", column, "\" are called \"", name_of(i), "\""));
    }
    names_.push_back(name_of(i));
  }
  names_.shrink_to_fit();
  size_ = static_cast<int64_t>(names_.size());
  if (const DataShard* test = shard(options_.evaluation_split); test != nullptr) {
    test_ = Deal(test->group(column), groups);
    test_.Take(sorted);
  }
  return absl::OkStatus();
}

absl::Status Population::DealByRule() {
  const proto::PopulationConfig& config = options_.config;
  const DataShard& train = *shard("train");
  const bool dirichlet = config.partition() == "dirichlet";
  if (dirichlet && !HasLabels(train)) {
    return Refuse(absl::StrCat(".partition: dirichlet mixes labels, the data are ", train.Describe(), "; use iid"));
  }
  if (!config.has_clients())
    return Refuse(absl::StrCat(".clients: missing; partition ", config.partition(), " needs it"));
  size_ = config.clients();
  const std::vector<int32_t> labels = dirichlet ? LabelsOf(train) : std::vector<int32_t>();
  const auto num_labels = static_cast<int64_t>(this->labels().size());
  const auto drawer = [&](const DataShard& split, std::span<const int32_t> its_labels, const char* stream) {
    return std::make_unique<RowDrawer>(RowDrawer::Options{.labels = its_labels,
                                                          .num_labels = num_labels,
                                                          .alpha = config.alpha(),
                                                          .rows = split.rows(),
                                                          .seed = seed(),
                                                          .stream = StreamId(stream)});
  };
  if (const DataShard* test = shard(options_.evaluation_split); test != nullptr && test->rows() > 0) {
    const std::vector<int32_t> test_labels = dirichlet ? LabelsOf(*test) : std::vector<int32_t>();
    test_drawer_ = drawer(*test, test_labels, "population.test");
  }
  if (config.rows_per_client() > 0) {
    train_drawer_ = drawer(train, labels, "population.train");
    return absl::OkStatus();
  }
  if (size_ > train.rows()) {
    return Refuse(
        absl::StrCat(".clients: found ", size_, ", expected at most ", train.rows(),
                     ", the rows of the data; lower it, or set population.rows_per_client, so that rows go to "
                     "several clients"));
  }
  const std::vector<int64_t> sizes = DrawSizes(train.rows(), size_, config.size_sigma(), seed());
  train_ = Deal(dirichlet ? DealByLabels(labels, num_labels, sizes, config.alpha(), seed())
                          : DealAlike(train.rows(), sizes, seed()),
                size_);
  const int64_t most = *std::max_element(sizes.begin(), sizes.end());
  std::vector<int32_t> kept = train_.Keep(config.min_rows(), config.max_rows());
  if (std::ssize(kept) < size_) dealt_ = std::move(kept);
  size_ = train_.clients();
  if (size_ > 0) return absl::OkStatus();
  return Refuse(absl::StrCat(".min_rows: no client has ", config.min_rows(), " rows or more, the largest has ", most,
                             "; lower it, or have fewer clients"));
}

std::string Population::Name(int64_t client) const {
  if (!names_.empty()) return names_[client];
  const std::string number = absl::StrCat(client);
  return absl::StrCat(kPrefix, std::string(static_cast<size_t>(Digits(size_)) - number.size(), '0'), number);
}

absl::StatusOr<int64_t> Population::Find(const std::string& name) const {
  if (!names_.empty()) {
    const auto found = std::lower_bound(names_.begin(), names_.end(), name);
    if (found != names_.end() && *found == name) return found - names_.begin();
  } else if (int64_t client = -1;
             name.starts_with(kPrefix) && absl::SimpleAtoi(name.substr(sizeof(kPrefix) - 1), &client)) {
    if (client >= 0 && client < size_ && Name(client) == name) return client;
  }
  return absl::NotFoundError(absl::StrCat("no client \"", name, "\" in a population of ", size_));
}

int64_t Population::TrainRows(int64_t client) const {
  const proto::PopulationConfig& config = options_.config;
  const auto cap = [&](int64_t rows) { return config.max_rows() > 0 ? std::min(rows, config.max_rows()) : rows; };
  if (!folders_.empty()) return cap(folders_[client]->rows("train"));
  if (train_drawer_ == nullptr) return static_cast<int64_t>(train_.rows(client).size());
  double rows = static_cast<double>(config.rows_per_client());
  if (const double sigma = config.size_sigma(); sigma > 0) {
    Philox random(MixSeed(seed(), static_cast<uint64_t>(client)), StreamId("population.size"));
    rows *= std::exp(sigma * random.NextNormal() - sigma * sigma / 2);  // of this mean
  }
  return cap(std::max(std::llround(rows), static_cast<long long>(config.min_rows())));
}

int64_t Population::TestRows(int64_t client) const {
  if (!folders_.empty()) return folders_[client]->rows(options_.evaluation_split);
  if (!names_.empty()) return test_.clients() == 0 ? 0 : static_cast<int64_t>(test_.rows(client).size());
  if (test_drawer_ == nullptr) return 0;
  const double part = static_cast<double>(TrainRows(client)) / static_cast<double>(shard("train")->rows());
  const double rows = part * static_cast<double>(shard(options_.evaluation_split)->rows());
  return std::clamp<int64_t>(std::llround(rows), 1, kMostDrawnTestRows);
}

absl::StatusOr<std::unique_ptr<DataShard>> Population::Train(int64_t client, bool flip_labels) const {
  const DataShard& source = folders_.empty() ? *shard("train") : *folders_[client]->split("train");
  std::vector<uint32_t> rows;
  if (!folders_.empty()) {
    for (int64_t i = 0; i < TrainRows(client); ++i) rows.push_back(static_cast<uint32_t>(i));
  } else if (train_drawer_ != nullptr) {
    rows = train_drawer_->Draw(client, TrainRows(client));
  } else {
    rows.assign(train_.rows(client).begin(), train_.rows(client).end());
  }
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<DataShard> seen, See(client, source, std::move(rows)));
  if (!flip_labels) return seen;
  if (!HasLabels(*seen)) {
    return absl::InvalidArgumentError(
        absl::StrCat("behaviour.hostile: label_flip needs labels, the data are ", seen->Describe()));
  }
  std::vector<int32_t> flipped = LabelsOf(*seen);
  for (int32_t& label : flipped) label = static_cast<int32_t>(labels().size()) - 1 - label;
  seen->SetLabels(std::move(flipped));
  return seen;
}

absl::StatusOr<std::unique_ptr<DataShard>> Population::Test(int64_t client) const {
  const int64_t count = TestRows(client);
  if (count == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("client ", Name(client), " has no rows in split \"", options_.evaluation_split, "\""));
  }
  const std::string& split = options_.evaluation_split;
  const DataShard& source = folders_.empty() ? *shard(split) : *folders_[client]->split(split);
  std::vector<uint32_t> rows;
  if (!folders_.empty()) {
    for (int64_t i = 0; i < count; ++i) rows.push_back(static_cast<uint32_t>(i));
  } else if (!names_.empty()) {
    rows.assign(test_.rows(client).begin(), test_.rows(client).end());
  } else {
    rows = test_drawer_->Draw(dealt_.empty() ? client : dealt_[client], count);
  }
  return See(client, source, std::move(rows));
}

absl::StatusOr<std::unique_ptr<DataShard>> Population::See(int64_t client, const DataShard& shard,
                                                           std::vector<uint32_t> rows) const {
  const std::vector<uint32_t> numbers = rows;
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<DataShard> seen, shard.Select(std::move(rows)));
  const proto::ShiftConfig* shift = ShiftOf(client);
  if (shift == nullptr || shift->kind() == "none") return seen;
  const ImageSize size = {seen->channels(), seen->height(), seen->width_pixels()};
  std::vector<uint8_t> pixels(static_cast<size_t>(seen->rows() * size.elements()));
  for (int64_t i = 0; i < seen->rows(); ++i) {
    ShiftImage(*shift, size, MixSeed(seed(), numbers[i]), seen->pixels(i),
               std::span(pixels).subspan(i * size.elements(), size.elements()));
  }
  seen->SetPixels(std::move(pixels));
  return seen;
}

const proto::ShiftConfig* Population::ShiftOf(int64_t client) const {
  const auto& shifts = options_.config.shifts();
  return shifts.empty() ? nullptr : &shifts[static_cast<int>(client % shifts.size())];
}

std::vector<const DataShard*> Population::central() const {
  std::vector<const DataShard*> shards;
  for (const auto& [name, folder] : options_.data) {
    if (const DataShard* split = folder.split(options_.evaluation_split); split != nullptr) shards.push_back(split);
  }
  return shards;
}

std::vector<std::string> Population::splits() const {
  std::vector<std::string> names;
  for (const auto& [name, shard] : options_.data.begin()->second.splits()) names.push_back(name);
  return names;
}

double Population::tokens_per_row() const {
  double tokens = 0, rows = 0;
  for (const auto& [name, folder] : options_.data) {
    tokens += static_cast<double>(folder.split("train")->tokens());
    rows += static_cast<double>(folder.rows("train"));
  }
  return tokens > 0 ? tokens / rows : 1;
}

int64_t Population::EstimateBytes() const {
  int64_t bytes = train_.bytes() + test_.bytes() + static_cast<int64_t>(dealt_.capacity() * sizeof(int32_t));
  for (const std::string& name : names_) {
    bytes += static_cast<int64_t>(sizeof(name) + (name.capacity() > 15 ? name.capacity() + 1 : 0));
  }
  bytes += static_cast<int64_t>(folders_.capacity() * sizeof(void*));
  if (train_drawer_ != nullptr) bytes += train_drawer_->bytes();
  if (test_drawer_ != nullptr) bytes += test_drawer_->bytes();
  return bytes;
}

}  // namespace weft::simulation
