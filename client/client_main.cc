// weft-client: a daemon beside private data that trains on LibTorch.

#include "client/client_app.h"
#include "training/trainer.h"

int main(int argc, char** argv) { return weft::ClientMain(argc, argv, weft::CreateTorchTrainer); }
