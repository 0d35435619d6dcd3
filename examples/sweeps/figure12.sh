# Figure 12: the distance to the final iterate by epoch, of optimizers on CIFAR-10 (the trainings of figure 1).
lpa plot fig12 runs/figure1/cifar10/*-.0005
