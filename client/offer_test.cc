#include "client/offer.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/testing/daemon_fixture.h"

namespace weft {
namespace {

using OfferTest = DaemonFixture;

TEST_F(OfferTest, PrepareOffer_AcceptsWhatFits) {
  Start();
  const proto::JobOffer offer = Offer();
  const proto::JobReply reply = ReplyTo(offer);
  EXPECT_TRUE(reply.accepted()) << reply.reason();
  EXPECT_EQ(reply.job_id(), "job");
  EXPECT_EQ(reply.layout_hash(), offer.layout_hash());
}

TEST_F(OfferTest, PrepareOffer_RefusesAnotherBase) {
  Start();
  proto::JobOffer offer = Offer();
  offer.set_base_hash("0000");
  const proto::JobReply reply = ReplyTo(offer);
  EXPECT_FALSE(reply.accepted());
  EXPECT_TRUE(absl::StrContains(reply.reason(), trainer_->base_hash())) << reply.reason();
  EXPECT_TRUE(absl::StrContains(reply.reason(), "expected 0000")) << reply.reason();
}

TEST_F(OfferTest, PrepareOffer_RefusesAnotherTask) {
  Start();
  for (const char* type : {"image_classification", "causal_lm", "sentence_embedding"}) {
    proto::JobOffer offer = Offer();
    offer.mutable_task()->set_type(type);
    if (offer.task().type() != "image_classification") offer.mutable_task()->clear_labels();
    const std::string reason = ReplyTo(offer).reason();
    EXPECT_TRUE(absl::StrContains(reason, absl::StrCat("task sequence_classification, expected ", type))) << reason;
    EXPECT_TRUE(absl::StrContains(reason, "weft prepare")) << reason;
  }
}

TEST_F(OfferTest, PrepareOffer_NamesTheFirstLabelThatDiffers) {
  data_options_.labels = {"red", "grey", "black"};
  Start();
  const std::string reason = ReplyTo(Offer()).reason();
  EXPECT_TRUE(absl::StrContains(reason, "label 1")) << reason;
  EXPECT_TRUE(absl::StrContains(reason, "\"grey\", expected \"green\"")) << reason;
  EXPECT_TRUE(absl::StrContains(reason, "weft prepare")) << reason;
}

TEST_F(OfferTest, PrepareOffer_NamesTheMissingLabel) {
  data_options_.labels = {"red", "green"};
  Start();
  EXPECT_TRUE(absl::StrContains(ReplyTo(Offer()).reason(), "has 2 labels, expected 3 (\"blue\" is missing)"));
}

TEST_F(OfferTest, PrepareOffer_NamesTheSurplusLabel) {
  data_options_.labels = {"red", "green", "blue", "pink"};
  Start();
  EXPECT_TRUE(absl::StrContains(ReplyTo(Offer()).reason(), "has 4 labels, expected 3 (\"pink\" is not a label"));
}

TEST_F(OfferTest, PrepareOffer_RefusesAnotherLayout) {
  Start();
  proto::JobOffer offer = Offer();
  offer.set_layout_hash("0000");
  const proto::JobReply reply = ReplyTo(offer);
  EXPECT_FALSE(reply.accepted());
  EXPECT_EQ(reply.layout_hash(), layout_->hash());
  EXPECT_TRUE(absl::StrContains(reply.reason(), "expected 0000")) << reply.reason();
}

TEST_F(OfferTest, PrepareOffer_RefusesAFormItDoesNotKnow) {
  Start();
  proto::JobOffer offer = Offer();
  offer.mutable_adapter()->set_form("nosuch");
  const proto::JobReply reply = ReplyTo(offer);
  EXPECT_FALSE(reply.accepted());
  EXPECT_TRUE(absl::StrContains(reply.reason(), "nosuch")) << reply.reason();
}

TEST_F(OfferTest, PrepareOffer_AfterARefusalTheNextJobIsTaken) {
  Start();
  proto::JobOffer bad = Offer();
  bad.set_job_id("bad");
  bad.set_base_hash("0000");
  EXPECT_FALSE(ReplyTo(bad).accepted());
  EXPECT_TRUE(ReplyTo(Offer()).accepted());
}

}  // namespace
}  // namespace weft
