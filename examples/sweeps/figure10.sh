# Figure 10: RSI and error bound by epoch, of seeds and budgets on CIFAR-10 (the trainings of figure 4).
# Figures 7 to 11 show RSI and error bound for the ablations of figures 1, 4 and 6; the order here is a guess.
lpa plot fig10 runs/figure4/* --width text
