#include "server/evaluation/evaluation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

namespace weft::server {
namespace {

using ::testing::HasSubstr;

proto::TaskConfig Task(const std::string& type) {
  proto::TaskConfig task;
  task.set_type(type);
  if (type != "sequence_classification" && type != "image_classification") return task;
  for (const char* label : {"red", "green", "blue"}) task.add_labels(label);
  return task;
}

void AddClass(uint64_t correct, uint64_t predicted, uint64_t actual, proto::Evaluation* evaluation) {
  proto::ClassCounts& counts = *evaluation->add_classes();
  counts.set_correct(correct);
  counts.set_predicted(predicted);
  counts.set_actual(actual);
}

// Ten rows of red and green, none of blue; one of them was taken for blue.
proto::Evaluation Classified() {
  proto::Evaluation evaluation;
  evaluation.set_examples(10);
  evaluation.set_correct(7);
  evaluation.set_loss_sum(5);
  AddClass(4, 5, 6, &evaluation);
  AddClass(3, 4, 4, &evaluation);
  AddClass(0, 1, 0, &evaluation);
  return evaluation;
}

proto::Evaluation OfTokens() {
  proto::Evaluation evaluation;
  evaluation.set_examples(3);
  evaluation.set_tokens(40);
  evaluation.set_correct(30);
  evaluation.set_loss_sum(80);
  return evaluation;
}

TEST(CheckEvaluationTest, WhatClientsCountPasses) {
  EXPECT_EQ(CheckEvaluation(Classified(), Task("sequence_classification"), 10), absl::OkStatus());
  EXPECT_EQ(CheckEvaluation(Classified(), Task("image_classification"), 0), absl::OkStatus());
  EXPECT_EQ(CheckEvaluation(OfTokens(), Task("causal_lm"), 3), absl::OkStatus());
  for (const char* type : {"sequence_classification", "causal_lm", "sentence_embedding"}) {
    EXPECT_EQ(CheckEvaluation(proto::Evaluation(), Task(type), 0), absl::OkStatus()) << "no rows of " << type;
  }
  proto::Evaluation pairs = Classified();
  pairs.clear_classes();
  EXPECT_EQ(CheckEvaluation(pairs, Task("sentence_embedding"), 0), absl::OkStatus());
  proto::Evaluation nothing_learnt;  // rows of which no token is to be predicted
  nothing_learnt.set_examples(3);
  EXPECT_EQ(CheckEvaluation(nothing_learnt, Task("causal_lm"), 0), absl::OkStatus());
}

TEST(CheckEvaluationTest, CountsThatCanNotBeAreRefused) {
  struct Case {
    const char* task;
    void (*spoil)(proto::Evaluation*);
    const char* message;
  };
  using Counts = proto::Evaluation;
  const char* kText = "sequence_classification";
  const Case cases[] = {
      {kText, [](Counts* e) { e->set_examples(13); }, "13 rows, the plan asked for 12"},
      {kText, [](Counts* e) { e->set_correct(11); }, "11 correct of 10 rows"},
      {kText, [](Counts* e) { e->set_loss_sum(NAN); }, "loss_sum nan, expected a number from 0"},
      {kText, [](Counts* e) { e->set_loss_sum(-1); }, "loss_sum -1"},
      {kText, [](Counts* e) { e->set_loss_sum(INFINITY); }, "loss_sum inf"},
      {kText, [](Counts* e) { e->set_loss_sum(1.1e300); }, "loss_sum 1.1e+300"},
      {kText, [](Counts* e) { e->set_tokens(5); }, "5 tokens, expected none for a sequence_classification job"},
      {kText, [](Counts* e) { e->mutable_classes()->RemoveLast(); }, "counts of 2 classes, expected 3 for 10 rows"},
      {kText, [](Counts* e) { e->clear_classes(); }, "counts of 0 classes, expected 3"},
      {kText, [](Counts* e) { AddClass(0, 0, 0, e); }, "counts of 4 classes, expected 3"},
      {kText, [](Counts* e) { e->mutable_classes(2)->set_predicted(11); }, "11 rows predicted and 0 rows of class 2"},
      {kText, [](Counts* e) { e->mutable_classes(1)->set_actual(~uint64_t{0}); }, "18446744073709551615 rows of class"},
      {kText, [](Counts* e) { e->mutable_classes(2)->set_correct(1); }, "1 correct of class 2, expected at most the 1"},
      {kText, [](Counts* e) { e->mutable_classes(0)->set_predicted(3); },
       "4 correct of class 0, expected at most the 3"},
      {kText, [](Counts* e) { e->mutable_classes(2)->set_predicted(2); }, "11 rows predicted and 10 rows over all"},
      {kText, [](Counts* e) { e->mutable_classes(2)->set_actual(1); }, "10 rows predicted and 11 rows over all"},
      {kText, [](Counts* e) { e->set_correct(6); }, "7 correct over all classes, expected the 6"},
      {kText,
       [](Counts* e) {
         e->Clear();
         e->set_loss_sum(1);
       },
       "loss_sum 1 over no rows"},
      {"causal_lm", [](Counts* e) { e->set_correct(41); }, "41 correct of 40 tokens"},
      {"causal_lm", [](Counts* e) { e->set_examples(0); }, "40 tokens of no rows"},
      {"causal_lm", [](Counts* e) { AddClass(30, 40, 40, e); }, "counts of 1 classes, expected 0"},
      {"causal_lm", [](Counts* e) { e->set_tokens(1'000'000'000'001); }, "1000000000001 tokens, expected at most"},
      {"causal_lm",
       [](Counts* e) {
         e->set_tokens(0);
         e->set_correct(0);
       },
       "loss_sum 80 over no tokens"},
      {"sentence_embedding", [](Counts* e) { e->set_correct(3); }, "40 tokens, expected none"},
  };
  for (const Case& c : cases) {
    proto::Evaluation evaluation = c.task == kText ? Classified() : OfTokens();
    c.spoil(&evaluation);
    const absl::Status status = CheckEvaluation(evaluation, Task(c.task), 12);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
  proto::Evaluation evaluation = Classified();
  evaluation.set_examples(1'000'000'000'001);
  EXPECT_THAT(std::string(CheckEvaluation(evaluation, Task(kText), 0).message()), HasSubstr("1000000000001 rows and"));
}

TEST(EvaluationSumTest, Classification_MacroF1OfTheSums) {
  EvaluationSum sum(Task("sequence_classification"));
  sum.Add(proto::Evaluation());
  sum.Add(Classified());
  proto::Evaluation second;
  second.set_examples(2);
  second.set_correct(1);
  second.set_loss_sum(1);
  AddClass(1, 2, 1, &second);
  AddClass(0, 0, 1, &second);
  AddClass(0, 0, 0, &second);
  sum.Add(second);
  proto::RoundStatus status;
  sum.Fill(&status);
  EXPECT_EQ(status.accuracy(), 8.0 / 12);
  EXPECT_EQ(status.loss(), 0.5);
  EXPECT_EQ(status.evaluated_examples(), 12u);
  // Red 2*5/(7+7), green 2*3/(4+5), blue 0/(1+0).
  EXPECT_DOUBLE_EQ(status.f1(), (10.0 / 14 + 6.0 / 9 + 0) / 3);
  EXPECT_FALSE(status.has_perplexity());
  EXPECT_EQ(status.evaluated_tokens(), 0u);
}

TEST(EvaluationSumTest, Classification_AClassThatIsNowhereDoesNotCount) {
  proto::Evaluation evaluation;
  evaluation.set_examples(4);
  evaluation.set_correct(3);
  AddClass(2, 2, 3, &evaluation);
  AddClass(1, 2, 1, &evaluation);
  AddClass(0, 0, 0, &evaluation);
  EvaluationSum sum(Task("image_classification"));
  sum.Add(evaluation);
  proto::RoundStatus status;
  sum.Fill(&status);
  EXPECT_DOUBLE_EQ(status.f1(), (4.0 / 5 + 2.0 / 3) / 2);
}

TEST(EvaluationSumTest, CausalLm_OverTokens) {
  EvaluationSum sum(Task("causal_lm"));
  sum.Add(OfTokens());
  proto::Evaluation second = OfTokens();
  second.set_tokens(10);
  second.set_correct(5);
  second.set_loss_sum(20);
  sum.Add(second);
  proto::RoundStatus status;
  sum.Fill(&status);
  EXPECT_EQ(status.accuracy(), 0.7);
  EXPECT_EQ(status.loss(), 2);
  EXPECT_EQ(status.perplexity(), std::exp(2.0));
  EXPECT_EQ(status.evaluated_examples(), 6u);
  EXPECT_EQ(status.evaluated_tokens(), 50u);
  EXPECT_FALSE(status.has_f1());
}

TEST(EvaluationSumTest, SentenceEmbedding_NeitherF1NorPerplexity) {
  proto::Evaluation evaluation;
  evaluation.set_examples(4);
  evaluation.set_correct(1);
  EvaluationSum sum(Task("sentence_embedding"));
  sum.Add(evaluation);
  proto::RoundStatus status;
  sum.Fill(&status);
  EXPECT_EQ(status.accuracy(), 0.25);
  EXPECT_FALSE(status.has_f1());
  EXPECT_FALSE(status.has_perplexity());
}

TEST(EvaluationSumTest, NothingCounted_SetsNothing) {
  for (const char* type : {"sequence_classification", "causal_lm"}) {
    EvaluationSum sum(Task(type));
    sum.Add(proto::Evaluation());
    proto::RoundStatus status;
    sum.Fill(&status);
    EXPECT_EQ(status.ByteSizeLong(), 0u) << type;
  }
}

}  // namespace
}  // namespace weft::server
