# Figure 4: the cosine on CIFAR-10, of five seeds and of three budgets.
#
#     DATA=/data sh examples/sweeps/figure4.sh [--sample 51/510]        (as figure1.sh)
#
# Curves of the seeds: `lpa analyze RUN`, column `cos`. The learning rate is constant, so that the shorter budgets are
# the beginning of the longest, measured against another end (epochs count from 0):
#
#     lpa analyze runs/figure4/budget280 --ref final --ref epoch:189 --ref epoch:99
for seed in 2019 2020 2021 2022 2023; do
    python examples/cifar10.py "$DATA/cifar10" --run runs/figure4/seed$seed --seed $seed --epochs 190 "$@"
done
python examples/cifar10.py "$DATA/cifar10" --run runs/figure4/budget280 --epochs 280 "$@"
