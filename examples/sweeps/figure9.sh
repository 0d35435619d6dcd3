# Figure 9: RSI and error bound by epoch, of optimizers on CIFAR-10 (the trainings of figure 1).
# Figures 7 to 11 show RSI and error bound for the ablations of figures 1, 4 and 6; the order here is a guess.
lpa plot fig9 runs/figure1/cifar10/*-.0005 --width text
