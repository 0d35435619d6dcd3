# Figure 4: the cosine on CIFAR-10, of five seeds and of three budgets.
#
#     DATA=/data sh examples/sweeps/figure4.sh [--sample 51/510]        (as figure1.sh)
#
# The learning rate is constant, so that the shorter budgets are the beginning of the longest, measured against another
# end; a training each is what `lpa plot fig4` tells apart by its metadata.
for seed in 2019 2020 2021 2022 2023; do
    python examples/cifar10.py "$DATA/cifar10" --run runs/figure4/seed$seed --seed $seed --epochs 190 "$@"
done
for epochs in 100 280; do
    python examples/cifar10.py "$DATA/cifar10" --run runs/figure4/budget$epochs --seed 2019 --epochs $epochs "$@"
done
lpa plot fig4 runs/figure4/* --width text
