// weft: the command line of Weft.

#include <unistd.h>

#include <iostream>

#include "cli/weft_app.h"

int main(int argc, char** argv) {
  return weft::cli::RunWeft({argv, argv + argc}, isatty(STDOUT_FILENO) == 1, std::cout, std::cerr);
}
