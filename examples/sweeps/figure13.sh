# Figure 13: the distance to the final iterate by epoch, of the trainings of figure 2.
#
# Curves: column `dist`; `ulp_ratio` says from where on it is rounding.
for run in runs/figure2/*; do lpa analyze "$run"; done
