# Figure 12: the distance to the final iterate by epoch, of optimizers on CIFAR-10 (the trainings of figure 1).
#
# Curves: column `dist`.
for run in runs/figure1/cifar10/*; do lpa analyze "$run"; done
