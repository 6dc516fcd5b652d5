#include "training/objective.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "training/ops/activation.h"
#include "training/ops/losses.h"

namespace weft {
namespace {

using Read = TaskDescription::Read;

Read ReadOf(const TaskDescription& description, const proto::TaskConfig& task) {
  if (task.type() != "sentence_embedding") return description.read;
  if (task.embedding().pooling() == "first") return Read::kFirst;
  return task.embedding().pooling() == "last" ? Read::kLast : Read::kMean;
}

// Weight of each line of what is counted: its member's.
at::Tensor LineWeights(const Segments& segments, const std::vector<double>& weights) {
  const at::Tensor result = at::empty({segments.offsets.back()}, at::TensorOptions(at::kFloat));
  auto* to = result.mutable_data_ptr<float>();
  for (int64_t k = 0; k < segments.members(); ++k) {
    std::fill(to + segments.begin(k), to + segments.end(k), static_cast<float>(weights[k]));
  }
  return result;
}

// Sums of each member's lines.
std::vector<MemberLoss> SumByMember(const Segments& segments, const LineLosses& lines) {
  std::vector<MemberLoss> result(segments.members());
  const auto* loss = lines.losses.const_data_ptr<float>();
  const auto* correct = lines.correct.const_data_ptr<bool>();
  for (int64_t k = 0; k < segments.members(); ++k) {
    for (int64_t i = segments.begin(k); i < segments.end(k); ++i) {
      result[k].loss_sum += loss[i];
      result[k].correct += correct[i] ? 1 : 0;
    }
    result[k].counted = segments.end(k) - segments.begin(k);
  }
  return result;
}

// Classes of rows through a head: the adapter's own, or the base's where the adapter has none.
class Classification : public Objective {
 public:
  Classification(const Options& options, const TaskDescription& description)
      : Objective(description.read), options_(options), description_(description) {
    for (const FrozenLinear& linear : *options.linears) {
      if (description.pooler >= 0 && linear.parts().front().module == static_cast<size_t>(description.pooler)) {
        pooler_ = &linear - options.linears->data();
      }
    }
    for (const HeadModule& module : description.head) {
      const int64_t out = OutFeatures(module);
      KeepHeadOfBase(module.name + ".weight", {out, module.in_features});
      if (module.bias) KeepHeadOfBase(module.name + ".bias", {out});
    }
  }

  bool has_pooler() const { return pooler_ >= 0; }

  absl::StatusOr<std::vector<MemberLoss>> Learn(const Batch& batch, const at::Tensor& hidden,
                                                const std::vector<MemberTensors>& members,
                                                const std::vector<double>& weights, double label_smoothing,
                                                Pass& pass) const override {
    WEFT_ASSIGN_OR_RETURN(const at::Tensor logits, Outputs(batch, hidden, members, pass));
    const LineLosses lines =
        SoftmaxCrossEntropy(logits.detach(), batch.targets, LineWeights(batch.rows, weights), label_smoothing);
    logits.backward(lines.gradient);
    return SumByMember(batch.rows, lines);
  }

  absl::StatusOr<std::vector<MemberLoss>> Evaluate(const Batch& batch, const at::Tensor& hidden,
                                                   const std::vector<MemberTensors>& members,
                                                   Pass& pass) const override {
    WEFT_ASSIGN_OR_RETURN(const at::Tensor logits, Outputs(batch, hidden, members, pass));
    std::vector<MemberLoss> result =
        SumByMember(batch.rows, SoftmaxCrossEntropy(logits, batch.targets, /*weights=*/{}, /*label_smoothing=*/0));
    const at::Tensor predicted = logits.argmax(-1).to(at::kCPU);
    const auto *found = predicted.const_data_ptr<int64_t>(), *actual = batch.targets.const_data_ptr<int64_t>();
    for (int64_t k = 0; k < batch.rows.members(); ++k) {
      std::vector<proto::ClassCounts>& classes = result[k].classes;
      classes.resize(options_.task->labels_size());
      for (int64_t i = batch.rows.begin(k); i < batch.rows.end(k); ++i) {
        proto::ClassCounts &of_found = classes[found[i]], &of_actual = classes[actual[i]];
        of_found.set_predicted(of_found.predicted() + 1);
        of_actual.set_actual(of_actual.actual() + 1);
        if (found[i] == actual[i]) of_actual.set_correct(of_actual.correct() + 1);
      }
    }
    return result;
  }

  absl::StatusOr<at::Tensor> Outputs(const Batch& batch, const at::Tensor& hidden,
                                     const std::vector<MemberTensors>& members, Pass& pass) const override {
    at::Tensor x = hidden;
    if (pooler_ >= 0) x = pass.Linear((*options_.linears)[pooler_], x, batch.read).tanh();
    x = x.slice(0, 0, batch.rows.offsets.back()).to(at::kFloat);
    for (const HeadModule& module : description_.head) {
      WEFT_ASSIGN_OR_RETURN(x, RunHead(module, x, batch.rows, members));
      x = Activate(x, module.activation);
    }
    return x;
  }

 private:
  int64_t OutFeatures(const HeadModule& module) const {
    return module.out_features == 0 ? options_.task->labels_size() : module.out_features;
  }

  // One that is missing or of another shape is an error only where an adapter has none in its place.
  void KeepHeadOfBase(const std::string& name, const std::vector<int64_t>& shape) {
    heads_of_base_.emplace(name, options_.base->Get(name, shape));
  }

  absl::StatusOr<at::Tensor> HeadTensor(const MemberTensors& member, const std::string& name,
                                        const std::vector<int64_t>& shape) const {
    const auto found = member.find(name);
    if (found == member.end()) return heads_of_base_.at(name);
    if (found->second.value.sizes() == shape) return found->second.value;
    return absl::InvalidArgumentError(
        absl::StrCat("adapter tensor ", name, " has shape [", absl::StrJoin(found->second.value.sizes(), ", "),
                     "], expected [", absl::StrJoin(shape, ", "), "] (labels of the task, width of the base)"));
  }

  absl::StatusOr<at::Tensor> RunHead(const HeadModule& module, const at::Tensor& x, const Segments& rows,
                                     const std::vector<MemberTensors>& members) const {
    const int64_t out = OutFeatures(module);
    std::vector<at::Tensor> results;
    for (int64_t k = 0; k < rows.members(); ++k) {
      if (rows.begin(k) == rows.end(k)) continue;
      WEFT_ASSIGN_OR_RETURN(const at::Tensor weight,
                            HeadTensor(members[k], module.name + ".weight", {out, module.in_features}));
      std::optional<at::Tensor> bias;
      if (module.bias) {
        WEFT_ASSIGN_OR_RETURN(bias, HeadTensor(members[k], module.name + ".bias", {out}));
      }
      results.push_back(at::linear(x.slice(0, rows.begin(k), rows.end(k)), weight, bias));
    }
    return results.size() == 1 ? results[0] : at::cat(results);
  }

  const Options options_;
  const TaskDescription& description_;
  int64_t pooler_ = -1;  // index into linears
  std::map<std::string, absl::StatusOr<at::Tensor>> heads_of_base_;
};

// Next tokens, by the base's own output layer.
class NextToken : public Objective {
 public:
  NextToken(const Options& options, const TaskDescription& description)
      : Objective(description.read), transformer_(*options.base->transformer()) {}

  absl::StatusOr<std::vector<MemberLoss>> Learn(const Batch& batch, const at::Tensor& hidden,
                                                const std::vector<MemberTensors>&, const std::vector<double>& weights,
                                                double label_smoothing, Pass& pass) const override {
    WEFT_ASSIGN_OR_RETURN(const at::Tensor head, transformer_.LmHead(pass.dtype()));
    const at::Tensor read = hidden.slice(0, 0, batch.read.offsets.back());
    const LineLosses lines =
        FrozenLinearCrossEntropy(read.detach(), head, batch.targets, LineWeights(batch.read, weights), label_smoothing);
    read.backward(lines.gradient);
    return SumByMember(batch.read, lines);
  }

  absl::StatusOr<std::vector<MemberLoss>> Evaluate(const Batch& batch, const at::Tensor& hidden,
                                                   const std::vector<MemberTensors>&, Pass& pass) const override {
    WEFT_ASSIGN_OR_RETURN(const at::Tensor head, transformer_.LmHead(pass.dtype()));
    const at::Tensor read = hidden.slice(0, 0, batch.read.offsets.back());
    return SumByMember(batch.read, FrozenLinearCrossEntropy(read, head, batch.targets, /*weights=*/{},
                                                            /*label_smoothing=*/0));
  }

  absl::StatusOr<at::Tensor> Outputs(const Batch& batch, const at::Tensor& hidden, const std::vector<MemberTensors>&,
                                     Pass& pass) const override {
    WEFT_ASSIGN_OR_RETURN(const at::Tensor head, transformer_.LmHead(pass.dtype()));
    return at::linear(hidden.slice(0, 0, batch.read.offsets.back()), head).to(at::kFloat);
  }

  int64_t Counted(const DataShard& shard, const std::vector<int64_t>& rows, int64_t max_length,
                  int64_t prompt_tokens) const override {
    int64_t count = 0;
    for (const int64_t row : rows) {
      const auto learn = shard.learn(row);
      const auto length = std::min<int64_t>(static_cast<int64_t>(learn.size()), max_length);
      for (int64_t i = prompt_tokens > 0 ? 0 : 1; i < length; ++i) count += learn[i];
    }
    return count;
  }

 private:
  const TransformerModel& transformer_;
};

// Pairs of texts that shall find each other among those of the same member's pass.
class Pairs : public Objective {
 public:
  Pairs(const Options& options, Read read) : Objective(read), temperature_(options.task->embedding().temperature()) {}

  absl::StatusOr<std::vector<MemberLoss>> Learn(const Batch& batch, const at::Tensor& hidden,
                                                const std::vector<MemberTensors>& members,
                                                const std::vector<double>& weights, double label_smoothing,
                                                Pass& pass) const override {
    WEFT_ASSIGN_OR_RETURN(const at::Tensor embeddings, Outputs(batch, hidden, members, pass));
    const at::Tensor gradient = at::zeros(embeddings.sizes(), embeddings.options());
    std::vector<MemberLoss> result = Losses(batch, embeddings.detach(), &weights, label_smoothing, gradient);
    embeddings.backward(gradient);
    return result;
  }

  absl::StatusOr<std::vector<MemberLoss>> Evaluate(const Batch& batch, const at::Tensor& hidden,
                                                   const std::vector<MemberTensors>& members,
                                                   Pass& pass) const override {
    WEFT_ASSIGN_OR_RETURN(const at::Tensor embeddings, Outputs(batch, hidden, members, pass));
    return Losses(batch, embeddings, nullptr, 0, at::Tensor());
  }

  absl::StatusOr<at::Tensor> Outputs(const Batch& batch, const at::Tensor& hidden, const std::vector<MemberTensors>&,
                                     Pass&) const override {
    const int64_t texts = batch.rows.offsets.back();
    if (read() != Read::kMean) return hidden.slice(0, 0, texts).to(at::kFloat);
    const at::Tensor x = hidden.slice(0, 0, batch.row_of_token.size(0)).to(at::kFloat);
    const at::Tensor offsets = batch.attention.key_offsets;
    const at::Tensor lengths = (offsets.slice(0, 1) - offsets.slice(0, 0, -1)).to(x.device(), at::kFloat);
    return at::zeros({texts, x.size(1)}, x.options()).index_add(0, batch.row_of_token, x) / lengths.unsqueeze(1);
  }

 private:
  std::vector<MemberLoss> Losses(const Batch& batch, const at::Tensor& embeddings, const std::vector<double>* weights,
                                 double label_smoothing, const at::Tensor& gradient) const {
    std::vector<MemberLoss> result(batch.rows.members());
    for (int64_t k = 0; k < batch.rows.members(); ++k) {
      const int64_t begin = batch.rows.begin(k), end = batch.rows.end(k), count = (end - begin) / 2;
      if (count == 0) continue;
      const at::Tensor own = embeddings.slice(0, begin, end).view({count, 2, -1});
      const PairLosses pairs = ContrastivePairs(own.select(1, 0), own.select(1, 1), temperature_,
                                                weights == nullptr ? 0 : (*weights)[k], label_smoothing);
      result[k] = SumByMember({.offsets = {0, count}}, pairs.lines).front();
      if (!gradient.defined()) continue;
      const at::Tensor to = gradient.slice(0, begin, end).view({count, 2, -1});
      to.select(1, 0).copy_(pairs.a_gradient);
      to.select(1, 1).copy_(pairs.b_gradient);
    }
    return result;
  }

  const double temperature_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Objective>> Objective::Create(const Options& options) {
  WEFT_ASSIGN_OR_RETURN(const TaskDescription* description,
                        FindTask(options.base->description(), options.task->type()));
  if (options.task->type() == "causal_lm") {
    WEFT_RETURN_IF_ERROR(options.base->transformer()->LmHead(at::kFloat).status());
    return std::make_unique<NextToken>(options, *description);
  }
  if (options.task->type() == "sentence_embedding") {
    return std::make_unique<Pairs>(options, ReadOf(*description, *options.task));
  }
  auto classification = std::make_unique<Classification>(options, *description);
  if (description->pooler >= 0 && !classification->has_pooler()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the weights hold no ", options.base->description().linears[description->pooler].name, ", which ",
                     options.task->type(), " reads through; take a checkpoint that has it"));
  }
  return classification;
}

}  // namespace weft
