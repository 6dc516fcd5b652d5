// The fold of rules on products over one adapter's modules, for tests/bench/factored.py, which drives it: a line on
// stdin, a line of seconds on stdout.
//
//   load FILE CLIENTS RANK OUT IN [OUT IN ..]  reads fp32 values: for each module, A of every client, then B of each
//   fair | flexlora                            goes through the loaded modules; only the algebra is timed
//   save FILE                                  writes the last results as fp32: for each module A, then B
//   profile                                    seconds of one thread for the parts of the last loaded module
//
// argv[1]: threads.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "aggregators/core/factored.h"
#include "aggregators/core/factored_fair.h"
#include "aggregators/core/factored_svd.h"

namespace weft::aggregators {
namespace {

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <typename Work>
double Seconds(const Work& work) {
  const double start = Now();
  work();
  return Now() - start;
}

constexpr CosineOptions kFair = {1e-4, 100};

struct Module {
  int64_t out, in;
  std::vector<std::vector<float>> a, b;  // by client
  std::vector<float> new_a, new_b;

  FactorStack Stack(int64_t rank) const {
    std::vector<ClientFactors> clients;
    for (size_t k = 0; k < a.size(); ++k) clients.push_back({a[k], b[k], rank, 1.0 / static_cast<double>(a.size())});
    return *FactorStack::Create(in, out, std::move(clients));
  }
  void Keep(const Matrix& result_a, const Matrix& result_b) {
    new_a.resize(result_a.values.size());
    new_b.resize(result_b.values.size());
    result_a.CopyTo(new_a);
    result_b.CopyTo(new_b);
  }
};

class Bench {
 public:
  explicit Bench(int threads) : threads_(threads) {}

  // clients, rank, then out and in of each module.
  void Load(std::istream& words) {
    std::string path;
    int64_t clients;
    words >> path >> clients >> rank_;
    std::ifstream file(path, std::ios::binary);
    modules_.clear();
    for (int64_t out, in; words >> out >> in;) {
      Module module = {out, in, {}, {}, {}, {}};
      for (int64_t k = 0; k < clients; ++k) module.a.push_back(Read(file, rank_ * in));
      for (int64_t k = 0; k < clients; ++k) module.b.push_back(Read(file, rank_ * out));
      modules_.push_back(std::move(module));
    }
    if (!file) {
      std::fprintf(stderr, "factored_bench: %s is too short\n", path.c_str());
      std::exit(1);
    }
  }

  double Fair() {
    return Each([this](Module* module) {
      FactorStack stack = module->Stack(rank_);
      const CosineResult result = CosineB(stack, kFair);
      module->Keep(stack.CombineA(stack.MeanCombination()), result.b);
    });
  }

  double FlexLora() {
    return Each([this](Module* module) {
      FactorStack stack = module->Stack(rank_);
      const Svd svd = TruncatedSvd(stack, {.rank = rank_});
      module->Keep(svd.factors.a, svd.factors.b);
    });
  }

  void Save(const std::string& path) const {
    std::ofstream file(path, std::ios::binary);
    for (const Module& module : modules_) {
      for (const std::vector<float>* values : {&module.new_a, &module.new_b}) {
        file.write(reinterpret_cast<const char*>(values->data()), static_cast<int64_t>(values->size()) * 4);
      }
    }
  }

  std::string Profile() const {
    FactorStack stack = modules_.back().Stack(rank_);
    const double a = Seconds([&] { stack.GramA(); }), b = Seconds([&] { stack.GramB(); });
    const double svd = Seconds([&] { TruncatedSvd(stack, {.rank = rank_}); });
    const double fair = Seconds([&] { CosineB(stack, kFair); });
    const double mean = Seconds([&] { stack.Mean(); });
    std::ostringstream text;
    text << "gram_a=" << a << " gram_b=" << b << " rest_of_svd=" << svd << " rest_of_fair=" << fair << " mean=" << mean;
    return text.str();
  }

 private:
  static std::vector<float> Read(std::ifstream& file, int64_t count) {
    std::vector<float> values(count);
    file.read(reinterpret_cast<char*>(values.data()), count * 4);
    return values;
  }

  template <typename Work>
  double Each(const Work& work) {
    return Seconds([&] {
      ForEachModule(static_cast<int64_t>(modules_.size()), threads_, [&](int64_t i) { work(&modules_[i]); });
    });
  }

  const int threads_;
  int64_t rank_ = 0;
  std::vector<Module> modules_;
};

int Run(int threads) {
  Bench bench(threads);
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command, path;
    words >> command;
    if (command == "load") {
      bench.Load(words);
      std::cout << "ok" << std::endl;
    } else if (command == "fair") {
      std::cout << bench.Fair() << std::endl;
    } else if (command == "flexlora") {
      std::cout << bench.FlexLora() << std::endl;
    } else if (command == "save" && words >> path) {
      bench.Save(path);
      std::cout << "ok" << std::endl;
    } else if (command == "profile") {
      std::cout << bench.Profile() << std::endl;
    } else {
      std::fprintf(stderr, "factored_bench: found \"%s\", expected load, fair, flexlora, save or profile\n",
                   line.c_str());
      return 2;
    }
  }
  return 0;
}

}  // namespace
}  // namespace weft::aggregators

int main(int argc, char** argv) { return weft::aggregators::Run(argc > 1 ? std::atoi(argv[1]) : 2); }
