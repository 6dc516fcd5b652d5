#ifndef WEFT_AGGREGATORS_CORE_TESTING_RULE_BENCH_H_
#define WEFT_AGGREGATORS_CORE_TESTING_RULE_BENCH_H_

// A small job under one rule, and made-up clients of it, for the rules' own tests. Testonly.

#include <google/protobuf/util/json_util.h>

#include <eigen3/Eigen/Dense>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/factors.h"
#include "aggregators/core/aggregator.h"
#include "aggregators/core/conformance.h"
#include "aggregators/core/registry.h"
#include "common/random.h"

namespace weft::aggregators::testing {

struct Client {
  Client(std::string id, uint64_t examples, Adapter delta, int64_t rank = 0)
      : id(std::move(id)), examples(examples), delta(std::move(delta)), rank(rank) {}
  Client(const Client& other) : Client(other.id, other.examples, other.delta.Clone(), other.rank) {}
  Client(Client&&) = default;
  Client& operator=(Client&&) = default;

  std::string id;
  uint64_t examples;
  Adapter delta;
  int64_t rank;
};

// Not square, and two modules of unlike shape. The scale of the form does not matter to any rule.
inline std::shared_ptr<const Layout> TwoModules(int64_t rank = 3) {
  return *Layout::Create({{.name = "m.q.lora_A.weight", .role = "lora_a", .shape = {rank, 7}},
                          {.name = "m.q.lora_B.weight", .role = "lora_b", .shape = {5, rank}},
                          {.name = "m.v.lora_A.weight", .role = "lora_a", .shape = {rank, 4}},
                          {.name = "m.v.lora_B.weight", .role = "lora_b", .shape = {9, rank}},
                          {.name = "head.bias", .role = "head", .shape = {3}}});
}
inline const std::vector<std::string>& Modules() {
  static const std::vector<std::string> modules = {"m.q", "m.v"};
  return modules;
}

inline void Fill(Adapter* adapter, uint64_t seed, double scale = 1) {
  Philox random(seed, StreamId("fill"));
  for (float& x : adapter->values()) x = static_cast<float>(random.NextNormal() * scale);
}
inline Adapter Random(std::shared_ptr<const Layout> layout, uint64_t seed, double scale = 1) {
  Adapter adapter(std::move(layout));
  Fill(&adapter, seed, scale);
  return adapter;
}
inline Adapter Filled(std::shared_ptr<const Layout> layout, float value) {
  Adapter adapter(std::move(layout));
  for (float& x : adapter.values()) x = value;
  return adapter;
}

// A matrix (or a column, of a vector) of an adapter; of no rows when there is no such tensor.
inline Eigen::MatrixXd MatrixOf(const Adapter& adapter, const std::string& name) {
  const TensorSpec* spec = adapter.layout().Find(name);
  if (spec == nullptr) return {};
  const int64_t columns = spec->shape.size() == 2 ? spec->shape[1] : 1;
  Eigen::MatrixXd matrix(spec->shape[0], columns);
  for (int64_t i = 0; i < spec->size; ++i) matrix(i / columns, i % columns) = adapter.tensor(*spec)[i];
  return matrix;
}
inline Eigen::MatrixXd A(const Adapter& adapter, const std::string& module) {
  return MatrixOf(adapter, module + ".lora_A.weight");
}
inline Eigen::MatrixXd B(const Adapter& adapter, const std::string& module) {
  return MatrixOf(adapter, module + ".lora_B.weight");
}
inline Eigen::MatrixXd Product(const Adapter& adapter, const std::string& module) {
  return B(adapter, module) * A(adapter, module);
}
// The round's step of the base.
inline Eigen::MatrixXd BaseStep(const Adapter& adapter, const std::string& module) {
  return MatrixOf(adapter, module + ".base_B.weight") * MatrixOf(adapter, module + ".base_A.weight");
}

class RuleBench {
 public:
  explicit RuleBench(const std::string& rule, const std::string& config = "{}",
                     std::shared_ptr<const Layout> layout = TwoModules())
      : rule_(*Registry::Global().Find(rule)), layout_(std::move(layout)), start_(Random(layout_, 1)) {
    job_.set_name("bench");
    job_.mutable_aggregator()->set_name(rule);
    job_.mutable_adapter()->set_form("lora");
    Configure(config);
  }

  // JSON of the rule's config.
  void Configure(const std::string& config) { job_.mutable_aggregator()->mutable_config()->CopyFrom(Parsed(config)); }
  static google::protobuf::Struct Parsed(const std::string& json) {
    google::protobuf::Struct parsed;
    if (!google::protobuf::util::JsonStringToMessage(json, &parsed).ok()) std::abort();
    return parsed;
  }

  proto::JobConfig& job() { return job_; }
  const Rule& rule() const { return *rule_; }
  const std::shared_ptr<const Layout>& layout() const { return layout_; }
  // What the next round starts from.
  Adapter& start() { return start_; }
  const Adapter& start() const { return start_; }

  absl::Status CheckJob() const { return rule_->CheckJob(job_, *layout_); }
  std::unique_ptr<Aggregator> Fresh(int64_t round = 1) const {
    return *rule_->Create(job_, {.global = &start_, .round = round});
  }
  proto::Plan PlanOf(int64_t round = 1) const {
    proto::Plan plan;
    plan.set_round(round);
    Fresh(round)->FillPlan(&plan);
    return plan;
  }
  // The layout of an update of the first `rank` components.
  std::shared_ptr<const Layout> SentOf(int64_t rank = 0, int64_t round = 1) const {
    const proto::Plan plan = PlanOf(round);
    return *SentLayout(start_.layout(), {plan.roles_sent().begin(), plan.roles_sent().end()}, rank);
  }
  // A client with a random delta.
  Client Draw(uint64_t seed, uint64_t examples = 1, double scale = 1, int64_t rank = 0) const {
    return {absl::StrCat("client-", seed), examples, Random(SentOf(rank), seed, scale), rank};
  }
  // Start plus delta, of the components that the client has.
  Adapter Trained(const Client& client) const {
    Adapter trained = Cut(start_, client.delta.layout_ptr());
    for (size_t i = 0; i < trained.values().size(); ++i) trained.values()[i] += client.delta.values()[i];
    return trained;
  }
  absl::StatusOr<Adapter> Round(const std::vector<Client>& clients, int64_t round = 1, int threads = 1) const {
    auto made = rule_->Create(job_, {.global = &start_, .round = round, .threads = threads});
    if (!made.ok()) return made.status();
    for (const Client& client : clients) {
      const absl::Status folded =
          (*made)->Accumulate({client.id, client.examples, EncodedUpdate::View(client.delta), client.rank});
      if (!folded.ok()) return folded;
    }
    return std::move(**made).Finish();
  }

  conformance::Subject Subject() const {
    conformance::Subject subject;
    subject.rule = rule_;
    subject.job = job_;
    subject.layout = conformance::SmallSubject(rule_).layout;
    subject.encoding.set_values("f32");
    return subject;
  }

 private:
  const Rule* rule_;
  std::shared_ptr<const Layout> layout_;
  proto::JobConfig job_;
  Adapter start_;
};

inline void ExpectLawsHoldInEveryEncoding(conformance::Subject subject) {
  for (const proto::EncodingConfig& encoding : conformance::Encodings()) {
    subject.encoding = encoding;
    conformance::ExpectLawsHold(subject);
  }
}

// sum_k p_k B_k A_k of the clients' trained factors, p_k by examples.
inline Eigen::MatrixXd MeanProduct(const RuleBench& bench, const std::vector<Client>& clients,
                                   const std::string& module) {
  double total = 0;
  for (const Client& client : clients) total += static_cast<double>(client.examples);
  Eigen::MatrixXd mean;
  for (const Client& client : clients) {
    const Eigen::MatrixXd product =
        Product(bench.Trained(client), module) * (static_cast<double>(client.examples) / total);
    mean = mean.size() == 0 ? product : Eigen::MatrixXd(mean + product);
  }
  return mean;
}

}  // namespace weft::aggregators::testing

#endif  // WEFT_AGGREGATORS_CORE_TESTING_RULE_BENCH_H_
