# Figure 14: the cosine on CIFAR-10, of a perceptron and a ResNet-18 with as many parameters (46 and 45 million).
#
#     DATA=/data sh examples/sweeps/figure14.sh [--sample 51/510]        (as figure1.sh)
python examples/cifar10.py "$DATA/cifar10" --run runs/figure14/mlp --model mlp --epochs 150 "$@"
python examples/cifar10.py "$DATA/cifar10" --run runs/figure14/resnet18-2 --width 2 --epochs 150 "$@"
lpa plot fig14 runs/figure14/*
