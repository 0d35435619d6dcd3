# Figure 11: RSI and error bound by epoch, of batch sizes on CIFAR-10 (the trainings of figure 6).
# Figures 7 to 11 show RSI and error bound for the ablations of figures 1, 4 and 6; the order here is a guess.
lpa plot fig11 runs/figure6/* --width text
