#include "aggregators/core/conformance.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "aggregators/core/conformance_cohort.h"
#include "common/random.h"
#include "common/status_macros.h"

namespace weft::aggregators::conformance {
namespace {

using Parts = std::vector<std::unique_ptr<Aggregator>>;

template <typename... Words>
absl::Status Broken(const Words&... words) {
  return absl::InternalError(absl::StrCat(words...));
}

absl::Status ExpectCode(const absl::Status& status, absl::StatusCode code, const std::string& what) {
  if (status.code() == code) return absl::OkStatus();
  return Broken(what, ": found ", status.ToString(), ", expected ", absl::StatusCodeToString(code));
}

absl::Status ExpectBytes(const absl::StatusOr<std::string>& found, const std::string& expected,
                         const std::string& what) {
  if (!found.ok()) return Broken(what, ": ", found.status().ToString());
  if (*found == expected) return absl::OkStatus();
  const auto at = std::mismatch(found->begin(), found->end(), expected.begin(), expected.end());
  return Broken(what, ": bytes differ from byte ", at.first - found->begin(), " on (found ", found->size(),
                " bytes, expected ", expected.size(), ")");
}

std::vector<size_t> Shuffled(size_t size, uint64_t seed) {
  std::vector<size_t> order = InOrder(size);
  Philox random(seed, StreamId("order"));
  for (size_t i = size; i > 1; --i) std::swap(order[i - 1], order[random.NextBelow(i)]);
  return order;
}

// The bits of the undisturbed round.
absl::StatusOr<std::string> Straight(const Bench& bench, const Cohort& cohort) {
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<Aggregator> aggregator, bench.Folded(cohort, InOrder(cohort.updates.size())));
  return FinishBytes(std::move(aggregator));
}

absl::Status PlanIsFilled(const Subject& subject) {
  WEFT_ASSIGN_OR_RETURN(const auto bench, Bench::Create(subject));
  WEFT_ASSIGN_OR_RETURN(const auto aggregator, bench->Fresh());
  proto::Plan before;
  before.set_job_id("job");
  before.set_round(4);
  before.set_seed(5);
  before.set_progress_interval_ms(6);
  before.mutable_training()->set_steps(7);
  proto::Plan plan = before;
  aggregator->FillPlan(&plan);
  aggregator->FillPlan(&plan);  // callers may hand the same plan twice
  std::vector<std::string> known;
  for (const TensorSpec& tensor : bench->global().layout().tensors()) {
    if (std::find(known.begin(), known.end(), tensor.role) == known.end()) known.push_back(tensor.role);
  }
  for (const auto* roles : {&plan.roles_trained(), &plan.roles_sent()}) {
    if (roles->empty()) return Broken("plan without roles");
    auto from = known.begin();
    for (const std::string& role : *roles) {
      from = std::find(from, known.end(), role);
      if (from == known.end()) return Broken("role ", role, " is not of the layout, repeated, or out of layout order");
      ++from;
    }
  }
  if (plan.max_examples() == 0) return Broken("plan without a bound on examples: a client's word is believed");
  const auto* descriptor = proto::Plan::descriptor();
  for (const char* field :
       {"roles_trained", "roles_sent", "max_examples", "proximal_mu", "control_variates", "rank", "keep_components",
        "roles_local", "base_residual", "reinitialise", "learning_rate_scale", "rank_pruning", "clip_update_norm"}) {
    plan.GetReflection()->ClearField(&plan, descriptor->FindFieldByName(field));
  }
  return ExpectBytes(plan.SerializeAsString(), before.SerializeAsString(), "the rest of the plan");
}

bool StartsWithJob(const Layout& state, const Layout& job) {
  if (state.tensors().size() < job.tensors().size()) return false;
  for (size_t i = 0; i < job.tensors().size(); ++i) {
    const TensorSpec &found = state.tensors()[i], &expected = job.tensors()[i];
    if (found.name != expected.name || found.role != expected.role || found.shape != expected.shape) return false;
  }
  return true;
}

absl::Status AnyArrivalOrder(const Subject& subject) {
  WEFT_ASSIGN_OR_RETURN(const auto bench, Bench::Create(subject));
  for (const Cohort& cohort : bench->Cohorts()) {
    WEFT_ASSIGN_OR_RETURN(const std::string expected, Straight(*bench, cohort));
    WEFT_ASSIGN_OR_RETURN(auto straight, bench->Folded(cohort, InOrder(cohort.updates.size())));
    WEFT_ASSIGN_OR_RETURN(const Adapter next, std::move(*straight).Finish());
    if (!StartsWithJob(next.layout(), *subject.layout))
      return Broken("the result does not begin with the job's tensors");
    if (absl::Status finite = CheckFinite(next); !finite.ok()) return Broken(cohort.name, ": ", finite.ToString());
    for (uint64_t seed = 0; seed < 24; ++seed) {
      const std::vector<size_t> order = Shuffled(cohort.updates.size(), seed);
      WEFT_ASSIGN_OR_RETURN(auto aggregator,
                            seed % 2 == 0 ? bench->Folded(cohort, order) : bench->FoldedTogether(cohort, order));
      WEFT_RETURN_IF_ERROR(ExpectBytes(FinishBytes(std::move(aggregator)), expected,
                                       absl::StrCat("cohort ", cohort.name, ", order ", seed)));
    }
  }
  return absl::OkStatus();
}

// Folds update order[i] in part i % parts, each part on a thread of its own; one part more stays empty.
absl::StatusOr<Parts> FoldInParts(const Bench& bench, const Cohort& cohort, size_t parts, uint64_t seed) {
  const std::vector<size_t> order = Shuffled(cohort.updates.size(), seed);
  std::vector<absl::StatusOr<std::unique_ptr<Aggregator>>> folded(parts + 1);
  std::vector<std::thread> threads;
  for (size_t part = 0; part <= parts; ++part) {
    threads.emplace_back([&, part] {
      std::vector<size_t> mine;
      for (size_t i = part; part < parts && i < order.size(); i += parts) mine.push_back(order[i]);
      folded[part] = bench.Folded(cohort, mine);
    });
  }
  for (std::thread& thread : threads) thread.join();
  Parts result;
  for (auto& part : folded) {
    WEFT_RETURN_IF_ERROR(part.status());
    result.push_back(*std::move(part));
  }
  return result;
}

absl::Status MergeChain(Parts& parts) {
  for (size_t i = 1; i < parts.size(); ++i) WEFT_RETURN_IF_ERROR(parts[0]->MergeWith(std::move(*parts[i])));
  return absl::OkStatus();
}

absl::Status MergeFromTheEnd(Parts& parts) {
  for (size_t i = parts.size(); i-- > 1;) WEFT_RETURN_IF_ERROR(parts[i - 1]->MergeWith(std::move(*parts[i])));
  return absl::OkStatus();
}

absl::Status MergeTree(Parts& parts) {
  for (size_t step = 1; step < parts.size(); step *= 2) {
    for (size_t i = 0; i + step < parts.size(); i += 2 * step) {
      WEFT_RETURN_IF_ERROR(parts[i]->MergeWith(std::move(*parts[i + step])));
    }
  }
  return absl::OkStatus();
}

absl::Status AnySplit(const Subject& subject) {
  WEFT_ASSIGN_OR_RETURN(const auto bench, Bench::Create(subject));
  for (const Cohort& cohort : bench->Cohorts()) {
    WEFT_ASSIGN_OR_RETURN(const std::string expected, Straight(*bench, cohort));
    for (size_t count = 1; count <= cohort.updates.size(); ++count) {
      for (absl::Status (*merge)(Parts&) : {MergeChain, MergeFromTheEnd, MergeTree}) {
        WEFT_ASSIGN_OR_RETURN(Parts parts, FoldInParts(*bench, cohort, count, count));
        WEFT_RETURN_IF_ERROR(merge(parts));
        const auto updates = static_cast<int64_t>(cohort.updates.size());
        if (parts[0]->count() != updates) {
          return Broken("count after merging: found ", parts[0]->count(), ", expected ", updates);
        }
        WEFT_RETURN_IF_ERROR(ExpectBytes(FinishBytes(std::move(parts[0])), expected,
                                         absl::StrCat("cohort ", cohort.name, " in ", count, " parts")));
      }
    }
  }
  return absl::OkStatus();
}

// Saves after `at` updates, restores into `heir` and folds the rest there.
absl::Status CheckRestart(const Bench& bench, const Cohort& cohort, size_t at, std::unique_ptr<Aggregator> heir,
                          const std::string& expected) {
  const std::string what = absl::StrCat("cohort ", cohort.name, ", restored after ", at, " updates");
  WEFT_ASSIGN_OR_RETURN(const auto first, bench.Folded(cohort, InOrder(at)));
  WEFT_ASSIGN_OR_RETURN(const std::string state, first->Save());
  WEFT_RETURN_IF_ERROR(heir->Restore(state));
  if (heir->count() != first->count()) return Broken(what, ": count ", heir->count(), ", expected ", first->count());
  WEFT_RETURN_IF_ERROR(ExpectBytes(heir->Save(), state, absl::StrCat(what, " and saved again")));
  for (size_t i = at; i < cohort.updates.size(); ++i) {
    WEFT_RETURN_IF_ERROR(heir->Accumulate(cohort.updates[i].View()));
  }
  return ExpectBytes(FinishBytes(std::move(heir)), expected, what);
}

absl::Status SaveRestoreMidway(const Subject& subject) {
  WEFT_ASSIGN_OR_RETURN(const auto bench, Bench::Create(subject));
  for (const Cohort& cohort : bench->Cohorts()) {
    WEFT_ASSIGN_OR_RETURN(const std::string expected, Straight(*bench, cohort));
    for (size_t at = 0; at <= cohort.updates.size(); ++at) {
      WEFT_ASSIGN_OR_RETURN(auto fresh, bench->Fresh());
      WEFT_RETURN_IF_ERROR(CheckRestart(*bench, cohort, at, std::move(fresh), expected));
      WEFT_ASSIGN_OR_RETURN(auto used, bench->Folded(cohort, {1, 0}));
      WEFT_RETURN_IF_ERROR(CheckRestart(*bench, cohort, at, std::move(used), expected));
    }
  }
  return absl::OkStatus();
}

// `attempt` on an aggregator in mid-round fails with `code` and leaves its state as it was.
absl::Status ExpectRefusal(const Bench& bench, absl::StatusCode code, const std::string& what,
                           const std::function<absl::Status(Aggregator&)>& attempt) {
  WEFT_ASSIGN_OR_RETURN(const auto aggregator, bench.Folded(bench.Ordinary(), {0, 1}));
  WEFT_ASSIGN_OR_RETURN(const std::string before, aggregator->Save());
  WEFT_RETURN_IF_ERROR(ExpectCode(attempt(*aggregator), code, what));
  if (aggregator->count() != 2) return Broken(what, ": refused, and yet count is ", aggregator->count());
  return ExpectBytes(aggregator->Save(), before, absl::StrCat(what, ": state after the refusal"));
}

absl::Status ExpectDataLoss(const Bench& bench, const std::string& state, const std::string& what) {
  return ExpectRefusal(bench, absl::StatusCode::kDataLoss, what,
                       [&](Aggregator& aggregator) { return aggregator.Restore(state); });
}

absl::Status DamagedStateRefused(const Subject& subject) {
  WEFT_ASSIGN_OR_RETURN(const auto bench, Bench::Create(subject));
  WEFT_ASSIGN_OR_RETURN(const auto aggregator, bench->Folded(bench->Ordinary(), {2, 3, 4}));
  WEFT_ASSIGN_OR_RETURN(const std::string state, aggregator->Save());
  for (size_t size = 0; size < state.size(); ++size) {
    WEFT_RETURN_IF_ERROR(ExpectDataLoss(*bench, state.substr(0, size), absl::StrCat("cut to ", size, " bytes")));
  }
  WEFT_RETURN_IF_ERROR(ExpectDataLoss(*bench, state + '\0', "one byte longer"));
  WEFT_RETURN_IF_ERROR(ExpectDataLoss(*bench, state + state, "twice itself"));
  for (size_t bit = 0; bit < 8 * state.size(); ++bit) {
    std::string flipped = state;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    WEFT_RETURN_IF_ERROR(ExpectDataLoss(*bench, flipped, absl::StrCat("bit ", bit, " flipped")));
  }
  return absl::OkStatus();
}

// A part of some other rule, which none may take in.
class Stranger : public Aggregator {
 public:
  void FillPlan(proto::Plan*) const override {}
  absl::Status Validate(const ClientUpdate&) const override { return absl::OkStatus(); }
  absl::Status Accumulate(std::span<const ClientUpdate>) override { return absl::OkStatus(); }
  absl::Status MergeWith(Aggregator&&) override { return absl::OkStatus(); }
  absl::StatusOr<Adapter> Finish() && override { return absl::FailedPreconditionError("a stranger has no result"); }
  absl::StatusOr<std::string> Save() const override { return "state of a stranger"; }
  absl::Status Restore(std::string_view) override { return absl::OkStatus(); }
  int64_t count() const override { return 1; }
};

absl::Status ExpectForeign(const Bench& bench, Aggregator& foreign, const std::string& what) {
  WEFT_ASSIGN_OR_RETURN(const std::string state, foreign.Save());
  WEFT_RETURN_IF_ERROR(ExpectDataLoss(bench, state, absl::StrCat("state of ", what)));
  return ExpectRefusal(bench, absl::StatusCode::kInvalidArgument, absl::StrCat("part of ", what),
                       [&](Aggregator& aggregator) { return aggregator.MergeWith(std::move(foreign)); });
}

absl::Status ForeignStateRefused(const Subject& subject) {
  WEFT_ASSIGN_OR_RETURN(const auto bench, Bench::Create(subject));
  Stranger stranger;
  WEFT_RETURN_IF_ERROR(ExpectForeign(*bench, stranger, "another rule"));
  WEFT_ASSIGN_OR_RETURN(const Adapter renamed,
                        subject.rule->InitialState(subject.job, Adapter(Renamed(*subject.layout))));
  WEFT_ASSIGN_OR_RETURN(const auto layout, subject.rule->Create(subject.job, {.global = &renamed, .round = 1}));
  WEFT_RETURN_IF_ERROR(ExpectForeign(*bench, *layout, "another layout"));
  WEFT_ASSIGN_OR_RETURN(const auto round, subject.rule->Create(subject.job, {.global = &bench->global(), .round = 2}));
  WEFT_RETURN_IF_ERROR(ExpectForeign(*bench, *round, "another round"));
  if (!subject.other.has_value()) return absl::OkStatus();
  WEFT_RETURN_IF_ERROR(subject.rule->CheckJob(*subject.other, *subject.layout));
  WEFT_ASSIGN_OR_RETURN(const auto config,
                        subject.rule->Create(*subject.other, {.global = &bench->global(), .round = 1}));
  return ExpectForeign(*bench, *config, "another config");
}

// Validate and Accumulate both refuse, with a message that holds `names`.
absl::Status ExpectRefusedUpdate(const Bench& bench, const Sent& update, const std::string& names,
                                 const std::string& what) {
  const auto refuse = [&](Aggregator& aggregator) {
    const absl::Status validated = aggregator.Validate(update.View());
    const absl::Status folded = aggregator.Accumulate(update.View());
    if (validated != folded) return Broken("Validate says ", validated.ToString(), ", Accumulate ", folded.ToString());
    if (absl::StrContains(folded.message(), names)) return folded;
    return Broken("found \"", folded.ToString(), "\", expected it to name ", names);
  };
  return ExpectRefusal(bench, absl::StatusCode::kInvalidArgument, what, refuse);
}

absl::Status RefusalLeavesNoTrace(const Subject& subject) {
  WEFT_ASSIGN_OR_RETURN(const auto bench, Bench::Create(subject));
  using Limits = std::numeric_limits<float>;
  const auto size = static_cast<size_t>(bench->update_layout()->num_elements());
  for (const size_t index : {size_t{0}, size / 2, size - 1}) {
    const std::string& tensor = bench->update_layout()->TensorAt(static_cast<int64_t>(index)).name;
    for (const float value : {Limits::quiet_NaN(), -Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity()}) {
      WEFT_RETURN_IF_ERROR(
          ExpectRefusedUpdate(*bench, bench->With(value, index), tensor, absl::StrCat(value, " at element ", index)));
    }
    // A rule may take huge values or not; what it does not take, it names.
    const Sent huge = bench->With(Limits::max(), index);
    WEFT_ASSIGN_OR_RETURN(const auto aggregator, bench->Fresh());
    if (aggregator->Validate(huge.View()).ok()) continue;
    WEFT_RETURN_IF_ERROR(ExpectRefusedUpdate(*bench, huge, tensor, "the largest float"));
  }
  const Sent other = Sent::Unchecked("client-x", 5, Adapter(Renamed(*bench->update_layout())));
  WEFT_RETURN_IF_ERROR(ExpectRefusedUpdate(*bench, other, "layout", "another layout"));
  WEFT_RETURN_IF_ERROR(ExpectRefusedUpdate(*bench, bench->With(0, 0, 0), "examples", "zero examples"));
  for (const uint64_t absurd : {uint64_t{1} << 63, std::numeric_limits<uint64_t>::max()}) {
    WEFT_RETURN_IF_ERROR(ExpectRefusedUpdate(*bench, bench->With(0, 0, absurd), "examples", "absurd examples"));
  }
  return absl::OkStatus();
}

absl::Status BoundIsKept(const Subject& subject) {
  WEFT_ASSIGN_OR_RETURN(const auto bench, Bench::Create(subject));
  const auto with = [&](uint64_t examples) -> absl::StatusOr<std::string> {
    Cohort cohort = bench->Ordinary();
    cohort.updates[0].examples = examples;
    return Straight(*bench, cohort);
  };
  WEFT_ASSIGN_OR_RETURN(const std::string expected, with(bench->max_examples()));
  return ExpectBytes(with(bench->max_examples() + 1), expected, "one example more than the bound");
}

// next = start + delta, rounded once, for the tensors that were sent.
absl::Status ExpectOwn(const Adapter& start, const Adapter& delta, const Adapter& next, const std::string& what) {
  for (const TensorSpec& tensor : delta.layout().tensors()) {
    const auto before = start.tensor(*start.layout().Find(tensor.name));
    const auto after = next.tensor(*next.layout().Find(tensor.name));
    for (size_t i = 0; i < before.size(); ++i) {
      const float change = delta.tensor(tensor)[i];
      const float own = before[i] + change;
      // A change below 2^-41 is rounded to a multiple of 2^-64 on its way.
      if (after[i] == own || (std::fabs(change) < 0x1p-41f && std::fabs(after[i] - own) <= 0x1p-40f)) continue;
      return Broken(what, ": ", tensor.name, " element ", i, " came back as ", after[i], ", sent ", own);
    }
  }
  return absl::OkStatus();
}

absl::Status OwnUpdateBack(const Subject& subject) {
  if (!subject.rule->facts().returns_single_update) return absl::OkStatus();
  WEFT_ASSIGN_OR_RETURN(const auto bench, Bench::Create(subject));
  for (Cohort& cohort : bench->Cohorts()) {
    for (Sent& sent : cohort.updates) {
      for (const uint64_t examples : {sent.examples, uint64_t{1}, uint64_t{3}, uint64_t{9'999'991}}) {
        sent.examples = examples;
        WEFT_ASSIGN_OR_RETURN(const auto aggregator, bench->Fresh());
        WEFT_RETURN_IF_ERROR(aggregator->Accumulate(sent.View()));
        WEFT_ASSIGN_OR_RETURN(const Adapter back, std::move(*aggregator).Finish());
        WEFT_RETURN_IF_ERROR(ExpectOwn(bench->global(), sent.tensors.Decode(), back,
                                       absl::StrCat(cohort.name, ", ", examples, " examples")));
      }
    }
  }
  return absl::OkStatus();
}

// Rounds without updates give one state.
absl::Status SameFromNothing(const std::vector<std::unique_ptr<Aggregator>*>& rounds) {
  std::string expected;
  for (std::unique_ptr<Aggregator>* round : rounds) {
    WEFT_ASSIGN_OR_RETURN(const Adapter next, std::move(**round).Finish());
    if (absl::Status finite = CheckFinite(next); !finite.ok()) return Broken("Finish of nothing: ", finite.ToString());
    if (expected.empty()) expected = next.ContentHash();
    WEFT_RETURN_IF_ERROR(ExpectBytes(next.ContentHash(), expected, "Finish of nothing, again"));
  }
  return absl::OkStatus();
}

absl::Status EmptyFinishRefused(const Subject& subject) {
  WEFT_ASSIGN_OR_RETURN(const auto bench, Bench::Create(subject));
  WEFT_ASSIGN_OR_RETURN(auto merged, bench->Fresh());
  WEFT_ASSIGN_OR_RETURN(const auto empty, bench->Fresh());
  WEFT_ASSIGN_OR_RETURN(const std::string state, empty->Save());
  WEFT_ASSIGN_OR_RETURN(auto restored, bench->Folded(bench->Ordinary(), {0}));
  WEFT_RETURN_IF_ERROR(restored->Restore(state));
  WEFT_RETURN_IF_ERROR(merged->MergeWith(std::move(*empty)));
  WEFT_ASSIGN_OR_RETURN(auto fresh, bench->Fresh());
  for (Aggregator* aggregator : {fresh.get(), merged.get(), restored.get()}) {
    if (aggregator->count() != 0) return Broken("count of nothing: found ", aggregator->count());
  }
  if (subject.rule->facts().finishes_empty) return SameFromNothing({&fresh, &merged, &restored});
  for (Aggregator* aggregator : {fresh.get(), merged.get(), restored.get()}) {
    WEFT_RETURN_IF_ERROR(ExpectCode(std::move(*aggregator).Finish().status(), absl::StatusCode::kFailedPrecondition,
                                    "Finish of nothing"));
  }
  return absl::OkStatus();
}

constexpr Law kLaws[] = {
    {"PlanIsFilled", PlanIsFilled},
    {"AnyArrivalOrder", AnyArrivalOrder},
    {"AnySplit", AnySplit},
    {"SaveRestoreMidway", SaveRestoreMidway},
    {"DamagedStateRefused", DamagedStateRefused},
    {"ForeignStateRefused", ForeignStateRefused},
    {"RefusalLeavesNoTrace", RefusalLeavesNoTrace},
    {"BoundIsKept", BoundIsKept},
    {"OwnUpdateBack", OwnUpdateBack},
    {"EmptyFinishRefused", EmptyFinishRefused},
};

}  // namespace

Subject SmallSubject(const Rule* rule) {
  Subject subject;
  subject.rule = rule;
  subject.job.set_name("conformance");
  subject.job.mutable_aggregator()->set_name(std::string(rule->name()));
  subject.job.mutable_adapter()->set_form("lora");
  subject.encoding.set_values("f32");
  subject.layout = *Layout::Create({{.name = "layer.query.lora_A.weight", .role = "lora_a", .shape = {2, 5}},
                                    {.name = "layer.query.lora_B.weight", .role = "lora_b", .shape = {3, 2}},
                                    {.name = "classifier.bias", .role = "head", .shape = {3}}});
  return subject;
}

std::vector<proto::EncodingConfig> Encodings() {
  std::vector<proto::EncodingConfig> encodings;
  for (const char* values : {"f32", "bf16", "f16", "int8", "int4", "topk"}) {
    encodings.emplace_back().set_values(values);
    encodings.back().set_density(0.4);
  }
  return encodings;
}

std::span<const Law> Laws() { return kLaws; }

void ExpectLawsHold(const Subject& subject) {
  for (const Law& law : Laws()) {
    const absl::Status status = law.check(subject);
    EXPECT_TRUE(status.ok()) << "rule " << subject.rule->name() << " breaks " << law.name << " in "
                             << subject.encoding.values() << ": " << status;
  }
}

}  // namespace weft::aggregators::conformance
