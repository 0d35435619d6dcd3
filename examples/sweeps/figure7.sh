# Figure 7: RSI and error bound by epoch, of depths and widths on ImageNet (the trainings of figure 1).
# Figures 7 to 11 show RSI and error bound for the ablations of figures 1, 4 and 6; the order here is a guess.
lpa plot fig7 runs/figure1/imagenet/* --width text
