# Figure 10: RSI and error bound by epoch, of seeds and budgets on CIFAR-10 (the trainings of figure 4).
# Figures 7 to 11 show RSI and error bound for the ablations of figures 1, 4 and 6; the order here is a guess.
#
# Curves: columns `rsi` and `eb`.
for run in runs/figure4/*; do lpa analyze "$run"; done
